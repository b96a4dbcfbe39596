"""Responses that were stored, in memory, so that another can go on from them. The oldest are forgotten first,
all when the server ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from newleaf.text.messages import Message

MAX_RESPONSES = 1000
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class StoredResponse:
    """A response as it was given, with the conversation up to and with its answer, without instructions, and
    the items of its request."""

    response: dict[str, Any]
    messages: list[Message]
    input: list[dict[str, Any]]
    owner: str | None
    size: int

    @property
    def items(self) -> list[dict[str, Any]]:
        """What others may refer to by its id."""
        return [*self.input, *self.response["output"]]


def size_of(response: dict[str, Any], messages: list[Message], given: list[dict[str, Any]]) -> int:
    """Characters of JSON, which stand for the memory that a stored response takes; of megabytes, so not for
    the event loop."""
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
        """None for what is not there, or another's."""
        found = self._stored.get(id_)
        return found if found is not None and found.owner == owner else None

    def item(self, id_: str, owner: str | None) -> dict[str, Any] | None:
        """An item of a stored response or of its request; None for what is not there, or another's."""
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
