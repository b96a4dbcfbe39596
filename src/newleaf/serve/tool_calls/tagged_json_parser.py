"""Parser of tool calls as JSON between <tool_call> tags (Qwen3, Hermes, Granite 4, newleaf's own)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from newleaf.serve.tool_calls.tool_call import (
    CLOSE_TAG,
    OPEN_TAG,
    AnswerPart,
    parse_calls,
)
from newleaf.text.json_end import JsonEnd, json_end
from newleaf.text.reasoning import Part, partial_marker_length


class TagParser:
    """Parses calls between tags, each a JSON object. White space around them is not text."""

    def __init__(self, names: Collection[str], required: bool = False) -> None:
        self._names, self._required, self._called = names, required, False
        self._buffer = ""  # text that is not certain, or what came since the tag
        self._inside = False
        self._end: JsonEnd | None = None  # while JSON within the tag goes on
        self._read = 0  # how much of `_held` it has seen

    def push(self, part: Part) -> list[AnswerPart]:
        if part.kind != "content":
            return [part]
        self._buffer += part.text
        found: list[AnswerPart] = []
        while (more := self._inner() if self._inside else self._outer(found)) is not None:
            found += more
        return found

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        found: list[AnswerPart] = []
        while self._inside:  # a tag whose JSON never ended
            body = self._buffer.lstrip()
            if (end := json_end(body)) is not None and CLOSE_TAG.startswith(body[end:].strip()):
                found += self._call(body[:end], self._buffer)
                self._buffer, self._inside = "", False
            elif cut:
                return found
            else:
                body, closed, rest = self._buffer.partition(CLOSE_TAG)
                found.append(Part("content", OPEN_TAG + body + closed))
                self._buffer, self._inside = "", False
                found += self.push(Part("content", rest))
        held, self._buffer = self._buffer, ""
        if self._required and cut and OPEN_TAG.startswith(held.strip()):
            return found
        return found + self._text(held.rstrip() if self._called else held)

    def _outer(self, found: list[AnswerPart]) -> list[AnswerPart] | None:
        """Text up to the next tag; None when more text is needed."""
        before, opened, rest = self._buffer.partition(OPEN_TAG)
        if not opened:
            keep = len(self._buffer) - partial_marker_length(self._buffer, (OPEN_TAG,))
            keep = len(self._buffer[:keep].rstrip())
            text, self._buffer = self._buffer[:keep], self._buffer[keep:]
            found += self._text(text)
            return None
        self._buffer, self._inside, self._end = rest, True, None
        return self._text(before.rstrip())

    def _inner(self) -> list[AnswerPart] | None:
        """Up to the end of a call; None when more text is needed."""
        if self._end is None:
            self._read = len(self._buffer) - len(self._buffer.lstrip())
            first = self._buffer[self._read : self._read + 1]
            if not first:
                return None
            if first not in "{[":
                return self._other()
            self._end = JsonEnd()
        size = self._end.push(self._buffer[self._read :])
        if size is None:
            self._read = len(self._buffer)
            return None
        end = self._read + size
        rest = self._buffer[end:].lstrip()
        if CLOSE_TAG.startswith(rest) and rest != CLOSE_TAG:  # the end tag is still to come
            self._end = _Ended(end)
            self._read = 0
            return None
        after = rest.removeprefix(CLOSE_TAG)
        raw = self._buffer[: len(self._buffer) - len(after)]
        found = self._call(self._buffer[:end], raw)
        self._buffer, self._inside, self._end = after, False, None
        return found

    def _other(self) -> list[AnswerPart] | None:
        """The tag's content is not JSON."""
        body, closed, rest = self._buffer.partition(CLOSE_TAG)
        if not closed:
            return None
        self._buffer, self._inside = rest, False
        return [Part("content", OPEN_TAG + body + CLOSE_TAG)]

    def _text(self, text: str) -> list[AnswerPart]:
        text = text.lstrip() if self._called else text
        return [Part("content", text)] if text else []

    def _call(self, body: str, raw: str | None = None) -> list[AnswerPart]:
        calls = parse_calls(body, self._names)
        self._called = self._called or bool(calls)
        calls = [replace(call, written=body) for call in calls]
        return list(calls) if calls else [Part("content", OPEN_TAG + (raw if raw is not None else body))]

    @property
    def pending_call(self) -> tuple[str | None, str]:
        return None, self._buffer if self._inside and not self._buffer.lstrip().startswith("[") else ""


class _Ended(JsonEnd):
    """The JSON ended at this place, and what follows is not known yet."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self._place = place

    def push(self, text: str) -> int | None:
        return self._place
