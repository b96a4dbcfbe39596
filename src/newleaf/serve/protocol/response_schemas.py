"""Schemas of POST /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from newleaf.serve.protocol.field_types import IgnoreItems
from newleaf.serve.protocol.schemas import (
    ReasoningEffort,
    SamplingFields,
    Seed,
    Stop,
    StreamOptions,
    StrictModel,
)

# Items of tools that OpenAI hosts, in conversations that began there.
HOSTED_TOOL_ITEMS = frozenset(
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


class InputText(StrictModel):
    type: Literal["input_text", "output_text", "reasoning_text", "summary_text", "refusal", "text"]
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class MessageItem(StrictModel):
    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText]


class FunctionCallItem(StrictModel):
    type: Literal["function_call"]
    id: str | None = None
    status: str | None = None
    call_id: str
    name: str
    arguments: str


class CustomToolCallItem(StrictModel):
    """A call of a tool that takes text, kept as a call of a function with one parameter, `input`."""

    type: Literal["custom_tool_call"]
    id: str | None = None
    status: str | None = None
    call_id: str
    name: str
    input: str


class ToolOutputItem(StrictModel):
    type: Literal["function_call_output", "custom_tool_call_output"]
    id: str | None = None
    status: str | None = None
    call_id: str
    output: str | list[InputText]


class ReasoningItem(StrictModel):
    type: Literal["reasoning"]
    id: str | None = None
    status: str | None = None
    summary: list[InputText] = Field(default_factory=list)
    content: list[InputText] | None = None
    encrypted_content: str | None = None


class ReferenceItem(StrictModel):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] = "item_reference"
    id: str


class ResponseTool(StrictModel):
    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(StrictModel):
    type: Literal["function"]
    name: str


class AllowedFunctions(StrictModel):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedFunction]


class TextFormat(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(StrictModel):
    format: TextFormat | None = None


class Reasoning(StrictModel):
    effort: ReasoningEffort | None = None


Item = MessageItem | FunctionCallItem | CustomToolCallItem | ToolOutputItem | ReasoningItem | ReferenceItem


class ResponseRequest(SamplingFields):
    """POST /v1/responses."""

    input: str | Annotated[list[Item], Field(min_length=1, max_length=10_000), IgnoreItems(HOSTED_TOOL_ITEMS)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=128), IgnoreItems(others=True)] | None = None
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
    seed: Seed | None = None  # fields of chat, as is stop
    stop: Stop = None
