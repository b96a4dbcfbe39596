"""A classifier in use: texts in, labels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from newleaf.errors import InputError
from newleaf.format_amounts import counted
from newleaf.model.classifier import Classifier
from newleaf.storage.classifier_folder import Head, Label
from newleaf.text.load_tokenizer import no_tokenizer
from newleaf.text.tokenizer import Tokenizer
from newleaf.tune.labels.label_batches import LabelRow
from newleaf.tune.labels.label_tokens import Encoder
from newleaf.tune.labels.predict import predict, to_probabilities

Question = str | Sequence[str]  # a text; two for pair and similarity; a text and its continuations for choice
Answer = Label | list[Label] | float | list[float]
WANTS = {
    "classify": "one text",
    "pair": "two texts",
    "similarity": "two texts",
    "choice": "a text and at least two continuations",
}


@dataclass(frozen=True)
class Classification:
    """What a classifier says of one question: the answer, in the data's type (the number of a continuation; a
    list with several labels), and the probability of each label or continuation. Of a regression the answer
    is its number, or a list of them, and there are no probabilities. `cut` says that the texts were longer
    than it reads."""

    answer: Answer
    probabilities: dict[Any, float]
    cut: bool


@dataclass(frozen=True)
class LabelModel:
    """A classifier with its tokenizer."""

    network: Classifier
    own_tokenizer: Tokenizer | None
    head: Head

    def __post_init__(self) -> None:
        rows = self.network.body.config.vocab_size
        for token in (self.head.start, self.head.delimiter, self.head.extract):
            if token is not None and token >= rows:
                raise InputError(
                    f"the classifier puts the token {token:,} round texts, and the network has only {rows:,}"
                )

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises InputError where there is none."""
        if self.own_tokenizer is None:
            raise no_tokenizer("this classifier")
        return self.own_tokenizer

    def judge(self, questions: Sequence[Question]) -> list[Classification]:
        """Each question judged. Raises InputError for one that has not as many texts as the task wants."""
        if not questions:
            return []
        texts, rows, logits = self._logits(questions)
        if self.head.regression:
            values = [[float(value) for value in row] for row in logits]
            answers = [row[0] if len(row) == 1 else row for row in values]
            return [
                Classification(answer, {}, row.encoded.cut) for answer, row in zip(answers, rows, strict=True)
            ]
        chances = to_probabilities(logits, self.head)
        return [
            self._judged(chance, row, some) for chance, row, some in zip(chances, rows, texts, strict=True)
        ]

    def outputs(self, questions: Sequence[Question]) -> list[list[float]]:
        """The probability of each label or continuation for each question; of a regression its number.

        Raises InputError as `diagnose`.
        """
        texts, _, logits = self._logits(questions)
        if self.head.regression:
            return [[float(value) for value in row] for row in logits]
        counts = [len(some) - 1 if self.head.shape == "choice" else len(self.head.labels) for some in texts]
        return [
            chance[:count].tolist()
            for chance, count in zip(to_probabilities(logits, self.head), counts, strict=True)
        ]

    def _logits(
        self, questions: Sequence[Question]
    ) -> tuple[list[list[str]], list[LabelRow], npt.NDArray[np.float32]]:
        texts = [self._texts(question, number) for number, question in enumerate(questions)]
        length = self.head.length or self.network.config.context_length
        rows = [LabelRow(encoded, 0) for encoded in Encoder(self.tokenizer, self.head, length).encode(texts)]
        pad = self.tokenizer.pad_id or 0
        return texts, rows, predict(self.network, rows, self.head, pad)

    def _texts(self, question: Question, number: int) -> list[str]:
        texts = [question] if isinstance(question, str) else list(question)
        shape = self.head.shape
        right = {"classify": len(texts) == 1, "choice": len(texts) >= 3}.get(shape, len(texts) == 2)
        if not right or not all(isinstance(text, str) for text in texts):
            raise InputError(
                f"question {number + 1}: this model was tuned for {shape} and takes {WANTS[shape]}, not "
                f"{counted(len(texts), 'text')}"
            )
        return texts

    def _judged(self, chance: npt.NDArray[np.float64], row: LabelRow, texts: Sequence[str]) -> Classification:
        labels: Sequence[Label] = self.head.labels
        if self.head.shape == "choice":
            labels = range(len(texts) - 1)
        named = {label: float(value) for label, value in zip(labels, chance[: len(labels)], strict=True)}
        if self.head.multi_label:
            return Classification(
                [label for label, value in named.items() if value > 0.5], named, row.encoded.cut
            )
        return Classification(max(named, key=lambda label: named[label]), named, row.encoded.cut)
