"""What a run is about: an objective tells the one loop what to train, on which batches, by which loss, and
how to see that it got better.

Pretraining is one objective (`train/pretraining/text_objective.py`), every task of fine-tuning another
(`newleaf/tune/`). The session, the loop and the end of a run know only what stands here. An objective gives

- `build()`: the network as it is before the first step, drawn or loaded, already with its adapters where
  there are any. It is asked again when a run goes back to its beginning. What has `requires_grad` is trained,
  kept as fp32 masters and written to checkpoints;
- `batches(share)`: a pure function from a step to a batch, so that a resumed run is the same run. With
  several processes `share` = (k, n) asks for the k-th of n equal parts of each batch;
- `losses(network, part)`: for each of `terms` the *sum* over a part of a batch. The loop divides by the
  batch's `counts`, added up over all parts and processes, so that micro-batches and processes add up to the
  same loss, and weighs the terms. A term of weight 0 is only written down;
- `evaluator(...)`: the validation, whose figure `measure.key` chooses the best checkpoint and ends a run
  early; samples; a closing report;
- `save` and `read_back`: how the trained weights are written to the run's folder `product` ("model" or
  "adapter") and come back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from newleaf.train.distributed.process_group import Ranks
from newleaf.train.objective.optimizer_config import OptimizerConfig
from newleaf.train.objective.train_config import TrainConfig

# what a validation found, under the names it has in metrics.jsonl and summary.json
ValidationMetrics = dict[str, float]


@dataclass(frozen=True)
class Term:
    """One part of the loss: its name in metrics.jsonl, and how much it counts."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class SelectionMetric:
    """The figure that chooses the best checkpoint: its key among the `ValidationMetrics`, and its name for
    people."""

    key: str
    words: str
    higher_is_better: bool = False

    def better(self, value: float, than: float) -> bool:
        return value > than if self.higher_is_better else value < than


@dataclass(frozen=True)
class SampledText:
    """What came of a prompt: `cut` where its time ended before the text did.

    `writes` is False for what takes no longer for more of it, such as a label.
    """

    text: str
    cut: bool = False
    writes: bool = True


class Batch(Protocol):
    """The examples of a step."""

    @property
    def rows(self) -> int:
        """Examples, which can be taken in micro-batches."""

    @property
    def counts(self) -> Sequence[float]:
        """For each term what its sum over this batch is divided by: the targets, the examples, the weights of
        their classes."""

    @property
    def tokens(self) -> int:
        """Tokens that are learned from, for `tokens_seen` and for the speed."""

    def part(self, start: int, stop: int, device: torch.device) -> Any:
        """Rows `start` to `stop`, on the device, as `losses` takes them."""


class Batches(Protocol):
    """All batches of a run."""

    @property
    def rows_per_epoch(self) -> int: ...

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0; a pure function."""

    def widest(self) -> Batch:
        """One that takes as much memory as any does: what fits is measured on it."""


class Evaluator(Protocol):
    """Looks at a network in training, which it leaves as it was."""

    @property
    def all_rows(self) -> int:
        """Of the whole validation set."""

    @property
    def prompts(self) -> Sequence[str]:
        """What `sample` is asked for at the first check; none where there are no samples."""

    def prompts_at(self, check: int) -> Sequence[str]:
        """What it is asked for at the check of this number, from 0, among those with samples."""

    @property
    def reports(self) -> int:
        """Whether `report` wants a last look at the whole validation set: 0 or False if not, else about how
        many rows more it reads itself, at least 1, for which a timed run keeps time."""

    def validate(self, rows: int | None, to_the_end: bool = False) -> ValidationMetrics:
        """Figures over this many rows, evenly spaced, or all.

        Several processes share the work and return the same.

        Between batches it calls the `check_stop` it was made with, which ends the asking by raising, unless
        it is to go on `to_the_end`.
        """

    def sample(self, prompt: str, seconds: float) -> SampledText:
        """What the network makes of a prompt, or has made of it after so many seconds."""

    def report(self, folder: Path, rows: int) -> dict[str, Any]:
        """After the last look, at the best weights: write files of one's own into the run's folder, and
        return what goes to summary.json.

        Of the rows that it reads itself it takes this many, evenly spaced. Called in the first process only.
        """


class Objective(Protocol):
    """See the head of this file."""

    @property
    def config(self) -> Any:
        """The resolved configuration, a frozen dataclass; has `train` and `optimizer`."""

    @property
    def terms(self) -> Sequence[Term]: ...

    @property
    def measure(self) -> SelectionMetric: ...

    @property
    def product(self) -> Literal["model", "adapter"]: ...

    @property
    def validates_before_training(self) -> bool:
        """Whether the network is worth a validation before the first step."""

    @property
    def row_tokens(self) -> float:
        """Tokens learned from in a row, on average: how many steps make so many tokens."""

    @property
    def train(self) -> TrainConfig: ...

    @property
    def optimizer(self) -> OptimizerConfig: ...

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Of everything that must be the same when the run is resumed: text, tokenizer, base model."""

    @property
    def flops_per_token(self) -> float:
        """What training on a token takes."""

    def build(self) -> nn.Module: ...

    def batches(self, share: tuple[int, int]) -> Batches: ...

    def losses(self, network: nn.Module, part: Any) -> Sequence[Tensor]: ...

    def evaluator(self, network: nn.Module, check_stop: Callable[[], None], ranks: Ranks) -> Evaluator: ...

    def save(self, path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Write the folder `path`, whole or not at all; `weights` are the fp32 masters of what is trained, by
        the network's names."""

    def read_back(self, path: Path) -> Mapping[str, Tensor]:
        """The weights that `save` wrote, by the network's names."""

    def recipe(self) -> dict[str, Any]:
        """run.yaml: a recipe that gives this run again from any folder."""

    def record(self) -> dict[str, Any]:
        """What it was made with, for run.yaml's `record`, beside versions, machine and fingerprints."""

    def facts(self, network: nn.Module) -> dict[str, Any]:
        """What summary.json says of the model: at least `parameters` and `family`."""
