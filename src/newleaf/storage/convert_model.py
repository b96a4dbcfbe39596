"""A model in one form to a model in another: folders, runs, Hub names and GGUF files in, folders and GGUF
files out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from newleaf.adapters.adapter import MergedWeights
from newleaf.errors import InputError
from newleaf.model import GPTConfig
from newleaf.quant.packed_layers import PlainWeights
from newleaf.storage.adapter_folder import (
    adapter_folder,
    adapter_tokenizer,
    base_of,
    means_adapter,
    read_adapter,
)
from newleaf.storage.classifier_adapter import head_of
from newleaf.storage.classifier_folder import BODY, SCORE, Head, load_classifier, save_classifier
from newleaf.storage.folder_weights import FolderWeights
from newleaf.storage.hub import MODEL_FILES, TOKENIZER_FILES
from newleaf.storage.model_folder import (
    OWN_TYPE,
    find_tokenizer,
    is_classifier,
    parse_config,
    read_config,
    read_defaults,
    save_folder,
    warn_unknown_fields,
)
from newleaf.storage.pretrained_note import Note, note_of
from newleaf.storage.resolve_model import is_gguf, resolve_model
from newleaf.text.tokenizer import Tokenizer
from newleaf.version import VERSION

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GGUF_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
Progress = Callable[[int, int], None]  # tensors read, and of how many


@dataclass(frozen=True)
class Source:
    """A model to be written elsewhere: `weights` have newleaf's names and may be read only when asked for. Of
    a classifier `labels` is its head with what that means, and `pretrained` how it was made, where that is
    noted."""

    family: str
    config: GPTConfig
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer | None
    defaults: dict[str, Any]
    labels: tuple[Head, Tensor] | None = None
    pretrained: Note = field(default_factory=dict)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    dtype: str | None = None,
    type: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    merge: bool = False,
    adapter: str | Path | None = None,
) -> str | None:
    """Write the model `source` as `target`: a GGUF file when its name ends in .gguf, else a Hugging Face
    folder, whole or not at all.

    `dtype` (fp32, bf16 or fp16) is for folders, `type` (see `save_gguf`) for GGUF files; unless given,
    weights keep the type they have. With `merge`, `source` is an adapter, or the base of `adapter`, and what
    is written is the base with the adapter in its weights. A folder's weights are read one tensor at a time,
    and a shard of at most 5 GB is held while it is written; a GGUF file is opened whole. Returns None, or a
    sentence about what will open the result. Raises InputError before anything is written.
    """
    _check_target(Path(target), Path(source), dtype, type, overwrite)
    opened = (
        _open_merged(source, adapter, DTYPES[dtype] if dtype else None)
        if merge or adapter
        else _open_unmerged(source)
    )
    if progress is not None:
        opened = replace(opened, weights=_ProgressWeights(opened.weights, progress))
    wanted = DTYPES[dtype] if dtype else None
    if opened.labels is not None:
        head, score = opened.labels
        if is_gguf(target):
            raise InputError(
                f"{target}: {source} gives labels, and GGUF has no layout for a classifier's head; name a "
                f"folder"
            )
        whole = {BODY + name: opened.weights[name] for name in opened.weights} | {SCORE: score}
        return save_classifier(
            Path(target), opened.config, whole, opened.tokenizer, head, VERSION, wanted, opened.pretrained
        )
    if not is_gguf(target):
        notes = {"version": VERSION, **opened.pretrained}
        return save_folder(
            Path(target),
            opened.config,
            opened.weights,
            opened.tokenizer,
            notes,
            dtype=wanted,
            defaults=opened.defaults,
        )
    from newleaf.storage.save_gguf import save_gguf

    kept = GGUF_TYPES.get(opened.weights["embedding.token.weight"].dtype, "F32")
    return save_gguf(target, opened.config, opened.weights, opened.tokenizer, type or kept, opened.pretrained)


def open_source(path: Path) -> Source:
    """A model folder or GGUF file, ready to be written elsewhere."""
    if is_gguf(path):
        from newleaf.storage.load_gguf import load_gguf

        found = load_gguf(path)
        return Source(
            found.family,
            found.network.config,
            PlainWeights(found.network),
            found.own_tokenizer,
            found.defaults,
            None,
            found.pretrained,
        )
    values = read_config(path)
    if is_classifier(values):
        labelled = load_classifier(path)
        body, score = labelled.network.body, labelled.network.score.weight.detach()
        return Source(
            labelled.family,
            body.config,
            PlainWeights(body),
            labelled.tokenizer,
            {},
            (labelled.head, score),
            labelled.pretrained,
        )
    config, family = parse_config(values, path)
    warn_unknown_fields(values, family, path)
    weights, tokenizer = FolderWeights(path, config, family), find_tokenizer(path)
    if tokenizer is not None:
        tokenizer = tokenizer.fit_vocabulary(config.vocab_size, path)
    name = family.name if family else OWN_TYPE
    return Source(
        name, weights.config, weights, tokenizer, read_defaults(path, values), None, note_of(values)
    )


def _open_unmerged(source: str | Path) -> Source:
    if means_adapter(source):
        raise InputError(f"{source}: is an adapter; --merge writes its base with the adapter in the weights")
    return open_source(resolve_model(source, (*MODEL_FILES, *TOKENIZER_FILES)))


def _open_merged(source: str | Path, adapter: str | Path | None, dtype: torch.dtype | None) -> Source:
    """A base with an adapter in its weights; its tokenizer is the adapter's where that has one."""
    if adapter is None and Path(source).exists() and not means_adapter(source):
        raise InputError(
            f"{source}: merge is for adapters, and this is none; give the adapter beside its base"
        )
    found, base = adapter_folder(source if adapter is None else adapter), source
    if adapter is None:
        base = base_of(found)
    opened = open_source(resolve_model(base, (*MODEL_FILES, *TOKENIZER_FILES)))
    trained = read_adapter(found, opened.config, opened.family, opened.weights.__getitem__)
    if opened.labels is not None and trained.score is None:
        raise InputError(f"{found}: is the adapter of a language model, and its base here gives labels")
    tokenizer = adapter_tokenizer(found, opened.config) or opened.tokenizer
    labels = None if trained.score is None else (head_of(found, trained), trained.score)
    weights = MergedWeights(opened.weights, trained.parts, dtype, trained.whole)
    return replace(
        opened, config=trained.over(opened.config), weights=weights, tokenizer=tokenizer, labels=labels
    )


def _check_target(target: Path, source: Path, dtype: str | None, type: str | None, overwrite: bool) -> None:
    if is_gguf(target) and dtype is not None:
        raise InputError(
            f"dtype: {dtype} is for folders, and {target} is a GGUF file; give type (F32, F16, BF16, Q8_0, "
            f"Q4_0, MXFP4)"
        )
    if not is_gguf(target) and type is not None:
        raise InputError(
            f"type: {type} is for GGUF files, and {target} does not end in .gguf; give dtype (fp32, bf16, "
            f"fp16)"
        )
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    if not target.exists():
        return
    if source.exists() and source.resolve() == target.resolve():
        raise InputError(f"{target}: is the model that is to be converted; choose another name")
    if is_gguf(target) != target.is_file():
        raise InputError(
            f"{target}: exists and is a {'file' if target.is_file() else 'folder'}, so it is not replaced; "
            f"choose another name"
        )
    if target.is_dir() and not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{target}: exists; --overwrite replaces it")
    if target.is_dir() and not (target / "config.json").exists():
        raise InputError(
            f"{target}: exists and is not a model folder, so it is not replaced; choose another name"
        )


class _ProgressWeights(Mapping[str, Tensor]):
    """Weights that tell how many of them have been read."""

    def __init__(self, weights: Mapping[str, Tensor], progress: Progress) -> None:
        self.weights, self.progress = weights, progress
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        self.progress(len(self.read), len(self.weights))
        return self.weights[name]

    def __contains__(self, name: object) -> bool:
        return name in self.weights

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)
