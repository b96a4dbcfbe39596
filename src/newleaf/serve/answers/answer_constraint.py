"""The grammar that constrains an answer to its schemas and calls, and the prompt before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from newleaf.errors import InputError
from newleaf.serve.answers.answer_grammar import (
    Lead,
    ReasoningState,
    answer_grammar,
    call_prefix_token,
    calls_answer,
    channel_grammar,
    json_answer,
    text_answer,
)
from newleaf.serve.answers.answer_schema import AnswerSchema
from newleaf.serve.answers.chat_params import ChatParams
from newleaf.serve.api_errors import ApiError, input_error
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.tool_calls.parameter_tag_parser import PARAMETER_TAG_FORMATS
from newleaf.serve.tool_calls.section_parser import SECTION_FORMATS
from newleaf.serve.tool_calls.tool_call import CallFormat
from newleaf.text.chat_template import Prompt
from newleaf.text.reasoning import CHANNEL, OPEN, reasoning_markers


@dataclass(frozen=True)
class ConstrainedPrompt:
    """The prompt, the constraint on its answer (none: {}), and which schemas were loosened."""

    prompt: Prompt
    constraint: Mapping[str, Any] = field(default_factory=dict)
    loosened: tuple[str, ...] = ()  # keywords, by their paths in the request
    # Schemas that finished arguments are checked against, by function.
    functions: Mapping[str, AnswerSchema] = field(default_factory=dict)
    schema: AnswerSchema | None = None  # that the finished answer is checked against
    param: str | None = None  # that the grammar was made of

    @property
    def watched(self) -> bool:
        """Whether finished values are checked against schemas."""
        return bool(self.functions) or self.schema is not None

    def refused(self, error: InputError) -> ApiError:
        """An InputError as ApiError. An error in a generated grammar names the parameter it was made of."""
        text = str(error)
        if self.param is None or not text.startswith("grammar"):
            return input_error(error)
        return ApiError(400, f"{self.param}: {text.partition(': ')[2]}", self.param, "invalid_value")


def constrain_answer(
    loaded_model: LoadedModel,
    params: ChatParams,
    prompt: Prompt,
    source: str,
    call_format: CallFormat | None,
    one_by_one: bool,
) -> ConstrainedPrompt:
    """The constraint on an answer.

    `one_by_one` compiles each schema by itself, so that errors and loosened keywords are those of one. Raises
    ApiError for parameters that exclude each other and schemas that cannot be enforced.
    """
    required = call_format is not None and params.call_required
    if required and call_format == "harmony" and params.continue_final_message:
        what = "a message that is loosened_functions on with becomes no call in gpt-oss's chat format"
        raise ApiError(400, f"tool_choice: {what}", "tool_choice", "invalid_value")
    shape = None if required else params.answer_schema()
    shapes = (
        params.function_schemas()
        if call_format is not None
        and (required or shape is not None or _constrains_free_answers(call_format, params))
        else {}
    )
    if not shapes and shape is None:
        return ConstrainedPrompt(prompt)
    grammars = loaded_model.grammars if one_by_one else None
    functions = {name: each.ready(grammars) for name, each in shapes.items()}
    schema = shape.ready(grammars) if shape is not None else None
    functions_json = [{"name": name, "parameters": each} for name, each in functions.items()]
    control = loaded_model.responder.template.control_id
    answers: list[str] = []
    if functions_json and call_format is not None and call_format != "harmony":
        lead: Lead = "none" if required else "text" if schema is None else "mark"
        answers.append(
            calls_answer(call_format, functions_json, params.parallel and not params.named, control, lead)
        )
    if schema is not None:
        answers.append(json_answer(schema))
    elif answers and not required:
        answers.append(text_answer(call_format or "own"))
    if required and call_format is not None and (mark := call_prefix_token(call_format)) is not None:
        prompt, grammar = _append_token(loaded_model, prompt, mark), answer_grammar("none", answers)
    elif CHANNEL in reasoning_markers(source) and not params.continue_final_message:
        grammar = channel_grammar(control, answers, functions_json if call_format == "harmony" else ())
    else:
        grammar = answer_grammar(_thoughts(prompt, source), answers)
    loosened_functions = {name: shapes[name].loosened(each) for name, each in functions.items()}
    loosened_schema = shape.loosened(schema) if shape is not None and schema is not None else ()
    return ConstrainedPrompt(
        prompt,
        {"grammar": grammar},
        tuple(line for lines in loosened_functions.values() for line in lines) + loosened_schema,
        {
            name: found
            for name, each in functions.items()
            if (found := shapes[name].watched(each, call_format in PARAMETER_TAG_FORMATS)) is not None
        },
        shape.watched(schema) if shape is not None and schema is not None else None,
        "tools" if functions_json else params.schema_param,
    )


def _constrains_free_answers(call_format: CallFormat, params: ChatParams) -> bool:
    """Whether free answers are constrained once a call begins.

    Always in newleaf's own format; in others for strict functions, where a token marks the call.
    """
    return call_format == "own" or (
        call_format in ("tags", "list", "named", *PARAMETER_TAG_FORMATS, *SECTION_FORMATS)
        and bool(params.strict)
    )


def _thoughts(prompt: Prompt, source: str) -> ReasoningState:
    if OPEN not in reasoning_markers(source):
        return "none"
    return "inside" if prompt.text.rstrip().endswith(OPEN) else "may"


def _append_token(loaded_model: LoadedModel, prompt: Prompt, mark: str) -> Prompt:
    """The prompt followed by a control token."""
    token = loaded_model.responder.template.control_id(mark)
    ids = [token] if token is not None else loaded_model.model.tokenizer.encode(mark, special_tokens=False)
    return Prompt(prompt.text + mark, [*prompt.ids, *ids])
