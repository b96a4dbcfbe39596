"""What a family is: how its Hugging Face configuration and weights read as a GPTConfig and newleaf's names, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from newleaf.errors import InputError
from newleaf.families.rope import is_yarn, take_yarn
from newleaf.families.weights import Rule
from newleaf.model import ConfigError, GPTConfig

# Fields of GPTConfig that change nothing about a trained network's answers, and that few Hugging Face configurations have.
TRAINING_FIELDS = ("init", "init_std", "embedding_dropout", "attention_dropout", "residual_dropout")

# Keys of any config.json that say nothing about the network.
BOOKKEEPING = frozenset((
    "gradient_checkpointing", "is_llama_config", "transformers.js_config", "architectures", "model_type", "transformers_version",
    "newleaf", "dtype", "torch_dtype", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "_name_or_path",
    "task_specific_params", "output_past", "return_dict", "output_hidden_states", "output_attentions", "id2label", "label2id",
    "problem_type", "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder", "summary_type", "summary_use_proj",
    "summary_activation", "summary_proj_to_labels", "summary_first_dropout", "n_special", "predict_special_tokens", "tokenizer_class",
))  # fmt: skip


def name_of(value: str, choices: dict[str, str]) -> str:
    """Hugging Face's first name for one of our choices. A choice it lacks becomes its first, and the round trip shows the difference."""
    return next((theirs for theirs, ours in choices.items() if ours == value), next(iter(choices)))


class Fields:
    """A config.json read field by field, so that what nobody read is refused by name and never ignored."""

    def __init__(self, values: dict[str, Any], family: str) -> None:
        self.values = values
        self.family = family
        self.read: set[str] = set()

    def take(self, name: str, default: Any = None) -> Any:
        """The field's value, or `default` where it is absent or null."""
        self.read.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def need(self, name: str) -> Any:
        if self.values.get(name) is None:
            raise InputError(f"config.json lacks {name}, which {self.family} needs")
        return self.take(name)

    def only(self, name: str, value: Any) -> None:
        """This field must have this value, or be absent."""
        found = self.take(name, value)
        if found != value:
            raise InputError(f"config.json has {name} = {found!r}; newleaf's {self.family} knows only {value!r}")

    def choose(self, name: str, choices: dict[str, Any], default: str) -> Any:
        found = self.take(name, default)
        if found not in choices:
            raise InputError(f"config.json has {name} = {found!r}; newleaf's {self.family} knows {', '.join(choices)}")
        return choices[found]

    def rope(self, default: Mapping[str, Any] | None = None, base: float = 10_000.0) -> dict[str, Any]:
        """Rotary positions, plain or YaRN, as rope_parameters or in older fields: `base`, the `share` of each head that turns if it is
        said, and the fields of GPTConfig that are YaRN's, under `yarn`. `default` and `base` hold where nothing is said."""
        older = self.take("rope_scaling")
        values = dict(self.take("rope_parameters", older if isinstance(older, dict) and is_yarn(older) else default or {}))
        if older is not None and (not isinstance(older, dict) or not is_yarn(values)):
            self.only("rope_scaling", None)
        yarn = take_yarn(values, self.need("max_position_embeddings")) if is_yarn(values) else {}
        if values.pop("rope_type", "default") != "default":
            self.only("rope_parameters", {"rope_type": "default"})
        found = {"base": float(self.take("rope_theta", self.take("rotary_emb_base", values.pop("rope_theta", base)))), "yarn": yarn}
        values.pop("rope_theta", None)
        share = self.take("rotary_pct", values.pop("partial_rotary_factor", None))
        if values:
            raise InputError(f"config.json has {next(iter(values))} in rope_parameters, which newleaf's {self.family} does not honour")
        return found | ({"share": float(share)} if share is not None else {})

    def finish(self) -> None:
        """Raises InputError for a field that was not read and is not mere bookkeeping."""
        left = [
            k for k, v in self.values.items() if not (k in self.read or k in BOOKKEEPING or k.startswith("_") or v in (None, False, {}, []))
        ]
        if left:
            raise InputError(f"config.json has {left[0]} = {self.values[left[0]]!r}, which newleaf's {self.family} does not honour")


@dataclass(frozen=True)
class OnPaper:
    """A published size of which no network can be built, and `why`. `counts_as` has as many weights; `n_head` is what was published."""

    counts_as: GPTConfig
    n_head: int
    why: str


@dataclass(frozen=True)
class Family:
    """One member of the line. `from_hf` and `to_hf` translate configurations, `rules` gives the weight map of one network."""

    name: str
    model_type: str
    architecture: str
    from_hf: Callable[[Fields], GPTConfig]
    to_hf: Callable[[GPTConfig], dict[str, Any]]
    rules: Callable[[GPTConfig], list[Rule]]
    sizes: dict[str, GPTConfig] = field(default_factory=dict)
    stores_positions: bool = False  # fixed sinusoids can be written as its learned position table
    shares_class: bool = False  # its Hugging Face class is another family's, so config.json says its name under `newleaf`
    on_paper: dict[str, OnPaper] = field(default_factory=dict)

    def read_config(self, values: dict[str, Any]) -> GPTConfig:
        """A config.json's GPTConfig. Raises InputError naming a field that newleaf does not honour."""
        fields = Fields(values, self.name)
        config = self.from_hf(fields)
        fields.finish()
        extra = (values.get("newleaf") or {}).get("config") or {}
        return config.replace(**extra) if extra else config

    def write_config(self, config: GPTConfig) -> dict[str, Any]:
        """The config.json of a network this family holds; what Hugging Face has no field for goes under `newleaf`."""
        values = {"architectures": [self.architecture], "model_type": self.model_type} | self.to_hf(config)
        back = self.from_hf(Fields(values, self.name)).to_dict()
        extra = {name: value for name, value in config.to_dict().items() if back[name] != value}
        notes = ({"family": self.name} if self.shares_class else {}) | ({"config": extra} if extra else {})
        return values | ({"newleaf": notes} if notes else {})

    def cannot_hold(self, config: GPTConfig) -> dict[str, Any]:
        """Fields that would come back different from a folder of this family, with the values it would need; empty if it fits."""
        try:
            back = self.from_hf(Fields(self.to_hf(config), self.name)).to_dict()
        except ConfigError:
            return config.to_dict()  # not even its shape fits
        wrong = {name: back[name] for name, value in config.to_dict().items() if name not in TRAINING_FIELDS and back[name] != value}
        if self.stores_positions and config.positions == "sinusoidal" and wrong.get("positions") == "learned":
            del wrong["positions"]
        return wrong
