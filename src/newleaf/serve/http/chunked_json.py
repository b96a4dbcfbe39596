"""JSON responses with long lists, serialized in a thread, in chunks between which other threads run.

The json module holds the GIL for each call.
"""

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
    """The object `value`, which must have a field, with `lists` as further fields.

    `part` items of a list are serialized at a time.
    """
    head = json.dumps(value, ensure_ascii=False, separators=(",", ":"))[:-1]
    fields = (f",{json.dumps(name)}:[{','.join(_parts(items, part))}]" for name, items in lists.items())
    return "".join([head, *fields, "}"]).encode("utf-8", "replace")


def json_response(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _parts(items: Iterable[Any], count: int) -> Iterator[str]:
    rest = iter(items)
    while part := list(islice(rest, count)):
        yield json.dumps(part, ensure_ascii=False, separators=(",", ":"))[1:-1]
