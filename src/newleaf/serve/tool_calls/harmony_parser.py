"""Parser of tool calls in gpt-oss's channels (harmony)."""

from __future__ import annotations

from collections.abc import Collection

from newleaf.serve.tool_calls.tool_call import (
    AnswerPart,
    ToolCall,
    arguments_json,
    parse_json,
)
from newleaf.text.reasoning import Part


class HarmonyParser:
    """Parses messages to functions in gpt-oss's commentary channel."""

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
    def pending_call(self) -> tuple[str | None, str]:
        return (self._name, self._body) if self._name in self._names else (None, "")
