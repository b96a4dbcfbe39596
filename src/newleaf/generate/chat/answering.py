"""One answer of a conversation: rendered by the model's chat template, written until the turn ends, thoughts
and answer told apart."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from newleaf.errors import InputError
from newleaf.generate.options import SamplingConfig, sampling_config
from newleaf.generate.text.text_state import Piece
from newleaf.text.chat_template import ChatTemplate, Prompt, RenderOptions
from newleaf.text.messages import Message
from newleaf.text.reasoning import Kind, ReasoningSplitter, reasoning_markers, reasoning_splitter

NOT_FOR_ANSWERS: dict[str, Any] = {
    "n": 1,
    "best_of": None,
    "beams": 1,
    "length_penalty": 1.0,
    "guidance_scale": 1.0,
    "negative_prompt": None,
    "logprobs": None,
    "prompt_logprobs": None,
    "echo": False,
    "truncate": None,
}
MAX_TOKENS = 1024  # of an answer, where nobody says; the context may end it sooner


class Answerer(Protocol):
    """What writes: the engine, or a network by itself."""

    def answer(
        self, prompt: Sequence[int], config: SamplingConfig, ends: Collection[int], shown: Mapping[int, str]
    ) -> Iterator[tuple[Piece, int]]:
        """Pieces of what follows these ids, each with how many tokens have been written. `ends` are tokens
        that end it, beside the tokenizer's own; `shown` are special tokens to be written out, and as what."""


def answer_config(options: Mapping[str, Any]) -> SamplingConfig:
    """The `SamplingConfig` of these options, with `max_tokens` of an answer by default. Raises InputError."""
    config = sampling_config(options, defaults={"max_tokens": MAX_TOKENS})
    check_options(config)
    return config


def check_options(config: SamplingConfig) -> None:
    """Raises InputError for options that have no meaning for one answer that is written as it comes."""
    for name, off in NOT_FOR_ANSWERS.items():
        if getattr(config, name) != off:
            raise InputError(f"{name}: is for continuing a text (generate), not for answers")


@dataclass(frozen=True)
class ReplyPiece:
    """Text that is certain now. `tokens` counts those written so far, and `end` is set on the last piece,
    whose text is empty."""

    kind: Kind
    text: str
    tokens: int
    end: str | None = None


@dataclass(frozen=True)
class Reply:
    """An answer: what the model said, what it thought before (None for nothing), and how it ended.

    `end` is "end" (the model ended its turn), "stop" (a stop string), "length" (max_tokens), "context" (the
    context was full before) or "stuck" (the options left no token that may follow); `tokens` were written.
    """

    content: str
    reasoning: str | None
    end: str
    tokens: int

    @property
    def message(self) -> Message:
        """The answer as a message of the conversation."""
        thoughts = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {"role": "assistant", "content": self.content, **thoughts}


def gather(pieces: Iterable[ReplyPiece]) -> Reply:
    """The whole answer; one that was broken off has the end "stopped"."""
    texts = {"content": "", "reasoning": ""}
    tokens, end = 0, "stopped"
    for piece in pieces:
        texts[piece.kind] += piece.text
        tokens, end = piece.tokens, piece.end or end
    return Reply(texts["content"], texts["reasoning"] or None, end, tokens)


def warn_full_context(pieces: Iterable[ReplyPiece], context: int) -> Iterator[ReplyPiece]:
    """The pieces; then a warning where the context was full before the answer was whole, which cannot be seen
    in the text."""
    for piece in pieces:
        yield piece
        if piece.end == "context":
            logging.getLogger("newleaf").warning(
                f"the answer ends after {piece.tokens:,} tokens, where the model's context of {context:,} "
                f"tokens was full"
            )


@dataclass(frozen=True)
class AnswerPlan:
    """How an answer is written: its prompt and options, the tokens that end it, those that are shown as text,
    and how to read it."""

    prompt: Prompt
    config: SamplingConfig
    ends: Collection[int]
    shown: Mapping[int, str]
    source: str  # the template's
    ended_by_text: str  # what an end at a stop string means
    space: str = ""  # the template's own before an answer's text
    room: int | None = None  # tokens that the context leaves, where they are fewer than were asked for

    def end_of(self, end: str) -> str:
        """What an end of the written text means for the answer."""
        meant = {"stop": self.ended_by_text, "length": "length" if self.room is None else "context"}
        return meant.get(end, end)

    def splitter(self) -> ReasoningSplitter:
        """For one answer: tells thoughts from what is said."""
        return reasoning_splitter(self.source, self.prompt.text, self.space)


@dataclass(frozen=True)
class ChatResponder:
    """How a model answers. `ends` are the tokens at which it stops, beside the one its template ends turns
    with."""

    context_length: int
    template: ChatTemplate
    ends: Collection[int] = ()

    def prompt(self, messages: Any, how: RenderOptions) -> Prompt:
        """What the network is to go on from: the conversation, and the beginning of an answer unless the last
        message is gone on with.

        Raises InputError for a template that makes no text of it.
        """
        found = self.template.encode(
            messages, replace(how, add_generation_prompt=not how.continue_final_message)
        )
        if not found.ids:
            raise InputError(
                "the chat template makes no text of this conversation, so there is nothing to answer; give "
                "another template"
            )
        return found

    def plan(
        self, prompt: Prompt, config: SamplingConfig, tools: Any = None, go_on: bool = False
    ) -> AnswerPlan:
        """How an answer to the prompt is to be written; `go_on` says that the prompt ends with the beginning
        of one.

        Raises InputError when the prompt leaves no room for an answer.
        """
        limit = self.context_length
        room = limit - len(prompt.ids)
        if room < 1:
            raise InputError(
                f"the conversation has {len(prompt.ids):,} tokens and leaves no room for an answer: the "
                f"context is {limit:,}"
            )
        turn = self.template.turn_end
        ends = {*self.ends, *([turn.token] if turn.token is not None else [])}
        stops = (*config.stop, *([turn.text] if turn.text else []))
        ended_by_text = "end" if turn.text and not config.stop and not config.stop_ids else "stop"
        most, cut = min(config.max_tokens, room), config.max_tokens > room
        config = replace(config, max_tokens=most, min_tokens=min(config.min_tokens, most), stop=stops)
        source = self.template.source(tools)
        marks = {self.template.control_id(mark): mark for mark in reasoning_markers(source)}
        shown = {token: mark for token, mark in marks.items() if token is not None and token not in ends}
        space = "" if go_on else self.template.answer_space
        return AnswerPlan(prompt, config, ends, shown, source, ended_by_text, space, room if cut else None)

    def answer(
        self, prompt: Prompt, config: SamplingConfig, writer: Answerer, tools: Any = None, go_on: bool = False
    ) -> Iterator[ReplyPiece]:
        """Write an answer, or the rest of one (`go_on`). Raises InputError when the prompt leaves no room for
        one."""
        plan = self.plan(prompt, config, tools, go_on)
        split = plan.splitter()
        for piece, tokens in writer.answer(prompt.ids, plan.config, plan.ends, plan.shown):
            for part in [*split.push(piece.text), *(split.finish() if piece.end else [])]:
                yield ReplyPiece(part.kind, part.text, tokens)
            if piece.end:
                yield ReplyPiece("content", "", tokens, plan.end_of(piece.end))
