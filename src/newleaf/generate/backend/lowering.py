"""A network as a program: the steps that its blocks come down to, in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from newleaf.adapters.adapted_layers import AdaptedLinear
from newleaf.generate.backend.adapter_stacks import AdapterStack, AdapterStacks
from newleaf.generate.backend.lowered_program import CannotLower, Program, ProgramWriter, bits, up
from newleaf.generate.kernels.layout import (
    LANES,
    Activation,
    Attention,
    Barrier,
    Embed,
    Linear,
    Norm,
    Op,
    Rope,
    Route,
)
from newleaf.model import GPT
from newleaf.model.block import Block
from newleaf.model.mixture import Mixture
from newleaf.model.rotary import rotary_table
from newleaf.quant.packed import Packed
from newleaf.quant.packed_layers import PackedEmbedding, PackedLinear, PackedStack

ACTIVATIONS = {
    "gelu": Activation.GELU, "gelu_tanh": Activation.GELU_TANH, "relu": Activation.RELU,
    "silu": Activation.SILU, "clamped_swiglu": Activation.CLAMPED_SWIGLU,
}  # fmt: skip

Layer = tuple[Any, Tensor | None]  # what holds a matrix, and its bias


def lower(network: GPT, threads: int, max_rows: int, max_length: int, adapted: Sequence[GPT] = ()) -> Program:
    """The program of a network for up to `max_rows` rows at positions below `max_length`. `adapted` are
    networks over the same weights, each with an adapter, and each row says which of them it is for.

    Raises CannotLower for layers or number types that the kernels do not know.
    """
    return _Lowering(
        network, ProgramWriter(threads, max_rows), max_length, AdapterStacks.of((network, *adapted))
    ).run()


def weight_of(module: Any) -> Tensor | Packed:
    """The matrix of a layer, as it is kept. Raises CannotLower for layers of another kind."""
    if isinstance(module, AdaptedLinear):
        return weight_of(module.base)
    if isinstance(module, PackedLinear | PackedEmbedding | PackedStack):
        return module.packed
    if type(module) in (nn.Linear, nn.Embedding):
        weight: Tensor = module.weight
        return weight
    if isinstance(module, Tensor):
        return module
    raise CannotLower(f"it has {type(module).__name__} layers")


class _Lowering:
    """Walks the network and writes steps. Buffers: `stream` is the residual stream, `read` what a norm made
    of it."""

    def __init__(self, network: GPT, to: ProgramWriter, max_length: int, updates: AdapterStacks) -> None:
        config = network.config
        self.network, self.config, self.to, self.updates = network, config, to, updates
        self.adapters = to.buffer(16) if updates else -1
        self.spare: dict[tuple[Any, ...], int] = {}
        attended = config.n_head * config.head_dim
        self.stream = to.floats(config.n_embd)
        self.read, self.also = to.floats(config.n_embd, private=True), to.floats(config.n_embd, private=True)
        self.kv_start = 4 * up(attended, LANES)
        self.kv_bytes = 4 * up(config.n_kv_head * config.head_dim, LANES)
        self.qkv = to.buffer(self.kv_start + 2 * self.kv_bytes)
        self.queries = to.buffer(4 * config.n_head * up(config.head_dim, LANES))
        self.mixed = to.floats(attended)
        self.hidden = [
            to.floats(config.n_inner) for _ in range(config.n_expert_active if config.n_expert else 1)
        ]
        self.scores = to.floats(config.n_expert) if config.n_expert else -1
        self.routes = to.buffer(16 * config.n_expert_active, private=True) if config.n_expert else -1
        self.cosines = self.sines = 0
        if config.positions == "rotary":
            cos, sin = rotary_table(torch.arange(max_length), config)
            pairs = slice(0, None, 2) if config.rotary_interleaved else slice(0, config.rotary_dim // 2)
            self.cosines, self.sines = (
                to.hold(cos[:, pairs].contiguous()),
                to.hold(sin[:, pairs].contiguous()),
            )

    def run(self) -> Program:
        config, network = self.config, self.network
        self.embed()
        for layer, block in enumerate(network.layers):
            self.block(layer, block)
        last, self.to.wanted = self.stream, True
        if config.final_norm:
            self.norm(network.final_norm, self.stream, self.read)
            last = self.read
        if config.block == "post_norm" and not config.final_norm:
            last = self.also
        out = self.to.buffer(4 * up(config.vocab_size, LANES))
        self.linear([(network.head, network.head.bias)], last, out)
        adapters = self.to.view(self.adapters, torch.int64) if self.updates else None
        return self.to.finish(self.to.view(out, torch.float32)[:, : config.vocab_size], adapters)

    def embed(self) -> None:
        embedding, config = self.network.embedding, self.config
        table = embedding.position.weight if embedding.position is not None else embedding.sinusoids
        positions = self.to.hold(table.detach().float().contiguous()) if table is not None else 0
        matrix = self.to.matrix(weight_of(embedding.token))
        columns = {
            Embed.MATRIX: matrix,
            Embed.OUT: self.stream,
            Embed.POSITIONS: positions,
            Embed.WIDTH: config.n_embd,
        }
        self.to.step(Op.EMBED, Barrier.ALWAYS, columns)

    def block(self, layer: int, block: Block) -> None:
        """The residual wiring; drawings in model/block.py."""
        config, x = self.config, self.stream
        if config.block == "post_norm":
            # x lives in each thread's own copy after a norm, in the stream before it.
            x = self.also if layer else self.stream
            self.attention(layer, block, x, residual=x)
            self.norm(block.attention_norm, self.stream, self.read)
            self.feedforward(block, self.read, residual=self.read)
            self.norm(block.feedforward_norm, self.stream, self.also)
            return
        self.norm(block.attention_norm, x, self.read)
        if config.block == "parallel":
            also = self.read
            if block.feedforward_norm is not None:
                also = self.also
                self.norm(block.feedforward_norm, x, also)
            self.attention(layer, block, self.read, residual=x)
            self.feedforward(block, also, residual=x)
            return
        self.attention(layer, block, self.read, residual=x)
        self.norm(block.feedforward_norm, x, self.read)
        self.feedforward(block, self.read, residual=x)

    def norm(self, module: Any, source: int, out: int) -> None:
        config = self.config
        columns = {
            Norm.INPUT: source, Norm.OUT: out, Norm.WEIGHT: self.to.vector(module.weight),
            Norm.BIAS: self.to.vector(getattr(module, "bias", None)), Norm.WIDTH: config.n_embd,
            Norm.EPSILON: bits(config.norm_eps), Norm.SUBTRACT_MEAN: int(config.norm == "layer_norm"),
        }  # fmt: skip
        self.to.step(Op.NORM, Barrier.IF_SHARED, columns)
        self.to.changed(out)

    def linear(self, layers: Sequence[Layer], source: int, out: int, **columns: int) -> None:
        """Matrices that read `source`, their outputs one after the other in `out`; with `gated=1`, the first
        is the second's gate."""
        updates = [self.updates.get(module) for module, _ in layers]
        if any(updates):
            columns |= {"adapter_update": self.update(layers, updates, source), "routes": self.adapters}
        gains = [update.gain if update else None for update in updates]
        numbers = [
            self.to.matrix(weight_of(module), bias, gain)
            for (module, bias), gain in zip(layers, gains, strict=True)
        ]
        self.product(numbers, source, out, Barrier.ALWAYS, **columns)

    def update(self, layers: Sequence[Layer], updates: Sequence[AdapterStack | None], source: int) -> int:
        """B (A x) of each row's own adapter, in a buffer laid out like the layers' products: adapters are to
        a row what experts are."""
        # q, k and v share one where Hugging Face stores them as one
        lows = {id(update.a): update.a for update in updates if update}
        starts, start = {}, 0
        for key, a in lows.items():
            starts[key] = start
            start += 4 * up(a.shape[1], LANES)
        low = self.reused(start)
        mine = {"expert": 1, "routes": self.adapters}
        self.product([self.to.matrix(a) for a in lows.values()], source, low, Barrier.ALWAYS, **mine)
        sizes = [4 * up(weight_of(module).shape[0], LANES) for module, _ in layers]
        there = [number for number, update in enumerate(updates) if update]
        # Where there is no update, the buffer stays zero.
        out = self.reused(sum(sizes), *sizes, *there)
        for number, update in enumerate(updates):
            if update:
                read, write = (
                    self.to.within(low, starts[id(update.a)]),
                    self.to.within(out, sum(sizes[:number])),
                )
                self.product(
                    [self.to.matrix(update.b)],
                    read,
                    write,
                    Barrier.ALWAYS if number == there[-1] else Barrier.NEVER,
                    **mine,
                )
        return out

    def reused(self, row_bytes: int, *use: int) -> int:
        """A buffer for all updates that are laid out alike: none is read after the next is begun."""
        if (row_bytes, *use) not in self.spare:
            self.spare[row_bytes, *use] = self.to.buffer(row_bytes)
        return self.spare[row_bytes, *use]

    def product(
        self, numbers: Sequence[int], source: int, out: int, barrier: Barrier, **columns: int
    ) -> None:
        inputs = {self.to.input_for(number, source) for number in numbers}
        if len(inputs) > 1:
            raise CannotLower("matrices that read the same input are quantised in different groups")
        count = 1 if columns.get("gated") else len(numbers)
        values = {Linear.MATRIX: numbers[0], Linear.COUNT: count, Linear.INPUT: inputs.pop(), Linear.OUT: out}
        values |= {Linear.RESIDUAL: -1, Linear.ADAPTER_UPDATE: -1}
        values |= {Linear[name.upper()]: value for name, value in columns.items()}
        self.to.step(Op.LINEAR, barrier, values)
        self.to.changed(out)

    def attention(self, layer: int, block: Block, source: int, residual: int) -> None:
        config, attention, to = self.config, block.attention, self.to
        self.linear([(part, part.bias) for part in (attention.q, attention.k, attention.v)], source, self.qkv)
        rotate = {
            Rope.LAYER: layer, Rope.QUERIES: self.qkv, Rope.KEYS: self.kv_start,
            Rope.VALUES: self.kv_start + self.kv_bytes, Rope.OUT: self.queries,
            Rope.EPSILON: bits(config.norm_eps), Rope.COSINES: self.cosines, Rope.SINES: self.sines,
            Rope.DIMS: config.rotary_dim, Rope.INTERLEAVED: int(config.rotary_interleaved),
            Rope.SCALE: bits(config.scale_of(layer)),
            Rope.QUERY_NORM: to.vector(getattr(attention.q_norm, "weight", None)),
            Rope.KEY_NORM: to.vector(getattr(attention.k_norm, "weight", None)),
        }  # fmt: skip
        to.step(Op.ROPE, Barrier.ALWAYS, rotate)
        look = {
            Attention.LAYER: layer, Attention.QUERIES: self.queries, Attention.OUT: self.mixed,
            Attention.WINDOW: attention.window, Attention.SINKS: to.vector(attention.sinks),
        }  # fmt: skip
        to.step(Op.ATTENTION, Barrier.ALWAYS, look)
        to.changed(self.mixed)
        self.linear([(attention.out, attention.out.bias)], self.mixed, self.stream, residual=residual)

    def feedforward(self, block: Block, source: int, residual: int) -> None:
        layer, kind = block.feedforward, ACTIVATIONS[self.config.activation]
        alike = {
            "activation": int(kind),
            "alpha": bits(self.config.swiglu_alpha),
            "limit": bits(self.config.swiglu_limit),
        }
        if isinstance(layer, Mixture):
            self.mixture(layer, source, residual, alike)
            return
        hidden = self.hidden[0]
        if layer.gate is not None:
            self.linear(
                [(layer.gate, layer.gate.bias), (layer.up, layer.up.bias)], source, hidden, gated=1, **alike
            )
        else:
            self.linear([(layer.up, layer.up.bias)], source, hidden, **alike)
        self.linear([(layer.down, layer.down.bias)], hidden, self.stream, residual=residual)

    def mixture(self, layer: Mixture, source: int, residual: int, alike: dict[str, int]) -> None:
        """The router, then the chosen experts; each thread adds up the same rows of the stream, so those do
        not wait for each other."""
        self.linear([(layer.router, layer.router.bias)], source, self.scores)
        columns = {
            Route.SCORES: self.scores,
            Route.OUT: self.routes,
            Route.EXPERTS: self.config.n_expert,
            Route.ACTIVE: len(self.hidden),
        }
        self.to.step(Op.ROUTE, Barrier.IF_SHARED, columns)
        pair = [
            self.to.matrix(weight_of(stack), bias)
            for stack, bias in ((layer.gate, layer.gate_bias), (layer.up, layer.up_bias))
        ]
        down = self.to.matrix(weight_of(layer.down), layer.down_bias)
        for each, hidden in enumerate(self.hidden):
            barrier = Barrier.ALWAYS if each == len(self.hidden) - 1 else Barrier.NEVER
            self.product(pair, source, hidden, barrier, gated=1, expert=1 + each, routes=self.routes, **alike)
        for each, hidden in enumerate(self.hidden):
            barrier = Barrier.ALWAYS if each == len(self.hidden) - 1 else Barrier.NEVER
            self.product(
                [down],
                hidden,
                self.stream,
                barrier,
                residual=residual,
                weigh_by_router=1,
                expert=1 + each,
                routes=self.routes,
            )
            residual = self.stream
