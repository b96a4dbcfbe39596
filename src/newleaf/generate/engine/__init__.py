"""Continuous batching: the engine, its scheduler, and tasks that run between its steps."""
