"""The configuration of a GPT: every choice in which GPTs differ, checked when it is built."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

BlockKind = Literal["pre_norm", "post_norm", "parallel"]
NormKind = Literal["layer_norm", "rms_norm"]
PositionKind = Literal["learned", "sinusoidal", "rotary"]
ActivationKind = Literal["gelu", "gelu_tanh", "relu", "silu", "clamped_swiglu"]
InitKind = Literal["normal", "normal_residual_scaled", "fan_in"]

REQUIRED = ("vocab_size", "context_length", "n_layer", "n_head", "n_embd")
MAX_LAYERS = 10_000  # the deepest published network has 1,000; lists of this length are made
POSITIVE = ("norm_eps", "rotary_base", "init_std")


class ConfigError(ValueError):
    """A field has an impossible value; the message starts with the field's name."""


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. Raises `ConfigError` naming the field when a combination is impossible.

    Letters as everywhere in newleaf: V = `vocab_size`, C = `n_embd`, H = `n_head`, K = `n_kv_head`,
    D = `head_dim`, F = `n_inner`. A zero in `n_kv_head`, `head_dim`, `n_inner`, `rotary_dim` or
    `attention_scale` stands for the usual value, given beside it, and is replaced by that.
    """

    vocab_size: int
    context_length: int
    n_layer: int
    n_head: int
    n_embd: int
    n_kv_head: int = 0  # as many as n_head
    head_dim: int = 0  # n_embd / n_head
    n_inner: int = 0  # 4 · n_embd

    block: BlockKind = "pre_norm"
    shared_norm: bool = False  # parallel blocks only: one norm feeds attention and feed-forward (GPT-J)
    norm: NormKind = "layer_norm"
    norm_eps: float = 1e-5
    final_norm: bool = True
    qk_norm: bool = False  # RMS norm over D on every query and key head (Qwen3)

    positions: PositionKind = "learned"
    rotary_base: float = 10_000.0
    rotary_dim: int = 0  # how many of a head's first dimensions turn: head_dim
    rotary_interleaved: bool = False  # pairs are neighbours (GPT-J) and not i and i + rotary_dim / 2
    yarn_factor: float = 0.0  # context length / the trained one (Peng et al. 2023); 0 is without YaRN
    yarn_context: int = 4096  # the trained context length
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0
    yarn_truncate: bool = True  # round the range of dimensions that is interpolated

    attention_scale: float = 0.0  # of the scores: 1 / sqrt(head_dim)
    scale_by_depth: bool = False  # scores of layer i, from 0, are divided by i + 1 (Mistral's GPT-2s)
    fp32_scores: bool = False  # scores and softmax in fp32 whatever the weights are (GPT-Neo, GPT-J)
    sinks: bool = False  # attention sinks: a learned score for each head in its softmax (gpt-oss)
    windows: tuple[int, ...] = ()  # for each layer, how many tokens a query sees, itself included; 0: all

    activation: ActivationKind = "gelu_tanh"
    gated: bool = False  # activation(gate) · up, as in SwiGLU
    swiglu_alpha: float = 1.702  # of clamped_swiglu
    swiglu_limit: float = 7.0
    n_expert: int = 0  # of a mixture of experts; 0 is one feed-forward layer without a router
    n_expert_active: int = 4  # for each token

    attention_bias: bool = True  # on the query, key and value projections
    attention_out_bias: bool = True
    feedforward_bias: bool = True
    head_bias: bool = False
    tie_embeddings: bool = True

    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0

    init: InitKind = "normal_residual_scaled"  # as model/initialize.py says
    init_std: float = 0.02

    def __post_init__(self) -> None:
        self._check_types()
        if self.n_layer > MAX_LAYERS:
            raise ConfigError(f"n_layer: must be at most {MAX_LAYERS:,}, not {self.n_layer}")
        if self.head_dim == 0 and self.n_embd % self.n_head:
            raise ConfigError(
                f"n_head: {self.n_head} heads do not divide n_embd = {self.n_embd}; choose a divisor, or "
                f"set head_dim"
            )
        self._default("n_kv_head", self.n_head)
        self._default("head_dim", self.n_embd // self.n_head)
        self._default("n_inner", 4 * self.n_embd)
        self._default("rotary_dim", self.head_dim)
        self._default("attention_scale", max(1, self.head_dim) ** -0.5)
        if self.n_head % self.n_kv_head:
            raise ConfigError(
                f"n_kv_head: {self.n_kv_head} key/value heads do not divide n_head = {self.n_head}"
            )
        if self.positions == "rotary" and (self.rotary_dim % 2 or self.rotary_dim > self.head_dim):
            name = "head_dim" if self.rotary_dim == self.head_dim else "rotary_dim"
            raise ConfigError(
                f"{name}: rotary positions turn pairs of a head's {self.head_dim} dimensions, not "
                f"{self.rotary_dim}"
            )
        if self.positions == "sinusoidal" and self.n_embd % 2:
            raise ConfigError(
                f"n_embd: sinusoidal positions pair sines with cosines, and {self.n_embd} is odd"
            )
        if self.windows and len(self.windows) != self.n_layer:
            raise ConfigError(
                f"windows: must be one number for each of {self.n_layer} layers, not {len(self.windows)}"
            )
        if self.shared_norm and self.block != "parallel":
            raise ConfigError("shared_norm: only parallel blocks share a norm")
        if self.activation == "clamped_swiglu" and not self.gated:
            raise ConfigError("activation: clamped_swiglu needs gated")
        if self.n_expert and not 1 <= self.n_expert_active <= self.n_expert:
            raise ConfigError(
                f"n_expert_active: must be between 1 and n_expert = {self.n_expert}, not "
                f"{self.n_expert_active}"
            )
        if self.n_expert and not self.gated:
            raise ConfigError("n_expert: experts are gated feed-forward layers; set gated")

    def _default(self, name: str, value: float) -> None:
        if getattr(self, name) == 0:
            object.__setattr__(self, name, value)

    def _check_types(self) -> None:
        """Check each field by itself: its type, and its range."""
        if isinstance(self.windows, list | tuple):
            object.__setattr__(self, "windows", tuple(self.windows))
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            least = 1 if name in REQUIRED else 0
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise ConfigError(f"{name}: {_shown(value)} is not one of {', '.join(get_args(hint))}")
            if hint is bool and not isinstance(value, bool):
                raise ConfigError(f"{name}: must be true or false, not {_shown(value)}")
            if hint is int and not (number and isinstance(value, int) and value >= least):
                raise ConfigError(f"{name}: must be a whole number of at least {least}, not {_shown(value)}")
            if hint is float and not (number and 0 <= value < float("inf")):
                raise ConfigError(f"{name}: must be a number of at least 0, not {_shown(value)}")
            if hint is float and isinstance(value, int):
                object.__setattr__(self, name, value := _as_float(name, value))
            if hint is float and name.endswith("dropout") and value >= 1:
                raise ConfigError(f"{name}: must be at least 0 and below 1, not {_shown(value)}")
            if hint is float and name in POSITIVE and value == 0:
                raise ConfigError(f"{name}: must be above 0")
            if get_origin(hint) is tuple and not (
                isinstance(value, tuple) and all(type(each) is int and each >= 0 for each in value)
            ):
                raise ConfigError(f"{name}: must be whole numbers of at least 0, not {_shown(value)}")

    def scale_of(self, layer: int) -> float:
        """The factor of the attention scores in this layer, counted from 0."""
        return self.attention_scale / (layer + 1) if self.scale_by_depth else self.attention_scale

    def replace(self, **changes: Any) -> GPTConfig:
        """The same configuration with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GPTConfig:
        """The way back from `to_dict`. Raises `ConfigError` for an unknown field, offering the nearest."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ConfigError(f"{name}: no such field" + (f"; did you mean {near[0]}?" if near else ""))
        missing = [
            f.name
            for f in dataclasses.fields(cls)
            if f.default is dataclasses.MISSING and f.name not in values
        ]
        if missing:
            raise ConfigError(f"{missing[0]}: missing")
        return cls(**values)


def _as_float(name: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ConfigError(f"{name}: must be a number below 1e308") from None


def _shown(value: object) -> str:
    """A value as it stands in an error message, cut."""
    try:
        return repr(value)[:80]
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a number of thousands of digits"
