"""Requests of /v1/responses as pydantic checks them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from newleaf.serve.protocol.field_types import LeaveOut
from newleaf.serve.protocol.schemas import Effort, Sampled, Seed, Stop, StreamOptions, Strict

# Items of tools that only OpenAI's own service has, in conversations that began there.
OTHERS_ITEMS = frozenset(
    {
        "additional_tools",
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "compaction",
        "compaction_summary",
        "compaction_trigger",
        "computer_call",
        "computer_call_output",
        "file_search_call",
        "ghost_snapshot",
        "image_generation_call",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)


class InputText(Strict):
    type: Literal["input_text", "output_text", "reasoning_text", "summary_text", "refusal", "text"]
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class MessageItem(Strict):
    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText]


class CallItem(Strict):
    type: Literal["function_call"]
    id: str | None = None
    status: str | None = None
    call_id: str
    name: str
    arguments: str


class CustomCallItem(Strict):
    """A call of a tool that takes text, which is kept as a call of a function with one parameter, `input`."""

    type: Literal["custom_tool_call"]
    id: str | None = None
    status: str | None = None
    call_id: str
    name: str
    input: str


class OutputItem(Strict):
    type: Literal["function_call_output", "custom_tool_call_output"]
    id: str | None = None
    status: str | None = None
    call_id: str
    output: str | list[InputText]


class ReasoningItem(Strict):
    type: Literal["reasoning"]
    id: str | None = None
    status: str | None = None
    summary: list[InputText] = Field(default_factory=list)
    content: list[InputText] | None = None
    encrypted_content: str | None = None


class ReferenceItem(Strict):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] = "item_reference"
    id: str


class ResponseTool(Strict):
    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(Strict):
    type: Literal["function"]
    name: str


class AllowedFunctions(Strict):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedFunction]


class TextFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Strict):
    format: TextFormat | None = None


class Reasoning(Strict):
    effort: Effort | None = None


Item = MessageItem | CallItem | CustomCallItem | OutputItem | ReasoningItem | ReferenceItem


class ResponseRequest(Sampled):
    """POST /v1/responses."""

    input: str | Annotated[list[Item], Field(min_length=1, max_length=10_000), LeaveOut(OTHERS_ITEMS)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=128), LeaveOut(others=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | AllowedFunctions | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    seed: Seed | None = None  # chat's, and so is stop
    stop: Stop = None
