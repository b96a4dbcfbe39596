"""Decoding of several sequences as one: beam search and classifier-free guidance."""
