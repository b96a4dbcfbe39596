"""The loss of a classifier: the labels' cross-entropy, and the language model's own beside it (Radford et al.
2018, equation 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from newleaf.model.classifier import Classifier
from newleaf.model.loss import linear_cross_entropy
from newleaf.storage.classifier_folder import Head, Shape
from newleaf.train.objective.objective import Term
from newleaf.tune.labels.label_batches import LabelPart


@dataclass(frozen=True)
class LabelLoss:
    """Sums over the rows of a part, as an objective gives them."""

    head: Head
    language_weight: float

    @property
    def terms(self) -> tuple[Term, ...]:
        language = (Term("language_loss", self.language_weight),) if self.language_weight else ()
        return (Term("label_loss"), *language)

    def __call__(self, network: nn.Module, part: LabelPart) -> Sequence[Tensor]:
        model = cast(Classifier, network)
        hidden = model.body.hidden(part.ids)
        labels = self.of_logits(combined(self.head.shape, model.logits(hidden, part.lengths), part), part)
        if not self.language_weight:
            return (labels,)
        head = model.body.head
        return labels, linear_cross_entropy(hidden, head.weight, head.bias, part.targets, "sum")

    def of_logits(self, logits: Tensor, part: LabelPart) -> Tensor:
        """Cross-entropy in nats, or with several labels a text that of each label by itself.

        Each row times its weight.
        """
        if self.head.multi_label:
            each = F.binary_cross_entropy_with_logits(logits, part.answers, reduction="none").sum(1)
        else:
            each = F.cross_entropy(logits, part.answers, reduction="none")
        return (each * part.weights).sum()


def combined(shape: Shape, scores: Tensor, part: LabelPart) -> Tensor:
    """Logits fp32 [B, L] of rows from those [S, L] of their sequences: the sum of both orders, or the scores
    of the continuations."""
    scores = scores.float()
    rows = len(part.answers)
    if shape == "choice":
        table = scores.new_full((rows, int(part.places.max()) + 1), float("-inf"))
        return table.index_put((part.owners, part.places), scores[:, 0])
    if shape == "similarity":
        return scores.new_zeros(rows, scores.shape[1]).index_add(0, part.owners, scores)
    return scores
