"""What a family is: the maps of its Hugging Face configuration and weights, and its published sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from newleaf.families import config_map
from newleaf.families.config_fields import Fields
from newleaf.families.config_map import ConfigMap
from newleaf.families.weights import Rule
from newleaf.model import ConfigError, GPTConfig

# Fields of GPTConfig that change nothing about a trained network's outputs; few config.json have them all.
TRAINING_FIELDS = ("init", "init_std", "embedding_dropout", "attention_dropout", "residual_dropout")


@dataclass(frozen=True)
class OnPaper:
    """A published size of which no network can be built, and `why`.

    `counts_as` has as many weights; `n_head` is what was published.
    """

    counts_as: GPTConfig
    n_head: int
    why: str


@dataclass(frozen=True)
class Family:
    """One member of the line: `config_map` is its config.json, `rules` the weight map of one network."""

    name: str
    model_type: str
    architecture: str
    config_map: ConfigMap
    rules: Callable[[GPTConfig], list[Rule]]
    sizes: dict[str, GPTConfig] = field(default_factory=dict)
    stores_positions: bool = False  # fixed sinusoids can be written as its learned position table
    # its Hugging Face class is another family's, so config.json says its name under `newleaf`
    shares_class: bool = False
    on_paper: dict[str, OnPaper] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)  # stock transformers' other names for its fields

    def from_hf(self, fields: Fields) -> GPTConfig:
        """The network of Hugging Face's fields."""
        return config_map.read(self.config_map, fields)

    def to_hf(self, config: GPTConfig) -> dict[str, Any]:
        """Hugging Face's fields of a network, without those that name the class."""
        return config_map.write(self.config_map, config)

    def read_config(self, values: dict[str, Any]) -> GPTConfig:
        """A config.json's GPTConfig. Raises InputError for an unsupported field that changes the network."""
        return self._read(values)[0]

    def unknown_fields(self, values: dict[str, Any]) -> list[str]:
        """Names of the fields that newleaf ignores as unknown. Raises InputError as `read_config` does."""
        return self._read(values)[1]

    def _read(self, values: dict[str, Any]) -> tuple[GPTConfig, list[str]]:
        fields = Fields(values, self.name, self.aliases)
        config, unknown = self.from_hf(fields), fields.unknown()
        extra = (values.get("newleaf") or {}).get("config") or {}
        return (config.replace(**extra) if extra else config), unknown

    def write_config(self, config: GPTConfig) -> dict[str, Any]:
        """The config.json of a network; what Hugging Face has no field for goes under `newleaf`."""
        values = {"architectures": [self.architecture], "model_type": self.model_type} | self.to_hf(config)
        back = self.from_hf(Fields(values, self.name)).to_dict()
        extra = {name: value for name, value in config.to_dict().items() if back[name] != value}
        notes = ({"family": self.name} if self.shares_class else {}) | ({"config": extra} if extra else {})
        return values | ({"newleaf": notes} if notes else {})

    def cannot_hold(self, config: GPTConfig) -> dict[str, Any]:
        """Fields that would come back different, with the values that this family has; empty if it fits."""
        try:
            back = self.from_hf(Fields(self.to_hf(config), self.name)).to_dict()
        except ConfigError:
            return config.to_dict()  # not even its shape fits
        wrong = {
            name: back[name]
            for name, value in config.to_dict().items()
            if name not in TRAINING_FIELDS and back[name] != value
        }
        if self.stores_positions and config.positions == "sinusoidal" and wrong.get("positions") == "learned":
            del wrong["positions"]
        return wrong
