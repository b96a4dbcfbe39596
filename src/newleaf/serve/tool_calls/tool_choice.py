"""Which of a request's tools an answer may, required or may not call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from newleaf.serve.api_errors import ApiError
from newleaf.serve.protocol.schemas import Function


@dataclass(frozen=True)
class ToolChoice:
    """The tools that the model is told of, and "auto", "none", "required" or, where it is `named`, the name
    of the one to call."""

    tools: Sequence[dict[str, Any]]
    choice: str
    named: bool = False


def template_tool(function: Function) -> dict[str, Any]:
    """A tool as templates expect it, with nothing missing."""
    nothing = {"description": "", "parameters": {"type": "object", "properties": {}}}
    return {
        "type": "function",
        "function": {**nothing, **function.model_dump(exclude_none=True, exclude={"strict"})},
    }


def resolve_tool_choice(
    tools: Sequence[dict[str, Any]], mode: str | None, names: Collection[str] | None = None
) -> ToolChoice:
    """`mode` is OpenAI's word for all tools, or with `names` for these only; names without a mode are one
    function that must be called.

    Raises ApiError for functions that are not among the tools, and for calls that must be made of nothing.
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
