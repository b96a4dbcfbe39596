"""Tokenizers inside GGUF files: byte-level BPE, whose way to cut text into words goes by a name that llama.cpp knows."""

from __future__ import annotations

import json
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors

from newleaf.errors import InputError
from newleaf.storage.gguf_file import GGUFFile
from newleaf.text.components import is_byte_level, parts_of
from newleaf.text.tokenizer import Tokenizer

# Kinds of tokens, as the format numbers them.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
# Each way to cut text: as steps of a tokenizer.json, for the names that llama.cpp gives it. The first name is the one written.
GPT2_STEPS: list[tuple[Any, ...]] = [("ByteLevel", False, True)]
STEPS: dict[tuple[str, ...], list[tuple[Any, ...]]] = {
    ("qwen2", "deepseek-r1-qwen"): [("Split", QWEN2, "Isolated", False), ("ByteLevel", False, False)],
    ("gpt-2", "phi-2", "olmo", "mpt"): GPT2_STEPS,
    ("smollm", "starcoder", "refact", "command-r"): [("Digits", True), *GPT2_STEPS],
    ("llama-bpe", "llama3", "llama-v3"): [("Split", LLAMA3, "Isolated", False), ("ByteLevel", False, False)],
}
WHOLE_WORDS = "llama-bpe"  # llama.cpp takes a word that is a token as it is for these, before any merge


def read_tokenizer(file: GGUFFile) -> Tokenizer:
    """The tokenizer of a GGUF's metadata, its chat template in its settings. Raises InputError for a kind that newleaf does not know."""
    model, pre = file.need("tokenizer.ggml.model", str), file.metadata.get("tokenizer.ggml.pre")
    if model != "gpt2":
        raise InputError(f"{file.path}: its tokenizer is of the kind {model[:60]!r}; newleaf reads gpt2 (byte-level BPE) from GGUF")
    names = next((names for names in STEPS if pre in names), None)
    if names is None:
        known = ", ".join(name for names in STEPS for name in names)
        raise InputError(f"{file.path}: its pre-tokenizer is {str(pre)[:60]!r}; newleaf knows {known}")
    tokens, merges = _strings(file, "tokenizer.ggml.tokens"), _strings(file, "tokenizer.ggml.merges")
    kinds = file.metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise InputError(f"{file.path}: tokenizer.ggml.token_type does not have one kind for each of {len(tokens):,} tokens")
    while tokens and kinds[-1] == UNUSED:  # rows of the embedding that no token uses
        tokens, kinds = tokens[:-1], kinds[:-1]
    vocabulary = {token: n for n, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        twice = next(token for n, token in enumerate(tokens) if vocabulary[token] != n)
        raise InputError(f"{file.path}: the token {twice[:60]!r} stands twice in tokenizer.ggml.tokens")
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not all(part in vocabulary for part in (left, right, left + right)):
            raise InputError(f"{file.path}: the merge {merge[:60]!r} is not of two tokens that make a third")
        pairs.append((left, right))
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=names[0] == WHOLE_WORDS))
    backend.pre_tokenizer = pre_tokenizers.Sequence([_step(*step) for step in STEPS[names]])
    backend.decoder = decoders.ByteLevel()
    plain = [AddedToken(t, special=False, normalized=False) for t, kind in zip(tokens, kinds) if kind == USER_DEFINED]
    special = [AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, kinds) if kind in (CONTROL, UNUSED)]
    backend.add_tokens(plain)
    backend.add_special_tokens(special)
    ids = {name: _special_id(file, name, len(tokens)) for name in ("bos", "eos", "padding")}
    _add_ends(backend, file, tokens, ids, by_default=names[0] == WHOLE_WORDS)
    template = file.metadata.get("tokenizer.chat_template")
    settings = {"chat_template": template} if isinstance(template, str) else {}
    return Tokenizer(backend, ids["bos"], ids["eos"], ids["padding"], settings)


def write_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> tuple[dict[str, Any], str | None]:
    """Metadata that hold this tokenizer, filled up to `vocab_size` tokens, and a sentence about what they cannot hold, or None.

    Raises InputError for a tokenizer that llama.cpp would give other ids for.
    """
    description = json.loads(tokenizer.backend.to_str())
    model = description["model"]
    if tokenizer.vocab_size > vocab_size:
        raise InputError(f"the tokenizer has {tokenizer.vocab_size:,} tokens and the network only {vocab_size:,}")
    if tokenizer.kind != "bpe" or not is_byte_level(description) or model.get("end_of_word_suffix"):
        kind = "BPE over characters" if tokenizer.kind == "bpe" else tokenizer.kind
        raise InputError(f"GGUF holds byte-level BPE tokenizers; this one is {kind}")
    steps = [_described(part) for part in parts_of(description["pre_tokenizer"])]
    names = next((names for names, known in STEPS.items() if steps == known), None)
    if names is None or bool(model.get("ignore_merges")) != (names[0] == WHOLE_WORDS):
        raise InputError("llama.cpp has no name for this tokenizer's way to cut text into words, so GGUF cannot hold it")
    normalizer = [part["type"] for part in parts_of(description["normalizer"])]
    if normalizer not in ([], ["NFC"]):
        raise InputError(f"llama.cpp does not change text before it cuts it, and this tokenizer does ({', '.join(normalizer)})")
    by_id = {n: token for token, n in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    added = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in description["added_tokens"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    before, after = _ends(tokenizer)
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": names[0],
        "tokenizer.ggml.tokens": [by_id.get(n, f"[PAD{n}]") for n in range(vocab_size)],
        "tokenizer.ggml.token_type": [added.get(n, NORMAL) if n in by_id else UNUSED for n in range(vocab_size)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": before,
        "tokenizer.ggml.add_eos_token": after,
    }
    values |= {f"tokenizer.ggml.{name}_token_id": n for name, n in ids.items() if n is not None}
    if isinstance(template := tokenizer.settings.get("chat_template"), str):
        values["tokenizer.chat_template"] = template
    return values, "llama.cpp does not bring text into Unicode's NFC, as this tokenizer does" if normalizer else None


def _step(kind: str, *values: Any) -> pre_tokenizers.PreTokenizer:
    if kind == "Split":
        return pre_tokenizers.Split(Regex(values[0]), values[1].lower())
    if kind == "Digits":
        return pre_tokenizers.Digits(individual_digits=values[0])
    return pre_tokenizers.ByteLevel(add_prefix_space=values[0], use_regex=values[1])


def _described(part: dict[str, Any]) -> tuple[Any, ...]:
    """A step of a tokenizer.json in the words of STEPS."""
    if part["type"] == "Split":
        return ("Split", part["pattern"].get("Regex"), part["behavior"], part["invert"])
    if part["type"] == "Digits":
        return ("Digits", part["individual_digits"])
    return (part["type"], part.get("add_prefix_space"), part.get("use_regex"))


def _strings(file: GGUFFile, key: str) -> list[str]:
    values: list[str] = file.need(key, list)
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"{file.path}: metadata {key} is not a list of strings")
    return values


def _ends(tokenizer: Tokenizer) -> tuple[bool, bool]:
    """Whether the tokenizer sets bos before and eos behind each text. Raises InputError when it adds anything else."""
    text = " "
    plain, found = tokenizer.encode(text, special_tokens=False), tokenizer.encode(text)
    for before in (False, True):
        for after in (False, True):
            if found == [tokenizer.bos_id] * before + plain + [tokenizer.eos_id] * after:
                return before, after
    raise InputError("GGUF cannot hold what this tokenizer adds to each text; it holds bos before and eos behind it")


def _special_id(file: GGUFFile, name: str, count: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in file.metadata:
        return None
    found: int = file.need(key, int)
    if not 0 <= found < count:
        raise InputError(f"{file.path}: metadata {key} is {found:,}, and there are {count:,} tokens")
    return found


def _add_ends(backend: tokenizers.Tokenizer, file: GGUFFile, tokens: list[str], ids: dict[str, int | None], by_default: bool) -> None:
    """What the file wants before and after each text, as the tokenizer's own post-processor."""
    chosen = {
        name: ids[name] for name in ("bos", "eos") if file.metadata.get(f"tokenizer.ggml.add_{name}_token", by_default and name == "bos")
    }
    ends = {name: (tokens[n], n) for name, n in chosen.items() if n is not None}
    if ends:
        single = [ends[name][0] if name in ends else "" for name in ("bos", "eos")]
        template = [part for part in (single[0], "$A", single[1]) if part]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=list(dict.fromkeys(ends.values())))
