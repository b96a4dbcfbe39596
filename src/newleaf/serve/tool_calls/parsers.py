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
    call_format: CallFormat | None,
    functions: Mapping[str, Any] | Collection[str],
    required: bool = False,
    streaming: bool = False,
) -> ToolCallParser:
    """For one answer; without a call_format, all is text. `functions` are parameters' schemas by the functions'
    names. `must`: a grammar makes it calls from its first character, or from a mark that stands in the
    prompt, on. `streaming`: calls are told while they come."""
    if call_format is None:
        return TextParser()
    if call_format in PARAMETER_TAG_FORMATS:
        schemas = functions if isinstance(functions, Mapping) else {name: {} for name in functions}
        return ParameterTagParser(PARAMETER_TAG_FORMATS[call_format], schemas, required, streaming)
    if call_format in SECTION_FORMATS:
        return SectionParser(SECTION_FORMATS[call_format], list(functions), required, streaming)
    found = _json_reader(call_format, list(functions), required)
    return StreamingParser(found, list(functions)) if streaming else found


def _json_reader(call_format: CallFormat, names: Collection[str], required: bool) -> ToolCallParser:
    match call_format:
        case "tags" | "own":
            return TagParser(names, required)
        case "harmony":
            return HarmonyParser(names)
        case "bare":
            return BareJsonParser(names, required)
        case _:
            return ListParser(names, required)


class TextParser:
    """Looks for no calls."""

    def push(self, part: Part) -> list[AnswerPart]:
        return [part]

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        return []

    @property
    def pending_call(self) -> tuple[str | None, str]:
        return None, ""
