"""Classifiers as model folders: the family's ForSequenceClassification where it has one, and what newleaf
notes beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.families import family_for
from newleaf.families.weights import same
from newleaf.model import GPTConfig
from newleaf.model.classifier import Classifier
from newleaf.storage.build_network import Precision
from newleaf.storage.model_folder import (
    Addition,
    ModelFolder,
    is_classifier,
    load_folder,
    read_config,
    save_folder,
    why_not_stock,
)
from newleaf.storage.pretrained_note import Note
from newleaf.storage.stored_weights import StoredWeights
from newleaf.text.tokenizer import Tokenizer

Label = str | int | bool
Shape = Literal["classify", "pair", "similarity", "choice"]
BODY, SCORE = "body.", "score.weight"
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
MAX_LABELS = 2**20


@dataclass(frozen=True)
class Head:
    """What a classifier's head means. `labels` are in the data's type and in the order of the logits;
    `choice` has none, its one logit is a continuation's score. `start`, `delimiter` and `extract` are the ids
    put round the texts, None where the tokenizer does that itself; `length` is the most tokens it was trained
    on."""

    shape: Shape
    labels: tuple[Label, ...]
    multi_label: bool = False
    start: int | None = None
    delimiter: int | None = None
    extract: int | None = None
    length: int = 0
    regression: bool = False  # the logits are the answer, and the labels their names

    @property
    def outputs(self) -> int:
        """Logits."""
        return 1 if self.shape == "choice" else len(self.labels)


@dataclass(frozen=True)
class ClassifierFolder:
    """A classifier's folder, opened."""

    network: Classifier
    tokenizer: Tokenizer | None  # None where the folder has none
    family: str
    head: Head
    pretrained: Note = field(default_factory=dict)


def why_not_stock_classifier(config: GPTConfig, head: Head) -> str | None:
    """What stock transformers lacks for this classifier, or None where its `pipeline` gives the same
    labels."""
    if (found := why_not_stock(config)) is not None:
        return found
    if head.shape == "similarity":
        return (
            "stock transformers opens this folder and reads two texts in one order only; "
            "the sum of its logits for both orders gives the same label"
        )
    if head.shape == "choice":
        return (
            "stock transformers opens this folder and scores one continuation at a time; the highest "
            "score is the choice"
        )
    return None


def save_classifier(
    path: Path,
    config: GPTConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    head: Head,
    version: str,
    dtype: torch.dtype | None = None,
    pretrained: Note | None = None,
) -> str | None:
    """Write a classifier's folder, whole or not at all; `weights` have the names of `Classifier`.
    `pretrained` is how its body was. Returns `why_not_stock_classifier`."""
    names = [str(label) for label in head.labels] or ["score"]
    values: dict[str, Any] = {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        # One logit is a number to stock transformers, whatever it is for.
        "problem_type": MULTI
        if head.multi_label
        else REGRESSION
        if head.regression or head.outputs == 1
        else SINGLE,
    }
    if family_for(config) is not None:
        values["architectures"] = [classifier_name(family_for(config).architecture)]  # type: ignore[union-attr]
    body = {name.removeprefix(BODY): tensor for name, tensor in weights.items() if name.startswith(BODY)}
    addition = Addition(values, (same(SCORE, SCORE),), {SCORE: torch.Size((head.outputs, config.n_embd))})
    notes = {"version": version, "classifier": dataclasses.asdict(head), **(pretrained or {})}
    save_folder(
        path, config, body | {SCORE: weights[SCORE]}, tokenizer, notes, dtype=dtype, addition=addition
    )
    return why_not_stock_classifier(config, head)


def load_classifier(
    path: Path, precision: Precision | None = None, tokenizer: Tokenizer | None = None
) -> ClassifierFolder:
    """Open a classifier's folder, newleaf's or a stock one. Raises InputError when it is none, or damaged."""
    values = read_config(path)
    if not is_classifier(values):
        raise InputError(
            f"{path}: a language model and no classifier; newleaf finetune --task classify makes one"
        )
    found: ModelFolder = load_folder(path, precision, tokenizer)
    head = _head(values, path)
    score = StoredWeights(path).get(SCORE)
    if score is None or score.shape != (head.outputs, found.network.config.n_embd):
        raise InputError(f"{path}: {SCORE} is missing or has another shape than config.json says")
    network = Classifier(found.network, head.outputs)
    network.score.weight = torch.nn.Parameter(score.to(found.network.dtype))
    return ClassifierFolder(network.eval(), found.own_tokenizer, found.family, head, found.pretrained)


def _head(values: Mapping[str, Any], path: Path) -> Head:
    own = (values.get("newleaf") or {}).get("classifier")
    try:
        if own is not None:
            return parse_head(own, path / "config.json")
        return stock_head(_label_names(values), values.get("problem_type"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path / 'config.json'}: does not say what its labels are ({error})") from None


def stock_head(labels: tuple[str, ...], problem: Any = None) -> Head:
    """What a stock classifier's logits mean, as transformers has it: one alone is a number, and several are
    labels of which one is right, unless `problem` (problem_type) says otherwise. Raises ValueError for a
    problem that is none, or does not fit."""
    if problem not in (None, SINGLE, MULTI, REGRESSION):
        raise ValueError(f"problem_type is {str(problem)[:60]!r}")
    if problem == SINGLE and len(labels) == 1:
        raise ValueError(f"problem_type is {SINGLE}, and there is one label")
    regression = problem == REGRESSION or (problem is None and len(labels) == 1)
    return Head("classify", labels, problem == MULTI, regression=regression)


def default_labels(count: int) -> tuple[str, ...]:
    """LABEL_0, LABEL_1, …, as transformers calls labels that nobody named."""
    return tuple(f"LABEL_{number}" for number in range(count))


def _label_names(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a stock config.json: id2label's, or as many as num_labels says, two unless it does."""
    named = values.get("id2label")
    if named is None:
        count = values.get("num_labels", values.get("_num_labels"))
        count = 2 if count is None else count
        if type(count) is not int or not 1 <= count <= MAX_LABELS:
            raise ValueError(f"num_labels is {str(count)[:40]}")
        return default_labels(count)
    by_number = {int(number): name for number, name in named.items()}
    return tuple(str(by_number[number]) for number in range(len(by_number)))


def parse_head(noted: Mapping[str, Any], file: Path) -> Head:
    """A head as `dataclasses.asdict` notes it. Raises InputError, naming the file, where it is none."""
    try:
        head = Head(**(dict(noted) | {"labels": tuple(noted["labels"])}))
        if problem := _invalid_field(head):
            raise ValueError(f"{problem} is of another kind")
        return head
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{file}: does not say what its labels are ({error})") from None


def _invalid_field(head: Head) -> str | None:
    """The first field of a head that is not of its type, or None."""
    ids = (head.start, head.delimiter, head.extract)
    right = {
        "shape": head.shape in get_args(Shape),
        "labels": all(isinstance(label, str | int | bool) for label in head.labels)
        and (head.shape == "choice" or bool(head.labels)),
        "multi_label": type(head.multi_label) is bool and type(head.regression) is bool,
        "a token": all(token is None or (type(token) is int and 0 <= token < 2**31) for token in ids),
        "start": head.start is not None or head.extract is None,
        "length": type(head.length) is int and 0 <= head.length < 2**31,
    }
    return next((name for name, fits in right.items() if not fits), None)


def classifier_name(architecture: str) -> str:
    """GPT2LMHeadModel → GPT2ForSequenceClassification."""
    return architecture.removesuffix("LMHeadModel").removesuffix("ForCausalLM") + "ForSequenceClassification"
