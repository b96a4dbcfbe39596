"""OpenAI's o200k vocabulary as gpt-oss has it: the ranks of a .tiktoken file, and the special tokens of the
harmony format."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from newleaf.errors import InputError
from newleaf.text.tokenizer_components import byte_alphabet

# How the text is cut into words, as tiktoken publishes it (tiktoken_ext/openai_public.py, o200k_base).
_OPENING, _UPPER, _LOWER = (
    r"[^\r\n\p{L}\p{N}]?",
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
)
_ENDING = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
WORDS = "|".join((
    f"{_OPENING}{_UPPER}*{_LOWER}+{_ENDING}", f"{_OPENING}{_UPPER}+{_LOWER}*{_ENDING}", r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
))  # fmt: skip
COUNT = 199_998  # ranks of o200k_base; the special tokens follow
# Ids of the same file's o200k_harmony, as far as gpt-oss's own tokenizer.json names them.
NAMED = {
    "<|startoftext|>": 199_998,
    "<|endoftext|>": 199_999,
    "<|return|>": 200_002,
    "<|constrain|>": 200_003,
    "<|channel|>": 200_005,
    "<|start|>": 200_006,
    "<|end|>": 200_007,
    "<|message|>": 200_008,
    "<|call|>": 200_012,
    "<|endofprompt|>": 200_018,
}
ENDS: dict[str, str | None] = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|return|>",
    "pad_token": "<|endoftext|>",
}


def read_o200k(path: Path) -> tokenizers.Tokenizer:
    """gpt-oss's tokenizer from o200k_base.tiktoken. Raises InputError for a file of other ranks, or a damaged
    one."""
    ranks = read_ranks(path)
    if len(ranks) != COUNT:
        raise InputError(
            f"{path}: holds {len(ranks):,} ranks; newleaf knows how to cut text for o200k_base alone, which "
            f"has {COUNT:,}"
        )
    names = {n: name for name, n in NAMED.items()}
    return from_ranks(ranks, [names.get(n, f"<|reserved_{n}|>") for n in range(COUNT, max(names) + 1)])


def read_ranks(path: Path) -> list[bytes]:
    """The tokens of a .tiktoken file, by rank: each line is a token in base64 and its rank. Raises InputError
    naming the line."""
    ranks: dict[bytes, None] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        encoded, _, rank = line.partition(b" ")
        try:
            token = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            token = b""
        if not token or rank != str(len(ranks)).encode():
            raise InputError(f"{path}: line {number} is not a token in base64 and its rank, {len(ranks)}")
        if token in ranks:
            raise InputError(f"{path}: line {number} has a token that an earlier line has")
        ranks[token] = None
    return list(ranks)


def from_ranks(ranks: list[bytes], special: list[str]) -> tokenizers.Tokenizer:
    """A byte-level BPE over these tokens, cutting text as o200k does; `special` tokens take the ids that
    follow.

    tiktoken joins whichever two neighbours make the token of the lowest rank, so every way to cut a token in
    two is a merge of its rank.
    """
    known = set(ranks)
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    spelled = {token: "".join(map(letters.__getitem__, token)) for token in ranks}
    merges = [
        (spelled[token[:cut]], spelled[token[cut:]])
        for token in ranks
        for cut in range(1, len(token))
        if token[:cut] in known and token[cut:] in known
    ]
    vocabulary = {spelled[token]: rank for rank, token in enumerate(ranks)}
    # tiktoken takes a word that is a token as it is
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return backend
