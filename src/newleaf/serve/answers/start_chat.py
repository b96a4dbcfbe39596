"""Renders a conversation, constrains its answer and submits both to the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from newleaf.errors import InputError
from newleaf.generate.chat.answering import AnswerPlan, ChatResponder
from newleaf.generate.options import SamplingConfig
from newleaf.serve.answers.answer_constraint import constrain_answer
from newleaf.serve.answers.chat_answers import ChatAnswers
from newleaf.serve.answers.chat_params import ChatParams
from newleaf.serve.answers.sampling_params import check_prompt_length, check_text_bytes, max_prompt_tokens
from newleaf.serve.api_errors import ApiError, input_error
from newleaf.serve.http.server_settings import Limits
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.tool_calls.tool_call import (
    CallFormat,
    control_tokens,
    detect_format,
)
from newleaf.serve.tool_calls.tool_prompt import add_tools, calls_as_text, parse_arguments
from newleaf.text.chat_template import Prompt, Rendering
from newleaf.text.messages import Message, check_messages, contents

CALL_END_TOKEN = "<|call|>"


def start_chat(
    loaded_model: LoadedModel,
    params: ChatParams,
    limits: Limits,
    options: Callable[[int, Mapping[str, Any]], SamplingConfig],
) -> ChatAnswers:
    """Render the params and hand it to the engine; not for the event loop's thread. `options` makes the
    engine's options of the room that the prompt leaves and of the constraint.

    Raises ApiError for what the model or the server cannot do.
    """
    try:
        responder = loaded_model.responder
    except InputError as error:
        raise ApiError(
            400,
            f"{loaded_model.name}: {error}; POST /v1/completions goes on with text",
            "model",
            "no_chat_template",
        ) from None
    tools = params.tools if params.choice != "none" else ()
    check_text_bytes(contents(params.messages), loaded_model, limits, "messages")
    source = responder.template.source(list(tools) or None)
    call_format = detect_format(source) if tools else None
    effort = _effort(params.reasoning_effort, source)
    given = list(tools) if call_format not in (None, "own") else None

    def rendered(messages: Sequence[Message]) -> Prompt:
        return render_prompt(responder, messages, tools, detect_format(source), how)

    try:
        how = Rendering(
            given,
            continue_final_message=params.continue_final_message,
            variables={**(params.template_variables or {}), **(effort or {})},
        )
        prompt = (
            truncate_conversation(params.messages, rendered, max_prompt_tokens(loaded_model, limits))
            if params.truncate
            else rendered(params.messages)
        )
    except InputError as error:
        raise input_error(error, default="messages") from None
    functions = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    # schemas are compiled one by one only where that of the whole answer failed
    for careful in (False, True):
        held = constrain_answer(loaded_model, params, prompt, source, call_format, careful)
        check_prompt_length(len(held.prompt.ids), loaded_model, limits, "messages")
        config = options(loaded_model.context - len(held.prompt.ids), held.constraint)
        try:
            plan = _seeing_calls(
                responder.plan(held.prompt, config, how.tools, params.continue_final_message),
                loaded_model,
                call_format,
            )
            loaded_model.check_queue(config.n)
            request = loaded_model.submit(held.prompt.ids, plan.config, plan.ends, plan.shown)
        except InputError as error:
            if careful or "grammar" not in held.constraint:
                raise held.refused(error) from None
        else:
            break
    answers = ChatAnswers(plan, request, call_format, functions, params, held, loaded_model)
    answers.ignored += [params.effort_param] if effort is None else []
    return answers


def render_prompt(
    responder: ChatResponder,
    messages: Sequence[Message],
    tools: Sequence[Any],
    call_format: CallFormat,
    how: Rendering,
) -> Prompt:
    """The conversation as the model reads it. Templates without a place for tools get them in the system
    message, and those without a system message in the first of the user's."""
    messages = check_messages(messages)
    if call_format != "own":
        return responder.prompt(parse_arguments(messages), how)
    told = calls_as_text(messages)
    if not tools:
        return responder.prompt(told, how)
    try:
        return responder.prompt(add_tools(told, tools), how)
    except InputError:
        return responder.prompt(add_tools(told, tools, "user"), how)


def truncate_conversation(
    messages: Sequence[Message], rendered: Callable[[Sequence[Message]], Prompt], most: int
) -> Prompt:
    """The conversation as the model reads it, without the oldest turns where it has more than `most` tokens.
    A turn begins with a user's message; what stands before the first, and the last turn, stay."""
    prompt = rendered(messages)
    turns = [number for number, message in enumerate(messages) if message.get("role") == "user"]
    if len(prompt.ids) <= most or len(turns) < 2:
        return prompt
    first, begins = messages[: turns[0]], turns[1:]

    def of_turn(number: int) -> Prompt:
        return rendered([*first, *messages[begins[number] :]])

    low, high = 0, len(begins) - 1  # the first turn that all of the rest may begin with
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(of_turn(middle).ids) <= most else (middle + 1, high)
    return of_turn(low)


def _effort(effort: str | None, source: str) -> dict[str, Any] | None:
    """The template's variables for this effort; None where the template has nothing for it."""
    if effort is None:
        return {}
    if effort == "none":
        return (
            {"enable_thinking": False}
            if "enable_thinking" in source
            else {}
            if "reasoning_effort" not in source
            else None
        )
    return {"reasoning_effort": effort} if "reasoning_effort" in source else None


def _seeing_calls(plan: AnswerPlan, loaded_model: LoadedModel, call_format: CallFormat | None) -> AnswerPlan:
    """The plan with the control tokens of calls shown as text."""
    if call_format is None:
        return plan
    control = loaded_model.responder.template.control_id
    ids = {control(mark): mark for mark in control_tokens(call_format)}
    ends = {
        *plan.ends,
        *([token] if call_format == "harmony" and (token := control(CALL_END_TOKEN)) is not None else []),
    }
    shown = {token: mark for token, mark in ids.items() if token is not None and token not in ends}
    return replace(plan, shown={**plan.shown, **shown}, ends=ends)
