"""Byte-level BPE in a GGUF's metadata, whose way to cut text into words goes by a name that llama.cpp
knows."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from newleaf.errors import InputError
from newleaf.storage.gguf_file import GGUFFile
from newleaf.text.o200k import WORDS as O200K
from newleaf.text.tokenizer_components import merges_of, parts_of

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
# Each way to cut text: as steps of a tokenizer.json, for the names that llama.cpp gives it. The first name is
# the one written.
GPT2_STEPS: list[tuple[Any, ...]] = [("ByteLevel", False, True)]
RAW_STEP = ("ByteLevel", False, False)
PRE_TOKENIZERS: dict[tuple[str, ...], list[tuple[Any, ...]]] = {
    ("qwen2", "deepseek-r1-qwen"): [("Split", QWEN2, "Isolated", False), RAW_STEP],
    ("gpt-2", "phi-2", "olmo", "mpt"): GPT2_STEPS,
    ("smollm", "starcoder", "refact", "command-r"): [("Digits", True), *GPT2_STEPS],
    ("llama-bpe", "llama3", "llama-v3"): [("Split", LLAMA3, "Isolated", False), RAW_STEP],
    ("gpt-4o", "llama4"): [("Split", O200K, "Isolated", False), RAW_STEP],
}
IGNORES_MERGES = "llama-bpe"  # llama.cpp takes a word that is a token as it is for these, before any merge


def read_byte_level(file: GGUFFile, vocabulary: dict[str, int]) -> tuple[tokenizers.Tokenizer, bool]:
    """The tokenizer of this vocabulary and of the file's merges, and whether llama.cpp sets bos before texts
    unless told otherwise."""
    pre = file.metadata.get("tokenizer.ggml.pre")
    names = next((names for names in PRE_TOKENIZERS if pre in names), None)
    if names is None:
        known = ", ".join(name for names in PRE_TOKENIZERS for name in names)
        raise InputError(f"{file.path}: its pre-tokenizer is {str(pre)[:60]!r}; newleaf knows {known}")
    pairs = []
    for merge in file.require_strings("tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if not all(part in vocabulary for part in (left, right, left + right)):
            raise InputError(f"{file.path}: the merge {merge[:60]!r} is not of two tokens that make a third")
        pairs.append((left, right))
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=names[0] == IGNORES_MERGES))
    backend.pre_tokenizer = pre_tokenizers.Sequence([_pre_tokenizer(*step) for step in PRE_TOKENIZERS[names]])
    backend.decoder = decoders.ByteLevel()
    return backend, names[0] == IGNORES_MERGES


def write_byte_level(description: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Metadata beside the vocabulary, and a sentence about what they cannot hold, or None. Raises InputError
    where ids would differ."""
    model = description["model"]
    steps = [_step_key(part) for part in parts_of(description["pre_tokenizer"])]
    names = next((names for names, known in PRE_TOKENIZERS.items() if steps == known), None)
    merges = merges_of(model)
    whole = bool(model.get("ignore_merges"))
    if names is None or (
        whole != (names[0] == IGNORES_MERGES) and not _merges_reach_all_tokens(model["vocab"], merges)
    ):
        raise InputError(
            "llama.cpp has no name for this tokenizer's way to cut text into words, so GGUF cannot hold it"
        )
    normalizer = [part["type"] for part in parts_of(description["normalizer"])]
    if normalizer not in ([], ["NFC"]):
        raise InputError(
            f"llama.cpp does not change text before it cuts it, and this tokenizer does "
            f"({', '.join(normalizer)})"
        )
    values = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": names[0],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
    }
    notes = ["llama.cpp does not bring text into Unicode's NFC, as this tokenizer does"] if normalizer else []
    if names[0] == "gpt-4o":
        notes.append("llama.cpp cuts words with combining marks (Hindi, Thai) otherwise than this tokenizer")
    return values, "; ".join(notes) or None


def _merges_reach_all_tokens(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> bool:
    """Whether merges alone lead to every token, so that it does not matter if whole words are looked up
    first."""
    by_merges = models.BPE(vocabulary, merges)
    return all(len(by_merges.tokenize(token)) == 1 for token in vocabulary)


def _pre_tokenizer(kind: str, *values: Any) -> pre_tokenizers.PreTokenizer:
    if kind == "Split":
        return pre_tokenizers.Split(Regex(values[0]), values[1].lower())
    if kind == "Digits":
        return pre_tokenizers.Digits(individual_digits=values[0])
    return pre_tokenizers.ByteLevel(add_prefix_space=values[0], use_regex=values[1])


def _step_key(part: dict[str, Any]) -> tuple[Any, ...]:
    """A step of a tokenizer.json in the words of STEPS."""
    if part["type"] == "Split":
        return ("Split", part["pattern"].get("Regex"), part["behavior"], part["invert"])
    if part["type"] == "Digits":
        return ("Digits", part["individual_digits"])
    return (part["type"], part.get("add_prefix_space"), part.get("use_regex"))
