"""Preference learning: batches of chosen and rejected answers, their log-probabilities, and the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from newleaf.data.windows import NO_TARGET
from newleaf.model import GPT
from newleaf.train.objective.objective import Term
from newleaf.tune.conversations.example import Example, ExamplePair
from newleaf.tune.conversations.packing import GRAIN, pack
from newleaf.tune.loss_evaluator import evaluating
from newleaf.tune.losses import formulas
from newleaf.tune.losses.log_probs import sums_by_sequence, target_log_probs
from newleaf.tune.losses.loss_config import PreferenceConfig


@dataclass(frozen=True)
class PairPart:
    """n pairs as 2n sequences, the n chosen before the n rejected ones, packed into W windows.

    `sequences` is the number of the sequence whose token each target is. `lengths` counts a sequence's
    learned tokens, and `reference` is its log-probability under the reference.
    """

    ids: Int[Tensor, "W T"]
    targets: Int[Tensor, "W T"]
    documents: Int[Tensor, "W T"]
    sequences: Int[Tensor, "W T"]
    lengths: Float[Tensor, " 2n"]
    reference: Float[Tensor, " 2n"]


@dataclass(frozen=True)
class PairBatch:
    """The pairs of a step."""

    pairs: Sequence[ExamplePair]
    terms: int  # of the loss; the last is a mean over the chosen answers' tokens where `by_token`
    by_token: bool
    pad_id: int

    @property
    def rows(self) -> int:
        return len(self.pairs)

    @property
    def counts(self) -> list[float]:
        counts = [float(len(self.pairs))] * self.terms
        if self.by_token:
            counts[-1] = float(sum(pair.chosen.learned[1:].sum() for pair in self.pairs))
        return counts

    @property
    def tokens(self) -> int:
        """Learned tokens."""
        return int(
            sum(side.learned[1:].sum() for pair in self.pairs for side in (pair.chosen, pair.rejected))
        )

    def part(self, start: int, stop: int, device: torch.device) -> PairPart:
        some = self.pairs[start:stop]
        sequences = [pair.chosen for pair in some] + [pair.rejected for pair in some]
        references = [pair.reference[0] for pair in some] + [pair.reference[1] for pair in some]
        return packed_part(sequences, references, self.pad_id, device)


def packed_part(
    sequences: Sequence[Example], references: Sequence[float], pad_id: int, device: torch.device
) -> PairPart:
    """Sequences packed into windows as long as the longest of them."""
    sizes = [example.places for example in sequences]
    length = -(-max(sizes) // GRAIN) * GRAIN
    windows = pack(sizes, length, 0)
    ids = np.full((len(windows), length), pad_id, dtype=np.int64)
    targets = np.full((len(windows), length), NO_TARGET, dtype=np.int64)
    documents = np.zeros((len(windows), length), dtype=np.int32)
    owners = np.zeros((len(windows), length), dtype=np.int64)
    for row, window in enumerate(windows):
        at = 0
        for count, number in enumerate(window):
            example = sequences[number]
            part = slice(at, at := at + example.places)
            ids[row, part] = example.ids[:-1]
            targets[row, part] = np.where(example.learned[1:], example.ids[1:], NO_TARGET)
            documents[row, part], owners[row, part] = count, number
        documents[row, at:] = len(window)
    lengths = torch.tensor([int(example.learned[1:].sum()) for example in sequences], dtype=torch.float32)
    tensors = [torch.from_numpy(array) for array in (ids, targets, documents, owners)]
    return PairPart(
        *(tensor.to(device) for tensor in (*tensors, lengths, torch.tensor(references, dtype=torch.float32)))
    )


class Pairs:
    """Pairs by number."""

    def __init__(self, pairs: Sequence[ExamplePair], loss: PreferenceLoss, pad_id: int) -> None:
        self.pairs, self.loss, self.pad_id = pairs, loss, pad_id

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def longest(self) -> int:
        """The pair with the most positions."""
        return max(range(len(self.pairs)), key=lambda number: self.pairs[number].places)

    def rows(self, numbers: Sequence[int]) -> PairBatch:
        return PairBatch(
            [self.pairs[number] for number in numbers], len(self.loss.terms), self.loss.by_token, self.pad_id
        )


@dataclass(frozen=True)
class PreferenceLoss:
    """The loss as an objective gives it: sums over the pairs of a micro-batch.

    Beside the loss, `accuracy` is the share of pairs whose chosen answer the model prefers (DPO and IPO: more
    than its reference does), and `margin` by how much, in nats. `nll` is the chosen answers' next-token loss.
    """

    config: PreferenceConfig

    @property
    def by_token(self) -> bool:
        """Whether there is a term that is a mean over tokens."""
        return self.nll_weight > 0

    @property
    def nll_weight(self) -> float:
        """The weight of the chosen answers' next-token loss: 1 in ORPO, as in its paper."""
        return 1.0 if self.config.method == "orpo" else self.config.nll_weight

    @property
    def terms(self) -> tuple[Term, ...]:
        nll = (Term("nll", self.nll_weight),) if self.by_token else ()
        return (Term(self.config.method), Term("accuracy", 0.0), Term("margin", 0.0), *nll)

    def __call__(self, network: nn.Module, part: PairPart) -> list[Float[Tensor, ""]]:
        return self.of_log_probs(sequence_log_probs(network, part), part)

    def of_log_probs(self, log_probs: Float[Tensor, " 2n"], part: PairPart) -> list[Float[Tensor, ""]]:
        """The terms, from the log-probabilities of the sequences."""
        config, count = self.config, len(log_probs) // 2
        scores = log_probs / part.lengths if config.method in ("ipo", "orpo") else log_probs
        reference = part.reference / part.lengths if config.method == "ipo" else part.reference
        rewards = scores if config.method == "orpo" else scores - reference
        margin = rewards[:count] - rewards[count:]
        if config.method == "dpo":
            losses = formulas.dpo(margin, config.beta, config.label_smoothing)
        elif config.method == "ipo":
            losses = formulas.ipo(margin, config.beta)
        else:
            losses = formulas.orpo(scores[:count], scores[count:], config.beta)
        nll = [-log_probs[:count].sum()] if self.by_token else []
        return [losses.sum(), (margin.detach() > 0).sum().float(), margin.detach().sum(), *nll]


def sequence_log_probs(network: nn.Module, part: PairPart) -> Float[Tensor, " 2n"]:
    """Σ log p of the learned tokens of each sequence, in fp32."""
    gpt = cast(GPT, network)
    hidden, learned = gpt.hidden(part.ids, documents=part.documents), part.targets >= 0
    log_probs = target_log_probs(gpt.head, gpt.config.vocab_size, hidden[learned], part.targets[learned])
    return sums_by_sequence(log_probs, part.sequences[learned], len(part.lengths))


def with_reference(
    pairs: Sequence[ExamplePair],
    network: nn.Module,
    pad_id: int,
    on_progress: Callable[[int, int], None],
    at_once: int = 8,
) -> list[ExamplePair]:
    """The pairs with their log-probabilities under `network`, computed once before training."""
    order = sorted(range(len(pairs)), key=lambda number: pairs[number].places)
    found: dict[int, tuple[float, float]] = {}
    device: Any = next(network.parameters()).device
    with evaluating(network):
        for start in range(0, len(order), at_once):
            on_progress(start, len(order))
            numbers = order[start : start + at_once]
            sequences = [pairs[n].chosen for n in numbers] + [pairs[n].rejected for n in numbers]
            part = packed_part(sequences, [0.0] * len(sequences), pad_id, device)
            sums = sequence_log_probs(network, part).tolist()
            found |= {n: (sums[k], sums[k + len(numbers)]) for k, n in enumerate(numbers)}
    return [ExamplePair(pair.chosen, pair.rejected, found[number]) for number, pair in enumerate(pairs)]
