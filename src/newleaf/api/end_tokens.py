"""The tokens that end a text, as a model's files name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from newleaf.errors import InputError
from newleaf.text.tokenizer import Tokenizer


def end_token_ids(defaults: Mapping[str, Any], tokenizer: Tokenizer, vocab_size: int) -> frozenset[int]:
    """Those of generation_config.json's fields, and the tokenizer's own where these name none.

    Raises InputError for an `eos_token_id` that is no token's number or list of them.
    """
    named = defaults.get("eos_token_id", tokenizer.eos_id)
    listed = named if isinstance(named, list) else [named]
    if not all(token is None or (type(token) is int and 0 <= token < vocab_size) for token in listed):
        raise InputError(
            f"generation_config.json: eos_token_id must be a token's number or a list of them, not "
            f"{str(named)[:60]}"
        )
    return frozenset(token for token in listed if token is not None)
