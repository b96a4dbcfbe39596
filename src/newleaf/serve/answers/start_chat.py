"""Renders a conversation, constrains its answer, and submits it to the engine."""

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
from newleaf.text.chat_template import Prompt, RenderOptions
from newleaf.text.messages import Message, check_messages, contents

CALL_END_TOKEN = "<|call|>"


def start_chat(
    loaded_model: LoadedModel,
    params: ChatParams,
    limits: Limits,
    options: Callable[[int, Mapping[str, Any]], SamplingConfig],
) -> ChatAnswers:
    """Render the chat and submit it to the engine; not in the event loop's thread.

    `options` makes the sampling options from the tokens left in the context and the constraint. Raises
    ApiError.
    """
    try:
        responder = loaded_model.responder
    except InputError as error:
        raise ApiError(
            400,
            f"{loaded_model.name}: {error}; POST /v1/completions continues text",
            "model",
            "no_chat_template",
        ) from None
    tools = params.tools if params.choice != "none" else ()
    check_text_bytes(contents(params.messages), loaded_model, limits, "messages")
    source = responder.template.source(list(tools) or None)
    call_format = detect_format(source) if tools else None
    effort = _effort_variables(params.reasoning_effort, source)
    given = list(tools) if call_format not in (None, "own") else None

    def rendered(messages: Sequence[Message]) -> Prompt:
        return render_prompt(responder, messages, tools, detect_format(source), how)

    try:
        how = RenderOptions(
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
    # Schemas are compiled one by one only where the full grammar failed.
    for one_by_one in (False, True):
        constrained = constrain_answer(loaded_model, params, prompt, source, call_format, one_by_one)
        check_prompt_length(len(constrained.prompt.ids), loaded_model, limits, "messages")
        config = options(loaded_model.context - len(constrained.prompt.ids), constrained.constraint)
        try:
            plan = _show_call_tokens(
                responder.plan(constrained.prompt, config, how.tools, params.continue_final_message),
                loaded_model,
                call_format,
            )
            loaded_model.check_queue(config.n)
            request = loaded_model.submit(constrained.prompt.ids, plan.config, plan.ends, plan.shown)
        except InputError as error:
            if one_by_one or "grammar" not in constrained.constraint:
                raise constrained.refused(error) from None
        else:
            break
    answers = ChatAnswers(plan, request, call_format, functions, params, constrained, loaded_model)
    answers.ignored += [params.effort_param] if effort is None else []
    return answers


def render_prompt(
    responder: ChatResponder,
    messages: Sequence[Message],
    tools: Sequence[Any],
    call_format: CallFormat,
    how: RenderOptions,
) -> Prompt:
    """The conversation as the model's prompt.

    Templates without tools get them in the system message; templates without a system message, in the first
    user message.
    """
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
    messages: Sequence[Message], rendered: Callable[[Sequence[Message]], Prompt], max_tokens: int
) -> Prompt:
    """The prompt without the oldest turns, where it has more than `max_tokens` tokens.

    A turn begins with a user message. Messages before the first turn, and the last turn, stay.
    """
    prompt = rendered(messages)
    turns = [number for number, message in enumerate(messages) if message.get("role") == "user"]
    if len(prompt.ids) <= max_tokens or len(turns) < 2:
        return prompt
    first, begins = messages[: turns[0]], turns[1:]

    def of_turn(number: int) -> Prompt:
        return rendered([*first, *messages[begins[number] :]])

    low, high = 0, len(begins) - 1  # binary search for the first turn that fits
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(of_turn(middle).ids) <= max_tokens else (middle + 1, high)
    return of_turn(low)


def _effort_variables(effort: str | None, source: str) -> dict[str, Any] | None:
    """The template's variables for this reasoning effort; None where it has none."""
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


def _show_call_tokens(
    plan: AnswerPlan, loaded_model: LoadedModel, call_format: CallFormat | None
) -> AnswerPlan:
    """The plan with the control tokens of calls decoded as text."""
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
