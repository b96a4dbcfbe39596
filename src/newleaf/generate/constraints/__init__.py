"""Constrained decoding: JSON Schemas, regular expressions and grammars as masks of tokens, made by llguidance
in its own processes."""
