"""The answers to a chat as deltas: text, reasoning, tool calls, finish reasons."""

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
from newleaf.serve.tool_calls.choose_parser import tool_call_parser
from newleaf.serve.tool_calls.tool_call import (
    AnswerPart,
    CallFormat,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallParser,
    ToolCallStart,
)
from newleaf.text.reasoning import Part, reasoning_markers


@dataclass
class AnswerState:
    """What one answer has so far. `keeps` its text, for the schema check at its end."""

    reader: ToolCallParser
    parallel: bool
    keeps: bool
    calls: int = 0
    said: str = ""
    name: str = ""  # of the call that is being states
    arguments: str = ""

    def takes(self, piece: AnswerPart) -> bool:
        """Whether a part is returned; without parallel calls, only the first call is."""
        self.calls += isinstance(piece, ToolCall | ToolCallStart)
        if self.keeps and isinstance(piece, Part) and piece.kind == "content":
            self.said += piece.text
        return isinstance(piece, Part) or self.parallel or self.calls == 1

    def whole(self, piece: AnswerPart) -> ToolCall | None:
        """The call that this part completes."""
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
    """A delta of the answer with this index: text, reasoning, (part of) a call, or the finish reason."""

    index: int
    part: AnswerPart | None = None
    end: str | None = None
    scores: tuple[TokenScore, ...] = ()


class ChatAnswers:
    """The answers to one chat request, during generation."""

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
        self.ignored: list[str] = []  # ignored parameters
        self.loosened = held.loosened
        self._checks, self._unchecked = loaded_model.checks, set[str]()
        self.unmet: list[str] = []  # where finished values violate schemas

    @property
    def prompt_tokens(self) -> int:
        return len(self.plan.prompt.ids)

    @property
    def completion_tokens(self) -> int:
        return sum(sample.row.written for sample in self.request.samples)

    @property
    def reasoning_tokens(self) -> int:
        """Generated tokens of reasoning and its marks."""
        if not reasoning_markers(self.plan.source):
            return 0
        return sum(
            self._count_reasoning(sample.row.ids[sample.row.prompt :]) for sample in self.request.samples
        )

    def _count_reasoning(self, ids: Sequence[int]) -> int:
        """A token counts as reasoning if it begins or ends within it."""
        decoder, split, found = self.tokenizer.stream_decoder(self.plan.shown), self.plan.splitter(), 0
        for token in ids:
            before = split.thinking
            split.push(decoder.push(token))
            found += before or split.thinking
        return found

    def cancel(self) -> None:
        self.request.cancel()

    async def deltas(self, stream_calls: bool = False) -> AsyncIterator[list[Delta]]:
        """Deltas, all new ones at once; an empty list is progress of the prefill.

        Calls are complete or, with `stream_calls`, streamed as deltas.
        """
        count = self.request.config.n
        splits = [self.plan.splitter() for _ in range(count)]
        states = [
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
                number, state = piece.sample, states[piece.sample]
                parts: list[AnswerPart] = []
                for part in [
                    *splits[number].push(piece.text),
                    *(splits[number].finish() if piece.end else []),
                ]:
                    parts += state.reader.push(part)
                cut = self._finish_reason(piece.end) == "length"
                parts += state.reader.finish(cut) if piece.end else []
                scores = tuple(score for score in piece.scores if score.id not in self.plan.ends)
                if scores and not (parts and isinstance(parts[0], Part)):
                    parts.insert(
                        0, Part("content", "")
                    )  # log-probabilities come with text, which may be empty
                for each in parts:
                    if state.takes(each):
                        await self._check(state.whole(each))
                        found.append(Delta(number, each, scores=scores))
                        scores = ()
                if piece.end:
                    await self._check(None if state.calls or cut else state.said)
                    found.append(
                        Delta(
                            number,
                            end="tool_calls" if state.calls and not cut else self._finish_reason(piece.end),
                        )
                    )
            if found or not pieces:
                yield found

    async def _check(self, value: ToolCall | str | None) -> None:
        """Check a finished call or answer against its schema, where the grammar does not enforce it."""
        shape = (
            self._constrained.functions.get(value.name)
            if isinstance(value, ToolCall)
            else self._constrained.schema
            if isinstance(value, str)
            else None
        )
        if shape is None:
            return
        if shape.place in self._unchecked:  # not again: such checks are slow
            return
        text = value.arguments if isinstance(value, ToolCall) else str(value)
        try:
            async with self._checks.slot():
                self.unmet += await asyncio.to_thread(shape.unmet, self._grammars, text)
        except (SchemaCheckError, TimeoutError):
            self._unchecked.add(shape.place)
            self.unmet.append(f"{shape.place}: was not checked: the check failed or took too long")

    def _finish_reason(self, end: str | None) -> str:
        """OpenAI's finish reason. A text stuck in its constraint ends with "length"."""
        return "length" if end in ("length", "stuck") else "stop"
