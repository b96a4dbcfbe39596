"""GPT-3's layout: GPT-2 with every other layer banded, saved as GPT-Neo (Brown et al. 2020).

https://arxiv.org/abs/2005.14165 alternates "dense and locally banded sparse" layers and does not publish the
band; here it is GPT-Neo's, 256 tokens. No stock class has these layers and divides scores by √D. So weights
are saved as `GPTNeoForCausalLM`, which does not divide, with 1/√D folded into the queries. That is exact
where 1/√D is a power of two (D = 64: 1/8). For other D it rounds, so such a folder is always fp32, whatever
the weights were. `newleaf: {family: gpt3}` in config.json tells the two families apart on the way back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from newleaf.families import gpt_neo
from newleaf.families.config_map import ConfigMap, Fixed
from newleaf.families.family import Family, OnPaper
from newleaf.families.weights import Rule
from newleaf.model import GPTConfig

WINDOW = 256


class Row(NamedTuple):
    """A row of the paper's table 2.1."""

    n_layer: int
    n_embd: int
    n_head: int
    head_dim: int


TABLE = {
    "gpt3-125m": Row(12, 768, 12, 64),
    "gpt3-350m": Row(24, 1024, 16, 64),
    "gpt3-760m": Row(24, 1536, 16, 96),
    "gpt3-1.3b": Row(24, 2048, 24, 128),
    "gpt3-2.7b": Row(32, 2560, 32, 80),
    "gpt3-6.7b": Row(32, 4096, 32, 128),
    "gpt3-13b": Row(40, 5140, 40, 128),
    "gpt3-175b": Row(96, 12288, 96, 128),
}


def gpt3(n_layer: int, n_embd: int, n_head: int, **other: Any) -> GPTConfig:
    """A network of this layout, the first layer dense; `other` replaces vocabulary, context and the rest."""
    fixed: dict[str, Any] = {
        "vocab_size": 50_257, "context_length": 2048, "attention_bias": False, "fp32_scores": True,
        "windows": tuple(WINDOW * (layer % 2) for layer in range(n_layer)),
    }  # fmt: skip
    return GPTConfig(**(fixed | {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head} | other))


def _on_paper(row: Row) -> OnPaper:
    """The row as a network of one wide head: heads of the same total width have as many weights."""
    return OnPaper(
        counts_as=gpt3(row.n_layer, row.n_embd, 1),
        n_head=row.n_head,
        why=f"its {row.n_head} heads of {row.head_dim} do not divide its width of {row.n_embd:,}",
    )


SIZES = {
    name: gpt3(row.n_layer, row.n_embd, row.n_head)
    for name, row in TABLE.items()
    if row.n_head * row.head_dim == row.n_embd
}
ON_PAPER = {name: _on_paper(row) for name, row in TABLE.items() if name not in SIZES}


# GPT-Neo's fields, with scores divided by √D.
CONFIG_MAP: ConfigMap = (*gpt_neo.CONFIG_MAP, Fixed(attention_scale=0.0, init="normal_residual_scaled"))


def rules(config: GPTConfig) -> list[Rule]:
    """GPT-Neo's weights, with 1/√D folded into the queries."""
    return [
        replace(rule, scale=config.head_dim**-0.5) if ".q_proj." in rule.theirs else rule
        for rule in gpt_neo.rules(config)
    ]


FAMILY = Family(
    "gpt3", "gpt_neo", "GPTNeoForCausalLM", CONFIG_MAP, rules, SIZES, shares_class=True, on_paper=ON_PAPER,
    aliases=gpt_neo.ALIASES,
)  # fmt: skip
