"""Text: tokenizers, from and to the files that others read."""
