"""Parser of tool calls that are the full answer, as bare JSON (Llama 3)."""

from __future__ import annotations

from collections.abc import Collection

from newleaf.serve.tool_calls.tool_call import (
    PYTHON_TOKEN,
    AnswerPart,
    ToolCall,
    parse_calls,
)
from newleaf.text.json_end import json_end
from newleaf.text.reasoning import Part


class BareJsonParser:
    """Parses an answer of JSON alone, one value or several (`{…}; {…}`)."""

    def __init__(self, names: Collection[str], required: bool = False) -> None:
        self._names, self._required, self._buffer, self._text = names, required, "", False

    def push(self, part: Part) -> list[AnswerPart]:
        if part.kind != "content" or self._text:
            return [part]
        self._buffer += part.text
        first = self._buffer.lstrip()
        if first[:1] in ("", "{", "[") or PYTHON_TOKEN.startswith(first) or first.startswith(PYTHON_TOKEN):
            return []
        self._text, held, self._buffer = True, self._buffer, ""
        return [Part("content", held)]

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        held, self._buffer = self._buffer, ""
        found: list[ToolCall] = []
        rest = held.strip().removeprefix(PYTHON_TOKEN).strip()
        begun = self._required or held.lstrip().startswith(PYTHON_TOKEN) or _begins_call(rest, self._names)
        while (
            rest and (end := json_end(rest)) is not None and (calls := parse_calls(rest[:end], self._names))
        ):
            found += calls
            rest = rest[end:].lstrip(" ;,\n")
        if rest and cut and (found or begun):
            return list(found)
        if found and not rest:
            return list(found)
        return [Part("content", held)] if held else []

    @property
    def pending_call(self) -> tuple[str | None, str]:
        return None, self._buffer


def _begins_call(text: str, names: Collection[str]) -> bool:
    """Whether incomplete JSON begins as a call of one of these functions."""
    compact = "".join(text[:300].split()).removeprefix("[").removeprefix('{"type":"function",')
    return any(
        compact.startswith(f'{{"name":"{name}"') or compact.startswith(f'"name":"{name}"') for name in names
    )
