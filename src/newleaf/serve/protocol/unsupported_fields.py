"""Fields that are refused by name, with a reason: ignoring them would change the answer.

Other unknown fields are advisory, and ignored by name (`serve/protocol/body_reader.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from newleaf.serve.protocol.response_schemas import ResponseRequest
from newleaf.serve.protocol.schemas import ChatRequest, CompletionRequest, EmbeddingRequest, GenerationFields

# Types of content that no model here can read.
UNSUPPORTED_CONTENT: Mapping[str, str] = {
    **dict.fromkeys(("image_url", "input_image", "image", "computer_screenshot"), "images"),
    **dict.fromkeys(("input_audio", "audio", "audio_url"), "audio"),
    **dict.fromkeys(("video", "video_url", "input_video"), "videos"),
    **dict.fromkeys(("file", "input_file", "document"), "files"),
}


@dataclass(frozen=True)
class UnsupportedField:
    """Why a field is refused, and values of it that request nothing, besides false and empty ones."""

    reason: str
    neutral: tuple[Any, ...] = ()

    def of(self, value: Any) -> str | None:
        """The reason, where this value requests something."""
        return None if not value or value in self.neutral else self.reason


AUDIO = "this server answers in text"
BEAMS = "beam search is not available in chat: use /v1/completions"
TOKENS = "use logit_bias, choice, regex or a schema to restrict tokens"
FUNCTIONS = "functions are given in tools, and chosen by tool_choice"
GENERATION = {
    "use_beam_search": UnsupportedField(BEAMS),
    "allowed_token_ids": UnsupportedField(TOKENS),
    "bad_words": UnsupportedField(TOKENS),
    "include_stop_str_in_output": UnsupportedField("an answer ends before its stop string"),
    "truncate_prompt_tokens": UnsupportedField("prompts are not truncated"),
    "prompt_logprobs": UnsupportedField("a prompt is scored by completions' echo with logprobs"),
    "mirostat": UnsupportedField("mirostat is not supported; there are top_p, top_k, min_p and typical_p"),
    "lora": UnsupportedField("use an adapter's name as the model"),
}
UNSUPPORTED: Mapping[type[BaseModel], Mapping[str, UnsupportedField]] = {
    GenerationFields: GENERATION,
    ChatRequest: {
        "audio": UnsupportedField(AUDIO),
        "modalities": UnsupportedField(AUDIO, (["text"],)),
        "functions": UnsupportedField(FUNCTIONS),
        "function_call": UnsupportedField(FUNCTIONS, ("none", "auto")),
        "documents": UnsupportedField("documents go into the messages"),
        "chat_template": UnsupportedField("the template is the server's: newleaf serve --template FILE"),
    },
    CompletionRequest: {"suffix": UnsupportedField("text is continued, and not filled in")},
    ResponseRequest: {
        "background": UnsupportedField("responses are not generated in the background"),
        "prompt": UnsupportedField("there are no stored prompts here; send instructions and input"),
        "conversation": UnsupportedField("there are no stored conversations here; use previous_response_id"),
        "modalities": UnsupportedField(AUDIO, (["text"],)),
    },
    EmbeddingRequest: {},
}


def unsupported_reason(model: type[BaseModel], name: str, value: Any) -> str | None:
    """Why this field, which `model` does not have, is refused; None where it may be ignored."""
    found = next(
        (
            UNSUPPORTED[kind][name]
            for kind in model.__mro__
            if kind in UNSUPPORTED and name in UNSUPPORTED[kind]
        ),
        None,
    )
    return found.of(value) if found is not None else None
