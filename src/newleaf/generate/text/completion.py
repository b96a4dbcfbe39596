"""Completions: finished texts, joined from pieces."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from newleaf.generate.sampling.logprobs import TokenScore
from newleaf.generate.text.text_state import Piece


@dataclass
class Completion:
    """One text and why it ended.

    `end` is "end" (the end-of-text token, or all that a constraint allows), "stop" (a stop string or id),
    "length" (max_tokens: a constraint may not be complete) or "stuck" (no token may follow). `tokens`
    and `prompt_tokens` are there when logprobs and prompt_logprobs were asked for. `rank` is what best_of
    (mean log-probability) or beam search (log-probability / length ** length_penalty) ordered the texts by.
    `past_context` says that prompt and text are longer than the model's context: each time it was full, the
    model continued from its later half, and no longer saw what came before.
    """

    text: str = ""
    end: str | None = None
    tokens: list[TokenScore] = field(default_factory=list)
    prompt_tokens: list[TokenScore] = field(default_factory=list)
    rank: float | None = None
    past_context: bool = False


def collect(pieces: Iterable[Piece], prompts: int) -> list[list[Completion]]:
    """The completions of each prompt, in the order of their numbers."""
    found: list[dict[int, Completion]] = [{} for _ in range(prompts)]
    for piece in pieces:
        text = found[piece.prompt].setdefault(piece.sample, Completion())
        text.text += piece.text
        text.tokens += piece.scores
        text.end = piece.end or text.end
        text.past_context |= piece.past_context
        text.rank = piece.rank if piece.rank is not None else text.rank
    return [[texts[number] for number in sorted(texts)] for texts in found]


def warn_past_context(pieces: Iterable[Piece], context: int) -> Iterator[Piece]:
    """The pieces; then a warning where texts outgrew the context."""
    past = 0
    for piece in pieces:
        past += piece.past_context
        yield piece
    log_past_context(past, context)


def log_past_context(texts: int, context: int) -> None:
    """Warn that so many texts outgrew the context."""
    if texts:
        subject = "the text is" if texts == 1 else f"{texts:,} texts are"
        logging.getLogger("newleaf").warning(
            f"{subject} longer, prompt included, than the model's context of {context:,} tokens: "
            "each time it was full, the model continued from its later half, without what came before"
        )
