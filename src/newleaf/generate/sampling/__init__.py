"""From logits to the next token: penalties, truncation, the draw, and log-probabilities."""
