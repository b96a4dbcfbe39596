"""Saving an open model: as a Hugging Face folder, a classifier's folder, or a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from newleaf.adapters.adapter import whole_weights
from newleaf.errors import InputError
from newleaf.model import GPT
from newleaf.storage.classifier_folder import BODY, SCORE, save_classifier
from newleaf.storage.model_folder import save_folder
from newleaf.storage.pretrained_note import Note
from newleaf.text.tokenizer import Tokenizer
from newleaf.tune.labels.text_classifier import LabelModel
from newleaf.version import VERSION


def save_model(
    path: Path,
    type: str | None,
    network: GPT,
    tokenizer: Tokenizer | None,
    labels: LabelModel | None,
    defaults: Mapping[str, Any],
    pretrained: Note,
) -> str | None:
    """Write these as `Model.save` says; an adapter in the network is merged."""
    config, weights = network.config, whole_weights(network)
    if path.suffix == ".gguf":
        _check_file(path, labels)
        from newleaf.storage.save_gguf import save_gguf

        return save_gguf(path, config, weights, tokenizer, type or "F32", pretrained)
    if type is not None:
        raise InputError(f"type: {type} is for GGUF files, and {path} does not end in .gguf")
    _check_folder(path)
    if labels is not None:
        all_weights = {BODY + name: weight for name, weight in weights.items()}
        all_weights[SCORE] = labels.network.score.weight.detach()
        return save_classifier(
            path, config, all_weights, tokenizer, labels.head, VERSION, pretrained=pretrained
        )
    return save_folder(
        path, config, weights, tokenizer, {"version": VERSION, **pretrained}, defaults=defaults
    )


def _check_file(path: Path, labels: LabelModel | None) -> None:
    if labels is not None:
        raise InputError(f"{path}: a classifier is saved as a folder; GGUF has no layout for its head")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, so no GGUF file is written over it")


def _check_folder(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir() or (any(path.iterdir()) and not (path / "config.json").exists()):
        raise InputError(f"{path}: exists and is not a model folder, so it is not replaced")
