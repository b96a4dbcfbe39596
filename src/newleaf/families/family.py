"""What a family is: how its Hugging Face configuration and weights read as a GPTConfig and newleaf's names,
and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from newleaf.errors import InputError
from newleaf.families.bookkeeping import BOOKKEEPING, REFUSED
from newleaf.families.rope import is_plain, is_yarn, take_yarn
from newleaf.families.weights import Rule
from newleaf.model import ConfigError, GPTConfig
from newleaf.model.gpt_config import MOST_LAYERS

# Fields of GPTConfig that change nothing about a trained network's answers, and that few Hugging Face
# configurations have.
TRAINING_FIELDS = ("init", "init_std", "embedding_dropout", "attention_dropout", "residual_dropout")

YARN_SCALES = ("attention_factor", "mscale", "mscale_all_dim")


def name_of(value: str, choices: dict[str, str]) -> str:
    """Hugging Face's first name for one of our choices. A choice it lacks becomes its first, and the round
    trip shows the difference."""
    return next((theirs for theirs, ours in choices.items() if ours == value), next(iter(choices)))


class Fields:
    """A config.json read field by field. What nobody read is `unknown`: it is named, and ignored as stock
    transformers does, unless it is one of those that change the network.

    `aliases` are other names that stock transformers takes for a family's fields; they go before the fields'
    own names, as there.
    """

    def __init__(self, values: dict[str, Any], family: str, aliases: Mapping[str, str] | None = None) -> None:
        renamed = {
            own: values[alias] for alias, own in (aliases or {}).items() if values.get(alias) is not None
        }
        self.values = values | renamed
        self.family = family
        self.read: set[str] = set(aliases or {})

    def take(self, name: str, default: Any = None) -> Any:
        """The field's value, or `default` where it is absent or null."""
        self.read.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def given(self, name: str, default: Any) -> Any:
        """The field's value, which may be null, or `default` where it is absent."""
        self.read.add(name)
        return self.values.get(name, default)

    def need(self, name: str) -> Any:
        if self.values.get(name) is None:
            raise InputError(f"config.json lacks {name}, which {self.family} needs")
        return self.take(name)

    def layers(self, name: str) -> int:
        """The number of layers, which lists are made of."""
        found = self.need(name)
        if type(found) is not int or not 1 <= found <= MOST_LAYERS:
            raise InputError(
                f"config.json has {name} = {str(found)[:40]}; newleaf reads networks of 1 to "
                f"{MOST_LAYERS:,} layers"
            )
        return found

    def only(self, name: str, value: Any) -> None:
        """This field must have this value, or be absent."""
        found = self.take(name, value)
        if found != value:
            raise InputError(
                f"config.json has {name} = {_shown(found)}; newleaf's {self.family} knows only {value!r}"
            )

    def choose(self, name: str, choices: dict[str, Any], default: str) -> Any:
        found = self.take(name, default)
        if not isinstance(found, str) or found not in choices:
            raise InputError(
                f"config.json has {name} = {_shown(found)}; newleaf's {self.family} knows "
                f"{', '.join(choices)}"
            )
        return choices[found]

    def rope(
        self,
        default: Mapping[str, Any] | None = None,
        base: float = 10_000.0,
        older_base: str = "rope_theta",
        share: str | None = None,
    ) -> dict[str, Any]:
        """Rotary positions, plain or YaRN: `base`, the `share` of each head that turns if the field of that
        name or rope_parameters says it, and the fields of GPTConfig that are YaRN's, under `yarn`. `default`
        and `base` hold where nothing is said.

        rope_scaling goes before rope_parameters, and what stands in either before fields of its own, as in
        stock transformers.
        """
        parameters, older = self.take("rope_parameters"), self.take("rope_scaling")
        name, values = ("rope_scaling", older) if older else ("rope_parameters", parameters)
        if values and (
            not isinstance(values, dict) or any(isinstance(value, dict) for value in values.values())
        ):
            raise InputError(
                f"config.json has {name} = {_shown(values)}; newleaf's {self.family} reads one object for "
                f"all layers there"
            )
        values = {field: value for field, value in (values or default or {}).items() if value is not None}
        outer = self.take(older_base, base)
        found: dict[str, Any] = {"base": float(values.pop("rope_theta", outer)), "yarn": {}}
        part = values.pop("partial_rotary_factor", self.take(share) if share else None)
        if is_yarn(values):
            # as Phi's folders say it
            if (trained := self.take("original_max_position_embeddings")) is not None:
                values["original_max_position_embeddings"] = trained
            found["yarn"] = take_yarn(values, self.need("max_position_embeddings"))
            scales = [scale for scale in YARN_SCALES if values.get(scale)]
            if scales or (part not in (None, 1.0) and not share):
                left = scales[0] if scales else "partial_rotary_factor"
                raise InputError(
                    f"config.json has {left} in {name}, which newleaf's {self.family} does not honour"
                )
        elif not is_plain(values):
            raise InputError(
                f"config.json has {name} = {_shown(values)}; newleaf's {self.family} knows plain rotary "
                f"positions and yarn"
            )
        return found | ({"share": float(part)} if part is not None and share else {})

    @property
    def unknown(self) -> list[str]:
        """Fields that nobody read, that are no bookkeeping and that say something.

        Raises InputError for one that would make another network of it.
        """
        left = [
            name for name, value in self.values.items()
            if not (name in self.read or name in BOOKKEEPING or name.startswith("_") or value in (None, False, {}, [], ""))
        ]  # fmt: skip
        for name in left:
            if name in REFUSED:
                raise InputError(
                    f"config.json has {name} = {_shown(self.values[name])}, {REFUSED[name]}; newleaf's "
                    f"{self.family} does not honour it"
                )
        return left


def _shown(value: Any) -> str:
    """A value as it stands in an error, cut."""
    found = repr(value)
    return found if len(found) <= 80 else found[:77] + "..."


@dataclass(frozen=True)
class OnPaper:
    """A published size of which no network can be built, and `why`. `counts_as` has as many weights; `n_head`
    is what was published."""

    counts_as: GPTConfig
    n_head: int
    why: str


@dataclass(frozen=True)
class Family:
    """One member of the line. `from_hf` and `to_hf` translate configurations, `rules` gives the weight map of
    one network."""

    name: str
    model_type: str
    architecture: str
    from_hf: Callable[[Fields], GPTConfig]
    to_hf: Callable[[GPTConfig], dict[str, Any]]
    rules: Callable[[GPTConfig], list[Rule]]
    sizes: dict[str, GPTConfig] = field(default_factory=dict)
    stores_positions: bool = False  # fixed sinusoids can be written as its learned position table
    # its Hugging Face class is another family's, so config.json says its name under `newleaf`
    shares_class: bool = False
    on_paper: dict[str, OnPaper] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)  # stock transformers' other names for its fields

    def read_config(self, values: dict[str, Any]) -> GPTConfig:
        """A config.json's GPTConfig. Raises InputError naming a field that changes the network and that
        newleaf does not honour."""
        return self._read(values)[0]

    def unknown_fields(self, values: dict[str, Any]) -> list[str]:
        """Names of a config.json's fields that newleaf does not know, and ignores. Raises InputError as
        `read_config` does."""
        return self._read(values)[1]

    def _read(self, values: dict[str, Any]) -> tuple[GPTConfig, list[str]]:
        fields = Fields(values, self.name, self.aliases)
        config, unknown = self.from_hf(fields), fields.unknown
        extra = (values.get("newleaf") or {}).get("config") or {}
        return (config.replace(**extra) if extra else config), unknown

    def write_config(self, config: GPTConfig) -> dict[str, Any]:
        """The config.json of a network this family holds; what Hugging Face has no field for goes under
        `newleaf`."""
        values = {"architectures": [self.architecture], "model_type": self.model_type} | self.to_hf(config)
        back = self.from_hf(Fields(values, self.name)).to_dict()
        extra = {name: value for name, value in config.to_dict().items() if back[name] != value}
        notes = ({"family": self.name} if self.shares_class else {}) | ({"config": extra} if extra else {})
        return values | ({"newleaf": notes} if notes else {})

    def cannot_hold(self, config: GPTConfig) -> dict[str, Any]:
        """Fields that would come back different from a folder of this family, with the values it would need;
        empty if it fits."""
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
