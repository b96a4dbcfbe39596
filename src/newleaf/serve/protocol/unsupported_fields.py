"""What requests may not ask for, since the answer would be another one than they expect: refused by name and
with a reason.

Everything else that is not known here only advises, and is ignored by name (`serve/protocol/body_reader.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from newleaf.serve.protocol.response_schemas import ResponseRequest
from newleaf.serve.protocol.schemas import ChatRequest, CompletionRequest, EmbeddingRequest, GenerationFields

# Kinds of parts that hold what no model here can read.
UNSUPPORTED_CONTENT: Mapping[str, str] = {
    **dict.fromkeys(("image_url", "input_image", "image", "computer_screenshot"), "images"),
    **dict.fromkeys(("input_audio", "audio", "audio_url"), "sounds"),
    **dict.fromkeys(("video", "video_url", "input_video"), "videos"),
    **dict.fromkeys(("file", "input_file", "document"), "files"),
}


@dataclass(frozen=True)
class UnsupportedField:
    """Why a field is refused, and the values of it that ask for nothing (false and empty ones always are
    among them)."""

    reason: str
    neutral: tuple[Any, ...] = ()

    def of(self, value: Any) -> str | None:
        """The reason, where this value asks for something."""
        return None if not value or value in self.neutral else self.reason


AUDIO = "this server answers in text"
BEAMS = "beam search goes on with a text: /v1/completions has it"
TOKENS = "which tokens may be written is told by logit_bias, choice, regex or a schema"
FUNCTIONS = "functions are given in tools, and chosen by tool_choice"
GENERATION = {
    "use_beam_search": UnsupportedField(BEAMS),
    "allowed_token_ids": UnsupportedField(TOKENS),
    "bad_words": UnsupportedField(TOKENS),
    "include_stop_str_in_output": UnsupportedField("an answer ends before its stop string"),
    "truncate_prompt_tokens": UnsupportedField("prompts are not cut"),
    "prompt_logprobs": UnsupportedField("a prompt is scored by completions' echo with logprobs"),
    "mirostat": UnsupportedField("mirostat is not there; there are top_p, top_k, min_p and typical_p"),
    "lora": UnsupportedField("an adapter is asked for as a model, by its name"),
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
    CompletionRequest: {"suffix": UnsupportedField("text is gone on with, and not filled in")},
    ResponseRequest: {
        "background": UnsupportedField("a response is written while the client waits"),
        "prompt": UnsupportedField("there are no stored prompts here; send instructions and input"),
        "conversation": UnsupportedField(
            "there are no stored conversations here; go on by previous_response_id"
        ),
        "modalities": UnsupportedField(AUDIO, (["text"],)),
    },
    EmbeddingRequest: {},
}


def unsupported_reason(model: type[BaseModel], name: str, value: Any) -> str | None:
    """Why this field, which `model` does not have, is refused with this value; None where it may be
    ignored."""
    found = next(
        (
            UNSUPPORTED[kind][name]
            for kind in model.__mro__
            if kind in UNSUPPORTED and name in UNSUPPORTED[kind]
        ),
        None,
    )
    return found.of(value) if found is not None else None
