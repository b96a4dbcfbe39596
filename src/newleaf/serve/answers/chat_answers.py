"""From a conversation to answers as they come: rendered, handed to the engine, and told apart into text,
thoughts and calls of tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from newleaf.errors import InputError
from newleaf.generate.chat.answering import AnswerPlan, ChatResponder
from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.logprobs import TokenScore
from newleaf.generate.text.request import Request
from newleaf.serve.answers.answer_constraint import ConstrainedPrompt, constrain_answer
from newleaf.serve.answers.answer_schema import SchemaCheckError
from newleaf.serve.answers.chat_params import ChatParams
from newleaf.serve.answers.sampling_params import check_prompt_length, check_text_bytes, max_prompt_tokens
from newleaf.serve.api_errors import ApiError, input_error
from newleaf.serve.http.server_settings import Limits
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.tool_calls.parsers import tool_call_parser
from newleaf.serve.tool_calls.tool_call import (
    AnswerPart,
    CallFormat,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallParser,
    ToolCallStart,
    control_tokens,
    detect_format,
)
from newleaf.serve.tool_calls.tool_prompt import add_tools, calls_as_text, parse_arguments
from newleaf.text.chat_template import Prompt, Rendering
from newleaf.text.messages import Message, check_messages, contents
from newleaf.text.reasoning import Part, marks_in

CALL_END_TOKEN = "<|call|>"


@dataclass
class AnswerState:
    """What one answer has given so far. `keeps` its text, for a check at its end."""

    reader: ToolCallParser
    parallel: bool
    keeps: bool
    calls: int = 0
    said: str = ""
    name: str = ""  # of the call that is being told
    arguments: str = ""

    def takes(self, piece: AnswerPart) -> bool:
        """Whether a piece belongs to what was asked for; calls after the first may not."""
        self.calls += isinstance(piece, ToolCall | ToolCallStart)
        if self.keeps and isinstance(piece, Part) and piece.kind == "content":
            self.said += piece.text
        return isinstance(piece, Part) or self.parallel or self.calls == 1

    def whole(self, piece: AnswerPart) -> ToolCall | None:
        """The call that this piece ends."""
        if isinstance(piece, ToolCallStart):
            self.name, self.arguments = piece.name, ""
        elif isinstance(piece, ToolCallDelta) and self.keeps:
            self.arguments += piece.arguments
        return (
            piece
            if isinstance(piece, ToolCall)
            else ToolCall(self.name, self.arguments)
            if isinstance(piece, ToolCallEnd)
            else None
        )


@dataclass(frozen=True)
class Delta:
    """What has come of the answer with this number: a part of its text or thoughts, a call or a piece of one,
    or its end."""

    index: int
    part: AnswerPart | None = None
    end: str | None = None
    scores: tuple[TokenScore, ...] = ()


class ChatAnswers:
    """The answers to one question, being written."""

    def __init__(
        self,
        plan: AnswerPlan,
        request: Request,
        form: CallFormat | None,
        functions: Mapping[str, Any],
        question: ChatParams,
        held: ConstrainedPrompt,
        loaded_model: LoadedModel,
    ) -> None:
        self.plan, self.request, self.tokenizer = plan, request, loaded_model.model.tokenizer
        self._form, self._functions, self._parallel = form, functions, question.parallel
        self._must, self._held, self._grammars = question.must_call, held, loaded_model.grammars
        self.ignored: list[str] = []  # parameters that had no effect
        self.loosened = held.loosened
        self._checks, self._unchecked = loaded_model.checks, set[str]()
        self.unmet: list[str] = []  # where finished values do not fit loosened schemas

    @property
    def prompt_tokens(self) -> int:
        return len(self.plan.prompt.ids)

    @property
    def completion_tokens(self) -> int:
        return sum(sample.row.written for sample in self.request.samples)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of thoughts and of the marks around them, in what has been written."""
        if not marks_in(self.plan.source):
            return 0
        return sum(self._thoughts(sample.row.ids[sample.row.prompt :]) for sample in self.request.samples)

    def _thoughts(self, ids: Sequence[int]) -> int:
        """A token belongs to thoughts if it begins or ends within them."""
        decoder, split, found = self.tokenizer.stream_decoder(self.plan.shown), self.plan.splitter(), 0
        for token in ids:
            before = split.thinking
            split.push(decoder.push(token))
            found += before or split.thinking
        return found

    def cancel(self) -> None:
        self.request.cancel()

    async def deltas(self, live: bool = False) -> AsyncIterator[list[Delta]]:
        """What comes, all that has come since the last time at once; nothing where the reading of the prompt
        is watched and has gone on. Calls come whole or, `live`, while they are written."""
        count = self.request.config.n
        splits = [self.plan.splitter() for _ in range(count)]
        told = [
            AnswerState(
                tool_call_parser(self._form, self._functions, self._must, live),
                self._parallel,
                bool(self._held.watched),
            )
            for _ in range(count)
        ]
        async for pieces in self.request.batches():
            found: list[Delta] = []
            for piece in pieces:
                number, one = piece.sample, told[piece.sample]
                parts: list[AnswerPart] = []
                for part in [
                    *splits[number].push(piece.text),
                    *(splits[number].finish() if piece.end else []),
                ]:
                    parts += one.reader.push(part)
                cut = self._reason(piece.end) == "length"
                parts += one.reader.finish(cut) if piece.end else []
                scores = tuple(score for score in piece.scores if score.id not in self.plan.ends)
                if scores and not (parts and isinstance(parts[0], Part)):
                    parts.insert(0, Part("content", ""))  # scores come with text, be it none
                for each in parts:
                    if one.takes(each):
                        await self._check(one.whole(each))
                        found.append(Delta(number, each, scores=scores))
                        scores = ()
                if piece.end:
                    await self._check(None if one.calls or cut else one.said)
                    found.append(
                        Delta(number, end="tool_calls" if one.calls and not cut else self._reason(piece.end))
                    )
            if found or not pieces:
                yield found

    async def _check(self, value: ToolCall | str | None) -> None:
        """Look whether a call, or a whole answer, fits its schema as it was given, where the grammar holds
        not all of it."""
        shape = (
            self._held.functions.get(value.name)
            if isinstance(value, ToolCall)
            else self._held.schema
            if isinstance(value, str)
            else None
        )
        if shape is None:
            return
        if shape.place in self._unchecked:  # once is enough: such checks are slow
            return
        text = value.arguments if isinstance(value, ToolCall) else str(value)
        try:
            async with self._checks.turn():
                self.unmet += await asyncio.to_thread(shape.unmet, self._grammars, text)
        except (SchemaCheckError, TimeoutError):
            self._unchecked.add(shape.place)
            self.unmet.append(f"{shape.place}: was not checked, since that cannot be done or took too long")

    def _reason(self, end: str | None) -> str:
        """OpenAI's word for an end. A text that got stuck in its constraint is cut like one that is too
        long."""
        return "length" if end in ("length", "stuck") else "stop"


def start_chat(
    loaded_model: LoadedModel,
    question: ChatParams,
    limits: Limits,
    options: Callable[[int, Mapping[str, Any]], SamplingConfig],
) -> ChatAnswers:
    """Render the question and hand it to the engine; not for the event loop's thread. `options` makes the
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
    tools = question.tools if question.choice != "none" else ()
    check_text_bytes(contents(question.messages), loaded_model, limits, "messages")
    source = responder.template.source(list(tools) or None)
    form = detect_format(source) if tools else None
    effort = _effort(question.effort, source)
    given = list(tools) if form not in (None, "own") else None

    def rendered(messages: Sequence[Message]) -> Prompt:
        return render_prompt(responder, messages, tools, detect_format(source), how)

    try:
        how = Rendering(
            given,
            continue_final_message=question.go_on,
            variables={**(question.variables or {}), **(effort or {})},
        )
        prompt = (
            truncate_conversation(question.messages, rendered, max_prompt_tokens(loaded_model, limits))
            if question.cut
            else rendered(question.messages)
        )
    except InputError as error:
        raise input_error(error, default="messages") from None
    functions = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    # schemas are compiled one by one only where that of the whole answer failed
    for careful in (False, True):
        held = constrain_answer(loaded_model, question, prompt, source, form, careful)
        check_prompt_length(len(held.prompt.ids), loaded_model, limits, "messages")
        config = options(loaded_model.context - len(held.prompt.ids), held.constraint)
        try:
            plan = _seeing_calls(
                responder.plan(held.prompt, config, how.tools, question.go_on), loaded_model, form
            )
            loaded_model.make_room(config.n)
            request = loaded_model.submit(held.prompt.ids, plan.config, plan.ends, plan.shown)
        except InputError as error:
            if careful or "grammar" not in held.constraint:
                raise held.refused(error) from None
        else:
            break
    answers = ChatAnswers(plan, request, form, functions, question, held, loaded_model)
    answers.ignored += [question.effort_param] if effort is None else []
    return answers


def render_prompt(
    responder: ChatResponder,
    messages: Sequence[Message],
    tools: Sequence[Any],
    form: CallFormat,
    how: Rendering,
) -> Prompt:
    """The conversation as the model reads it. Templates without a place for tools get them in the system
    message, and those without a system message in the first of the user's."""
    messages = check_messages(messages)
    if form != "own":
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


def _seeing_calls(plan: AnswerPlan, loaded_model: LoadedModel, form: CallFormat | None) -> AnswerPlan:
    """The plan with the control tokens of calls shown as text."""
    if form is None:
        return plan
    control = loaded_model.responder.template.control_id
    ids = {control(mark): mark for mark in control_tokens(form)}
    ends = {
        *plan.ends,
        *([token] if form == "harmony" and (token := control(CALL_END_TOKEN)) is not None else []),
    }
    shown = {token: mark for token, mark in ids.items() if token is not None and token not in ends}
    return replace(plan, shown={**plan.shown, **shown}, ends=ends)
