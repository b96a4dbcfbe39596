"""Learning from a teacher's distribution: asked at each step, or of its likeliest tokens, worked out once and
kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
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
    """A part of a batch with what the teacher says of its N targets, in their order: ids and
    log-probabilities [N, k]."""

    batch: Batch
    tokens: Tensor
    log_probs: Tensor


@dataclass(frozen=True)
class DistilLoss:
    """Sums over the targets of a part: KL(teacher ‖ student) at the temperature, and the next-token loss.

    The KL's weight is share · temperature², which keeps its gradients' size (Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531, section 2). Only the tokens that the tokenizer has are compared:
    `vocabulary`; matrices may be padded.
    """

    config: DistilConfig
    teacher: GPT | None
    vocabulary: int

    @property
    def terms(self) -> tuple[Term, ...]:
        config = self.config
        return Term("kl", config.share * config.temperature**2), Term("next_token", 1 - config.share)

    def __call__(self, network: nn.Module, part: Batch | TeacherPart) -> list[Tensor]:
        student, batch = cast(GPT, network), part.batch if isinstance(part, TeacherPart) else part
        judged = batch.targets >= 0
        hidden = student.hidden(batch.ids, documents=batch.documents)[judged]
        targets, size, temperature = batch.targets[judged], self.vocabulary, self.config.temperature

        def both(logits: Tensor, t: Tensor, kl: Tensor) -> Tensor:
            return torch.stack((kl, F.cross_entropy(logits.float(), t, reduction="none")), 1)

        if isinstance(part, TeacherPart):

            def told(h: Tensor, t: Tensor, tokens: Tensor, log_probs: Tensor) -> Tensor:
                logits = student.head(h)[:, :size]
                return both(logits, t, top_k_kl_divergence(log_probs, tokens, logits, temperature))

            found = map_rows(told, size, hidden, targets, part.tokens, part.log_probs)
        else:
            assert self.teacher is not None
            teacher = self.teacher
            with torch.no_grad():
                theirs = teacher.hidden(batch.ids, documents=batch.documents)[judged]

            def asked(h: Tensor, t: Tensor, th: Tensor) -> Tensor:
                logits = student.head(h)[:, :size]
                with torch.no_grad():
                    wanted = teacher.head(th)[:, :size]
                return both(logits, t, kl_divergence(wanted, logits, temperature))

            found = map_rows(asked, size, hidden, targets, theirs)
        return list(found.sum(0))


class TeacherStore:
    """What a teacher says of the learned tokens of examples: the likeliest k and their log-probabilities, on
    disk."""

    def __init__(self, folder: Path, examples: Sequence[Example]) -> None:
        self.tokens = np.load(folder / IDS, mmap_mode="r")
        self.log_probs = np.load(folder / LOG_PROBS, mmap_mode="r")
        self.starts = starts_of(examples)

    def of(self, numbers: Sequence[int]) -> tuple[Any, Any]:
        """Ids and log-probabilities [N, k] of these examples, one after the other."""
        rows = np.concatenate([np.arange(self.starts[number], self.starts[number + 1]) for number in numbers])
        return self.tokens[rows], self.log_probs[rows]


def starts_of(examples: Sequence[Example]) -> Ints:
    """Where each example's learned tokens begin among all, and the end."""
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
    """The store of these examples, asked for once and then found in the cache. `name` is the fingerprint of
    examples and teacher."""
    key = cache_key(name, vocabulary, config.temperature, config.top_k, str(teacher.dtype))
    folder = default_cache_directory() / "teachers" / key

    def ask(fresh: Path) -> dict[str, Any]:
        starts = starts_of(examples)
        shape, total = (int(starts[-1]), config.top_k), len(examples)
        tokens = np.lib.format.open_memmap(fresh / IDS, mode="w+", dtype=np.int32, shape=shape)
        log_probs = np.lib.format.open_memmap(fresh / LOG_PROBS, mode="w+", dtype=np.float32, shape=shape)
        with evaluating(teacher):
            for number, example in enumerate(examples):
                on_progress(number, total)
                ids = torch.from_numpy(example.ids[:-1].astype(np.int64)).to(teacher.device)
                learned = torch.from_numpy(example.learned[1:]).to(teacher.device)
                logits = (
                    teacher.head(teacher.hidden(ids[None])[0][learned])[:, :vocabulary].float()
                    / config.temperature
                )
                top = logits.log_softmax(-1).topk(config.top_k)
                part = slice(starts[number], starts[number + 1])
                tokens[part], log_probs[part] = top.indices.cpu().numpy(), top.values.cpu().numpy()
        tokens.flush()
        log_probs.flush()
        return {}

    cached_directory(folder, ask)
    return TeacherStore(folder, examples)


@dataclass(frozen=True)
class TeacherBatch:
    """A batch of packed windows, and what the teacher says of each window's targets."""

    batch: Batch
    said: Sequence[tuple[Any, Any]]

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
        if not self.said:
            return batch
        tokens, log_probs = (np.concatenate(arrays) for arrays in zip(*self.said[start:stop], strict=True))
        return TeacherPart(
            batch,
            torch.from_numpy(tokens.astype(np.int64)).to(device),
            torch.from_numpy(log_probs).to(device),
        )


class TeacherRows:
    """Packed windows with what the teacher says of them, where that is stored."""

    def __init__(self, packed: PackedExamples, store: TeacherStore | None) -> None:
        self.packed, self.store = packed, store

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def longest(self) -> int:
        return self.packed.longest

    def rows(self, numbers: Sequence[int]) -> TeacherBatch:
        store = self.store
        said = [store.of(self.packed.windows[number]) for number in numbers] if store is not None else []
        return TeacherBatch(self.packed.rows(numbers), said)
