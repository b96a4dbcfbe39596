"""The models of `newleaf serve`: their names, adapters, drafts and tokenizers, from the command line."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from newleaf.errors import InputError

if TYPE_CHECKING:
    from newleaf.serve.models.model_registry import ModelSource

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def model_sources(args: argparse.Namespace) -> list[ModelSource]:
    """What the server is to open. Raises InputError for a name or an option that does not fit."""
    sources = _with_adapters([_model_source(text, args) for text in args.models], args.adapter or [])
    if args.draft_weights is not None and not args.draft:
        raise InputError("--draft-weights: goes with --draft MODEL")
    drafts = _by_model(sources, args.draft or [], "--draft", "MODEL")
    tokenizers = _by_model(sources, args.tokenizer or [], "--tokenizer", "PATH")
    return [
        replace(
            source,
            draft=drafts.get(source.name),
            draft_weights=args.draft_weights,
            tokenizer=tokenizers.get(source.name),
        )
        for source in sources
    ]


def _model_source(text: str, args: argparse.Namespace) -> ModelSource:
    """NAME=MODEL; without a name, the last part of the path."""
    from newleaf.serve.models.model_registry import ModelSource

    template = None
    if args.template is not None:
        from newleaf.text.load_tokenizer import read_template

        template = read_template(args.template)
    name, found, path = text.partition("=")
    if not found or "/" in name:
        path = text
        name = text if not Path(text).exists() else Path(text).resolve().name.removesuffix(".gguf")
    kind, _ = parse_cache(args.cache)
    return ModelSource(
        name,
        path,
        args.weights,
        args.device,
        args.threads,
        template,
        context=args.context,
        context_method=args.context_method,
        cache=kind,
    )


def _with_adapters(sources: list[ModelSource], given: list[str]) -> list[ModelSource]:
    """[BASE:]NAME=DIR, each over its base."""
    found: dict[str, dict[str, str]] = {source.name: {} for source in sources}
    for text in given:
        names, equals, path = text.partition("=")
        base, colon, name = names.rpartition(":")
        base = base if colon else sources[0].name
        if not equals or not name or not path:
            raise InputError(f"--adapter: {text!r} is not NAME=DIR or BASE:NAME=DIR")
        if base not in found:
            raise InputError(f"--adapter: there is no model {base!r}, but {', '.join(found)}")
        if name in found[base]:
            raise InputError(f"--adapter: {name!r} is given twice")
        found[base][name] = path
    return [replace(source, adapters=found[source.name]) for source in sources]


def _by_model(sources: list[ModelSource], given: list[str], flag: str, what: str) -> dict[str, str]:
    """[NAME=]PATH, each for the model of this name, the first by default."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or "/" in name:
            name, path = sources[0].name, text
        if not path:
            raise InputError(f"{flag}: {text!r} is not {what} or NAME={what}")
        if name not in {source.name for source in sources}:
            raise InputError(
                f"{flag}: there is no model {name!r}, but {', '.join(source.name for source in sources)}"
            )
        if name in found:
            raise InputError(f"{flag}: {name!r} is given two; give it one")
        found[name] = path
    return found


def byte_count(text: str | None, flag: str) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?|)B?", text.strip().upper())
    if found is None or float(found[1]) == 0:
        raise InputError(f"{flag}: {text!r} is not a size such as 800M, 8G or 8GiB")
    return int(float(found[1]) * UNITS[found[2]])


def parse_cache(text: str | None) -> tuple[Literal["bf16", "int8"] | None, int | None]:
    """Number format and bytes of keys and values."""
    kinds: dict[str, Literal["bf16", "int8"]] = {"bf16": "bf16", "int8": "int8"}
    first, _, rest = (text or "").partition(",")
    if first in kinds:
        return kinds[first], byte_count(rest or None, "--cache")
    return None, byte_count(text, "--cache")
