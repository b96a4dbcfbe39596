"""Calls of tools found in an answer while it comes, by reading JSON from where a call begins to where it
ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from newleaf.serve.tool_calls.bare_json import BareJsonParser
from newleaf.serve.tool_calls.call_list import ListParser
from newleaf.serve.tool_calls.harmony import HarmonyParser
from newleaf.serve.tool_calls.parameter_tags import PARAMETER_TAG_FORMATS, ParameterTagParser
from newleaf.serve.tool_calls.sections import SECTION_FORMATS, SectionParser
from newleaf.serve.tool_calls.streaming_parser import StreamingParser
from newleaf.serve.tool_calls.tagged_json import TagParser
from newleaf.serve.tool_calls.tool_call import (
    AnswerPart,
    CallFormat,
    ToolCallParser,
)
from newleaf.text.reasoning import Part


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
