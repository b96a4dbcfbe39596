"""Data: text to tokens to batches, in one pass and bounded memory."""
