"""Losses besides next-token prediction: preference learning, and distillation from a teacher."""
