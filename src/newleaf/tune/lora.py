"""Tuning an adapter in the place of the weights: an objective around any task's objective, over a base that
stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from newleaf.adapters.adapter import Adapter, attach, bare, lay_out, parameters_of, parts_of
from newleaf.adapters.init_adapter import new_adapter
from newleaf.model import GPT
from newleaf.model.classifier import Classifier
from newleaf.quant.packed_layers import PlainWeights
from newleaf.storage.adapter_folder import read_unchecked, rules_of, save_adapter
from newleaf.storage.classifier_adapter import save_classifier_adapter
from newleaf.storage.classifier_folder import BODY, SCORE
from newleaf.storage.model_folder import read_config, save_folder
from newleaf.storage.resolve_model import is_gguf, resolve_model
from newleaf.train.objective.objective import Objective
from newleaf.tune.base_model import Base
from newleaf.tune.labels.label_objective import LabelObjective
from newleaf.tune.pretraining_record import notes as origin_notes
from newleaf.tune.tune_config import TuneConfig
from newleaf.version import VERSION

EXPORTED = "base"  # in a run's folder: the base as stock peft opens it, where it came from a GGUF file


class AdapterObjective:
    """A task's objective with an adapter over the base: what it does not say is the objective's own.

    The adapter is what the run makes, with a classifier's head beside it.
    """

    product: Literal["model", "adapter"] = "adapter"

    def __init__(self, objective: Objective, base: Base, config: TuneConfig) -> None:
        assert config.lora is not None
        self.objective, self.base, self.lora, self.precision = (
            objective,
            base,
            config.lora,
            config.train.precision,
        )
        self.seed = config.train.seed
        self.adapter: Adapter | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)

    @property
    def flops_per_token(self) -> float:
        return self.objective.flops_per_token * 2 / 3  # frozen weights have no gradients

    def build(self) -> nn.Module:
        network = self.objective.build()
        gpt = _gpt(network)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        gpt.to(dtype)
        torch.manual_seed(self.seed)
        where = (
            str(resolve_model(self.base.name, ()).absolute())
            if Path(self.base.name).exists()
            else self.base.name
        )
        self.adapter = new_adapter(gpt, self.lora, rules_of(gpt.config, self.base.family), where)
        attach(gpt, self.adapter)
        lay_out(gpt)
        return network

    def save(self, path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        assert self.adapter is not None
        gpt, base = _gpt(network), self.base
        own = {name.removeprefix(BODY): weight for name, weight in weights.items()}
        about = dict(self.adapter.about)
        if is_gguf(self.base.name):
            about["base_model_name_or_path"] = str(self._export(path.parent / EXPORTED, gpt).absolute())
        made = Adapter(parts_of(gpt, own), about, self.adapter.base, weights.get(SCORE))
        if isinstance(self.objective, LabelObjective):
            save_classifier_adapter(
                path, made, gpt.config, base.family, self.objective.tokenizer, self.objective.head
            )
        else:
            save_adapter(path, made, gpt.config, base.family, base.tokenizer)

    def read_back(self, path: Path) -> Mapping[str, Tensor]:
        found = read_unchecked(path, self.base.config, self.base.family)
        trained = parameters_of(found.parts)
        return (
            trained
            if found.score is None
            else {BODY + name: value for name, value in trained.items()} | {SCORE: found.score}
        )

    def _export(self, folder: Path, gpt: GPT) -> Path:
        """The base as a folder, which stock peft needs; one that a run before this has written stays."""
        if (
            folder.exists()
            and (read_config(folder).get("newleaf") or {}).get("base") == self.base.fingerprint
        ):
            return folder
        dtype = torch.float32 if self.precision == "fp32" else torch.bfloat16
        notes = {"version": VERSION, "base": self.base.fingerprint, **origin_notes(self.base.origin)}
        base = self.base
        save_folder(
            folder,
            gpt.config,
            PlainWeights(bare(gpt)),
            base.tokenizer,
            notes,
            dtype=dtype,
            defaults=base.defaults,
        )
        return folder

    def facts(self, network: nn.Module) -> dict[str, Any]:
        trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
        return {**self.objective.facts(network), "trained_parameters": trained}


def _gpt(network: nn.Module) -> GPT:
    """The language model that the adapter is on: the network itself, or a classifier's body."""
    return network.body if isinstance(network, Classifier) else cast(GPT, network)


def with_adapter(objective: Objective, base: Base, config: TuneConfig) -> Objective:
    """The objective as it is, or with an adapter where the recipe wants one."""
    return (
        cast(Objective, AdapterObjective(objective, base, config)) if config.lora is not None else objective
    )
