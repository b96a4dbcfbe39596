"""Calls of tools found in an answer while it comes, by reading JSON from where a call begins to where it
ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from newleaf.serve.tool_calls.parameter_tags import PARAMETER_TAG_FORMATS, ParameterTagParser
from newleaf.serve.tool_calls.sections import SECTION_FORMATS, SectionParser
from newleaf.serve.tool_calls.streaming_parser import StreamingParser
from newleaf.serve.tool_calls.tool_call import (
    ARGS_TOKEN,
    CALL_ID_TOKEN,
    CLOSE_TAG,
    OPEN_TAG,
    PYTHON_TOKEN,
    TOOL_CALLS_TOKEN,
    AnswerPart,
    CallFormat,
    ToolCall,
    ToolCallParser,
    arguments_json,
    parse_calls,
    parse_json,
)
from newleaf.text.json_end import JsonEnd, json_end
from newleaf.text.reasoning import Part, held_start


def tool_call_parser(
    form: CallFormat | None,
    functions: Mapping[str, Any] | Collection[str],
    must: bool = False,
    live: bool = False,
) -> ToolCallParser:
    """For one answer; without a form, all is text. `functions` are parameters' schemas by the functions'
    names. `must`: a grammar makes it calls from its first character, or from a mark that stands in the
    prompt, on. `live`: calls are told while they come."""
    if form is None:
        return TextParser()
    if form in PARAMETER_TAG_FORMATS:
        schemas = functions if isinstance(functions, Mapping) else {name: {} for name in functions}
        return ParameterTagParser(PARAMETER_TAG_FORMATS[form], schemas, must, live)
    if form in SECTION_FORMATS:
        return SectionParser(SECTION_FORMATS[form], list(functions), must, live)
    found = _json_reader(form, list(functions), must)
    return StreamingParser(found, list(functions)) if live else found


def _json_reader(form: CallFormat, names: Collection[str], must: bool) -> ToolCallParser:
    match form:
        case "tags" | "own":
            return TagParser(names, must)
        case "harmony":
            return HarmonyParser(names)
        case "bare":
            return BareJsonParser(names, must)
        case _:
            return ListParser(names, must)


class TextParser:
    """Looks for no calls."""

    def push(self, part: Part) -> list[AnswerPart]:
        return [part]

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        return []

    @property
    def begun(self) -> tuple[str | None, str]:
        return None, ""


class TagParser:
    """Calls between tags, each a JSON object. White space around them is not text."""

    def __init__(self, names: Collection[str], must: bool = False) -> None:
        self._names, self._must, self._called = names, must, False
        self._held = ""  # text that is not certain, or what came since the tag
        self._inside = False
        self._end: JsonEnd | None = None  # while JSON within the tag goes on
        self._read = 0  # how much of `_held` it has seen

    def push(self, part: Part) -> list[AnswerPart]:
        if part.kind != "content":
            return [part]
        self._held += part.text
        found: list[AnswerPart] = []
        while (more := self._inner() if self._inside else self._outer(found)) is not None:
            found += more
        return found

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        found: list[AnswerPart] = []
        while self._inside:  # a tag whose JSON never ended
            body = self._held.lstrip()
            if (end := json_end(body)) is not None and CLOSE_TAG.startswith(body[end:].strip()):
                found += self._call(body[:end], self._held)
                self._held, self._inside = "", False
            elif cut:
                return found
            else:
                body, closed, rest = self._held.partition(CLOSE_TAG)
                found.append(Part("content", OPEN_TAG + body + closed))
                self._held, self._inside = "", False
                found += self.push(Part("content", rest))
        held, self._held = self._held, ""
        if self._must and cut and OPEN_TAG.startswith(held.strip()):
            return found
        return found + self._text(held.rstrip() if self._called else held)

    def _outer(self, found: list[AnswerPart]) -> list[AnswerPart] | None:
        """Up to the next tag; None when more has to come."""
        before, opened, rest = self._held.partition(OPEN_TAG)
        if not opened:
            keep = len(self._held) - held_start(self._held, (OPEN_TAG,))
            keep = len(self._held[:keep].rstrip())
            text, self._held = self._held[:keep], self._held[keep:]
            found += self._text(text)
            return None
        self._held, self._inside, self._end = rest, True, None
        return self._text(before.rstrip())

    def _inner(self) -> list[AnswerPart] | None:
        """Up to the end of a call; None when more has to come."""
        if self._end is None:
            self._read = len(self._held) - len(self._held.lstrip())
            first = self._held[self._read : self._read + 1]
            if not first:
                return None
            if first not in "{[":
                return self._other()
            self._end = JsonEnd()
        size = self._end.push(self._held[self._read :])
        if size is None:
            self._read = len(self._held)
            return None
        end = self._read + size
        rest = self._held[end:].lstrip()
        if CLOSE_TAG.startswith(rest) and rest != CLOSE_TAG:  # the end tag is still to come
            self._end = _Ended(end)
            self._read = 0
            return None
        after = rest.removeprefix(CLOSE_TAG)
        raw = self._held[: len(self._held) - len(after)]
        found = self._call(self._held[:end], raw)
        self._held, self._inside, self._end = after, False, None
        return found

    def _other(self) -> list[AnswerPart] | None:
        """What stands in the tag is not JSON."""
        body, closed, rest = self._held.partition(CLOSE_TAG)
        if not closed:
            return None
        self._held, self._inside = rest, False
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
    def begun(self) -> tuple[str | None, str]:
        return None, self._held if self._inside and not self._held.lstrip().startswith("[") else ""


class _Ended(JsonEnd):
    """The JSON ended at this place, and what follows is not known yet."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self._place = place

    def push(self, text: str) -> int | None:
        return self._place


class ListParser:
    """Calls after a mark: `[TOOL_CALLS] [{…}, {…}]`, or `[TOOL_CALLS]name[ARGS]{…}` with a mark before each.
    They are the rest of the answer; `begun` says that the prompt has the mark already."""

    def __init__(self, names: Collection[str], begun: bool = False) -> None:
        self._names, self._must, self._begun, self._held = names, begun, begun, ""

    def push(self, part: Part) -> list[AnswerPart]:
        if part.kind != "content":
            return [part]
        self._held += part.text
        if self._begun:
            return []
        before, found, rest = self._held.partition(TOOL_CALLS_TOKEN)
        if found:
            self._begun, self._held = True, rest
            return [Part("content", before.rstrip())] if before.strip() else []
        keep = len(self._held) - held_start(self._held, (TOOL_CALLS_TOKEN,))
        keep = len(self._held[:keep].rstrip())
        text, self._held = self._held[:keep], self._held[keep:]
        return [Part("content", text)] if text else []

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        held, self._held = self._held, ""
        if not self._begun:
            return [Part("content", held)] if held else []
        calls, whole = self._calls(held)
        if whole or cut:
            return list(calls)
        return [Part("content", held if self._must else TOOL_CALLS_TOKEN + held)]

    def _calls(self, text: str) -> tuple[list[ToolCall], bool]:
        """The calls, and whether the text holds nothing else."""
        found: list[ToolCall] = []
        while text := text.strip().removeprefix(TOOL_CALLS_TOKEN).lstrip(" ,;\n"):
            if text[0] in "{[":
                if (end := json_end(text)) is None:
                    return found + self._of_list(text), False
                calls = parse_calls(text[:end], self._names)
            else:
                head, _, body = text.partition(ARGS_TOKEN)
                name, body = head.partition(CALL_ID_TOKEN)[0].strip(), body.lstrip()
                if name not in self._names or (end := json_end(body)) is None:
                    return found, False
                arguments = arguments_json(parse_json(body[:end]))
                calls, text = [ToolCall(name, arguments)] if arguments is not None else [], body
            if not calls:
                return found, False
            found, text = found + calls, text[end:]
        return found, bool(found)

    def _of_list(self, text: str) -> list[ToolCall]:
        """The whole calls of a list that was cut."""
        found: list[ToolCall] = []
        at = 1
        while text[0] == "[" and (end := json_end(text, at)) is not None:
            found += parse_calls(text[at:end], self._names)
            at = end + len(text[end:]) - len(text[end:].lstrip(" ,\n"))
        return found

    @property
    def begun(self) -> tuple[str | None, str]:
        return None, self._held if self._begun else ""


class BareJsonParser:
    """Calls that are all of the answer: JSON from its first character on, one value or several (`{…};
    {…}`)."""

    def __init__(self, names: Collection[str], must: bool = False) -> None:
        self._names, self._must, self._held, self._text = names, must, "", False

    def push(self, part: Part) -> list[AnswerPart]:
        if part.kind != "content" or self._text:
            return [part]
        self._held += part.text
        first = self._held.lstrip()
        if first[:1] in ("", "{", "[") or PYTHON_TOKEN.startswith(first) or first.startswith(PYTHON_TOKEN):
            return []
        self._text, held, self._held = True, self._held, ""
        return [Part("content", held)]

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        held, self._held = self._held, ""
        found: list[ToolCall] = []
        rest = held.strip().removeprefix(PYTHON_TOKEN).strip()
        begun = self._must or held.lstrip().startswith(PYTHON_TOKEN) or _begins_call(rest, self._names)
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
    def begun(self) -> tuple[str | None, str]:
        return None, self._held


class HarmonyParser:
    """Messages to functions, which gpt-oss writes into the channel for them."""

    def __init__(self, names: Collection[str]) -> None:
        self._names, self._name, self._body = names, "", ""

    def push(self, part: Part) -> list[AnswerPart]:
        name = (part.to or "").removeprefix("functions.")
        if name == self._name and name:
            self._body += part.text
            return []
        done = self.finish()
        if not name:
            return [*done, part]
        self._name, self._body = name, part.text
        return done

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        name, body = self._name, self._body
        self._name, self._body = "", ""
        if not name:
            return []
        arguments = arguments_json(parse_json(body))
        if name in self._names and arguments is not None:
            return [ToolCall(name, arguments)]
        return [] if cut else [Part("content", body)]

    @property
    def begun(self) -> tuple[str | None, str]:
        return (self._name, self._body) if self._name in self._names else (None, "")


def _begins_call(text: str, names: Collection[str]) -> bool:
    """Whether JSON that is not whole begins as a call of one of these functions does."""
    compact = "".join(text[:300].split()).removeprefix("[").removeprefix('{"type":"function",')
    return any(
        compact.startswith(f'{{"name":"{name}"') or compact.startswith(f'"name":"{name}"') for name in names
    )
