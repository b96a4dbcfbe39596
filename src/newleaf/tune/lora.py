"""Tuning an adapter in the place of the weights: a course around any task's course, over a base that stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from newleaf.adapters.adapter import Adapter, MergedWeights, attach, bare, lay_out, parameters_of, parts_of
from newleaf.adapters.begin import new_adapter
from newleaf.model import GPT
from newleaf.quant.layers import PlainWeights
from newleaf.storage.adapter_folder import is_adapter, read_parts, rules_of, save_adapter
from newleaf.storage.files import write_tensors
from newleaf.storage.folder import read_config, save_folder
from newleaf.storage.locate import is_gguf
from newleaf.train.course import Course
from newleaf.tune.base import Base
from newleaf.tune.config import TuneConfig
from newleaf.version import VERSION

# What adapters want otherwise than whole networks: a larger rate, and nothing that pulls B · A towards zero.
DEFAULTS: dict[str, Any] = {"optimizer": {"kind": "adamw", "learning_rate": 2e-4, "weight_decay": 0.0}}
TRAINED = "trained.safetensors"  # beside a merged model: what was trained, as it was before it was merged
EXPORTED = "base"  # in a run's folder: the base as stock peft opens it, where it came from a GGUF file


class AdapterCourse:
    """A task's course with an adapter over the base: what it does not say is the course's own.

    Of a plain network the adapter itself is what the run makes; of one with a part of its own beside it, such as a classifier's head, the
    model with the adapter merged.
    """

    def __init__(self, course: Course, base: Base, config: TuneConfig) -> None:
        assert config.lora is not None
        self.course, self.base, self.lora, self.precision = course, base, config.lora, config.train.precision
        self.seed = config.train.seed
        self.adapter: Adapter | None = None
        self.inside = ""  # where in the network the GPT is

    def __getattr__(self, name: str) -> Any:
        return getattr(self.course, name)

    @property
    def product(self) -> Literal["model", "adapter"]:
        return "model" if self.inside else "adapter"

    @property
    def flops_per_token(self) -> float:
        return self.course.flops_per_token * 2 / 3  # frozen weights have no gradients

    def build(self) -> nn.Module:
        network = self.course.build()
        self.inside, gpt = next((path, part) for path, part in network.named_modules() if isinstance(part, GPT))
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        gpt.to(dtype)
        torch.manual_seed(self.seed)
        where = str(Path(self.base.name).absolute()) if Path(self.base.name).exists() else self.base.name
        self.adapter = new_adapter(gpt, self.lora, rules_of(gpt.config, self.base.family), where)
        attach(gpt, self.adapter)
        lay_out(gpt)
        return network

    def save(self, path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        assert self.adapter is not None
        gpt = cast(GPT, network.get_submodule(self.inside))
        dot = f"{self.inside}." if self.inside else ""
        own = {name.removeprefix(dot): weight for name, weight in weights.items() if name.startswith(dot)}
        parts = parts_of(gpt, own)
        if self.inside:
            merged = MergedWeights(PlainWeights(bare(gpt)), parts)
            whole = {dot + name: merged[name] for name in merged}
            self.course.save(path, network, weights | whole if isinstance(weights, dict) else dict(weights) | whole)
            write_tensors(path / TRAINED, weights)
            return
        about = dict(self.adapter.about)
        if is_gguf(self.base.name):
            about["base_model_name_or_path"] = str(self._export(path.parent / EXPORTED, gpt).absolute())
        made = Adapter(parts, about, self.adapter.base)
        save_adapter(path, made, gpt.config, self.base.family, self.base.tokenizer)

    def read_back(self, path: Path) -> Mapping[str, Tensor]:
        if is_adapter(path):
            return parameters_of(read_parts(path, self.base.config, self.base.family))
        from safetensors.torch import load_file

        return load_file(path / TRAINED)

    def _export(self, folder: Path, gpt: GPT) -> Path:
        """The base as a folder, which stock peft needs; one that a run before this has written stays."""
        if folder.exists() and (read_config(folder).get("newleaf") or {}).get("base") == self.base.fingerprint:
            return folder
        dtype = torch.float32 if self.precision == "fp32" else torch.bfloat16
        notes = {"version": VERSION, "base": self.base.fingerprint}
        base = self.base
        save_folder(folder, gpt.config, PlainWeights(bare(gpt)), base.tokenizer, notes, dtype=dtype, defaults=base.defaults)
        return folder

    def facts(self, network: nn.Module) -> dict[str, Any]:
        trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
        return {**self.course.facts(network), "trained_parameters": trained}


def with_adapter(course: Course, base: Base, config: TuneConfig) -> Course:
    """The course as it is, or with an adapter where the recipe wants one."""
    return cast(Course, AdapterCourse(course, base, config)) if config.lora is not None else course
