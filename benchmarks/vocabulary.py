"""A tokenizer with as many tokens as a network has, so that random ids stand for text and every logit is one
of its tokens'."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from newleaf.text.tokenizer import Tokenizer


def tokenizer_of(size: int) -> Tokenizer:
    """The 256 bytes, then tokens that no text is cut into; none of them ends a text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)} | {
        f"x{number}": number for number in range(256, size)
    }
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)
