"""The validation of a classifier: its scores on rows that are held out, a few of them as samples, a report at
the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import nn

from newleaf.model.classifier import Classifier
from newleaf.storage.classifier_folder import Head
from newleaf.train.objective.objective import SampledText, ValidationMetrics
from newleaf.tune.labels.baselines import Floats, Proposal, scores
from newleaf.tune.labels.classification_report import figures, write_report
from newleaf.tune.labels.label_batches import LabelRow
from newleaf.tune.labels.label_rows import Example
from newleaf.tune.labels.predict import predict, to_probabilities
from newleaf.tune.loss_evaluator import evenly

SAMPLES = 3


@dataclass(frozen=True)
class HeldOutRows:
    """Rows to be judged on, and what they were before they became ids."""

    rows: Sequence[LabelRow]
    examples: Sequence[Example]

    def truth(self) -> npt.NDArray[np.int64]:
        """Labels' numbers [N], or [N, L] of 0 and 1 with several labels."""
        return np.array([row.answer for row in self.rows]).astype(np.int64)

    def some(self, numbers: Sequence[int]) -> HeldOutRows:
        """These rows, without what they were."""
        return HeldOutRows([self.rows[number] for number in numbers], ())


class LabelEvaluator:
    """Scores of `network` on held-out rows.

    Each of several processes looks at all of them, and so finds the same.
    """

    def __init__(
        self, network: nn.Module, head: Head, pad_id: int, validation: HeldOutRows, test: HeldOutRows | None,
        baselines: Mapping[str, Proposal], check_stop: Callable[[], None],
    ) -> None:  # fmt: skip
        self.network, self.head, self.pad_id, self.check_stop = (
            cast(Classifier, network),
            head,
            pad_id,
            check_stop,
        )
        self.validation, self.test, self.baselines = validation, test, baselines
        self.all_rows = len(validation.rows)
        self.reports = len(test.rows) if test is not None else 1
        # Files are often sorted by label, so the rows to show are drawn by chance.
        self.order = np.random.default_rng(0).permutation(len(validation.examples)).tolist()
        self.places = {_shown(validation.examples[number]): number for number in reversed(self.order)}
        self.prompts = self.prompts_at(0)
        self.last: tuple[list[int], Floats] | None = None  # rows of the last look, and their probabilities

    def validate(self, rows: int | None, to_the_end: bool = False) -> ValidationMetrics:
        """`val_loss` in nats a row and the scores, over so many rows, evenly spaced, or all."""
        numbers = evenly(self.all_rows, rows)
        some = self.validation.some(numbers)
        logits = predict(
            self.network, some.rows, self.head, self.pad_id, self._nothing if to_the_end else self.check_stop
        )
        found = to_probabilities(logits, self.head)
        self.last = numbers, found
        truth = some.truth()
        return {"val_loss": _loss(found, truth)} | {
            f"val_{name}": value for name, value in figures(found, truth, self.head).items()
        }

    def prompts_at(self, check: int) -> Sequence[str]:
        """Other held-out rows at each check, until all were shown."""
        count = len(self.order)
        some = [self.order[(check * SAMPLES + place) % count] for place in range(min(SAMPLES, count))]
        return tuple(dict.fromkeys(_shown(self.validation.examples[number]) for number in some))

    def sample(self, prompt: str, seconds: float) -> SampledText:
        """The label given to one of the held-out texts, and what it is."""
        number = self.places[prompt]
        row = self.validation.rows[number]
        (chance,) = to_probabilities(predict(self.network, [row], self.head, self.pad_id), self.head)
        example = self.validation.examples[number]
        given = named(chance, self.head, example.texts)
        truth = (
            example.texts[1 + int(row.answer)]
            if self.head.shape == "choice" and isinstance(row.answer, int)
            else example.answers
        )
        is_ = truth if isinstance(truth, str) else ", ".join(map(str, truth)) or "none"
        return SampledText(f" → {given} (is {is_})", writes=False)

    def report(self, folder: Path, rows: int) -> dict[str, Any]:
        """The closing report: on so many of the test rows where there are some, on the rows of the last look
        elsewhere; the baselines' scores are on the same rows."""
        if self.test is not None:
            split, held, numbers = "test", self.test, evenly(len(self.test.rows), rows)
            found = to_probabilities(
                predict(self.network, held.some(numbers).rows, self.head, self.pad_id), self.head
            )
        else:
            assert self.last is not None
            split, held, (numbers, found) = "validation", self.validation, self.last
        truth = held.some(numbers).truth()
        texts = [text_of(held.examples[number]) for number in numbers]
        beside = {name: scores(guess(texts), truth) for name, guess in self.baselines.items()}
        return write_report(folder, split, found, truth, self.head, beside)

    @staticmethod
    def _nothing() -> None: ...


def text_of(example: Example) -> str:
    """What a bag of words sees of a row."""
    return "\n".join(example.texts)


def _shown(example: Example) -> str:
    return " | ".join(example.texts)


def named(chance: npt.NDArray[np.float64], head: Head, texts: Sequence[str]) -> str:
    """Probabilities of one row as words."""
    if head.multi_label:
        return ", ".join(f"{head.labels[n]} {chance[n]:.2f}" for n in np.flatnonzero(chance > 0.5)) or "none"
    best = int(chance.argmax())
    return f"{texts[1 + best] if head.shape == 'choice' else head.labels[best]} {chance[best]:.2f}"


def _loss(probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.int64]) -> float:
    """Cross-entropy in nats a row; with several labels summed over them."""
    safe = np.clip(probabilities, 1e-12, 1.0)
    if truth.ndim == 1:
        return float(-np.log(safe[np.arange(len(truth)), truth]).mean())
    other = np.clip(1 - probabilities, 1e-12, 1.0)
    return float(-(truth * np.log(safe) + (1 - truth) * np.log(other)).sum(1).mean())
