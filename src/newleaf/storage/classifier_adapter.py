"""Classifiers as adapters: peft's files over the base of a language model, and beside them what the head's
logits mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from newleaf.adapters.adapter import Adapter
from newleaf.adapters.peft_format import about_labels
from newleaf.errors import InputError
from newleaf.model import GPT, GPTConfig
from newleaf.model.classifier import Classifier
from newleaf.storage.adapter_folder import NEWLEAF_FILE, read_notes, save_adapter
from newleaf.storage.classifier_folder import Head, default_labels, parse_head, stock_head
from newleaf.text.tokenizer import Tokenizer

NOTE = "classifier"  # in newleaf.json


def save_classifier_adapter(
    path: Path, adapter: Adapter, config: GPTConfig, family: str, tokenizer: Tokenizer, head: Head
) -> None:
    """Write the adapter of a classifier, whole or not at all, with its head (`adapter.score`): what stock
    peft opens over the family's `ForSequenceClassification` of the base, given as many labels."""
    labelled = dataclasses.replace(adapter, about=about_labels(adapter.about))
    save_adapter(path, labelled, config, family, tokenizer, {NOTE: dataclasses.asdict(head)})


def head_of(folder: Path, adapter: Adapter) -> Head:
    """What the logits of a classifier's adapter mean; of one that peft wrote the labels are LABEL_0, LABEL_1,
    …, as transformers has them.

    Raises InputError for an adapter that gives no labels, and where the notes do not fit its head.
    """
    if adapter.score is None:
        raise InputError(f"{folder}: is the adapter of a language model and gives no labels")
    noted: Mapping[str, Any] | None = read_notes(folder).get(NOTE)
    outputs = len(adapter.score)
    head = stock_head(default_labels(outputs)) if noted is None else parse_head(noted, folder / NEWLEAF_FILE)
    if head.outputs != outputs:
        raise InputError(
            f"{folder}: its head has {outputs} logits, and {NEWLEAF_FILE} names {head.outputs} labels"
        )
    return head


def with_head(body: GPT, adapter: Adapter) -> Classifier:
    """The classifier of a network that the adapter is on, ready to be asked."""
    assert adapter.score is not None
    network = Classifier(body, len(adapter.score))
    network.score.weight = nn.Parameter(
        adapter.score.to(device=body.device, dtype=body.dtype), requires_grad=False
    )
    return network.eval().to(torch.device(body.device))
