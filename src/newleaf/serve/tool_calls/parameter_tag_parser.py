"""Parser of calls with a tag for each parameter (Qwen3-Coder, GLM-4.5, Seed-OSS, MiniMax-M2)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from newleaf.serve.tool_calls.parameter_types import value_json
from newleaf.serve.tool_calls.tool_call import (
    AnswerPart,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    parse_calls,
)
from newleaf.text.reasoning import Part, partial_marker_length

MAX_NAME_CHARACTERS = 300  # of a function's name


@dataclass(frozen=True)
class ParameterTagFormat:
    """The tags of a format.

    `head` and `key` surround the names of a function and a parameter; `tail` ends a function.
    """

    open: str
    close: str
    head: tuple[str, str]
    key: tuple[str, str]
    value: tuple[str, str]  # around a value, within its tags
    end: str  # of a value
    tail: str

    @property
    def first(self) -> str:
        """The beginning of a function without its tag; empty where it has no mark of its own."""
        return self.head[0].strip()


FUNCTION, PARAMETER = ("\n<function=", ">\n"), ("<parameter=", ">")
ENDS = ("</parameter>\n", "</function>\n")
PARAMETER_TAG_FORMATS = {
    "qwen": ParameterTagFormat("<tool_call>", "</tool_call>", FUNCTION, PARAMETER, ("\n", "\n"), *ENDS),
    "seed": ParameterTagFormat("<seed:tool_call>", "</seed:tool_call>", FUNCTION, PARAMETER, ("", ""), *ENDS),
    "glm": ParameterTagFormat(
        "<tool_call>",
        "</tool_call>",
        ("", "\n"),
        ("<arg_key>", "</arg_key>\n<arg_value>"),
        ("", ""),
        "</arg_value>\n",
        "",
    ),
    "minimax": ParameterTagFormat(
        "<minimax:tool_call>",
        "</minimax:tool_call>",
        ('\n<invoke name="', '">\n'),
        ('<parameter name="', '">'),
        ("", ""),
        "</parameter>\n",
        "</invoke>\n",
    ),
}


class ParameterTagParser:
    """Parses such calls. `functions` are parameter schemas by function.

    `streaming` streams calls, a parameter at a time.
    """

    def __init__(
        self,
        markup: ParameterTagFormat,
        functions: Mapping[str, Any],
        required: bool = False,
        streaming: bool = False,
    ) -> None:
        self._markup, self._functions, self._required, self._streaming = (
            markup,
            functions,
            required,
            streaming,
        )
        self._buffer, self._inside, self._called = "", False, False
        self._raw = ""  # the call's text so far, to return as text if it is none
        self._name: str | None = None
        self._found: dict[str, str] = {}  # parameters, as JSON

    @property
    def pending_call(self) -> tuple[str | None, str]:
        return None, ""

    def push(self, part: Part) -> list[AnswerPart]:
        if part.kind != "content":
            return [part]
        self._buffer += part.text
        return self._read(done=False)

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        found = self._read(done=True)
        held, self._buffer = self._buffer, ""
        if not self._inside:
            found += (
                self._text(held.rstrip() if self._called else held) if not (self._required and cut) else []
            )
        elif cut or (self._name is None and self._markup.close.startswith(held.strip()) and not self._raw):
            pass
        elif self._name is not None and self._ends(held):  # the last tags are missing
            found += self._whole()
        elif not (self._streaming and self._name is not None):
            found.append(Part("content", self._raw + held))
        self._inside, self._name = False, None
        return found

    def _ends(self, rest: str) -> bool:
        return "".join((self._markup.tail + self._markup.close).split()).startswith("".join(rest.split()))

    def _read(self, done: bool) -> list[AnswerPart]:
        found: list[AnswerPart] = []
        while (more := self._step(found, done)) is not None:
            found += more
        return found

    def _step(self, found: list[AnswerPart], done: bool) -> list[AnswerPart] | None:
        """The next parts; None when more text is needed."""
        if not self._inside:
            return self._outside(found, done)
        return self._named() if self._name is None else self._inner(done)

    def _outside(self, found: list[AnswerPart], done: bool) -> list[AnswerPart] | None:
        marks = tuple(mark for mark in (self._markup.open, self._markup.first) if mark)
        places = [(place, mark) for mark in marks if (place := self._buffer.find(mark)) >= 0]
        if places:
            place, mark = min(places)
            before, self._buffer = self._buffer[:place], self._buffer[place:]
            self._inside, self._name, self._raw = True, None, ""
            if mark == self._markup.open:
                self._use(self._buffer.removeprefix(mark))
            return self._text(before.rstrip())
        if not done:
            keep = len(self._buffer) - partial_marker_length(self._buffer, marks)
            keep = len(self._buffer[:keep].rstrip())
            text, self._buffer = self._buffer[:keep], self._buffer[keep:]
            found += self._text(text)
        return None

    def _use(self, rest: str) -> None:
        """All but the `rest` of the buffer belongs to the call."""
        self._raw += self._buffer[: len(self._buffer) - len(rest)]
        self._buffer = rest

    def _named(self) -> list[AnswerPart] | None:
        """The function's name, or the end of the calls."""
        markup, text = self._markup, self._buffer.lstrip()
        if text.startswith(markup.close):
            self._buffer, self._inside = text.removeprefix(markup.close), False
            return []
        begin, end = markup.head[0].strip(), markup.head[1].strip()
        if not text or (begin.startswith(text) and text != begin):
            return None
        stop = re.compile(re.escape(end) if end else r"\n|(?=<)").search(text, len(begin))
        if stop is None and len(text) < MAX_NAME_CHARACTERS and text.startswith(begin):
            return None
        name = text[len(begin) : stop.start()].strip() if stop is not None and text.startswith(begin) else ""
        if stop is None or name not in self._functions:
            return self._other()
        self._use(text[stop.end() :])
        self._name, self._found, self._called = name, {}, True
        return [ToolCallStart(name), ToolCallDelta("{")] if self._streaming else []

    def _other(self) -> list[AnswerPart] | None:
        """The tag's content is something else: calls as JSON, or text."""
        body, closed, rest = self._buffer.partition(self._markup.close)
        if not closed:
            return None
        calls, raw = parse_calls(body, self._functions), self._raw
        self._buffer, self._inside, self._raw = rest, False, ""
        self._called = self._called or bool(calls)
        return list(calls) if calls else [Part("content", raw + body + closed)]

    def _inner(self, done: bool) -> list[AnswerPart] | None:
        """A parameter, or the end of the function."""
        markup, text = self._markup, self._buffer.lstrip()
        key, tail = markup.key[0], markup.tail.strip() or markup.close
        if text.startswith(key):
            return self._parameter(text, done)
        if text.startswith(tail):
            self._use(text.removeprefix(tail) if markup.tail else text)
            return self._whole()
        if done or not text or key.startswith(text) or tail.startswith(text):
            return None
        # Text between parameters is ignored.
        skipped = re.compile(f"{re.escape(key)}|{re.escape(tail)}").search(text)
        if skipped is None:
            return None
        self._use(text[skipped.start() :])
        return []

    def _parameter(self, text: str, done: bool) -> list[AnswerPart] | None:
        markup = self._markup
        middle = re.compile(r"\s*".join(map(re.escape, markup.key[1].split("\n")))).search(
            text, len(markup.key[0])
        )
        if middle is None:
            return None
        end = self._end_of_value(text, middle.end(), done)
        if end is None:
            return None
        key, value = text[len(markup.key[0]) : middle.start()].strip(), text[middle.end() : end]
        value = value.removeprefix("\n").removesuffix("\n") if markup.value[0] else value
        self._use(text[end + len(markup.end.strip()) :])
        schema = self._functions[str(self._name)]
        schema = schema if isinstance(schema, Mapping) else {}
        known = schema.get("properties")
        written = value_json(known.get(key) if isinstance(known, Mapping) else None, schema, value)
        if key in self._found:
            return []
        self._found[key] = written
        comma = ", " if len(self._found) > 1 else ""
        return (
            [ToolCallDelta(f"{comma}{json.dumps(key, ensure_ascii=False)}: {written}")]
            if self._streaming
            else []
        )

    def _end_of_value(self, text: str, start: int, done: bool) -> int | None:
        """The end of a value: an end tag followed by what may follow it."""
        markup, tag = self._markup, self._markup.end.strip()
        after = (markup.key[0], markup.tail.strip() or markup.close)
        place = text.find(tag, start)
        while place >= 0:
            rest = text[place + len(tag) :].lstrip()
            if rest.startswith(after) or (done and not rest):
                return place
            if not done and any(each.startswith(rest) for each in after):
                return None
            place = text.find(tag, place + 1)
        return None

    def _whole(self) -> list[AnswerPart]:
        name, self._name, self._raw = str(self._name), None, ""
        if self._streaming:
            return [ToolCallDelta("}"), ToolCallEnd()]
        pairs = ", ".join(
            f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in self._found.items()
        )
        return [ToolCall(name, f"{{{pairs}}}")]

    def _text(self, text: str) -> list[AnswerPart]:
        text = text.lstrip() if self._called else text
        return [Part("content", text)] if text else []
