"""Parser of calls in a section, a name before each JSON (DeepSeek-V3, DeepSeek-V3.1, Kimi-K2)."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from newleaf.serve.tool_calls.streaming_parser import JsonStringEscaper
from newleaf.serve.tool_calls.tool_call import (
    DEEPSEEK_TOKENS,
    KIMI_TOKENS,
    AnswerPart,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    arguments_json,
    parse_json,
)
from newleaf.text.json_end import JsonEnd
from newleaf.text.reasoning import Part, partial_marker_length

MAX_HEAD_CHARACTERS = 300  # before a call's JSON
CONTROL_TOKEN = re.compile(r"<[|｜][^<>]*[|｜]>")


@dataclass(frozen=True)
class SectionFormat:
    """The marks of a format.

    `begin` and `end` surround the section, `call` begins a call, `head` comes before its name, `middle`
    before its JSON, `tail` after it.
    """

    begin: str
    call: str
    head: str
    middle: str
    tail: str
    end: str
    numbered: bool = False  # a number follows the name

    @property
    def opening(self) -> re.Pattern[str]:
        """A pattern up to a call's JSON; models vary white space."""
        middle = r"\s*".join(map(re.escape, self.middle.split()))
        number = r"(?::\d+)?" if self.numbered else ""
        return re.compile(
            rf"{re.escape(self.call)}\s*(?:{re.escape(self.head)})?([\w.-]+){number}\s*{middle}\s*(?=\{{)"
        )

    def parts(self, text: str) -> list[str]:
        """A text, split at its control tokens."""
        marks = {
            mark
            for each in (self.begin, self.call, self.head, self.middle, self.tail, self.end)
            for mark in CONTROL_TOKEN.findall(each)
        }
        pattern = "|".join(map(re.escape, sorted(marks, key=len, reverse=True)))
        return [part for part in re.split(f"({pattern})", text) if part]


SECTION_FORMATS = {
    "deepseek-v3": SectionFormat(
        *DEEPSEEK_TOKENS[:2],
        f"function{DEEPSEEK_TOKENS[2]}",
        "\n```json\n",
        f"\n```{DEEPSEEK_TOKENS[3]}",
        DEEPSEEK_TOKENS[4],
    ),
    "deepseek-v3.1": SectionFormat(
        *DEEPSEEK_TOKENS[:2], "", DEEPSEEK_TOKENS[2], DEEPSEEK_TOKENS[3], DEEPSEEK_TOKENS[4]
    ),
    "kimi": SectionFormat(*KIMI_TOKENS[:2], "functions.", *KIMI_TOKENS[2:], numbered=True),
}


class SectionParser:
    """Parses such calls; `streaming` streams them."""

    def __init__(
        self, section: SectionFormat, names: Collection[str], required: bool = False, streaming: bool = False
    ) -> None:
        self._section, self._names, self._required, self._streaming = section, names, required, streaming
        self._opening = section.opening
        # Uncertain text, and the section's text so far, to return as text if it has no call.
        self._buffer, self._raw = "", ""
        self._inside = self._called = False
        self._name: str | None = None  # of the current call
        self._json, self._strings, self._end = "", JsonStringEscaper(), JsonEnd()

    @property
    def pending_call(self) -> tuple[str | None, str]:
        return None, ""

    def push(self, part: Part) -> list[AnswerPart]:
        if part.kind != "content":
            return [part]
        self._buffer += part.text
        found: list[AnswerPart] = []
        while (more := self._step(found)) is not None:
            found += more
        return found

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        held, self._buffer = self._raw + self._json + self._buffer, ""
        if (self._inside and (cut or (self._called and not self._raw))) or (self._required and cut):
            return []
        if self._streaming and self._name is not None:
            return []
        held = held.rstrip() if self._called else held
        return [Part("content", held)] if held.strip() or not self._called else []

    def _step(self, found: list[AnswerPart]) -> list[AnswerPart] | None:
        """The next parts; None when more text is needed."""
        if not self._inside:
            return self._outside(found)
        return self._between() if self._name is None else self._arguments()

    def _outside(self, found: list[AnswerPart]) -> list[AnswerPart] | None:
        marks = (self._section.begin, self._section.call)
        places = [place for mark in marks if (place := self._buffer.find(mark)) >= 0]
        if not places:
            keep = len(self._buffer) - partial_marker_length(self._buffer, marks)
            keep = len(self._buffer[:keep].rstrip())
            text, self._buffer = self._buffer[:keep], self._buffer[keep:]
            found += self._text(text)
            return None
        text, self._buffer, self._inside = self._buffer[: min(places)], self._buffer[min(places) :], True
        begin = self._section.begin if self._buffer.startswith(self._section.begin) else ""
        self._raw, self._buffer = text[len(text.rstrip()) :] + begin, self._buffer.removeprefix(begin)
        return self._text(text.rstrip())

    def _between(self) -> list[AnswerPart] | None:
        """Up to the JSON of the next call, or the end of the section."""
        call, end = self._buffer.find(self._section.call), self._buffer.find(self._section.end)
        if end >= 0 and (call < 0 or end < call):
            raw, self._raw, self._inside = self._raw + self._buffer[: end + len(self._section.end)], "", False
            self._buffer = self._buffer[end + len(self._section.end) :]
            return [] if self._called else [Part("content", raw)]
        if call < 0:
            return None
        opening = self._opening.match(self._buffer, call)
        if opening is None and len(self._buffer) - call < MAX_HEAD_CHARACTERS and end < 0:
            return None
        if opening is None or opening[1] not in self._names:
            raw, self._raw, self._inside = (
                self._raw + self._buffer[: call + len(self._section.call)],
                "",
                False,
            )
            self._buffer = self._buffer[call + len(self._section.call) :]
            return [Part("content", raw)]
        self._raw, self._buffer = self._raw + self._buffer[: opening.end()], self._buffer[opening.end() :]
        self._name, self._json, self._strings, self._end = opening[1], "", JsonStringEscaper(), JsonEnd()
        return [ToolCallStart(opening[1])] if self._streaming else []

    def _arguments(self) -> list[AnswerPart] | None:
        size = self._end.push(self._buffer)
        text, self._buffer = (
            (self._buffer, "") if size is None else (self._buffer[:size], self._buffer[size:])
        )
        self._json += text
        deltas: list[AnswerPart] = (
            [ToolCallDelta(more)] if self._streaming and (more := self._strings.push(text)) else []
        )
        if size is None:
            return deltas or None
        name, written, self._name = str(self._name), self._json, None
        arguments = arguments_json(parse_json(written))
        raw, self._raw, self._json, self._called = self._raw, "", "", True
        if self._streaming:
            return [*deltas, ToolCallEnd()]
        return [ToolCall(name, arguments)] if arguments is not None else [Part("content", raw + written)]

    def _text(self, text: str) -> list[AnswerPart]:
        text = text.lstrip() if self._called else text
        return [Part("content", text)] if text else []
