"""A text while it is generated: its request, its sequence in the engine, its stop strings, its completion."""
