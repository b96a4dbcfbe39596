"""Calls told while they are written: the function's name first, and then its arguments piece by piece."""

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

MAX_HEAD_CHARACTERS = 1000  # characters of what stands before a call's arguments
SEPARATOR = re.compile(rf"(?:[\s,;\[\]}}]|{re.escape(TOOL_CALLS_TOKEN)}|{re.escape(PYTHON_TOKEN)})*")
CALL_HEAD = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?(?:"id"\s*:\s*"[^"\\]*"\s*,\s*)?'
    r'"name"\s*:\s*"(?P<name>[^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
    rf"|(?P<named>[\w.-]+)\s*(?:{re.escape(CALL_ID_TOKEN)}\w*\s*)?{re.escape(ARGS_TOKEN)}\s*(?=\{{)"
)
_IN_TEXT = re.compile(r'["\\\x00-\x1f]')


@dataclass
class JsonStringEscaper:
    """JSON as it comes, with line ends and the like within strings escaped, which models forget."""

    inside: bool = False
    escaped: bool = False

    def push(self, text: str) -> str:
        found, at = "", 0
        while at < len(text):
            if self.escaped:
                found, at, self.escaped = found + text[at], at + 1, False
                continue
            end = text.find('"', at) if not self.inside else -1
            match = _IN_TEXT.search(text, at) if self.inside else None
            place = match.start() if match else end
            if place < 0:
                return found + text[at:]
            sign = text[place]
            found += text[at:place] + (f"\\u{ord(sign):04x}" if sign < " " else sign)
            self.inside, self.escaped, at = self.inside != (sign == '"'), sign == "\\", place + 1
        return found


class StreamingParser:
    """Reads by another reader, and looks at the calls that this one still holds back. A call that does not
    begin as most do comes whole.

    What was told cannot be taken back: of a call that is cut, or turns out not to be one, what came stays.
    """

    def __init__(self, inner: ToolCallParser, names: Collection[str]) -> None:
        self._inner, self._names = inner, names
        self._told = 0  # calls that were told to their end, and that the inner reader is still to give
        self._begin()

    def _begin(self) -> None:
        # what may be calls; how much of it was read; whether they come whole
        self._buffer, self._at, self._whole = "", 0, False
        self._end: JsonEnd | None = None  # while arguments come
        self._strings = JsonStringEscaper()

    @property
    def pending_call(self) -> tuple[str | None, str]:
        return self._inner.pending_call

    def push(self, part: Part) -> list[AnswerPart]:
        found = self._given(self._inner.push(part))
        name, held = self._inner.pending_call
        if held and not self._whole:
            found += self._look(name, held)
        return found

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        return self._given(self._inner.finish(cut))

    def _given(self, pieces: Sequence[AnswerPart]) -> list[AnswerPart]:
        """What the inner reader gives, without what was told."""
        found: list[AnswerPart] = []
        for piece in pieces:
            told = self._told > 0 or self._end is not None
            if isinstance(piece, ToolCall):
                if self._told:
                    self._told -= 1
                elif self._end is not None:
                    found += self._look(None, piece.written)
                else:
                    found.append(piece)
                if not self._told:
                    self._begin()
            elif not (told and isinstance(piece, Part) and piece.kind == "content"):
                found.append(piece)
        return found

    def _look(self, name: str | None, held: str) -> list[AnswerPart]:
        """What is new in the text of a call, or of several."""
        found: list[AnswerPart] = []
        while self._at < len(held):
            if self._end is None:
                between = SEPARATOR.match(held, self._at)
                begin = between.end() if between else self._at
                head = CALL_HEAD.match(held, begin, begin + MAX_HEAD_CHARACTERS) if name is None else None
                called = name or (head["name"] or head["named"] if head else None)
                if called is None or (name is not None and held[begin : begin + 1] != "{"):
                    self._whole = len(held) - begin > MAX_HEAD_CHARACTERS
                    break
                if called not in self._names:
                    self._whole = True
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
            self._end, self._told = None, self._told + 1
            self._whole = name is not None
        return found
