"""Opening a model from wherever it lies."""

from __future__ import annotations

from pathlib import Path

from newleaf.api.model import Model
from newleaf.errors import InputError
from newleaf.storage.adapter_folder import ADAPTER_FILES, base_of, stands_for_adapter
from newleaf.storage.assemble import PRECISIONS
from newleaf.storage.classifier_folder import load_classifier
from newleaf.storage.folder import is_classifier, load_folder, read_config
from newleaf.storage.hub import MODEL_FILES, TOKENIZER_FILES, local_folder
from newleaf.train.machine import pick_device, use_threads
from newleaf.train.run_folder import CONFIG, MODEL
from newleaf.tune.labels.model import LabelModel


def load(
    path: str | Path,
    weights: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    adapter: str | Path | None = None,
) -> Model:
    """Open a model folder, a run, a GGUF file (its name ends in .gguf), or a model of the Hub (`owner/name`); with an `adapter` over it, or
    the adapter alone where it says which base it is for.

    `weights`: None keeps the stored precision, fp32 for a GGUF file; "fp32" or "bf16" converts; "int8" or "int4" packs each matrix, as it
    comes off the disk, in codes of so many bits with a scale for every 64 or 32 of them.

    Raises InputError when there is no such thing, or it is damaged or of a kind newleaf does not know.
    """
    is_gguf = Path(path).suffix == ".gguf"
    folder = Path(path) if is_gguf else local_folder(path, (*MODEL_FILES, *TOKENIZER_FILES, *ADAPTER_FILES))
    if adapter is None and stands_for_adapter(folder):
        return load(base_of(folder), weights, device, threads, folder)
    if (folder / CONFIG).exists() and (folder / MODEL).exists():
        folder = folder / MODEL
    elif (folder / CONFIG).exists():
        raise InputError(f"{path}: this run has no model yet; it stopped before its first validation")
    if weights is not None and weights not in PRECISIONS:
        raise InputError(f"weights: {weights!r} is not one of {', '.join(PRECISIONS)}")
    use_threads(threads)
    if is_gguf:
        from newleaf.storage.gguf_read import load_gguf
    elif is_classifier(read_config(folder)):
        labelled = _classifier(folder, weights, device)
        return labelled if adapter is None else labelled.with_adapter(adapter)
    opened = (load_gguf if is_gguf else load_folder)(folder, PRECISIONS[weights] if weights else None)
    try:
        network = opened.network.to(pick_device(device or "cpu"))
    except ValueError as error:
        raise InputError(str(error)) from None
    model = Model(network, opened.tokenizer, opened.family, opened.defaults)
    return model if adapter is None else model.with_adapter(adapter)


def _classifier(folder: Path, weights: str | None, device: str | None) -> Model:
    """A model that gives labels; its network is the body that they are read from."""
    if weights not in (None, "fp32", "bf16"):
        raise InputError(f"weights: {weights} packs language models; a classifier opens as stored, in fp32 or in bf16")
    opened = load_classifier(folder, PRECISIONS[weights] if weights else None)
    try:
        network = opened.network.to(pick_device(device or "cpu"))
    except ValueError as error:
        raise InputError(str(error)) from None
    return Model(network.body, opened.tokenizer, opened.family, labels=LabelModel(network, opened.tokenizer, opened.head))
