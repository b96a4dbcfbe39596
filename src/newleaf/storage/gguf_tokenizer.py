"""Tokenizers inside GGUF files: the vocabulary, its special tokens and what stands around each text."""

from __future__ import annotations

import json
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors

from newleaf.errors import InputError
from newleaf.storage.gguf_byte_level import read_byte_level, write_byte_level
from newleaf.storage.gguf_file import GGUFFile
from newleaf.storage.gguf_package import TokenType
from newleaf.storage.gguf_sentencepiece import (
    BYTE_FALLBACK_DECODERS,
    read_sentencepiece,
    with_marked_spaces,
    write_sentencepiece,
)
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.tokenizer_components import is_byte_level, kind_of

# Where a file of SentencePiece's does not say, llama.cpp takes these.
DEFAULT_IDS = {"bos": 1, "eos": 2}


# What llama.cpp calls the vocabulary of a file without a tokenizer.
NO_VOCABULARY = ("none", "no_vocab")


def has_gguf_tokenizer(file: GGUFFile) -> bool:
    """Whether the metadata hold a tokenizer, of a known kind or not."""
    if (kind := file.metadata.get("tokenizer.ggml.model")) is not None:
        return kind not in NO_VOCABULARY
    return "tokenizer.ggml.tokens" in file.metadata


def read_tokenizer(file: GGUFFile) -> Tokenizer | None:
    """The tokenizer of a GGUF's metadata, with its chat template in its settings; None where it has none.

    Raises InputError for a kind that newleaf does not know.
    """
    if not has_gguf_tokenizer(file):
        return None
    model = file.require("tokenizer.ggml.model", str)
    if model not in ("gpt2", "llama"):
        known = "gpt2 (byte-level BPE) and llama (SentencePiece's BPE)"
        raise InputError(
            f"{file.path}: its tokenizer is of the kind {model[:60]!r}; newleaf reads {known} from GGUF"
        )
    tokens, kinds = _vocabulary(file)
    vocabulary = {token: n for n, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        twice = next(token for n, token in enumerate(tokens) if vocabulary[token] != n)
        raise InputError(f"{file.path}: the token {twice[:60]!r} stands twice in tokenizer.ggml.tokens")
    default: dict[str, int] = {}
    if model == "gpt2":
        backend, starts = read_byte_level(file, vocabulary)
    else:
        backend, starts, default = read_sentencepiece(file, vocabulary, kinds), True, DEFAULT_IDS
    plain = [
        AddedToken(t, special=False, normalized=False)
        for t, kind in zip(tokens, kinds)
        if kind == TokenType.USER_DEFINED
    ]
    hidden = {TokenType.CONTROL, TokenType.UNUSED} | ({TokenType.UNKNOWN} if model == "llama" else set())
    special = [
        AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, kinds) if kind in hidden
    ]
    backend.add_tokens(plain)
    backend.add_special_tokens(special)
    ids = {
        name: _special_id(file, name, len(tokens), default.get(name)) for name in ("bos", "eos", "padding")
    }
    _add_bos_eos(backend, file, tokens, ids, starts)
    template = file.metadata.get("tokenizer.chat_template")
    settings = {"chat_template": template} if isinstance(template, str) else {}
    return Tokenizer(backend, ids["bos"], ids["eos"], ids["padding"], settings)


def write_no_tokenizer(layout: str, vocab_size: int) -> tuple[dict[str, Any], str]:
    """Metadata of a file without a tokenizer, as llama.cpp has them, and a sentence about it."""
    values = {"tokenizer.ggml.model": NO_VOCABULARY[0], f"{layout}.vocab_size": vocab_size}
    return values, "the file has no tokenizer, so llama.cpp reads and writes token ids only"


def write_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> tuple[dict[str, Any], str | None]:
    """Metadata that hold this tokenizer, filled up to `vocab_size` tokens, and a sentence about what they
    cannot hold, or None.

    Raises InputError for a tokenizer that llama.cpp would give other ids for.
    """
    description = json.loads(tokenizer.backend.to_str())
    kind, sentence = kind_of(description), None
    if kind == "char" and description["decoder"] == {"type": "Sequence", "decoders": BYTE_FALLBACK_DECODERS}:
        description, sentence = with_marked_spaces(description)
    model = description["model"]
    if tokenizer.vocab_size > vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens and the network only {vocab_size:,}"
        )
    added = {
        token["content"]: TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        for token in description["added_tokens"]
    }
    kinds: dict[str, int] = dict(added)
    if kind == "bpe" and is_byte_level(description) and not model.get("end_of_word_suffix"):
        values, sentence = write_byte_level(description)
    elif kind in ("bpe", "char") and model.get("byte_fallback"):
        values, found = write_sentencepiece(description, kinds, vocab_size)
        kinds |= found
    else:
        named = "BPE over characters" if kind == "bpe" else kind
        raise InputError(f"GGUF holds byte-level BPE tokenizers and SentencePiece's BPE; this one is {named}")
    by_id = {n: token for token, n in model["vocab"].items()} | {
        token["id"]: token["content"] for token in description["added_tokens"]
    }
    before, after = _added_bos_eos(tokenizer)
    values |= {
        "tokenizer.ggml.tokens": [by_id.get(n, f"[PAD{n}]") for n in range(vocab_size)],
        "tokenizer.ggml.token_type": [
            int(kinds.get(by_id[n], TokenType.NORMAL) if n in by_id else TokenType.UNUSED)
            for n in range(vocab_size)
        ],
        "tokenizer.ggml.add_bos_token": before,
        "tokenizer.ggml.add_eos_token": after,
    }
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    values |= {f"tokenizer.ggml.{name}_token_id": n for name, n in ids.items() if n is not None}
    if isinstance(template := tokenizer.settings.get("chat_template"), str):
        values["tokenizer.chat_template"] = template
    return values, sentence


def _vocabulary(file: GGUFFile) -> tuple[list[str], list[int]]:
    """Tokens and their kinds, without the rows of the embedding at the end that no token uses."""
    tokens = file.require_strings("tokenizer.ggml.tokens")
    kinds = file.metadata.get("tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise InputError(
            f"{file.path}: tokenizer.ggml.token_type does not have one kind for each of {len(tokens):,} "
            f"tokens"
        )
    used = len(tokens)
    while used and kinds[used - 1] == TokenType.UNUSED:
        used -= 1
    return tokens[:used], kinds[:used]


def _added_bos_eos(tokenizer: Tokenizer) -> tuple[bool, bool]:
    """Whether the tokenizer sets bos before and eos behind each text. Raises InputError when it adds anything
    else."""
    text = " "
    plain, found = tokenizer.encode(text, special_tokens=False), tokenizer.encode(text)
    for before in (False, True):
        for after in (False, True):
            if found == [tokenizer.bos_id] * before + plain + [tokenizer.eos_id] * after:
                return before, after
    raise InputError(
        "GGUF cannot hold what this tokenizer adds to each text; it holds bos before and eos behind it"
    )


def _special_id(file: GGUFFile, name: str, count: int, default: int | None) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in file.metadata:
        return default
    found: int = file.require(key, int)
    if not 0 <= found < count:
        raise InputError(f"{file.path}: metadata {key} is {found:,}, and there are {count:,} tokens")
    return found


def _add_bos_eos(
    backend: tokenizers.Tokenizer,
    file: GGUFFile,
    tokens: list[str],
    ids: dict[str, int | None],
    by_default: bool,
) -> None:
    """What the file wants before and after each text, as the tokenizer's own post-processor."""
    chosen = {
        name: ids[name]
        for name in ("bos", "eos")
        if file.metadata.get(f"tokenizer.ggml.add_{name}_token", by_default and name == "bos")
    }
    ends = {name: (tokens[n], n) for name, n in chosen.items() if n is not None}
    if ends:
        single = [ends[name][0] if name in ends else "" for name in ("bos", "eos")]
        template = [part for part in (single[0], "$A", single[1]) if part]
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=list(dict.fromkeys(ends.values()))
        )
