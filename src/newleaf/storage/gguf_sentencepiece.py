"""SentencePiece's BPE in a GGUF's metadata (llama.cpp calls it "llama"): tokens with scores in place of
merges, and a token for each byte.

Whichever two neighbours make the token of the highest score are joined first (Kudo and Richardson 2018), so
every way to cut a token into two others is a merge, in the order of the scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers

from newleaf.errors import InputError
from newleaf.storage.gguf_file import GGUFFile
from newleaf.storage.gguf_package import TokenType
from newleaf.text.tokenizer_components import merges_of, parts_of

SPACE_MARK = "▁"
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
MAX_TOKEN_CHARS = 256  # characters of a token that are cut in two: the work grows with the square
# how tokens of characters and bytes are put together
BYTE_FALLBACK_DECODERS = [{"type": "ByteFallback"}, {"type": "Fuse"}]
SCORES, PREFIX = "tokenizer.ggml.scores", "tokenizer.ggml.add_space_prefix"


def read_sentencepiece(file: GGUFFile, vocabulary: dict[str, int], kinds: list[int]) -> tokenizers.Tokenizer:
    """The tokenizer of this vocabulary and of the file's scores. Raises InputError where it is not what
    llama.cpp's would be."""
    scores = file.require(SCORES, list)[: len(kinds)]
    if len(scores) != len(kinds) or not all(
        type(score) is float and math.isfinite(score) for score in scores
    ):
        raise InputError(f"{file.path}: {SCORES} does not have a number for each of {len(kinds):,} tokens")
    for byte in BYTE_TOKENS:
        if byte not in vocabulary or kinds[vocabulary[byte]] != TokenType.BYTE:
            raise InputError(f"{file.path}: its SentencePiece tokenizer has no token for the byte {byte}")
    usable = {token: n for token, n in vocabulary.items() if kinds[n] == TokenType.NORMAL}
    try:
        merges = merges_by_score(usable, scores)
    except InputError as error:
        raise InputError(f"{file.path}: {error}") from None
    unknown = next((token for token, n in vocabulary.items() if kinds[n] == TokenType.UNKNOWN), None)
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, unk_token=unknown, fuse_unk=True)
    )
    prefix = file.metadata.get(PREFIX, True) is not False
    marked = normalizers.Replace(" ", SPACE_MARK)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE_MARK), marked]) if prefix else marked
    unmarked = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*unmarked, decoders.Strip(" ", 1, 0)] if prefix else unmarked)
    return backend


def merges_by_score(usable: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Merges in the order in which the scores join tokens. Raises InputError where two share a score: the
    text would decide."""
    merges: list[tuple[str, str]] = []
    last, last_score = "", math.inf
    for token in sorted(usable, key=lambda token: -scores[usable[token]]):
        if len(token) > MAX_TOKEN_CHARS:
            raise InputError(
                f"the token {token[:60]!r} has {len(token):,} characters; newleaf reads SentencePiece's up "
                f"to {MAX_TOKEN_CHARS}"
            )
        pairs = [pair for pair in _splits(token) if pair[0] in usable and pair[1] in usable]
        if pairs and (score := scores[usable[token]]) == last_score:
            raise InputError(
                f"the tokens {last[:60]!r} and {token[:60]!r} share the score {score:g}, so the order of "
                f"merges is open"
            )
        if pairs:
            last, last_score = token, score
        merges += pairs
    return merges


def write_sentencepiece(
    description: dict[str, Any], special: dict[str, int], size: int
) -> tuple[dict[str, Any], dict[str, int]]:
    """Metadata beside the vocabulary of `size` tokens, and the kinds of its tokens that are not normal or
    `special`.

    Raises InputError where llama.cpp would give other ids.
    """
    model = description["model"]
    vocabulary, prefix = model["vocab"], _has_prefix(description)
    kinds: dict[str, int] = {byte: TokenType.BYTE for byte in BYTE_TOKENS if byte in vocabulary}
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        PREFIX: prefix,
    }
    if (unknown := model.get("unk_token")) is not None:
        kinds[unknown] = TokenType.UNKNOWN
        values["tokenizer.ggml.unknown_token_id"] = vocabulary[unknown]
    usable = {token: n for token, n in vocabulary.items() if token not in kinds and token not in special}
    merges = [merge for merge in merges_of(model) if "".join(merge) in usable]
    order = {token: n for n, token in enumerate(dict.fromkeys("".join(merge) for merge in merges))}
    scores = [0.0] * size
    for token, n in usable.items():
        scores[n] = -float(order.get(token, len(order)))
    try:
        implied = merges_by_score(usable, scores)
    except InputError:
        implied = []
    same = set(implied) == set(merges) and ["".join(merge) for merge in implied] == [
        "".join(merge) for merge in merges
    ]
    if not (same and all(byte in kinds for byte in BYTE_TOKENS)):
        raise InputError(
            "this tokenizer's merges are not those of a SentencePiece model's scores, so GGUF cannot hold it"
        )
    return values | {SCORES: scores}, kinds


def with_marked_spaces(description: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A tokenizer of characters as SentencePiece would have it, a space being SPACE; the same ids for every
    text that does not hold that sign, which the sentence says. Raises InputError where llama.cpp would give
    others for usual text too."""
    vocabulary: dict[str, int] = description["model"]["vocab"]
    if " " not in vocabulary or SPACE_MARK in vocabulary:
        what = "no token for a space" if " " not in vocabulary else f"a token for {SPACE_MARK}"
        raise InputError(
            f"llama.cpp reads a space as the character {SPACE_MARK}, and this tokenizer has {what}, so GGUF "
            f"cannot hold it"
        )
    marked = {SPACE_MARK if token == " " else token: n for token, n in vocabulary.items()}
    changed = description | {
        "model": description["model"] | {"vocab": marked},
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK},
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
                *BYTE_FALLBACK_DECODERS,
            ],
        },
    }
    return changed, f"llama.cpp reads the character {SPACE_MARK} as a space, and this tokenizer does not"


def _has_prefix(description: dict[str, Any]) -> bool:
    """Whether a space goes before each text. Raises InputError for a tokenizer that marks spaces in a way
    that llama.cpp does not."""
    text = [
        tuple(part.get(key) for key in ("type", "prepend", "content"))
        for part in parts_of(description["normalizer"])
    ]
    back = [part["type"] for part in parts_of(description["decoder"])]
    for prefix in (True, False):
        marks = [("Prepend", SPACE_MARK, None)] * prefix + [("Replace", None, SPACE_MARK)]
        if (text, back) == (
            marks,
            ["Replace", "ByteFallback", "Fuse"] + ["Strip"] * prefix,
        ) and not description["pre_tokenizer"]:
            return prefix
    raise InputError(
        "llama.cpp cuts text otherwise than this SentencePiece tokenizer, so GGUF cannot hold it"
    )


def _splits(token: str) -> Iterator[tuple[str, str]]:
    return ((token[:cut], token[cut:]) for cut in range(1, len(token)))
