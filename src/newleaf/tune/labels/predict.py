"""What a classifier makes of texts: sequences of about the same length together, probabilities in the order
they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from newleaf.errors import NotFiniteError
from newleaf.model.classifier import Classifier
from newleaf.storage.classifier_folder import Head
from newleaf.tune.labels.label_batches import LabelRow, collate
from newleaf.tune.labels.label_loss import combined
from newleaf.tune.loss_evaluator import evaluating

TOKENS = 8192  # padding included, in one batch


def predict(
    network: Classifier,
    rows: Sequence[LabelRow],
    head: Head,
    pad_id: int,
    check_stop: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.float32]:
    """Logits fp32 [N, L] of rows; where rows have fewer continuations than others, those that are not there
    are −∞."""
    order = sorted(range(len(rows)), key=lambda number: -rows[number].encoded.length)
    found: list[npt.NDArray[np.float32]] = []
    device = next(network.parameters()).device
    with evaluating(network):
        for numbers in _batches(order, rows):
            check_stop()
            part = collate([rows[number] for number in numbers], pad_id, device)
            found.append(combined(head.shape, network(part.ids, part.lengths), part).cpu().numpy())
    width = max(table.shape[1] for table in found)
    logits = np.full((len(rows), width), -np.inf, dtype=np.float32)
    at = 0
    for table in found:
        logits[order[at : at + len(table)], : table.shape[1]] = table
        at += len(table)
    if np.isnan(logits).any() or (logits == np.inf).any():
        raise NotFiniteError
    return logits


def to_probabilities(logits: npt.NDArray[np.float32], head: Head) -> npt.NDArray[np.float64]:
    """Of each label [N, L]."""
    values = torch.from_numpy(logits).double()
    return (values.sigmoid() if head.multi_label else values.softmax(-1)).numpy()


def _batches(order: Sequence[int], rows: Sequence[LabelRow]) -> Iterator[list[int]]:
    """Rows, longest first, in batches of at most TOKENS."""
    batch: list[int] = []
    used = widest = 0
    for number in order:
        encoded = rows[number].encoded
        widest = widest or encoded.length
        if batch and (used + len(encoded.sequences)) * widest > TOKENS:
            yield batch
            batch, used, widest = [], 0, encoded.length
        batch.append(number)
        used += len(encoded.sequences)
    if batch:
        yield batch
