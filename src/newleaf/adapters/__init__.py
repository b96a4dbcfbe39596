"""Low-rank adapters: layers over frozen ones, PEFT's format, and what merges them into plain weights."""
