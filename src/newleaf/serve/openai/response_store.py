"""Stored responses, in memory, for previous_response_id. The oldest are evicted first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from newleaf.text.messages import Message

MAX_RESPONSES = 1000
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class StoredResponse:
    """A response with its conversation (without instructions) and the items of its request."""

    response: dict[str, Any]
    messages: list[Message]
    input: list[dict[str, Any]]
    owner: str | None
    size: int

    @property
    def items(self) -> list[dict[str, Any]]:
        """Items that other requests may reference by id."""
        return [*self.input, *self.response["output"]]


def size_of(response: dict[str, Any], messages: list[Message], given: list[dict[str, Any]]) -> int:
    """Approximate bytes of a stored response, by its JSON. Not for the event loop: it may be megabytes."""
    return len(json.dumps([response, messages, given]))


class ResponseStore:
    """At most `MAX_RESPONSES` responses of `MAX_BYTES` together."""

    def __init__(self) -> None:
        self._stored: dict[str, StoredResponse] = {}
        self._items: dict[str, str] = {}  # an item's id → the last response that has it
        self._size = 0

    def put(self, found: StoredResponse) -> None:
        self._stored[found.response["id"]] = found
        self._items |= {item["id"]: found.response["id"] for item in found.items}
        self._size += found.size
        while len(self._stored) > MAX_RESPONSES or self._size > MAX_BYTES:
            self._drop(next(iter(self._stored)))

    def get(self, id_: str, owner: str | None) -> StoredResponse | None:
        """None for a response that is not stored, or belongs to another key."""
        found = self._stored.get(id_)
        return found if found is not None and found.owner == owner else None

    def item(self, id_: str, owner: str | None) -> dict[str, Any] | None:
        """An item of a stored response or its request; None if it is not stored or another key's."""
        found = self.get(self._items.get(id_, ""), owner)
        return next((item for item in found.items if item["id"] == id_), None) if found is not None else None

    def remove(self, id_: str, owner: str | None) -> bool:
        if self.get(id_, owner) is None:
            return False
        self._drop(id_)
        return True

    def _drop(self, id_: str) -> None:
        found = self._stored.pop(id_)
        self._size -= found.size
        for item in found.items:
            if self._items.get(item["id"]) == id_:
                del self._items[item["id"]]
