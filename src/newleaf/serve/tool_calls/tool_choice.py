"""Resolves tool_choice: which tools an answer may, must or must not call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from newleaf.serve.api_errors import ApiError
from newleaf.serve.protocol.schemas import Function


@dataclass(frozen=True)
class ToolChoice:
    """The tools in the prompt, and "auto", "none", "required" or (`named`) a function's name."""

    tools: Sequence[dict[str, Any]]
    choice: str
    named: bool = False


def template_tool(function: Function) -> dict[str, Any]:
    """A tool as chat templates expect it, with all fields."""
    nothing = {"description": "", "parameters": {"type": "object", "properties": {}}}
    return {
        "type": "function",
        "function": {**nothing, **function.model_dump(exclude_none=True, exclude={"strict"})},
    }


def resolve_tool_choice(
    tools: Sequence[dict[str, Any]], mode: str | None, names: Collection[str] | None = None
) -> ToolChoice:
    """`mode` is OpenAI's for all tools, or for those with these `names`; without a mode, one must be called.

    Raises ApiError for functions that are not among the tools, and for required calls without tools.
    """
    known = {tool["function"]["name"]: tool for tool in tools}
    for name in names or ():
        if name not in known:
            raise ApiError(
                400,
                f"tool_choice: there is no function {name!r} among the tools",
                "tool_choice",
                "invalid_value",
            )
    if names is not None and mode is None:
        return ToolChoice(tools, next(iter(names)), named=True)
    left = [known[name] for name in dict.fromkeys(names)] if names is not None else tools
    if mode == "required" and not left:
        raise ApiError(
            400, "tool_choice: there are no tools of type function to call", "tool_choice", "invalid_value"
        )
    return ToolChoice(left, mode or "auto")
