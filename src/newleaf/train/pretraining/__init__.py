"""Pretraining on text: preparation, the objective, its evaluation."""
