"""Writing: from logits to tokens to text."""
