"""What a model thinks and what it says, told apart while they come: `<think>` tags, and the channels of
gpt-oss (harmony)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["reasoning", "content"]
OPEN, CLOSE = "<think>", "</think>"
CHANNEL, MESSAGE, END, START = "<|channel|>", "<|message|>", "<|end|>", "<|start|>"
ANALYSIS_CHANNEL = "analysis"  # the channel of them
RECIPIENT = " to="  # a message to a function may say so before its channel


@dataclass(frozen=True)
class Part:
    """Text of one kind; `to` is whom the model addresses where that is not the user, such as "functions.name"
    (harmony)."""

    kind: Kind
    text: str
    to: str | None = None


class ReasoningSplitter(Protocol):
    """Takes an answer's text in pieces of any size and gives back what is certain of each kind."""

    def push(self, text: str) -> list[Part]:
        """Parts that this text makes certain."""

    def finish(self) -> list[Part]:
        """What was held back."""

    @property
    def thinking(self) -> bool:
        """Whether the text has come to a place within thoughts, their marks included."""


def reasoning_markers(source: str) -> tuple[str, ...]:
    """The marks that stand between thoughts and answer with this chat template; none for a template that
    knows no thoughts."""
    if CHANNEL in source and MESSAGE in source:
        return CHANNEL, MESSAGE, END, START
    return (OPEN, CLOSE) if CLOSE in source else ()


def reasoning_splitter(source: str, prompt: str, space: str = "") -> ReasoningSplitter:
    """For an answer to `prompt`, the rendered conversation, by a model with this chat template. `space` is
    what the template puts before an answer's text."""
    marks = reasoning_markers(source)
    if CHANNEL in marks:
        return ChannelSplitter(in_message=prompt.endswith(MESSAGE))
    return TagSplitter(inside=prompt.rstrip().endswith(OPEN)) if marks else PlainSplitter(space)


class PlainSplitter:
    """Everything is answer, but for the template's own `space` at its beginning."""

    def __init__(self, space: str = "") -> None:
        self._space, self._held = space, ""

    thinking = False

    def push(self, text: str) -> list[Part]:
        if self._space:
            self._held += text
            if len(self._held) < len(self._space) and self._space.startswith(self._held):
                return []
            text, self._held, self._space = self._held.removeprefix(self._space), "", ""
        return [Part("content", text)] if text else []

    def finish(self) -> list[Part]:
        rest, self._held = self._held, ""
        return [Part("content", rest)] if rest else []


class TagSplitter:
    """Thoughts stand first, between tags; `inside` says that the prompt has opened them. White space around
    the tags belongs to neither."""

    def __init__(self, inside: bool = False) -> None:
        self._state: Literal["start", "inside", "outside"] = "inside" if inside else "start"
        self._held = ""
        self._begun = False  # whether something of the present kind went out

    @property
    def thinking(self) -> bool:
        return self._state == "inside"

    def push(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        if self._state == "start":
            first = self._held.lstrip()
            if first.startswith(OPEN):
                self._state, self._held = "inside", first.removeprefix(OPEN)
            elif not OPEN.startswith(first):
                self._state, self._begun = "outside", True
        if self._state == "inside":
            thought, closed, rest = self._held.partition(CLOSE)
            self._held = rest if closed else self._held
            if closed:
                parts += self._out("reasoning", thought.rstrip())
                self._state, self._begun = "outside", False
            else:
                keep = len(self._held) - partial_marker_length(self._held, (CLOSE,))
                keep = len(self._held[:keep].rstrip())
                certain, self._held = self._held[:keep], self._held[keep:]
                parts += self._out("reasoning", certain)
        if self._state == "outside":
            certain, self._held = self._held, ""
            parts += self._out("content", certain)
        return parts

    def finish(self) -> list[Part]:
        rest, self._held = self._held, ""
        if self._state == "inside":
            return self._out("reasoning", rest.rstrip())
        return [Part("content", rest)] if rest else []

    def _out(self, kind: Kind, text: str) -> list[Part]:
        if not self._begun:
            text = text.lstrip()
        self._begun = self._begun or bool(text)
        return [Part(kind, text)] if text else []


class ChannelSplitter:
    """Messages with a channel each:
    `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`.

    Text that comes without these marks is answer. See OpenAI's description of the harmony format.
    """

    def __init__(self, in_message: bool = False) -> None:
        self._state: Literal["start", "header", "message"] = "message" if in_message else "start"
        self._kind: Kind = "content"
        self._to: str | None = None
        self._held = ""

    @property
    def thinking(self) -> bool:
        return self._state == "message" and self._kind == "reasoning"

    def push(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while True:
            if self._state == "start":
                if self._held.startswith((CHANNEL, MESSAGE, START, RECIPIENT)):
                    self._state = "header"
                elif any(mark.startswith(self._held) for mark in (CHANNEL, MESSAGE, START, RECIPIENT)):
                    return parts
                else:
                    self._state = "message"
            if self._state == "header":
                header, found, rest = self._held.partition(MESSAGE)
                if not found:
                    return parts
                channel = header.rpartition(CHANNEL)[2].split()
                self._kind = (
                    "reasoning" if CHANNEL in header and channel[:1] == [ANALYSIS_CHANNEL] else "content"
                )
                self._to = next(
                    (
                        word.removeprefix("to=")
                        for word in header.replace("<", " <").split()
                        if word.startswith("to=")
                    ),
                    None,
                )
                self._state, self._held = "message", rest
            places = [place for mark in (END, START) if (place := self._held.find(mark)) >= 0]
            size = (
                min(places) if places else len(self._held) - partial_marker_length(self._held, (END, START))
            )
            if size:
                parts.append(Part(self._kind, self._held[:size], self._to))
            self._held = self._held[size:]
            if not places:
                return parts
            self._state = "header"

    def finish(self) -> list[Part]:
        rest, self._held = self._held, ""
        return [Part(self._kind, rest, self._to)] if rest and self._state == "message" else []


def partial_marker_length(text: str, marks: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that could become one of the marks."""
    longest = max(len(mark) for mark in marks) - 1
    return next(
        (
            n
            for n in range(min(longest, len(text)), 0, -1)
            if any(mark.startswith(text[-n:]) for mark in marks)
        ),
        0,
    )
