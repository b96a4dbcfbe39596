"""Weights to safetensors, whole or in shards, one shard in memory at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from torch import Tensor

from newleaf.errors import InputError
from newleaf.families.weights import Rule, to_hugging_face
from newleaf.storage.atomic_write import write_text
from newleaf.storage.number_range import check_finite, check_range
from newleaf.storage.safetensors_file import write_safetensors
from newleaf.storage.weight_files import WEIGHT_FILES, index_name

DTYPE_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16"}
MAX_SHARD_SIZE = "5GB"


@dataclass(frozen=True)
class StateDictExport:
    """Hugging Face's tensors of a network, each made when it is written. `weights` have newleaf's names;
    `dtype` is the one they are written in, None for the one each has. A scale that rounds makes all of them
    fp32 (see `Rule`)."""

    rules: Sequence[Rule]
    weights: Mapping[str, Tensor]
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if any(rule.rounds for rule in self.rules):
            if self.dtype not in (None, torch.float32):
                raise InputError(
                    "dtype: this layout folds a scale into its weights that rounds, so its folders are "
                    "fp32; choose fp32"
                )
            object.__setattr__(self, "dtype", torch.float32)

    @property
    def written_as(self) -> torch.dtype:
        """The type of the first tensor, which config.json says."""
        if self.dtype is not None:
            return self.dtype
        return self.weights[next(name for rule in self.rules for name in rule.ours)].dtype

    def make(self, rule: Rule) -> Tensor:
        """One tensor, as it is to be stored."""
        made = to_hugging_face([rule], {name: self.weights[name] for name in rule.ours})[rule.theirs]
        if self.dtype is None or not made.is_floating_point() or made.dtype == self.dtype:
            check_finite(rule.theirs, made)
            return made
        check_range(f"dtype: {rule.theirs}", made, DTYPE_NAMES.get(self.dtype, ""))
        return made.to(self.dtype)

    def write(self, folder: Path, shapes: Mapping[str, torch.Size]) -> None:
        """Write model.safetensors, or shards and their index. `shapes` are the network's own."""
        rules = {rule.theirs: rule for rule in self.rules}
        counts = {
            rule.theirs: rule.derived().numel() if rule.derived else _count(rule, shapes)
            for rule in self.rules
        }
        width = self.written_as.itemsize
        split = split_state_dict_into_shards_factory(
            counts,
            get_storage_size=lambda count: count * width,
            filename_pattern=WEIGHT_FILES[0].replace(".", "{suffix}."),
            max_shard_size=MAX_SHARD_SIZE,
        )
        total = 0
        for name, keys in split.filename_to_tensors.items():
            total += self._write_shard(folder / name, [rules[key] for key in keys])
        if split.is_sharded:
            index = {"metadata": {"total_size": total}, "weight_map": split.tensor_to_filename}
            write_text(folder / index_name(WEIGHT_FILES[0]), json.dumps(index, indent=2) + "\n")

    def _write_shard(self, path: Path, rules: Sequence[Rule]) -> int:
        """Write one file and let go of it; returns the bytes of its tensors."""
        shard = {rule.theirs: self.make(rule) for rule in rules}
        write_safetensors(path, shard)
        return sum(tensor.nbytes for tensor in shard.values())


def _count(rule: Rule, shapes: Mapping[str, torch.Size]) -> int:
    return sum(math.prod(shapes[name]) for name in rule.ours)
