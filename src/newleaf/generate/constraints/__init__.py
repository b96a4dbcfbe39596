"""Constrained decoding: JSON Schemas, regular expressions and grammars as token masks, by llguidance."""
