"""What the tasks that learn from conversations have in common as objectives: the network with its template,
how it is saved and recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor, nn

from newleaf.families import family_for
from newleaf.model import GPT
from newleaf.model.count import training_flops
from newleaf.storage.model_folder import load_folder, save_folder
from newleaf.train.objective.optimizer_config import OptimizerConfig
from newleaf.train.objective.train_config import TrainConfig
from newleaf.tune.chat.chat_base_model import ChatBase
from newleaf.tune.pretraining_record import notes
from newleaf.tune.run_recipe import absolute, absolute_recipe
from newleaf.version import VERSION


@dataclass(frozen=True)
class Sizes:
    """What was read: rows (windows or pairs), positions and learned tokens of the training part, rows held
    out."""

    rows: int
    positions: int
    learned: int
    held_out: int


class ChatModelObjective:
    """An objective whose network is a `ChatBase`'s."""

    product: Literal["model", "adapter"] = "model"
    validates_before_training = True

    def __init__(self, config: Any, ready: ChatBase, sizes: Sizes, data: str) -> None:
        """`data` is the fingerprint of what is learned from."""
        self.config, self.ready, self.sizes = config, ready, sizes
        self.row_tokens = sizes.learned / max(1, sizes.rows)
        self.fingerprints: Mapping[str, str] = {
            "data": data, "tokenizer": ready.tokenizer.fingerprint, "template": ready.template_fingerprint,
            "base": ready.base.fingerprint
        }  # fmt: skip

    @property
    def train(self) -> TrainConfig:
        found: TrainConfig = self.config.train
        return found

    @property
    def optimizer(self) -> OptimizerConfig:
        found: OptimizerConfig = self.config.optimizer.whole()
        return found

    @property
    def row_count(self) -> int:
        return self.sizes.rows

    @property
    def row_length(self) -> float:
        return self.sizes.positions / max(1, self.sizes.rows)

    @property
    def flops_per_token(self) -> float:
        """Of a learned token, with the context that is read for it."""
        return (
            training_flops(self.ready.base.config, self.sizes.positions / self.sizes.rows)
            * self.sizes.positions
            / max(1, self.sizes.learned)
        )

    def build(self) -> nn.Module:
        network = self.ready.network()
        network.recompute = self.train.checkpoint_activations
        return network

    def save(self, path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        config, ready = cast(GPT, network).config, self.ready
        save_folder(
            path,
            config,
            weights,
            ready.tokenizer,
            {"version": VERSION, **notes(ready.base.origin)},
            defaults=ready.defaults,
        )

    def read_back(self, path: Path) -> Mapping[str, Tensor]:
        return load_folder(path).network.state_dict()

    def recipe(self) -> dict[str, Any]:
        values = absolute_recipe(self.config)
        for section, name in (("chat", "template"), ("distil", "teacher")):
            if (values.get(section) or {}).get(name) is not None:
                values[section][name] = absolute(values[section][name])
        return values

    def record(self) -> dict[str, Any]:
        sizes = self.sizes
        return {
            "rows": sizes.rows,
            "positions": sizes.positions,
            "learned_tokens": sizes.learned,
            "held_out_rows": sizes.held_out,
        }

    def facts(self, network: nn.Module) -> dict[str, Any]:
        gpt = cast(GPT, network)
        family = family_for(gpt.config)
        return {"parameters": gpt.parameter_count(), "family": family.name if family else "newleaf"}
