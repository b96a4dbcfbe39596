"""Answers with long lists, written by a thread, in parts between which other threads run: the JSON library
writes each in one go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from fastapi import Response

CHUNK_ITEMS = 2048  # items of a list that are written at once


def json_bytes(
    value: Mapping[str, Any], lists: Mapping[str, Iterable[Any]], part: int = CHUNK_ITEMS
) -> bytes:
    """The object `value`, which has a field, with `lists` behind its others, `part` items of each at a
    time."""
    head = json.dumps(value, ensure_ascii=False, separators=(",", ":"))[:-1]
    fields = (f",{json.dumps(name)}:[{','.join(_parts(items, part))}]" for name, items in lists.items())
    return "".join([head, *fields, "}"]).encode("utf-8", "replace")


def json_response(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _parts(items: Iterable[Any], count: int) -> Iterator[str]:
    rest = iter(items)
    while part := list(islice(rest, count)):
        yield json.dumps(part, ensure_ascii=False, separators=(",", ":"))[1:-1]
