"""From rows of conversations and pairs to examples: which tokens are learned, how they lie in windows."""
