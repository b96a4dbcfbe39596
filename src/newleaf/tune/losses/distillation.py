"""Distillation: the teacher runs at each step, or its likeliest tokens are computed once and stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from newleaf.data.batches import Batch
from newleaf.data.corpus_cache import cache_key, cached_directory, default_cache_directory
from newleaf.model import GPT
from newleaf.train.objective.objective import Term
from newleaf.tune.conversations.example import Example
from newleaf.tune.conversations.packing import Ints, PackedExamples
from newleaf.tune.loss_evaluator import evaluating
from newleaf.tune.losses.log_probs import kl_divergence, map_rows, top_k_kl_divergence
from newleaf.tune.losses.loss_config import DistilConfig

IDS, LOG_PROBS = "ids.npy", "log_probs.npy"


@dataclass(frozen=True)
class TeacherPart:
    """A micro-batch with the teacher's likeliest k tokens at each of its N targets, in their order."""

    batch: Batch
    tokens: Int[Tensor, "N k"]
    log_probs: Float[Tensor, "N k"]


@dataclass(frozen=True)
class DistilLoss:
    """Sums over a micro-batch's targets: KL(teacher ‖ student) at the temperature, and the next-token loss.

    The KL's weight is share · temperature², which preserves the scale of its gradients (Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531, section 2). Only the tokenizer's `vocabulary` tokens are compared, as
    matrices may be padded.
    """

    config: DistilConfig
    teacher: GPT | None
    vocabulary: int

    @property
    def terms(self) -> tuple[Term, ...]:
        config = self.config
        return Term("kl", config.share * config.temperature**2), Term("next_token", 1 - config.share)

    def __call__(self, network: nn.Module, part: Batch | TeacherPart) -> list[Float[Tensor, ""]]:
        student, batch = cast(GPT, network), part.batch if isinstance(part, TeacherPart) else part
        learned = batch.targets >= 0
        hidden = student.hidden(batch.ids, documents=batch.documents)[learned]
        targets, size, temperature = batch.targets[learned], self.vocabulary, self.config.temperature

        def both(logits: Tensor, t: Tensor, kl: Tensor) -> Tensor:
            return torch.stack((kl, F.cross_entropy(logits.float(), t, reduction="none")), 1)

        def from_store(h: Tensor, t: Tensor, tokens: Tensor, log_probs: Tensor) -> Tensor:
            logits = student.head(h)[:, :size]
            return both(logits, t, top_k_kl_divergence(log_probs, tokens, logits, temperature))

        if isinstance(part, TeacherPart):
            losses = map_rows(from_store, size, hidden, targets, part.tokens, part.log_probs)
            return list(losses.sum(0))
        assert self.teacher is not None
        teacher = self.teacher
        with torch.no_grad():
            teacher_hidden = teacher.hidden(batch.ids, documents=batch.documents)[learned]

        def from_teacher(h: Tensor, t: Tensor, th: Tensor) -> Tensor:
            logits = student.head(h)[:, :size]
            with torch.no_grad():
                teacher_logits = teacher.head(th)[:, :size]
            return both(logits, t, kl_divergence(teacher_logits, logits, temperature))

        return list(map_rows(from_teacher, size, hidden, targets, teacher_hidden).sum(0))


class TeacherStore:
    """The teacher's likeliest k tokens, and their log-probabilities, at each learned token, on disk."""

    def __init__(self, folder: Path, examples: Sequence[Example]) -> None:
        self.tokens = np.load(folder / IDS, mmap_mode="r")
        self.log_probs = np.load(folder / LOG_PROBS, mmap_mode="r")
        self.starts = starts_of(examples)

    def of(self, numbers: Sequence[int]) -> tuple[Any, Any]:
        """Ids and log-probabilities [N, k] of these examples, concatenated."""
        rows = np.concatenate([np.arange(self.starts[number], self.starts[number + 1]) for number in numbers])
        return self.tokens[rows], self.log_probs[rows]


def starts_of(examples: Sequence[Example]) -> Ints:
    """Where each example's learned tokens start among all, and the end."""
    counts = [0, *(int(example.learned[1:].sum()) for example in examples)]
    return np.cumsum(counts, dtype=np.int64)


def open_teacher_store(
    examples: Sequence[Example],
    name: str,
    teacher: GPT,
    vocabulary: int,
    config: DistilConfig,
    on_progress: Callable[[int, int], None],
) -> TeacherStore:
    """The store of these examples, computed once; `name` is the fingerprint of examples and teacher."""
    key = cache_key(name, vocabulary, config.temperature, config.top_k, str(teacher.dtype))
    folder = default_cache_directory() / "teachers" / key

    def compute(new_folder: Path) -> dict[str, Any]:
        starts = starts_of(examples)
        shape, total = (int(starts[-1]), config.top_k), len(examples)
        tokens = np.lib.format.open_memmap(new_folder / IDS, mode="w+", dtype=np.int32, shape=shape)
        log_probs = np.lib.format.open_memmap(
            new_folder / LOG_PROBS, mode="w+", dtype=np.float32, shape=shape
        )
        with evaluating(teacher):
            for number, example in enumerate(examples):
                on_progress(number, total)
                ids = torch.from_numpy(example.ids[:-1].astype(np.int64)).to(teacher.device)
                learned = torch.from_numpy(example.learned[1:]).to(teacher.device)
                logits = teacher.head(teacher.hidden(ids[None])[0][learned])[:, :vocabulary].float()
                top = (logits / config.temperature).log_softmax(-1).topk(config.top_k)
                rows = slice(starts[number], starts[number + 1])
                tokens[rows], log_probs[rows] = top.indices.cpu().numpy(), top.values.cpu().numpy()
        tokens.flush()
        log_probs.flush()
        return {}

    cached_directory(folder, compute)
    return TeacherStore(folder, examples)


@dataclass(frozen=True)
class TeacherBatch:
    """A batch of packed windows with the teacher's ids and log-probabilities for each window's targets."""

    batch: Batch
    teacher: Sequence[tuple[Any, Any]]

    @property
    def rows(self) -> int:
        return self.batch.rows

    @property
    def counts(self) -> Sequence[float]:
        return (self.batch.tokens, self.batch.tokens)

    @property
    def tokens(self) -> int:
        return self.batch.tokens

    def part(self, start: int, stop: int, device: torch.device) -> Batch | TeacherPart:
        batch = self.batch.part(start, stop, device)
        if not self.teacher:
            return batch
        tokens, log_probs = (np.concatenate(arrays) for arrays in zip(*self.teacher[start:stop], strict=True))
        return TeacherPart(
            batch,
            torch.from_numpy(tokens.astype(np.int64)).to(device),
            torch.from_numpy(log_probs).to(device),
        )


class TeacherRows:
    """Packed windows with the teacher's distribution for them, where that is stored."""

    def __init__(self, packed: PackedExamples, store: TeacherStore | None) -> None:
        self.packed, self.store = packed, store

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def longest(self) -> int:
        return self.packed.longest

    def rows(self, numbers: Sequence[int]) -> TeacherBatch:
        store = self.store
        teacher = [store.of(self.packed.windows[number]) for number in numbers] if store is not None else []
        return TeacherBatch(self.packed.rows(numbers), teacher)
