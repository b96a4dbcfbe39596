"""The objective of the tasks that end in a label: classify, pair, similarity, choice (Radford et al. 2018,
section 3.3)."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from newleaf.errors import InputError
from newleaf.families import family_for
from newleaf.format_amounts import counted
from newleaf.model.classifier import Classifier
from newleaf.model.count import count_parameters, training_flops
from newleaf.recipe import seconds
from newleaf.storage.classifier_folder import (
    Head,
    Shape,
    load_classifier,
    save_classifier,
    why_not_stock_classifier,
)
from newleaf.text.tokenizer import Tokenizer
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.objective.objective import Objective, SelectionMetric
from newleaf.train.objective.optimizer_config import OptimizerConfig
from newleaf.train.objective.train_config import TrainConfig, with_batch_size
from newleaf.train.signals import interruptible
from newleaf.tune.base_model import Base, check_length
from newleaf.tune.labels.baselines import Proposal, TimeLimit, bag_of_words, majority
from newleaf.tune.labels.label_batches import LabelBatches, LabelRow
from newleaf.tune.labels.label_config import LabelTaskConfig
from newleaf.tune.labels.label_evaluator import HeldOutRows, LabelEvaluator, text_of
from newleaf.tune.labels.label_loss import LabelLoss
from newleaf.tune.labels.label_rows import Example, Examples, read_examples
from newleaf.tune.labels.label_tokens import Encoder, with_label_tokens
from newleaf.tune.new_tokens import add_rows, new_tokens
from newleaf.tune.pretraining_record import notes
from newleaf.tune.run_recipe import absolute_recipe
from newleaf.version import VERSION

BASELINE_SHARE = 0.08  # of a timed run
PARTS = ("train", "validation", "test")
MEASURES = {
    "accuracy": SelectionMetric("val_accuracy", "accuracy", higher_is_better=True),
    "macro_f1": SelectionMetric("val_macro_f1", "macro-F1", higher_is_better=True),
    "micro_f1": SelectionMetric("val_micro_f1", "micro-F1", higher_is_better=True),
    "matthews": SelectionMetric("val_matthews", "Matthews correlation", higher_is_better=True),
    "loss": SelectionMetric("val_loss", "nats a row"),
}


class LabelObjective:
    """A classifier from a base and labelled rows."""

    product: Literal["model", "adapter"] = "model"
    validates_before_training = True

    def __init__(
        self, config: LabelTaskConfig, base: Base, tokenizer: Tokenizer, head: Head,
        train: Sequence[LabelRow], validation: HeldOutRows, test: HeldOutRows | None,
        baselines: Mapping[str, Proposal], fingerprint: str,
    ) -> None:  # fmt: skip
        self.config, self.base, self.tokenizer, self.head = config, base, tokenizer, head
        self.rows, self.validation, self.test, self.baselines = train, validation, test, baselines
        self.losses = LabelLoss(head, config.label.language_weight)
        self.terms = self.losses.terms
        chosen = config.label.measure or ("macro_f1" if head.multi_label else "accuracy")
        self.measure = MEASURES[chosen]
        self.row_tokens = float(
            np.mean([sum(len(sequence) for sequence in row.encoded.sequences) for row in train])
        )
        self.sequence_tokens = float(
            np.mean([len(sequence) for row in train for sequence in row.encoded.sequences])
        )
        self.fingerprints = {
            "data": fingerprint,
            "tokenizer": tokenizer.fingerprint,
            "base": base.fingerprint,
        }

    @property
    def train(self) -> TrainConfig:
        return self.config.train

    @property
    def optimizer(self) -> OptimizerConfig:
        return self.config.optimizer.whole()

    @property
    def row_count(self) -> int:
        return len(self.rows)

    @property
    def row_length(self) -> float:
        return self.sequence_tokens

    @property
    def flops_per_token(self) -> float:
        return training_flops(
            self.base.config, self.sequence_tokens, head=self.config.label.language_weight > 0
        )

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_id or 0)

    def build(self) -> nn.Module:
        body = self.base.network()
        seed = self.train.seed
        add_rows(body, new_tokens(self.base.tokenizer, self.tokenizer), self.base.tokenizer.vocab_size, seed)
        body.recompute = self.train.checkpoint_activations
        torch.manual_seed(seed)
        network = Classifier(body, self.head.outputs)
        if self.base.score is not None and not self.config.base.fresh:
            with torch.no_grad():
                network.score.weight.copy_(self.base.score)
        return network

    def batches(self, share: tuple[int, int]) -> LabelBatches:
        train = self.train
        return LabelBatches(
            self.rows, train.batch_size, train.seed, self.pad_id, self.config.label.language_weight > 0, share
        )

    def evaluator(self, network: nn.Module, check_stop: Callable[[], None], ranks: Ranks) -> LabelEvaluator:
        return LabelEvaluator(
            network, self.head, self.pad_id, self.validation, self.test, self.baselines, check_stop
        )

    def save(self, path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        assert isinstance(network, Classifier)
        made = notes(self.base.origin)
        save_classifier(path, network.config, weights, self.tokenizer, self.head, VERSION, pretrained=made)

    def read_back(self, path: Path) -> Mapping[str, Tensor]:
        # The language model's head, where it is not the embedding, was no part of the folder.
        return {
            name: weight
            for name, weight in load_classifier(path).network.state_dict().items()
            if not name.startswith("body.head.")
        }

    def recipe(self) -> dict[str, Any]:
        return absolute_recipe(self.config)

    def record(self) -> dict[str, Any]:
        labels = {"labels": list(self.head.labels)} if self.head.labels else {}
        return {"train_rows": len(self.rows), "validation_rows": len(self.validation.rows)} | labels

    def facts(self, network: nn.Module) -> dict[str, Any]:
        assert isinstance(network, Classifier)
        family = family_for(network.config)
        count = count_parameters(network.config).total + network.score.weight.numel()
        return {"parameters": count, "family": family.name if family else "newleaf", "task": self.head.shape}


def open_labels(shape: Shape) -> Callable[[LabelTaskConfig, Base, Monitor, Ranks], Objective]:
    """How the objectives of this shape are opened."""

    def opened(config: LabelTaskConfig, base: Base, monitor: Monitor, ranks: Ranks) -> Objective:
        if config.train.prompts or config.train.sample:
            raise InputError(
                "train.prompts, train.sample: a classifier writes nothing; its samples are rows that are "
                "held out"
            )
        length = check_length(config.label.length, base, "label.length")
        found = read_examples(shape, config.source, config.data, config.train.seed)
        labels = _labels(shape, found, base)
        tokenizer, head = with_label_tokens(
            base.tokenizer, shape, labels, found.multi_label, length, adds=config.lora is None
        )
        _check_measure(config, head)
        encoder = Encoder(tokenizer, head, length)
        weights = _class_weights(config, found)
        rows = {
            name: _rows(encoder, getattr(found, name), head, weights if name == "train" else {})
            for name in ("train", "validation", "test")
        }
        _announce(monitor, config, found, rows, labels, length)
        if (why := why_not_stock_classifier(base.config, head)) is not None:
            monitor.say(f"Note: {why}.")
        validation = HeldOutRows(rows["validation"], found.validation)
        test = HeldOutRows(rows["test"], found.test) if rows["test"] else None
        baselines = (
            _baselines(config, found, rows["train"], test or validation, head, monitor, ranks)
            if ranks.is_rank_zero
            else {}
        )
        train = _fitting(config.train, len(rows["train"]), ranks.size, monitor)
        ready = dataclasses.replace(
            config, label=dataclasses.replace(config.label, length=length), train=train
        )
        return LabelObjective(
            ready, base, tokenizer, head, rows["train"], validation, test, baselines, found.fingerprint
        )

    return opened


def _fitting(train: TrainConfig, rows: int, processes: int, monitor: Monitor) -> TrainConfig:
    """With batches of no more rows than there are. Raises InputError when not every process can have one."""
    if rows < processes:
        raise InputError(
            f"train.batch_size: for {counted(rows, 'row')} to learn from there "
            f"are {counted(processes, 'process', 'processes')}, and each needs one"
        )
    if train.batch_size <= rows:
        return train
    fits = rows // processes * processes
    monitor.say(
        f"Batches: {counted(fits, 'row')} a step, as there are fewer to learn from than train.batch_size "
        f"{train.batch_size}."
    )
    return with_batch_size(train, fits)


def _labels(shape: Shape, found: Examples, base: Base) -> tuple[Any, ...]:
    """The data's labels, or those of a base that is a classifier already.

    Raises InputError where these do not fit.
    """
    if base.head is None:
        return found.labels
    if base.head.regression:
        raise InputError(
            f"{base.name}: is a regression, whose answers are numbers and no labels; begin from a language "
            f"model"
        )
    if base.head.shape != shape or base.head.multi_label != found.multi_label:
        kind = base.head.shape + (" with several labels" if base.head.multi_label else "")
        raise InputError(
            f"{base.name}: is a classifier for {kind}; for another task begin from a language model"
        )
    missing = [
        label
        for label in found.labels
        if label not in base.head.labels or type(label) is not type(base.head.labels[0])
    ]
    if missing:
        knows = ", ".join(repr(label) for label in base.head.labels[:8])
        at = next(example.where for example in found.train if missing[0] in example.answers)
        raise InputError(
            f"{at}: label {missing[0]!r} is not one of {base.name}, which knows {knows}; begin from a "
            f"language model"
        )
    return base.head.labels


def _check_measure(config: LabelTaskConfig, head: Head) -> None:
    name = config.label.measure
    has = {"accuracy", "loss"}
    if head.shape != "choice":
        has |= {"macro_f1", "micro_f1" if head.multi_label else "matthews"}
    if name is not None and name not in has:
        raise InputError(
            f"label.measure: {name} is not measured here; choose one of {', '.join(sorted(has))}"
        )
    if config.label.class_weights == "balanced" and (head.multi_label or head.shape == "choice"):
        raise InputError("label.class_weights: balanced weighs the rows of one label each; leave it out here")


def _class_weights(config: LabelTaskConfig, found: Examples) -> dict[Any, float]:
    """N / (L · count) for each label, as scikit-learn's "balanced"; empty where all count alike."""
    if config.label.class_weights == "none":
        return {}
    counts = Counter(example.answers[0] for example in found.train)
    return {label: len(found.train) / (len(counts) * count) for label, count in counts.items()}


def _rows(
    encoder: Encoder, examples: Sequence[Example], head: Head, weights: Mapping[Any, float]
) -> list[LabelRow]:
    rows = []
    place = {label: number for number, label in enumerate(head.labels)}
    for example, encoded in zip(
        examples, encoder.encode([example.texts for example in examples]), strict=True
    ):
        if head.shape == "choice":
            rows.append(LabelRow(encoded, int(example.answers[0])))
        elif head.multi_label:
            answer = np.zeros(len(head.labels), dtype=np.float32)
            answer[[place[label] for label in example.answers]] = 1.0
            rows.append(LabelRow(encoded, answer))
        else:
            rows.append(LabelRow(encoded, place[example.answers[0]], weights.get(example.answers[0], 1.0)))
    return rows


def _announce(
    monitor: Monitor,
    config: LabelTaskConfig,
    found: Examples,
    rows: Mapping[str, Sequence[LabelRow]],
    labels: Any,
    length: int,
) -> None:
    """Say what was read. Raises InputError for texts that are too long where those are to be refused."""
    if found.skipped:
        monitor.say(
            f"Left out: {counted(sum(found.skipped.values()), 'row')}. The first: {found.first_skipped}"
        )
    shown = ", ".join(repr(label) for label in labels[:8]) + (", …" if len(labels) > 8 else "")
    what = f", {counted(len(labels), 'label')} ({shown})" if labels else ""
    test = f", {len(found.test):,} to test" if found.test else ""
    monitor.say(
        f"Rows: {len(found.train):,} to learn, {len(found.validation):,} held out{test}; fields "
        f"{found.fields.described()}{what}."
    )
    cut = 0
    for name, some in rows.items():
        for example, row in zip(getattr(found, name), some, strict=True):
            if row.encoded.cut and config.label.too_long == "refuse":
                raise InputError(
                    f"{example.where}: does not fit {length} tokens; raise label.length, or let "
                    f"--label.too_long cut it"
                )
            cut += row.encoded.cut
    if cut:
        monitor.say(f"Cut: {counted(cut, 'row')} had more than {length} tokens.")


def _baselines(
    config: LabelTaskConfig,
    found: Examples,
    train: Sequence[LabelRow],
    held: HeldOutRows,
    head: Head,
    monitor: Monitor,
    ranks: Ranks,
) -> dict[str, Proposal]:
    """What each baseline gives texts; in a timed run they take a small share of it."""
    if not config.label.baselines:
        return {}
    answers = np.array([row.answer for row in train]).astype(np.int64)
    if head.shape == "choice":
        return {"commonest place": majority(answers, int(max(answers.max(), held.truth().max())) + 1)}
    simplest = {"commonest label": majority(answers, len(head.labels))}
    monitor.stage("measuring baselines", 0, None)
    texts, timed = [text_of(example) for example in found.train], config.train.time
    limit = TimeLimit(BASELINE_SHARE * seconds(timed) if timed is not None else math.inf, ranks.clock)
    words = interruptible(lambda: bag_of_words(texts, answers, config.train.seed, limit))
    if not words:
        monitor.say("Baselines: the bag of words needs scikit-learn; run: pip install 'newleaf[tune]'")
    if some := [name for name in words if " rows)" in name]:
        monitor.say(
            f"Baselines: {', '.join(some)}, since they may take {100 * BASELINE_SHARE:.0f} % of the time."
        )
    return simplest | words
