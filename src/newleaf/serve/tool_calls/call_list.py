"""Parser of tool calls after [TOOL_CALLS] (Mistral)."""

from __future__ import annotations

from collections.abc import Collection

from newleaf.serve.tool_calls.tool_call import (
    ARGS_TOKEN,
    CALL_ID_TOKEN,
    TOOL_CALLS_TOKEN,
    AnswerPart,
    ToolCall,
    arguments_json,
    parse_calls,
    parse_json,
)
from newleaf.text.json_end import json_end
from newleaf.text.reasoning import Part, partial_marker_length


class ListParser:
    """Parses `[TOOL_CALLS] [{…}, {…}]`, or `[TOOL_CALLS]name[ARGS]{…}` with a token before each.

    Calls are the rest of the answer. `begun` says that the prompt ends with the token.
    """

    def __init__(self, names: Collection[str], begun: bool = False) -> None:
        self._names, self._required, self._begun, self._buffer = names, begun, begun, ""

    def push(self, part: Part) -> list[AnswerPart]:
        if part.kind != "content":
            return [part]
        self._buffer += part.text
        if self._begun:
            return []
        before, found, rest = self._buffer.partition(TOOL_CALLS_TOKEN)
        if found:
            self._begun, self._buffer = True, rest
            return [Part("content", before.rstrip())] if before.strip() else []
        keep = len(self._buffer) - partial_marker_length(self._buffer, (TOOL_CALLS_TOKEN,))
        keep = len(self._buffer[:keep].rstrip())
        text, self._buffer = self._buffer[:keep], self._buffer[keep:]
        return [Part("content", text)] if text else []

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        held, self._buffer = self._buffer, ""
        if not self._begun:
            return [Part("content", held)] if held else []
        calls, complete = self._calls(held)
        if complete or cut:
            return list(calls)
        return [Part("content", held if self._required else TOOL_CALLS_TOKEN + held)]

    def _calls(self, text: str) -> tuple[list[ToolCall], bool]:
        """The calls, and whether the text has nothing else."""
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
        """The complete calls of a list that was cut."""
        found: list[ToolCall] = []
        at = 1
        while text[0] == "[" and (end := json_end(text, at)) is not None:
            found += parse_calls(text[at:end], self._names)
            at = end + len(text[end:]) - len(text[end:].lstrip(" ,\n"))
        return found

    @property
    def pending_call(self) -> tuple[str | None, str]:
        return None, self._buffer if self._begun else ""
