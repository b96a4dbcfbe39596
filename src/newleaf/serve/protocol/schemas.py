"""Schemas of chat, completion, embedding and tokenizer requests.

They have OpenAI's fields, and newleaf's sampling options.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from newleaf.generate.options import ValidUtf8
from newleaf.serve.protocol.fail_fast import FailFast, bounded_mapping
from newleaf.serve.protocol.field_types import IgnoreItems

Stop = str | Annotated[list[str], Field(max_length=64)] | None
MAX_LOGIT_BIASES = 100_000  # entries of logit_bias
Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=1 << 20)]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class StrictModel(FailFast):
    """A model that refuses unknown fields.

    `serve/protocol/body_reader.py` has removed those that may be ignored.
    """

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class StreamOptions(StrictModel):
    include_usage: bool = False


class SamplingFields(StrictModel):
    """Fields that chat, completions and responses share."""

    model: str | None = None
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None  # 0: greedy
    user: str | None = None
    # newleaf's sampling options, by their own names.
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(ge=0.01, le=100)] | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    valid_utf8: ValidUtf8 | None = None


class GenerationFields(SamplingFields):
    """Fields that chat and completions share."""

    n: Annotated[int, Field(ge=1)] | None = None
    seed: Seed | None = None
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: Annotated[
        dict[str, Number] | None, BeforeValidator(bounded_mapping(MAX_LOGIT_BIASES, -100, 100))
    ] = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    regex: Annotated[str, Field(max_length=10_000)] | None = None
    grammar: Annotated[str, Field(max_length=100_000)] | None = None  # Lark, or llama.cpp's GBNF
    choice: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=10_000)]], Field(min_length=1, max_length=1000)
        ]
        | None
    ) = None


class JsonSchema(StrictModel):
    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Function(StrictModel):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(StrictModel):
    type: Literal["function"]
    function: Function


class FunctionName(StrictModel):
    name: str


class NamedTool(StrictModel):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(StrictModel):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedChoice(StrictModel):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class ToolCallFunction(StrictModel):
    name: str
    arguments: str | dict[str, Any]  # JSON, or as in Ollama its value


class ToolCall(StrictModel):
    id: str = ""
    type: Literal["function"] = "function"
    function: ToolCallFunction


class TextPart(StrictModel):
    type: Literal["text", "refusal", "input_text", "output_text"]
    text: str | None = None
    refusal: str | None = None


Parts = Annotated[list[TextPart], IgnoreItems(frozenset({"thinking", "redacted_thinking", "reasoning"}))]


class Message(StrictModel):
    """One message. What each role may have is checked when the conversation is rendered."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Parts | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: ToolCallFunction | None = None  # OpenAI's older form of a call
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class ChatRequest(GenerationFields):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128), IgnoreItems(others=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: ReasoningEffort | None = None
    store: Literal[False] | None = None  # chat completions are not stored
    return_progress: bool | None = None  # llama.cpp's: a stream reports the progress of prefill
    continue_final_message: bool | None = None  # newleaf's: continue the last message
    chat_template_kwargs: dict[str, Any] | None = None  # further variables of the template


class CompletionRequest(GenerationFields):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=1024)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=1024)]
    )
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None  # 0: only the prompt's echo
    best_of: Annotated[int, Field(ge=1)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    json_schema: dict[str, Any] | None = None  # newleaf's: a constraint, as regex, grammar and choice
    use_beam_search: bool | None = None  # vLLM's: the best n (or best_of) beams
    length_penalty: Annotated[Number, Field(ge=-10, le=10)] | None = None  # of beams
    guidance_scale: Annotated[Number, Field(ge=0, le=100)] | None = None  # classifier-free guidance
    negative_prompt: str | None = None


class EmbeddingRequest(StrictModel):
    """POST /v1/embeddings."""

    model: str | None = None
    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=2048)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=2048)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    normalize: bool | None = None  # newleaf's: false returns unnormalized vectors
    user: str | None = None


class TokenizeRequest(StrictModel):
    """POST /tokenize: a text, or messages to render by the model's chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)] | None = None
    add_special_tokens: bool = True
    parse_special: bool = True  # parse special tokens in the prompt
    return_token_strs: bool = False


class DetokenizeRequest(StrictModel):
    """POST /detokenize."""

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(max_length=1 << 20)]
