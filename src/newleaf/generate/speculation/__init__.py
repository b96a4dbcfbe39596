"""Speculative decoding: a draft model, prompt lookup, and how many tokens are worth proposing."""
