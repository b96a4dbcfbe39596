"""The server: chat, completions, responses, embeddings and tokenize; one request after the other, then all at
once, streamed and not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from tools.same_outputs.models import make_model
from tools.same_outputs.parts.writing import PROMPT, REPEATED, SCHEMA, TALK
from tools.same_outputs.server import answer, served
from tools.same_outputs.workplace import Workplace

Request = tuple[str, dict[str, Any]]

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TOOL = {
    "type": "function",
    "function": {
        "name": "wrap",
        "parameters": {"type": "object", "properties": {"width": {"type": "integer"}}, "required": ["width"]},
    },
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
REQUESTS: dict[str, Request] = {
    "chat": (CHAT, {"messages": TALK, "temperature": 0, "max_tokens": 20}),
    "chat, drawn": (CHAT, {"messages": TALK, "seed": 1, "max_tokens": 20, "top_p": 0.9}),
    "chat, n": (CHAT, {"messages": TALK, "seed": 2, "max_tokens": 12, "n": 3}),
    "chat, streamed": (CHAT, {"messages": TALK, "seed": 3, "max_tokens": 20, "temperature": 0.7, **USAGE}),
    "chat, json_schema": (CHAT, {"messages": TALK, "seed": 4, "max_tokens": 60, "response_format": FORMAT}),
    "chat, tool": (
        CHAT,
        {"messages": TALK, "seed": 5, "max_tokens": 60, "tools": [TOOL], "tool_choice": "required"},
    ),
    "chat, penalties": (
        CHAT,
        {"messages": TALK, "seed": 6, "max_tokens": 20, "frequency_penalty": 1, "presence_penalty": 0.5},
    ),
    "text": (TEXT, {"prompt": PROMPT, "temperature": 0, "max_tokens": 20}),
    "text, several prompts": (TEXT, {"prompt": [PROMPT, REPEATED, "def"], "seed": 7, "max_tokens": 16}),
    "text, streamed": (TEXT, {"prompt": REPEATED, "seed": 8, "max_tokens": 24, "n": 2, **USAGE}),
    "text, stop": (TEXT, {"prompt": PROMPT, "seed": 9, "max_tokens": 30, "stop": ["e", "zzz"]}),
    "text, options": (
        TEXT,
        {"prompt": PROMPT, "seed": 10, "max_tokens": 20, "top_k": 9, "min_p": 0.02, "typical_p": 0.9},
    ),
    "text, regex": (TEXT, {"prompt": PROMPT, "seed": 11, "max_tokens": 20, "regex": "[a-f]{3,9}-[0-9]{2}"}),
    "text, choice": (TEXT, {"prompt": PROMPT, "seed": 12, "max_tokens": 20, "choice": ["wrapped", "filled"]}),
    "text, best_of": (TEXT, {"prompt": PROMPT, "seed": 13, "max_tokens": 12, "n": 2, "best_of": 4}),
    "responses": (
        RESPONSES,
        {"input": "What is a paragraph?", "temperature": 0, "max_output_tokens": 20, "store": False},
    ),
    "responses, streamed": (
        RESPONSES,
        {"input": TALK, "max_output_tokens": 20, "seed": 14, "stream": True, "store": False},
    ),
    "embeddings": ("/v1/embeddings", {"input": [PROMPT, "def"], "dimensions": 8}),
    "tokenize": ("/tokenize", {"prompt": "Ein <|im_end|> fünf 字"}),
    "tokenize, messages": ("/tokenize", {"messages": TALK}),
    "detokenize": ("/detokenize", {"tokens": [70, 71, 300, 400]}),
}
# Log-probabilities in their last bits depend, without compiled kernels or with unpacked weights, on what else
# a round had.
SCORED: dict[str, Request] = {
    "chat, logprobs": (
        CHAT,
        {"messages": TALK, "seed": 15, "max_tokens": 12, "logprobs": True, "top_logprobs": 2},
    ),
    "text, logprobs": (TEXT, {"prompt": PROMPT, "seed": 16, "max_tokens": 12, "logprobs": 2}),
    "text, echo": (TEXT, {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 1}),
}


def outputs(work: Workplace) -> dict[str, Any]:
    """A model that PyTorch runs, weights as stored; one that compiled kernels run, in 8 bits with a cache of
    8 bits."""
    small = work.once("models/gpt2-small", lambda path: make_model(path, "gpt2"))
    large = work.once(
        "models/qwen3-large-bf16", lambda path: make_model(path, "qwen3", "large", torch.bfloat16)
    )
    found = {}
    with served(work, f"small={small}") as address:
        found["small"] = asked(address, REQUESTS)
    with served(work, f"large={large}", "--weights", "int8", "--cache", "int8") as address:
        found["large, int8, cache of 8 bits"] = asked(address, REQUESTS | SCORED)
    return found


def asked(address: str, requests: dict[str, Request]) -> dict[str, Any]:
    """The answers, and the names of those that were others when all were asked for at once."""
    alone = {name: answer(address, path, body) for name, (path, body) in requests.items()}
    with ThreadPoolExecutor(len(requests)) as pool:
        waiting = {name: pool.submit(answer, address, path, body) for name, (path, body) in requests.items()}
        together = {name: each.result() for name, each in waiting.items()}
    return {
        "alone": alone,
        "at once": {
            name: together[name] if together[name] != alone[name] else "as alone" for name in requests
        },
    }
