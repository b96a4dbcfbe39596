"""Responses that were stored, in memory, so that another can go on from them. The oldest are forgotten first, all when the server ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from newleaf.text.messages import Message

MOST = 1000
MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Stored:
    """A response as it was given, with the conversation up to and with its answer, without instructions."""

    response: dict[str, Any]
    messages: list[Message]
    owner: str | None
    size: int


class ResponseStore:
    """At most `MOST` responses of `MOST_BYTES` together."""

    def __init__(self) -> None:
        self._stored: dict[str, Stored] = {}
        self._size = 0

    def put(self, response: dict[str, Any], messages: list[Message], owner: str | None) -> None:
        size = len(json.dumps([response, messages]))
        self._stored[response["id"]] = Stored(response, messages, owner, size)
        self._size += size
        while len(self._stored) > MOST or self._size > MOST_BYTES:
            self._drop(next(iter(self._stored)))

    def get(self, id_: str, owner: str | None) -> Stored | None:
        """None for what is not there, or another's."""
        found = self._stored.get(id_)
        return found if found is not None and found.owner == owner else None

    def remove(self, id_: str, owner: str | None) -> bool:
        if self.get(id_, owner) is None:
            return False
        self._drop(id_)
        return True

    def _drop(self, id_: str) -> None:
        self._size -= self._stored.pop(id_).size
