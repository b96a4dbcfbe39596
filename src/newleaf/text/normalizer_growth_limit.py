"""How much longer a tokenizer's own steps can make a text: forty that double it make a petabyte of a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from newleaf.errors import InputError
from newleaf.text.tokenizer_components import parts_of
from newleaf.untrusted import native_errors_as_input_errors

MAX_GROWTH = 256  # times as long, in characters; published tokenizers stay below 16
MAX_STEPS = 1000


def check_growth(backend: tokenizers.Tokenizer, path: Path) -> None:
    """Raises InputError, naming the file, where normalizer and pre-tokenizer, or the decoder, could make a
    text more than MOST_GROWTH times as long."""
    for names in (("normalizer", "pre_tokenizer"), ("decoder",)):
        steps = [step for name in names for step in _steps(backend, name, path)]
        if len(steps) > MAX_STEPS:
            raise InputError(
                f"{path}: its {names[0]} has {len(steps):,} steps, and newleaf reads at most {MAX_STEPS:,}"
            )
        growth = 1.0
        for step in steps:
            growth *= _growth(step)
            if growth > MAX_GROWTH:
                raise InputError(
                    f"{path}: its {names[0]} can make a text over {MAX_GROWTH} times as long, so it is "
                    f"refused"
                )


def _steps(backend: tokenizers.Tokenizer, name: str, path: Path) -> list[dict[str, Any]]:
    part = getattr(backend, name)
    if part is None:
        return []
    with native_errors_as_input_errors(f"{path}: its {name} cannot be read"):
        return parts_of(json.loads(part.__getstate__()))


def _growth(step: dict[str, Any]) -> float:
    """At most so many characters come of one, in the limit of a long text."""
    match step["type"]:
        case "Replace":
            text = step["pattern"].get("String")
            # An expression may match nothing at all, before each character.
            return (
                max(1.0, len(step["content"]) / max(1, len(text)))
                if text is not None
                else 1.0 + len(step["content"])
            )
        case "Prepend":
            return 1.0 + len(step["prepend"]) / 16  # once a text, which may be short
        case "ByteLevel":
            return 2.0  # a character is up to four bytes, and one that an earlier step made is two
        case "Metaspace" | "WordPiece" | "CTC" | "BPEDecoder":
            return 1.5
        case _:
            return 1.0
