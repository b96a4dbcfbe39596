"""Opening a model: a folder, a run, a GGUF file, an adapter, a name of the Hub."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import nn

from newleaf.api.model import Model
from newleaf.errors import InputError
from newleaf.machine import pick_device, use_threads
from newleaf.model import GPT, ConfigError
from newleaf.model.kv_cache import CACHE_DTYPES
from newleaf.model.rope_scaling import with_context
from newleaf.storage.adapter_folder import ADAPTER_FILES, adapter_folder, base_of, means_adapter
from newleaf.storage.build_network import PRECISIONS
from newleaf.storage.classifier_folder import load_classifier
from newleaf.storage.hub import MODEL_FILES, TOKENIZER_FILES, local_folder
from newleaf.storage.model_folder import is_classifier, load_folder, parse_config, read_config
from newleaf.storage.resolve_model import is_gguf
from newleaf.text.load_tokenizer import has_tokenizer, no_tokenizer
from newleaf.text.tokenizer import Tokenizer
from newleaf.train.runs.run_folder import CONFIG, MODEL
from newleaf.tune.labels.text_classifier import LabelModel

Network = TypeVar("Network", bound=nn.Module)


def load(
    path: str | Path,
    weights: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    adapter: str | Path | None = None,
    context: int | None = None,
    context_method: Literal["yarn", "ntk"] | None = None,
    cache: Literal["bf16", "int8"] | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
) -> Model:
    """Open a model folder, a run, a GGUF file (its name ends in .gguf), or a model of the Hub (`owner/name`).

    With an `adapter` it is put over the model; an adapter alone opens over the base that it names.

    `weights`: None keeps the stored precision, fp32 for a GGUF file; "fp32" or "bf16" converts; "int8" or
      "int4" quantizes each matrix as it is read, with a scale for every 64 or 32 codes.

    `context`: for texts of so many tokens. Beyond the model's own context length, its rotary positions are
      scaled by YaRN or, with `context_method="ntk"`, by dynamic NTK, and a warning says so
      (model/rope_scaling.py has the formulae). `cache`: the number format of keys and values; None is fp32
      with fp32 weights and bf16 with all others.

    `tokenizer`: a tokenizer's folder or file, a name of the Hub, or a loaded `Tokenizer`, in place of the
      model's own. A model without a tokenizer opens for `.network` and `save`; asked for text, it says
      what to do.

    Raises InputError when there is no such thing, or it is damaged or of a kind newleaf does not know.
    """
    if weights is not None and weights not in PRECISIONS:
        raise InputError(f"weights: {weights!r} is not one of {', '.join(PRECISIONS)}")
    if cache is not None and cache not in CACHE_DTYPES:
        raise InputError(f"cache: {cache!r} is not one of {', '.join(CACHE_DTYPES)}")
    if context_method is not None and context is None:
        raise InputError("context_method: says how a context is stretched; give context too")
    folder = _locate(path, adapter)
    if adapter is None and means_adapter(folder):
        base = base_of(folder)
        return load(base, weights, device, threads, folder, context, context_method, cache, tokenizer)
    use_threads(threads)
    chosen = open_tokenizer(tokenizer) if tokenizer is not None else None
    precision = PRECISIONS[weights] if weights else None
    if is_gguf(folder):
        from newleaf.storage.load_gguf import load_gguf

        opened = load_gguf(folder, precision, chosen)
    elif is_classifier(read_config(folder)):
        for name, value in (("context", context), ("cache", cache)):
            if value is not None:
                raise InputError(f"{name}: {path} is a classifier; {name} is for language models")
        return _with_adapter(_classifier(folder, weights, device, chosen), adapter, chosen)
    else:
        opened = load_folder(folder, precision, chosen)
    network = _on_device(opened.network, device)
    if context is not None:
        _stretch(network, context, context_method or "yarn")
    model = Model(network, opened.own_tokenizer, opened.family, opened.defaults, cache=cache)
    model.pretrained, model.path = opened.pretrained, folder
    return _with_adapter(model, adapter, chosen)


def load_for_text(path: str | Path, *args: Any, **options: Any) -> Model:
    """`load`, which refuses a model without a tokenizer before it reads the weights."""
    if options.get("tokenizer") is None:
        check_tokenizer(path, options.get("adapter"))
    return load(path, *args, **options)


def check_tokenizer(path: str | Path, adapter: str | Path | None = None) -> None:
    """Raises InputError, saying what to do, for a model whose files have no tokenizer."""
    folder = _locate(path, adapter)
    if adapter is None and means_adapter(folder):
        folder, adapter = _locate(base_of(folder), folder), folder
    if adapter is not None and has_tokenizer(adapter_folder(adapter)):
        return
    if is_gguf(folder):
        from newleaf.storage.gguf_file import open_gguf
        from newleaf.storage.gguf_tokenizer import has_gguf_tokenizer

        found = has_gguf_tokenizer(open_gguf(folder))
    else:
        found = has_tokenizer(folder) or not (folder / "config.json").exists()
        if not found:
            parse_config(read_config(folder), folder)  # what cannot be opened at all is said first
    if not found:
        raise no_tokenizer(folder)


def open_tokenizer(source: str | Path | Tokenizer) -> Tokenizer:
    """A tokenizer's folder or file, a run, a name of the Hub, or a `Tokenizer` itself. Raises InputError."""
    if isinstance(source, Tokenizer):
        return source
    try:
        folder = local_folder(source, TOKENIZER_FILES)
        return Tokenizer.load(folder / MODEL if (folder / CONFIG).exists() else folder)
    except InputError as error:
        raise InputError(f"tokenizer: {error}") from None


def _locate(path: str | Path, adapter: str | Path | None) -> Path:
    """The GGUF file or model folder on this disk (a run's model), or an adapter that stands alone."""
    if is_gguf(path):
        return Path(path)
    folder = local_folder(path, (*MODEL_FILES, *TOKENIZER_FILES, *ADAPTER_FILES))
    if not (folder / CONFIG).exists() or (adapter is None and means_adapter(folder)):
        return folder
    if not (folder / MODEL).exists():
        raise InputError(f"{path}: this run has no model yet; it stopped before its first validation")
    return folder / MODEL


def _with_adapter(model: Model, adapter: str | Path | None, tokenizer: Tokenizer | None) -> Model:
    """The model with the adapter, where there is one; `tokenizer` takes the place of the adapter's too."""
    if adapter is None:
        return model
    adapted = model.with_adapter(adapter)
    if tokenizer is not None:
        adapted.own_tokenizer = tokenizer.fit_vocabulary(adapted.network.config.vocab_size, "tokenizer")
        if adapted.labels is not None:
            adapted.labels = replace(adapted.labels, own_tokenizer=adapted.own_tokenizer)
    return adapted


def _on_device(network: Network, device: str | None) -> Network:
    try:
        return network.to(pick_device(device or "cpu"))
    except ValueError as error:
        raise InputError(str(error)) from None


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


def _classifier(folder: Path, weights: str | None, device: str | None, tokenizer: Tokenizer | None) -> Model:
    """A classifier as a model; its network is the body under the classification head."""
    if weights not in (None, "fp32", "bf16"):
        raise InputError(
            f"weights: {weights} packs language models; a classifier opens as stored, in fp32 or in bf16"
        )
    opened = load_classifier(folder, PRECISIONS[weights] if weights else None, tokenizer)
    network = _on_device(opened.network, device)
    labels = LabelModel(network, opened.tokenizer, opened.head)
    model = Model(network.body, opened.tokenizer, opened.family, labels=labels)
    model.pretrained, model.path = opened.pretrained, folder
    return model
