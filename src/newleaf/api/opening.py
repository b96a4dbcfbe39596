"""Opening a model from wherever it lies."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from newleaf.api.model import Model
from newleaf.errors import InputError
from newleaf.machine import pick_device, use_threads
from newleaf.model import GPT, ConfigError
from newleaf.model.kv_cache import CACHE_DTYPES
from newleaf.model.rope_scaling import with_context
from newleaf.storage.adapter_folder import ADAPTER_FILES, base_of, means_adapter
from newleaf.storage.build_network import PRECISIONS
from newleaf.storage.classifier_folder import load_classifier
from newleaf.storage.hub import MODEL_FILES, TOKENIZER_FILES, local_folder
from newleaf.storage.model_folder import is_classifier, load_folder, read_config
from newleaf.train.runs.run_folder import CONFIG, MODEL
from newleaf.tune.labels.text_classifier import LabelModel


def load(
    path: str | Path,
    weights: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    adapter: str | Path | None = None,
    context: int | None = None,
    context_method: Literal["yarn", "ntk"] | None = None,
    cache: Literal["bf16", "int8"] | None = None,
) -> Model:
    """Open a model folder, a run, a GGUF file (its name ends in .gguf), or a model of the Hub (`owner/name`);
    with an `adapter` over it, or the adapter alone where it says which base it is for.

    `weights`: None keeps the stored precision, fp32 for a GGUF file; "fp32" or "bf16" converts; "int8" or
      "int4" packs each matrix, as it comes off the disk, in codes of so many bits with a scale for every 64
      or 32 of them.

    `context`: for texts of so many tokens; beyond what the model was made for, its rotary positions are
      stretched by YaRN or, with `context_method="ntk"`, by dynamic NTK, and a warning says so
      (model/rope_scaling.py has the formulae). `cache`: the number format of keys and values; None is fp32
      with fp32 weights and bf16 with all others.

    Raises InputError when there is no such thing, or it is damaged or of a kind newleaf does not know.
    """
    is_gguf = Path(path).suffix == ".gguf"
    folder = Path(path) if is_gguf else local_folder(path, (*MODEL_FILES, *TOKENIZER_FILES, *ADAPTER_FILES))
    if adapter is None and means_adapter(folder):
        return load(base_of(folder), weights, device, threads, folder, context, context_method, cache)
    if (folder / CONFIG).exists() and (folder / MODEL).exists():
        folder = folder / MODEL
    elif (folder / CONFIG).exists():
        raise InputError(f"{path}: this run has no model yet; it stopped before its first validation")
    if weights is not None and weights not in PRECISIONS:
        raise InputError(f"weights: {weights!r} is not one of {', '.join(PRECISIONS)}")
    if cache is not None and cache not in CACHE_DTYPES:
        raise InputError(f"cache: {cache!r} is not one of {', '.join(CACHE_DTYPES)}")
    if context_method is not None and context is None:
        raise InputError("context_method: says how a context is stretched; give context too")
    use_threads(threads)
    if is_gguf:
        from newleaf.storage.load_gguf import load_gguf
    elif is_classifier(read_config(folder)):
        for name, value in (("context", context), ("cache", cache)):
            if value is not None:
                raise InputError(
                    f"{name}: {path} gives labels and writes nothing; {name} is for language models"
                )
        labelled = _classifier(folder, weights, device)
        return labelled if adapter is None else labelled.with_adapter(adapter)
    opened = (load_gguf if is_gguf else load_folder)(folder, PRECISIONS[weights] if weights else None)
    try:
        network = opened.network.to(pick_device(device or "cpu"))
    except ValueError as error:
        raise InputError(str(error)) from None
    if context is not None:
        _stretch(network, context, context_method or "yarn")
    model = Model(network, opened.tokenizer, opened.family, opened.defaults, cache=cache)
    model.pretrained = opened.pretrained
    return model if adapter is None else model.with_adapter(adapter)


def _stretch(network: GPT, context: int, method: Literal["yarn", "ntk"]) -> None:
    """Give the network that context, with a warning where it was not made for it."""
    have = network.config
    try:
        network.config = with_context(have, context, method)
    except ConfigError as error:
        raise InputError(str(error)) from None
    if context > have.context_length:
        how = {"yarn": "YaRN", "ntk": "dynamic NTK, whose base is that of a full context"}[method]
        further = (
            f", whose factor goes from {have.yarn_factor:g} to {network.config.yarn_factor:g}"
            if have.yarn_factor
            else ""
        )
        logging.getLogger("newleaf").warning(
            f"context stretched from {have.context_length} to {context} tokens by {how}{further}; "
            "the model was not trained for it, so quality is not guaranteed"
        )


def _classifier(folder: Path, weights: str | None, device: str | None) -> Model:
    """A model that gives labels; its network is the body that they are read from."""
    if weights not in (None, "fp32", "bf16"):
        raise InputError(
            f"weights: {weights} packs language models; a classifier opens as stored, in fp32 or in bf16"
        )
    opened = load_classifier(folder, PRECISIONS[weights] if weights else None)
    try:
        network = opened.network.to(pick_device(device or "cpu"))
    except ValueError as error:
        raise InputError(str(error)) from None
    model = Model(
        network.body,
        opened.tokenizer,
        opened.family,
        labels=LabelModel(network, opened.tokenizer, opened.head),
    )
    model.pretrained = opened.pretrained
    return model
