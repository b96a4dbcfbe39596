"""Figures that were published for models of the line, with where they stand and how they were measured, to
lay beside one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GPTJ_PAGE = (
    "GPT-J's model card, zero-shot table (https://huggingface.co/EleutherAI/gpt-j-6b); run with "
    "lm-evaluation-harness in 2021"
)

LEADERBOARD = (
    "Open LLM Leaderboard of 2023, on GPT-NeoX's model card "
    "(https://huggingface.co/EleutherAI/gpt-neox-20b); lm-evaluation-harness"
)


@dataclass(frozen=True)
class PublishedResult:
    """One published score; `shots` and the score's name are its setting."""

    model: str
    task: str
    score: str
    value: float
    shots: int
    source: str


def _gptj_card_row(
    model: str, perplexity: float, accuracy: float, hellaswag: float
) -> tuple[PublishedResult, ...]:
    """A row of the card's table, whose HellaSwag column is the accuracy normalised by length."""
    return (
        PublishedResult(model, "lambada", "perplexity", perplexity, 0, GPTJ_PAGE),
        PublishedResult(model, "lambada", "acc", accuracy, 0, GPTJ_PAGE),
        PublishedResult(model, "hellaswag", "acc_norm", hellaswag, 0, GPTJ_PAGE),
    )


PUBLISHED_RESULTS = (
    *_gptj_card_row("GPT-2 1.5B", 10.63, 0.5121, 0.509),
    *_gptj_card_row("GPT-Neo 1.3B", 7.50, 0.572, 0.489),
    *_gptj_card_row("GPT-Neo 2.7B", 5.63, 0.622, 0.558),
    *_gptj_card_row("GPT-J 6B", 3.99, 0.697, 0.661),
    PublishedResult("GPT-NeoX 20B", "hellaswag", "acc_norm", 0.7345, 10, LEADERBOARD),
    PublishedResult("GPT-NeoX 20B", "mmlu", "acc", 0.250, 5, LEADERBOARD),
)


def published_for(task: str, setting: dict[str, Any], scores: set[str]) -> list[PublishedResult]:
    """The figures of this task in this setting, for the scores that were measured."""
    shots = setting.get("shots")
    return [
        figure
        for figure in PUBLISHED_RESULTS
        if figure.task == task and figure.shots == shots and figure.score in scores
    ]
