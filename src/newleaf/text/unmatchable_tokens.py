"""A tokenizer's vocabulary without the pieces that no text may become: special tokens, and the tokens of
single bytes.

SentencePiece never matches control symbols and bytes in text. A tokenizer.json keeps them among the other
pieces, where Unigram, WordLevel, and BPE that takes whole words find them.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from newleaf.text.tokenizer_components import BYTE_TOKEN, merges_of

HIDDEN = "\x00\ue000{}\x00"  # what a hidden piece is called: nobody writes it
NEVER = -1e9  # a byte's score where text spells its name: any other way to cut the text is better


def unmatchable_tokens(description: dict[str, Any], names: Collection[str]) -> set[str]:
    """Those of these tokens that the model may make of a text which spells them."""
    model = description["model"]
    vocabulary = model["vocab"]
    known = set(names) & (
        set(vocabulary) if isinstance(vocabulary, dict) else {entry[0] for entry in vocabulary}
    )
    if not known or model["type"] != "BPE" or model.get("ignore_merges"):
        return known
    products = {left + right for left, right in merges_of(model)}
    return {name for name in known if name in products or len(name) == 1}


def without_tokens(description: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The description of a tokenizer that gives the same ids, but never those of `names`, which are called
    otherwise in it."""
    changed = copy.deepcopy(description)
    model = changed["model"]
    called = {name: HIDDEN.format(number) for number, name in enumerate(sorted(names))}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {called.get(piece, piece): number for piece, number in model["vocab"].items()}
    else:
        model["vocab"] = [[called.get(entry[0], entry[0]), *entry[1:]] for entry in model["vocab"]]
    if model["type"] == "BPE":
        model["merges"] = [
            [left, right]
            for left, right in merges_of(model)
            if not {left, right, left + right} & called.keys()
        ]
    if model.get("unk_token") in called:
        model["unk_token"] = called[model["unk_token"]]
    # Whoever adds a token that the model does not know gives it another id; in text it is not looked for.
    changed["added_tokens"] = [token for token in changed["added_tokens"] if token["content"] not in called]
    return changed


def with_unlikely_byte_tokens(description: dict[str, Any]) -> dict[str, Any]:
    """A Unigram tokenizer for a text that spells byte tokens: characters become them as before, and their
    names do not."""
    changed = copy.deepcopy(description)
    model = changed["model"]
    model["vocab"] = [
        [entry[0], NEVER if BYTE_TOKEN.fullmatch(entry[0]) else entry[1]] for entry in model["vocab"]
    ]
    return changed
