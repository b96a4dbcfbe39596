"""From a conversation to answers as they come: rendered, handed to the engine, and told apart into text,
thoughts and calls of tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from newleaf.generate.chat.answering import AnswerPlan
from newleaf.generate.sampling.logprobs import TokenScore
from newleaf.generate.text.request import Request
from newleaf.serve.answers.answer_constraint import ConstrainedPrompt
from newleaf.serve.answers.answer_schema import SchemaCheckError
from newleaf.serve.answers.chat_params import ChatParams
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
)
from newleaf.text.reasoning import Part, marks_in


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
    """The answers to one params, being written."""

    def __init__(
        self,
        plan: AnswerPlan,
        request: Request,
        call_format: CallFormat | None,
        functions: Mapping[str, Any],
        params: ChatParams,
        held: ConstrainedPrompt,
        loaded_model: LoadedModel,
    ) -> None:
        self.plan, self.request, self.tokenizer = plan, request, loaded_model.model.tokenizer
        self._format, self._functions, self._parallel = call_format, functions, params.parallel
        self._required, self._constrained, self._grammars = params.call_required, held, loaded_model.grammars
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

    async def deltas(self, stream_calls: bool = False) -> AsyncIterator[list[Delta]]:
        """What comes, all that has come since the last time at once; nothing where the reading of the prompt
        is watched and has gone on. Calls come whole or, with `stream_calls`, while they are written."""
        count = self.request.config.n
        splits = [self.plan.splitter() for _ in range(count)]
        told = [
            AnswerState(
                tool_call_parser(self._format, self._functions, self._required, stream_calls),
                self._parallel,
                bool(self._constrained.watched),
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
            self._constrained.functions.get(value.name)
            if isinstance(value, ToolCall)
            else self._constrained.schema
            if isinstance(value, str)
            else None
        )
        if shape is None:
            return
        if shape.place in self._unchecked:  # once is enough: such checks are slow
            return
        text = value.arguments if isinstance(value, ToolCall) else str(value)
        try:
            async with self._checks.slot():
                self.unmet += await asyncio.to_thread(shape.unmet, self._grammars, text)
        except (SchemaCheckError, TimeoutError):
            self._unchecked.add(shape.place)
            self.unmet.append(f"{shape.place}: was not checked, since that cannot be done or took too long")

    def _reason(self, end: str | None) -> str:
        """OpenAI's word for an end. A text that got stuck in its constraint is cut like one that is too
        long."""
        return "length" if end in ("length", "stuck") else "stop"
