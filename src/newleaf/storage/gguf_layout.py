"""The networks that GGUF holds as llama.cpp runs them: metadata keys and tensor names of each layout, in both
directions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from newleaf.errors import InputError
from newleaf.families.family import TRAINING_FIELDS
from newleaf.families.gpt2 import position_rule
from newleaf.families.weights import Rule, per_layer
from newleaf.model import ConfigError, GPTConfig
from newleaf.storage import gguf_rope

# GGUF's names of a layer's parts, and of what stands around the layers.
LAYER_TENSORS = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.q",
    "attn_k": "attention.k",
    "attn_v": "attention.v",
    "attn_q_norm": "attention.q_norm",
    "attn_k_norm": "attention.k_norm",
    "attn_output": "attention.out",
    "ffn_norm": "feedforward_norm",
    "ffn_gate": "feedforward.gate",
    "ffn_up": "feedforward.up",
    "ffn_down": "feedforward.down",
    "ffn_gate_inp": "feedforward.router",
}
# Those that newleaf keeps without `.weight` and `.bias`: sinks, and a stack of all experts.
UNSUFFIXED_TENSORS = {
    "attn_sinks.weight": "attention.sinks",
    "ffn_gate_exps.weight": "feedforward.gate",
    "ffn_gate_exps.bias": "feedforward.gate_bias",
    "ffn_up_exps.weight": "feedforward.up",
    "ffn_up_exps.bias": "feedforward.up_bias",
    "ffn_down_exps.weight": "feedforward.down",
    "ffn_down_exps.bias": "feedforward.down_bias",
}
MODEL_TENSORS = {"token_embd": "embedding.token", "output_norm": "final_norm", "output": "head"}
SIZE_KEYS = {
    "context_length": "context_length",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
}
LAYER_NORM = {"attention.layer_norm_epsilon": "norm_eps"}
ROTARY = {"rope.dimension_count": "rotary_dim", "rope.freq_base": "rotary_base"}
GROUPED_QUERIES = {
    "attention.layer_norm_rms_epsilon": "norm_eps",
    "attention.head_count_kv": "n_kv_head",
    "attention.key_length": "head_dim",
}
EXPERTS = {
    "expert_count": "n_expert",
    "expert_used_count": "n_expert_active",
    "expert_feed_forward_length": "n_inner",
}
GPT_OSS = {
    "norm": "rms_norm",
    "positions": "rotary",
    "sinks": True,
    "activation": "clamped_swiglu",
    "gated": True,
    "init": "normal",
}
SWIGLU = {
    "norm": "rms_norm",
    "positions": "rotary",
    "activation": "silu",
    "gated": True,
    "attention_bias": False,
    "attention_out_bias": False,
    "feedforward_bias": False,
    "init": "normal",
}
# What is left out of a file where llama.cpp has a default, and what says nothing about the network.
OPTIONAL = {"n_kv_head", "head_dim", "rotary_dim", "rotary_base"}
IGNORED = {"vocab_size", "attention.value_length", "tensor_data_layout", "use_parallel_residual"}


@dataclass(frozen=True)
class Layout:
    """One of llama.cpp's graphs. `keys` are metadata keys and the fields of GPTConfig they hold, `fixed` the
    fields that the graph implies, `implied_by_tensors` those that the presence of a tensor shows, and
    `approximated` values that are written as the fixed one and noted for newleaf."""

    name: str
    family: str
    fixed: dict[str, Any]
    keys: dict[str, str]
    implied_by_tensors: tuple[str, ...] = ("tie_embeddings",)
    approximated: dict[str, Any] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)  # parts of a layer that go by another name here
    fused_qkv: bool = False  # q, k and v in one tensor
    interleaved_rope: bool = False  # rows of q and k stand so that rotary pairs are neighbours
    always_has_head: bool = False
    alternating_windows: bool = False  # every other layer, from the first on, sees a window

    def read(self, metadata: Mapping[str, Any], names: Collection[str], vocab_size: int) -> GPTConfig:
        """The network of these metadata and of tensors with these names. Raises InputError for what is
        missing or not honoured."""
        values = {
            key.removeprefix(f"{self.name}."): value
            for key, value in metadata.items()
            if key.startswith(f"{self.name}.")
        }
        found = dict(self.fixed) | {"vocab_size": vocab_size}
        for key, name in self.keys.items():
            if key in values:
                found[name] = _check_type(key, values[key], name)
            elif name not in OPTIONAL:
                raise InputError(f"metadata {self.name}.{key} is missing")
        if self.name == "gptneox":
            found["block"] = "parallel" if values.get("use_parallel_residual", True) else "pre_norm"
        implied_by_tensors = {
            "tie_embeddings": "output.weight" not in names,
            "attention_bias": "blk.0.attn_q.bias" in names,
            "attention_out_bias": "blk.0.attn_output.bias" in names,
        }
        found |= {name: implied_by_tensors[name] for name in self.implied_by_tensors}
        if "rope.freq_base" in self.keys:
            found |= gguf_rope.read_rope(values, self.name, found["context_length"])
        if found.get("n_expert") == 0:
            raise InputError(f"metadata {self.name}.expert_count is 0")
        if self.alternating_windows:
            found["windows"] = self._windows(values.get("attention.sliding_window"), found["n_layer"])
        for key, value in values.items():
            if key not in self._known and value and value != "none":
                raise InputError(
                    f"metadata {self.name}.{key} = {str(value)[:60]} is not honoured by newleaf's {self.name}"
                )
        for name, value in self.approximated.items():
            if metadata.get(f"newleaf.{name}") == value:
                found[name] = value
        try:
            config = GPTConfig(**found)
        except ConfigError as error:
            raise InputError(f"its metadata describe no network ({error})") from None
        if "attention.key_length" in self.keys and config.rotary_dim != config.head_dim:
            raise InputError(
                f"metadata {self.name}.rope.dimension_count is {config.rotary_dim}, and heads have "
                f"{config.head_dim} dimensions"
            )
        return config

    def write(self, config: GPTConfig) -> dict[str, Any]:
        """The metadata of a network, with what newleaf alone reads back under `newleaf.`."""
        values = {key: getattr(config, name) for key, name in self.keys.items()}
        if "attention.key_length" in values:
            values |= {"attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim}
        if self.name == "gptneox":
            values["use_parallel_residual"] = config.block == "parallel"
        if "rope.freq_base" in values:
            values |= gguf_rope.write_rope(config)
        if "expert_count" in values:
            values["expert_count"] = config.n_expert or max(1, config.n_expert_active)
        if self.alternating_windows:
            # a window of 0 would hide everything
            values["attention.sliding_window"] = max(config.windows, default=0) or 1
        own = {
            f"newleaf.{name}": value
            for name, value in self.approximated.items()
            if getattr(config, name) == value
        }
        return {f"{self.name}.{key}": value for key, value in values.items()} | own

    @property
    def _known(self) -> set[str]:
        known = IGNORED | self.keys.keys()
        known |= gguf_rope.KEYS if "rope.freq_base" in self.keys else set()
        return known | (
            {"attention.sliding_window", "feed_forward_length"} if self.alternating_windows else set()
        )

    def _windows(self, window: Any, n_layer: int) -> tuple[int, ...]:
        if type(window) is not int or window < 1:
            raise InputError(
                f"metadata {self.name}.attention.sliding_window is {str(window)[:60]}, and not a number of "
                f"tokens"
            )
        return tuple(0 if i % 2 else window for i in range(n_layer))

    def unrepresentable_fields(self, config: GPTConfig) -> dict[str, Any]:
        """Fields that would come back different from a file of this layout, with the values it would need;
        empty if it fits."""
        try:
            back = self.read(self.write(config), (), config.vocab_size).to_dict()
        except InputError:
            return {"head_dim": "n_embd / n_head"} | self._differing_kinds(config)
        back |= {name: getattr(config, name) for name in self.implied_by_tensors}
        return {
            name: back[name]
            for name, value in config.to_dict().items()
            if name not in TRAINING_FIELDS and back[name] != value
        }

    def _differing_kinds(self, config: GPTConfig) -> dict[str, Any]:
        """Fields without a key, so that a network whose sizes already do not fit is not taken for a near
        one."""
        free = {*self.keys.values(), *self.implied_by_tensors, *self.approximated, *TRAINING_FIELDS, "block"}
        kinds = {f.name: self.fixed.get(f.name, f.default) for f in fields(GPTConfig) if f.name not in free}
        return {
            name: kind
            for name, kind in kinds.items()
            if isinstance(kind, bool | str) and getattr(config, name) != kind
        }

    def rules(self, config: GPTConfig, shapes: Mapping[str, Any]) -> list[Rule]:
        """The file's tensors and newleaf's; `shapes` are the network's own."""

        def there(prefix: str, ours: str) -> bool:
            return f"{prefix}{ours}" in shapes

        outer, layer = [], []
        for theirs, name in MODEL_TENSORS.items():
            if not (theirs == "output" and config.tie_embeddings):
                outer += [
                    Rule(f"{theirs}.{part}", (f"{name}.{part}",))
                    for part in ("weight", "bias")
                    if there(f"{name}.", part)
                ]
        if config.positions != "rotary":
            outer.append(position_rule(config, "position_embd.weight"))
        fused_qkv = tuple(LAYER_TENSORS[f"attn_{x}"] for x in "qkv") if self.fused_qkv else ()
        for part in ("weight", "bias"):
            if fused_qkv:
                layer.append(
                    Rule(
                        f"blk.{{i}}.attn_qkv.{part}",
                        tuple(f"blocks.{{i}}.{name}.{part}" for name in fused_qkv),
                    )
                )
            layer += [
                Rule(f"blk.{{i}}.{self.renamed.get(theirs, theirs)}.{part}", (f"blocks.{{i}}.{name}.{part}",))
                for theirs, name in LAYER_TENSORS.items()
                if name not in fused_qkv and there("blocks.0.", f"{name}.{part}")
            ]
        whole = {theirs: name for theirs, name in UNSUFFIXED_TENSORS.items() if there("blocks.0.", name)}
        layer += [Rule(f"blk.{{i}}.{theirs}", (f"blocks.{{i}}.{name}",)) for theirs, name in whole.items()]
        return outer + per_layer(config, layer)

    def permute_rotary_rows(self, name: str, tensor: Tensor, config: GPTConfig, reading: bool) -> Tensor:
        """Rows of q and k as rotary halves (newleaf's) from neighbouring pairs (the file's), or the other
        way."""
        part = name.split(".")[2] if name.startswith("blk.") else ""
        if not (self.interleaved_rope and part in ("attn_q", "attn_k")):
            return tensor
        heads = config.n_head if part == "attn_q" else config.n_kv_head
        inner = (config.head_dim // 2, 2) if reading else (2, config.head_dim // 2)
        return tensor.reshape(heads, *inner, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


# ggml rounds the range of dimensions that YaRN interpolates.
YARN_ROUNDED = {"yarn_truncate": False}
WITHOUT_N_INNER = {key: name for key, name in SIZE_KEYS.items() if name != "n_inner"}
LAYOUTS = (
    Layout(
        "qwen3", "qwen3", SWIGLU | {"qk_norm": True}, SIZE_KEYS | GROUPED_QUERIES | ROTARY,
        ("tie_embeddings", "attention_bias"), approximated=YARN_ROUNDED,
    ),
    Layout(
        "llama", "llama", SWIGLU, SIZE_KEYS | GROUPED_QUERIES | ROTARY,
        ("tie_embeddings", "attention_bias", "attention_out_bias"),
        approximated=YARN_ROUNDED, interleaved_rope=True,
    ),
    Layout(
        "gpt2", "gpt2", {}, SIZE_KEYS | LAYER_NORM,
        approximated={"activation": "gelu", "positions": "sinusoidal"}, fused_qkv=True,
    ),
    Layout(
        "gptneox", "gpt_neox", {"positions": "rotary", "init": "normal"}, SIZE_KEYS | LAYER_NORM | ROTARY,
        approximated={"activation": "gelu"} | YARN_ROUNDED, fused_qkv=True, always_has_head=True,
    ),
    Layout(
        "gpt-oss", "gpt_oss", GPT_OSS, WITHOUT_N_INNER | EXPERTS | GROUPED_QUERIES | ROTARY,
        approximated=YARN_ROUNDED, renamed={"ffn_norm": "post_attention_norm"},
        always_has_head=True, alternating_windows=True,
    ),
)  # fmt: skip


def layout_named(name: Any) -> Layout:
    """The layout of a general.architecture. Raises InputError with the known ones."""
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise InputError(
        f"its architecture is {str(name)[:60]!r}; newleaf reads "
        f"{', '.join(layout.name for layout in LAYOUTS)} from GGUF"
    )


def layout_for(config: GPTConfig) -> Layout:
    """A layout that holds this network exactly. Raises InputError with what the nearest would need."""
    pairs = [(layout, layout.unrepresentable_fields(config)) for layout in LAYOUTS]
    layout, wrong = min(pairs, key=lambda pair: ("block" in pair[1], "norm" in pair[1], len(pair[1])))
    if wrong:
        changes = ", ".join(
            f"{name} = {str(value).lower() if isinstance(value, bool) else value}"
            for name, value in wrong.items()
        )
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise InputError(
            f"GGUF has no layout for this network (newleaf writes {known}); the nearest, {layout.name}, "
            f"wants {changes}"
        )
    return layout


def _check_type(key: str, value: Any, name: str) -> Any:
    """The value where it has the type of GPTConfig's field; numbers of a list for each layer count when they
    are all the same."""
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        value = value[0]
    wanted = {f.name: f.type for f in fields(GPTConfig)}[name]
    if wanted == "float" and type(value) is int:
        value = float(value)
    if type(value).__name__ != wanted:
        raise InputError(f"metadata {key} is {str(value)[:60]}, and not of type {wanted}")
    return value
