"""The model that fine-tuning begins from: opened once, checked, and opened again should a run go back to its
beginning."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.model import GPT, GPTConfig
from newleaf.quant.packed_layers import PlainWeights
from newleaf.storage.adapter_folder import means_adapter
from newleaf.storage.build_network import PRECISIONS, Precision, empty_network, load_weights
from newleaf.storage.classifier_folder import Head, load_classifier
from newleaf.storage.hub import MODEL_FILES, TOKENIZER_FILES
from newleaf.storage.model_folder import ModelFolder, is_classifier, load_folder, read_config
from newleaf.storage.resolve_model import is_gguf, resolve_model
from newleaf.text.tokenizer import Tokenizer
from newleaf.tune.pretraining_record import PretrainingRecord, find_pretraining_record
from newleaf.tune.tune_config import TuneConfig

SAMPLES = 64  # weights of each tensor that the fingerprint looks at
DROPOUTS = ("embedding_dropout", "attention_dropout", "residual_dropout")


@dataclass
class Base:
    """A base model. `network()` gives it to be trained, in fp32 and each time as it was.

    The tokenizer and its defaults come along.

    A base that is a classifier already has a `head` and its matrix `score` [L, C].
    """

    name: str
    config: GPTConfig
    tokenizer: Tokenizer
    family: str
    defaults: dict[str, Any]
    fingerprint: str
    _open: Callable[[], GPT]
    _waiting: GPT | None
    head: Head | None = None
    score: Tensor | None = None
    origin: PretrainingRecord | None = None  # how it was made, where that is known

    def network(self) -> GPT:
        """The network, which is the caller's to change."""
        network, self._waiting = self._waiting or self._open(), None
        return network


def open_base(config: TuneConfig) -> Base:
    """The model that a recipe names. Raises InputError when it cannot be opened."""
    if means_adapter(config.model):
        raise InputError(
            f"{config.model}: is an adapter; newleaf convert {config.model} FOLDER --merge makes a model "
            f"that can be tuned"
        )
    path = resolve_model(config.model, (*MODEL_FILES, *TOKENIZER_FILES))
    precision = (
        PRECISIONS[config.lora.weights or config.train.precision]
        if config.lora is not None
        else torch.float32
    )
    folder = _folder(path, precision)
    shape = folder.network.config
    if config.base.dropout is not None:
        shape = shape.replace(**dict.fromkeys(DROPOUTS, config.base.dropout))

    def opened(found: GPT | None = None) -> GPT:
        if config.base.fresh:
            torch.manual_seed(config.train.seed)
            return GPT(shape)
        network = found or _folder(path, precision).network
        if network.config == shape:
            return network
        held = PlainWeights(network)
        packed = ((name, layer.packed) for name, layer in held.packed.items())
        return load_weights(empty_network(shape), [*held.plain.items(), *packed], None)

    first = opened(folder.network)
    base = Base(
        config.model,
        shape,
        folder.tokenizer,
        folder.family,
        folder.defaults,
        fingerprint(first),
        opened,
        first,
    )
    base.origin = find_pretraining_record(path, folder.pretrained)
    if not is_gguf(path) and is_classifier(read_config(path)):
        found = load_classifier(path, torch.float32)
        base.head, base.score = found.head, found.network.score.weight.detach()
    return base


def _folder(path: Path, precision: Precision) -> ModelFolder:
    if is_gguf(path):
        from newleaf.storage.load_gguf import load_gguf

        return load_gguf(path, precision)
    return load_folder(path, precision)


@torch.no_grad()
def fingerprint(network: GPT) -> str:
    """Names a network by its shape and some of the weights of each tensor."""
    digest = hashlib.blake2b(
        repr(sorted(dataclasses.asdict(network.config).items())).encode(), digest_size=16
    )
    for name, weight in network.state_dict().items():
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // SAMPLES)]
        digest.update(name.encode() + some.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def check_length(wanted: int, base: Base, option: str) -> int:
    """How many tokens a row may have: as many as wanted, or the context's own up to 1,024.

    Raises InputError beyond the context.
    """
    most = base.config.context_length
    if wanted > most:
        raise InputError(
            f"{option}: {wanted} is beyond the model's context of {most} tokens; take a base with a longer "
            f"one "
            f"(newleaf pretrain … --model.context_length {wanted}), or --{option} 0 for what this one has"
        )
    return wanted or min(most, 1024)
