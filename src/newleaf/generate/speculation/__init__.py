"""Speculative decoding: a draft model, prompt look-up, and how many tokens are worth proposing."""
