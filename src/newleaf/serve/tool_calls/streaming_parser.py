"""Streams calls as they are generated: the function's name first, then deltas of its arguments."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from newleaf.serve.tool_calls.tool_call import (
    ARGS_TOKEN,
    CALL_ID_TOKEN,
    PYTHON_TOKEN,
    TOOL_CALLS_TOKEN,
    AnswerPart,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallParser,
    ToolCallStart,
)
from newleaf.text.json_end import JsonEnd
from newleaf.text.reasoning import Part

MAX_HEAD_CHARACTERS = 1000  # before a call's arguments
SEPARATOR = re.compile(rf"(?:[\s,;\[\]}}]|{re.escape(TOOL_CALLS_TOKEN)}|{re.escape(PYTHON_TOKEN)})*")
CALL_HEAD = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?(?:"id"\s*:\s*"[^"\\]*"\s*,\s*)?'
    r'"name"\s*:\s*"(?P<name>[^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
    rf"|(?P<named>[\w.-]+)\s*(?:{re.escape(CALL_ID_TOKEN)}\w*\s*)?{re.escape(ARGS_TOKEN)}\s*(?=\{{)"
)
_SPECIAL = re.compile(r'["\\\x00-\x1f]')


@dataclass
class JsonStringEscaper:
    """Escapes control characters within the strings of streamed JSON, which models leave bare."""

    in_string: bool = False
    escaped: bool = False

    def push(self, text: str) -> str:
        found, at = "", 0
        while at < len(text):
            if self.escaped:
                found, at, self.escaped = found + text[at], at + 1, False
                continue
            end = text.find('"', at) if not self.in_string else -1
            match = _SPECIAL.search(text, at) if self.in_string else None
            place = match.start() if match else end
            if place < 0:
                return found + text[at:]
            character = text[place]
            found += text[at:place] + (f"\\u{ord(character):04x}" if character < " " else character)
            self.in_string, self.escaped, at = (
                self.in_string != (character == '"'),
                character == "\\",
                place + 1,
            )
        return found


class StreamingParser:
    """Wraps another parser, and streams the calls that it still holds back.

    A call that does not begin as usual comes complete. Deltas cannot be withdrawn: those of a call that is
    cut, or turns out not to be one, stay.
    """

    def __init__(self, inner: ToolCallParser, names: Collection[str]) -> None:
        self._inner, self._names = inner, names
        self._streamed_calls = 0  # that the inner parser has not returned yet
        self._begin()

    def _begin(self) -> None:
        # Text that may be calls, how much of it was scanned, and whether they are not streamed.
        self._buffer, self._at, self._unstreamed = "", 0, False
        self._end: JsonEnd | None = None  # during arguments
        self._strings = JsonStringEscaper()

    @property
    def pending_call(self) -> tuple[str | None, str]:
        return self._inner.pending_call

    def push(self, part: Part) -> list[AnswerPart]:
        found = self._not_streamed(self._inner.push(part))
        name, held = self._inner.pending_call
        if held and not self._unstreamed:
            found += self._scan(name, held)
        return found

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        return self._not_streamed(self._inner.finish(cut))

    def _not_streamed(self, pieces: Sequence[AnswerPart]) -> list[AnswerPart]:
        """Parts of the inner parser, without what was streamed already."""
        found: list[AnswerPart] = []
        for piece in pieces:
            streamed = self._streamed_calls > 0 or self._end is not None
            if isinstance(piece, ToolCall):
                if self._streamed_calls:
                    self._streamed_calls -= 1
                elif self._end is not None:
                    found += self._scan(None, piece.written)
                else:
                    found.append(piece)
                if not self._streamed_calls:
                    self._begin()
            elif not (streamed and isinstance(piece, Part) and piece.kind == "content"):
                found.append(piece)
        return found

    def _scan(self, name: str | None, held: str) -> list[AnswerPart]:
        """What is new in the text of a call, or of several."""
        found: list[AnswerPart] = []
        while self._at < len(held):
            if self._end is None:
                between = SEPARATOR.match(held, self._at)
                begin = between.end() if between else self._at
                head = CALL_HEAD.match(held, begin, begin + MAX_HEAD_CHARACTERS) if name is None else None
                called = name or (head["name"] or head["named"] if head else None)
                if called is None or (name is not None and held[begin : begin + 1] != "{"):
                    self._unstreamed = len(held) - begin > MAX_HEAD_CHARACTERS
                    break
                if called not in self._names:
                    self._unstreamed = True
                    break
                found.append(ToolCallStart(called))
                self._end, self._strings, self._at = (
                    JsonEnd(),
                    JsonStringEscaper(),
                    head.end() if head else begin,
                )
            text = held[self._at :]
            size = self._end.push(text)
            if more := self._strings.push(text if size is None else text[:size]):
                found.append(ToolCallDelta(more))
            self._at = len(held) if size is None else self._at + size
            if size is None:
                break
            found.append(ToolCallEnd())
            self._end, self._streamed_calls = None, self._streamed_calls + 1
            self._unstreamed = name is not None
        return found
