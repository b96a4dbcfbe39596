"""Chooses the tool call parser of a chat template's format."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from newleaf.serve.tool_calls.bare_json_parser import BareJsonParser
from newleaf.serve.tool_calls.call_list import ListParser
from newleaf.serve.tool_calls.harmony_parser import HarmonyParser
from newleaf.serve.tool_calls.parameter_tag_parser import PARAMETER_TAG_FORMATS, ParameterTagParser
from newleaf.serve.tool_calls.section_parser import SECTION_FORMATS, SectionParser
from newleaf.serve.tool_calls.streaming_parser import StreamingParser
from newleaf.serve.tool_calls.tagged_json_parser import TagParser
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
    """The parser of one answer; without a format, all is text.

    `functions` are parameter schemas by function. `required`: a grammar makes it calls from its beginning,
    or from a token that the prompt ends with. `streaming`: calls are streamed.
    """
    if call_format is None:
        return TextParser()
    if call_format in PARAMETER_TAG_FORMATS:
        schemas = functions if isinstance(functions, Mapping) else {name: {} for name in functions}
        return ParameterTagParser(PARAMETER_TAG_FORMATS[call_format], schemas, required, streaming)
    if call_format in SECTION_FORMATS:
        return SectionParser(SECTION_FORMATS[call_format], list(functions), required, streaming)
    found = _json_parser(call_format, list(functions), required)
    return StreamingParser(found, list(functions)) if streaming else found


def _json_parser(call_format: CallFormat, names: Collection[str], required: bool) -> ToolCallParser:
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
    """Finds no calls."""

    def push(self, part: Part) -> list[AnswerPart]:
        return [part]

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        return []

    @property
    def pending_call(self) -> tuple[str | None, str]:
        return None, ""
