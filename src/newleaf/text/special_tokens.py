"""Which tokens are special, as the files beside a tokenizer.json say, and in which order stock transformers
believes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from newleaf.errors import InputError
from newleaf.untrusted import native_errors_as_input_errors, read_object

END_OF_TEXT = "<|endoftext|>"
SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token")
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTED = ("extra_special_tokens", "additional_special_tokens")
# Taken when no file says which token is which, nor a class that does: the names of GPT-2's line, then the
# usual ones.
DEFAULT_TOKENS = {
    "bos_token": (END_OF_TEXT, "<s>"),
    "eos_token": (END_OF_TEXT, "</s>"),
    "pad_token": (END_OF_TEXT, "<pad>"),
}
# What a stock class takes where tokenizer_config.json names it and not the token.
GPT2 = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
CLASS_TOKENS: dict[str, dict[str, str]] = {
    "GPT2Tokenizer": GPT2, "CodeGenTokenizer": GPT2, "GPTNeoXTokenizer": GPT2 | {"pad_token": "<|padding|>"},
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "Qwen2Tokenizer": {"eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT, "pad_token": END_OF_TEXT},
    "OpenAIGPTTokenizer": {"unk_token": "<unk>"},
}  # fmt: skip
MAX_ADDED_TOKENS = 100_000  # tokens in a list of them


@dataclass(frozen=True)
class NamedTokens:
    """`config` is tokenizer_config.json as it stands, `settings` the same with what overrides it; `ends` the
    bos, eos and pad tokens; `added` further tokens by the id that is claimed for each."""

    config: dict[str, Any]
    settings: dict[str, Any]
    ends: dict[str, str | None]
    added: dict[int, AddedToken]


def read_named_tokens(folder: Path, backend: tokenizers.Tokenizer) -> NamedTokens:
    """What the small files of a tokenizer's folder say. Raises InputError, naming file and field, for what is
    no token."""
    config = _object(folder / "tokenizer_config.json")
    listed = config.get("added_tokens_decoder")
    mapped = {} if "added_tokens_decoder" in config else _object(folder / "special_tokens_map.json")
    defaults = CLASS_TOKENS.get(str(config.get("tokenizer_class")).removesuffix("Fast"), {})
    settings = (
        {name: token for name, token in defaults.items() if backend.token_to_id(token) is not None}
        | config
        | mapped
    )
    for name in NAMED:
        where = folder / ("special_tokens_map.json" if name in mapped else "tokenizer_config.json")
        content_of(settings.get(name), f"{where}: {name}")
    ends = {name: content_of(settings.get(name), name) for name in SPECIAL_NAMES}
    if "tokenizer_class" not in config and not any(name in settings for name in SPECIAL_NAMES):
        ends = {
            name: next(
                (usual for usual in DEFAULT_TOKENS[name] if backend.token_to_id(usual) is not None), None
            )
            for name in ends
        }
    if listed is not None:
        added = _added(listed, folder / "tokenizer_config.json")
    else:
        special = {content_of(settings.get(name), name) for name in NAMED}
        added = _added_before(_object(folder / "added_tokens.json"), special, folder / "added_tokens.json")
    return NamedTokens(config, settings, ends, added)


def add_special_tokens(backend: tokenizers.Tokenizer, named: NamedTokens, folder: Path) -> None:
    """Make every special token one of the tokenizer's own, as stock transformers does: the missing ones get
    the next ids."""
    there = backend.get_added_tokens_decoder()
    same = {repr(token) for token in there.values()}
    wanted = [named.added[number] for number in sorted(named.added) if repr(named.added[number]) not in same]
    have = {token.content: token for token in [*there.values(), *wanted]}
    for name in (*NAMED, *LISTED):
        values = named.settings.get(name)
        for value in values if isinstance(values, list) else [values] if name in NAMED else []:
            content = content_of(value, f"{folder / 'tokenizer_config.json'}: {name}")
            if content is None or (content in have and (have[content].special or name not in NAMED)):
                continue
            known = have.get(content)
            flags = (
                _flags_of(known) if known is not None else _flags(value) if isinstance(value, dict) else {}
            )
            have[content] = AddedToken(content, **(flags | {"special": True}))
            wanted.append(have[content])
    if len(wanted) > MAX_ADDED_TOKENS:
        raise InputError(
            f"{folder}: its files add {len(wanted):,} tokens, and newleaf reads at most {MAX_ADDED_TOKENS:,}"
        )
    with native_errors_as_input_errors(f"{folder}: its added tokens are not those of a tokenizer"):
        backend.add_tokens([token for token in wanted if token.content])


def content_of(token: Any, where: str) -> str | None:
    """A token's text, given as such or as an object with `content`; None for none. Raises InputError for
    anything else."""
    found = token.get("content") if isinstance(token, dict) else token
    if found is not None and not (isinstance(found, str) and _is_text(found)):
        raise InputError(f"{where} must be a token's text, not {ascii(token)[:60]}")
    return found


def _object(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _added(listed: Any, file: Path) -> dict[int, AddedToken]:
    """The tokens of an added_tokens_decoder, by id."""
    found: dict[int, AddedToken] = {}
    if not isinstance(listed, dict) or not all(isinstance(token, dict) for token in listed.values()):
        raise InputError(f"{file}: added_tokens_decoder must be an object of tokens by their ids")
    for number, token in listed.items():
        content = content_of(token, f"{file}: added_tokens_decoder")
        if not number.isdecimal() or content is None:
            raise InputError(f"{file}: added_tokens_decoder holds {str(number)[:20]!r}, which is no token")
        found[int(number)] = AddedToken(content, **_flags(token))
    return found


def _added_before(listed: dict[str, Any], special: set[str | None], file: Path) -> dict[int, AddedToken]:
    """The tokens of an added_tokens.json, in which older folders have them."""
    if not all(type(number) is int for number in listed.values()):
        raise InputError(f"{file}: must hold a number for each token")
    return {
        number: AddedToken(token, normalized=token not in special, special=token in special)
        for token, number in listed.items()
    }


def _flags(token: dict[str, Any]) -> dict[str, bool]:
    return {
        name: token[name]
        for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
        if type(token.get(name)) is bool
    }


def _flags_of(token: AddedToken) -> dict[str, bool]:
    return {
        "single_word": token.single_word,
        "lstrip": token.lstrip,
        "rstrip": token.rstrip,
        "normalized": token.normalized,
    }


def _is_text(found: str) -> bool:
    """Whether this is Unicode text: JSON can spell halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in found)
