"""The weights and FLOPs of a configuration in closed form: no tensor is made, so a plan needs no memory."""

from __future__ import annotations

from dataclasses import dataclass

from newleaf.model.gpt_config import GPTConfig


@dataclass(frozen=True)
class Counts:
    """Numbers of weights. A tied head counts once, with the embedding."""

    total: int
    active: int  # multiplied by each token: no table that is only looked up, no expert that is not chosen
    embedding: int  # tables of tokens and positions, and an untied head
    block: int  # one layer, stored
    packable: int  # in matrices, which 8 and 4 bits pack; not norms, biases, positions, routers and sinks


def count_parameters(config: GPTConfig) -> Counts:
    """The weights of `GPT(config)`.

    `active` is as gpt-oss's model card counts it (https://arxiv.org/abs/2508.10925, table 1): the head is
    active, a table that tokens are only looked up in is not, so a tied table is.
    """
    table = config.vocab_size * config.n_embd
    positions = config.context_length * config.n_embd if config.positions == "learned" else 0
    head_bias = config.vocab_size if config.head_bias else 0
    norm = _norm(config)
    stored, used = _feedforward(config)
    rest = _attention(config) + norm * (1 if config.shared_norm else 2)
    outer = (norm if config.final_norm else 0) + head_bias
    tables = table * (1 if config.tie_embeddings else 2)
    embedding = tables + positions
    return Counts(
        total=embedding + outer + config.n_layer * (rest + stored),
        active=table + outer + config.n_layer * (rest + used),
        embedding=embedding,
        block=rest + stored,
        packable=tables + config.n_layer * _matrices(config),
    )


def attention_flops(config: GPTConfig, length: float | None = None) -> float:
    """Training FLOPs of one token's attention scores and sums: 12·H·D for each key, in every layer.

    `length` is the text's, in tokens; the context unless given. A layer with a window has that many keys. The
    causal half is not subtracted (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B).
    """
    length = length or config.context_length
    keys = sum(min(window or length, length) for window in config.windows or (0,) * config.n_layer)
    return 12 * config.n_head * config.head_dim * keys


def training_flops(config: GPTConfig, length: float | None = None, head: bool = True) -> float:
    """Training FLOPs of one token: 6 for each active weight (Kaplan et al. 2020), and attention's.

    `length` is the text's, in tokens; the context unless given. Without `head`, no logits are computed.
    """
    unused = 0 if head else config.vocab_size * config.n_embd
    return 6 * (count_parameters(config).active - unused) + attention_flops(config, length)


def _norm(config: GPTConfig) -> int:
    return config.n_embd * (1 if config.norm == "rms_norm" else 2)


def _attention(config: GPTConfig) -> int:
    queries, keys, width = config.n_head * config.head_dim, config.n_kv_head * config.head_dim, config.n_embd
    count = 2 * width * (queries + keys)
    count += (queries + 2 * keys) * config.attention_bias + width * config.attention_out_bias
    count += 2 * config.head_dim * config.qk_norm
    return count + config.n_head * config.sinks


def _matrices(config: GPTConfig) -> int:
    """The weights in a layer's matrices, without a router's."""
    queries, keys = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    return config.n_embd * (
        2 * (queries + keys) + (3 if config.gated else 2) * config.n_inner * max(1, config.n_expert)
    )


def _feedforward(config: GPTConfig) -> tuple[int, int]:
    """A layer's feed-forward weights: those stored, and those that one token is multiplied by."""
    inner, width = config.n_inner, config.n_embd
    matrices = 3 if config.gated else 2
    one = matrices * inner * width + (inner * (matrices - 1) + width) * config.feedforward_bias
    if not config.n_expert:
        return one, one
    router = config.n_expert * (width + config.feedforward_bias)
    return router + config.n_expert * one, router + config.n_expert_active * one
