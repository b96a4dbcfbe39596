"""Translates field names of Ollama, llama.cpp, vLLM and older OpenAI versions.

A name is translated only where the request does not have newleaf's own. Values that these servers' clients
send for "nothing" are removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from newleaf.serve.api_errors import ApiError
from newleaf.serve.protocol.field_types import fields_of

NoteIgnored = Callable[..., None]
Body = dict[str, Any]

MAX_TOKENS = 2**31 - 1  # more than any context length
MAX_TOKENS_FIELDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
ALIASES: Mapping[str, str] = {
    "repeat_penalty": "repetition_penalty",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "typical": "typical_p",
    "json_schema": "json_schema",
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "format": "response_format",
    "content": "prompt",
}
OPTIONS = "options"  # Ollama's sampling options
CONSTRAINTS: Mapping[str, str] = {
    "json": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
}


def translate_aliases(body: Body, model: type[BaseModel], note: NoteIgnored) -> Body:
    """The body with other servers' names translated. `note` gets the path of each ignored field.

    Raises ApiError.
    """
    body, fields = dict(body), fields_of(model)
    if isinstance(options := body.get(OPTIONS), Mapping) and OPTIONS not in fields:
        _take_options(body, options, fields, note)
    for name, ours in ALIASES.items():
        if name in body and name not in fields:
            _rename(body, name, _own(ours, fields), fields, note)
    if isinstance(found := body.get("structured_outputs"), Mapping) and "regex" in fields:
        _take_constraints(body, found, fields, note)
    _take_formats(body, fields)
    _take_thinking(body, fields)
    if body.pop("ignore_eos", None) and "min_tokens" in fields:
        body["min_tokens"] = (
            next((body[name] for name in MAX_TOKENS_FIELDS if body.get(name)), None) or MAX_TOKENS
        )
    if body.get("store") is True and "messages" in fields:
        note("store")
        del body["store"]
    if body.get("stream_options") is not None and not body.get("stream") and "stream_options" in fields:
        note("stream_options")
        del body["stream_options"]
    _take_neutral_values(body, fields)
    return body


def _own(name: str, fields: Mapping[str, Any]) -> str:
    """The name of this field in these requests."""
    if name == "max_tokens" and name not in fields:
        return "max_output_tokens"
    return "response_format" if name == "json_schema" and name not in fields else name


def _rename(body: Body, name: str, ours: str, fields: Mapping[str, Any], note: NoteIgnored) -> None:
    if ours not in fields:
        return  # ignored later, by its own name
    value = body.pop(name)
    if ours == "response_format":
        value = _schema_format(value) if name != "format" else _ollama_format(value)
    if body.get(ours) is not None and value is not None:
        note(name)
    elif value is not None:
        body[ours] = _parsed(value) if ours == "json_schema" else value


def _take_options(
    body: Body, options: Mapping[str, Any], fields: Mapping[str, Any], note: NoteIgnored
) -> None:
    del body[OPTIONS]
    for name, value in options.items():
        ours = _own(ALIASES.get(name, name), fields)
        if ours in fields and ours not in ("model", "messages", "prompt", "input") and body.get(ours) is None:
            body[ours] = value
        elif value is not None:
            note(OPTIONS, str(name))


def _take_constraints(
    body: Body, found: Mapping[str, Any], fields: Mapping[str, Any], note: NoteIgnored
) -> None:
    """vLLM's `structured_outputs`."""
    del body["structured_outputs"]
    for name, value in found.items():
        ours = CONSTRAINTS.get(name)
        if value is None or value is False:
            continue
        if name == "json_object":
            ours, value = "json_schema", {"type": "object"}
        if name == "structural_tag":
            place = "structured_outputs.structural_tag"
            raise ApiError(400, f"{place}: give tools, or a grammar", place, "unsupported_parameter")
        if ours is None:
            note("structured_outputs", str(name))
        elif _own(ours, fields) == "response_format":
            body["response_format"] = _schema_format(value)
        else:
            body[ours] = _parsed(value) if ours == "json_schema" else value


def _take_formats(body: Body, fields: Mapping[str, Any]) -> None:
    """llama.cpp's formats, with the schema beside the type, and vLLM's response_format in completions."""
    form = body.get("response_format")
    if not isinstance(form, Mapping) or form.get("type") not in ("json_object", "json_schema", "text"):
        return
    schema = form.get("schema")
    if schema is not None and form.get("json_schema") is None:
        body["response_format"] = form = _schema_format(schema)
    if "response_format" in fields or "json_schema" not in fields:
        return
    del body["response_format"]
    inner = form.get("json_schema")
    if form["type"] == "json_object":
        body["json_schema"] = {"type": "object"}
    elif form["type"] == "json_schema" and isinstance(inner, Mapping):
        body["json_schema"] = inner.get("schema")


def _take_thinking(body: Body, fields: Mapping[str, Any]) -> None:
    """Ollama's `think`, and OpenRouter's `reasoning` in chat."""
    if "reasoning_effort" not in fields or body.get("reasoning_effort") is not None:
        return
    think, reasoning = body.get("think"), body.get("reasoning")
    if think is False:
        body["reasoning_effort"] = "none"
    elif isinstance(think, str):
        body["reasoning_effort"] = think
    elif isinstance(reasoning, Mapping) and isinstance(effort := reasoning.get("effort"), str):
        body["reasoning_effort"] = effort
    else:
        return
    body.pop("think", None)
    body.pop("reasoning", None)


def _take_neutral_values(body: Body, fields: Mapping[str, Any]) -> None:
    for name in MAX_TOKENS_FIELDS:
        if name in fields and _is_number(body.get(name), -1, -2):  # no limit
            body[name] = MAX_TOKENS
    if _is_number(body.get("top_k"), -1):
        body["top_k"] = 0
    if body.get("logprobs") is False:
        del body["logprobs"]
    if "stop" in fields and isinstance(stop := body.get("stop"), str | list):
        left = [stop] if isinstance(stop, str) else stop
        body["stop"] = [each for each in left if each != ""] or None
    if body.get("tool_choice") == "any":
        body["tool_choice"] = "required"


def _is_number(value: Any, *among: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value in among


def _schema_format(schema: Any) -> Body:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": _parsed(schema)}}


def _ollama_format(value: Any) -> Any:
    """Ollama's format: "json", a schema, or a format as OpenAI has it."""
    if value in ("", None):
        return None
    if value == "json":
        return {"type": "json_object"}
    known = ("text", "json_object", "json_schema")
    return _schema_format(value) if isinstance(value, Mapping) and value.get("type") not in known else value


def _parsed(value: Any) -> Any:
    """A schema, which may be a string of JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
