"""Networks at work: tokens of several sequences in, logits out, with the keys and values of what they have read kept in slots."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from newleaf.generate.crew import Crew
from newleaf.generate.kernels.layout import LANES, State
from newleaf.generate.lowering import lower
from newleaf.generate.program import CannotLower, up
from newleaf.model import GPT, GPTConfig, KVCache
from newleaf.quant.layers import PackedWeight

MAX_ROWS = 16  # of one step
COMPILING = "compiling the kernels for this machine; this happens once and takes up to half a minute"
WORTH_LOWERING = 5_000_000  # weights: below, loading the kernels takes longer than most texts


class Runner(Protocol):
    """What writes several texts with a network, one token of each at a time."""

    config: GPTConfig
    max_length: int  # tokens that a text may have

    def start(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Read texts [B] of equal length from their beginning; logits fp32 [B, V] after their last tokens."""

    def advance(self, tokens: Sequence[int], kept: Sequence[int]) -> Tensor:
        """Give a token each to the texts `kept` (their numbers among those that are left; the rest is dropped); logits fp32 [R, V]."""

    @property
    def length(self) -> int:
        """Tokens that each text has now."""


class LoweredRunner:
    """Runs the lowered program of a network; keys and values in bf16, or in fp32 where the weights are fp32.

    Weights are used where they lie; vectors of them (norms, biases) are copied. Raises CannotLower for networks that kernels do not know.
    """

    def __init__(self, network: GPT, slots: int = 1, max_length: int | None = None, threads: int | None = None) -> None:
        config = network.config
        self.network, self.config, self.slots = network, config, slots
        self.max_length = min(max_length or config.context_length, config.context_length)
        self.packed = any(isinstance(module, PackedWeight) for module in network.modules())
        plain = not self.packed and all(parameter.dtype == torch.float32 for parameter in network.parameters())
        self.dtype = torch.float32 if plain else torch.bfloat16
        self.program = lower(network, threads or torch.get_num_threads(), MAX_ROWS, self.max_length)
        self._alive: list[int] = []
        self._length = 0
        self.crew = Crew(self.program)
        self._make_room()
        self._warm_up()

    def _make_room(self) -> None:
        """The cache, as kernels/attention.py draws it, and each thread's scratch memory."""
        config, threads, length = self.config, self.program.threads, up(self.max_length, LANES)
        self.width, pairs = up(config.head_dim, LANES), 2 if self.dtype == torch.bfloat16 else 1
        heads = config.n_layer, self.slots, config.n_kv_head
        self.keys = torch.zeros(*heads, length // LANES, self.width // pairs, LANES, pairs, dtype=self.dtype)
        self.values = torch.zeros(*heads, length, self.width, dtype=self.dtype)
        self._scores = torch.zeros(threads, 4 * (length + 2 * LANES), dtype=torch.uint8)
        self._products = torch.zeros(threads, max(2 * 64 * MAX_ROWS, 4 * self.width) + 64, dtype=torch.uint8)
        values = {
            State.HEADS: config.n_head, State.KV_HEADS: config.n_kv_head, State.HEAD_DIM: config.head_dim, State.HEAD_WIDTH: self.width,
            State.KEYS: self.keys.data_ptr(), State.VALUES: self.values.data_ptr(), State.CACHE_BF16: int(pairs == 2),
            State.CACHE_LENGTH: length, State.SLOTS: self.slots,
            State.SCORES: self._scores.data_ptr(), State.SCORES_STRIDE: self._scores.shape[1],
            State.TILE: self._products.data_ptr(), State.TILE_STRIDE: self._products.shape[1],
        }  # fmt: skip
        for column, value in values.items():
            self.crew.state[column] = value

    def _warm_up(self) -> None:
        """The first step loads the compiled kernels, or compiles them, which a person should know about."""
        late = threading.Timer(2.0, say_once, (COMPILING,))
        late.start()
        try:
            self.step([0], [0], [0])
        finally:
            late.cancel()

    def step(self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int]) -> Tensor:
        """Raises ValueError for more than 16 rows, or rows that do not fit; a row's logits do not depend on the other rows, bit for bit."""
        rows, state = len(tokens), self.crew.state
        if not 0 < rows <= MAX_ROWS:
            raise ValueError(f"a step takes 1 to {MAX_ROWS} rows, not {rows}")
        limits = (tokens, self.config.vocab_size), (positions, self.max_length), (slots, self.slots)
        state[State.ROWS] = rows
        for column, (values, limit) in enumerate(limits):
            if not (len(values) == rows and min(values) >= 0 and max(values) < limit):
                raise ValueError(f"the tokens, positions and slots {list(tokens), list(positions), list(slots)} do not fit this network")
            start = State.TOKENS + column * MAX_ROWS
            state[start : start + rows] = values
        self.crew.run()
        return self.program.logits[:rows]

    def read(self, slot: int, ids: Sequence[int]) -> Tensor:
        """All but the last token go through PyTorch's matrix products, which many tokens at once make worth their while."""
        if len(ids) > 1:
            cache = KVCache(self.config, 1, len(ids) - 1, torch.bfloat16 if self.packed else self.dtype)
            with torch.no_grad(), evaluating(self.network), torch.autocast("cpu", torch.bfloat16, enabled=self.packed):
                self.network.hidden(torch.tensor([ids[:-1]]), cache=cache)
            self.adopt(slot, cache)
        return self.step([ids[-1]], [len(ids) - 1], [slot])[0]

    @property
    def length(self) -> int:
        return self._length

    def start(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Texts take the slots in order; equal ones are read once."""
        self._alive, self._length = list(range(len(texts))), len(texts[0])
        logits = []
        for slot, text in enumerate(texts):
            twin = next((earlier for earlier in range(slot) if texts[earlier] == text), None)
            if twin is None:
                logits.append(self.read(slot, text).clone())
            else:
                self.keys[:, slot], self.values[:, slot] = self.keys[:, twin], self.values[:, twin]
                logits.append(logits[twin])
        return torch.stack(logits)

    def advance(self, tokens: Sequence[int], kept: Sequence[int]) -> Tensor:
        """The tensor may be overwritten by the next call."""
        self._alive = [self._alive[row] for row in kept]
        parts = []
        for first in range(0, len(tokens), MAX_ROWS):
            slots = self._alive[first : first + MAX_ROWS]
            parts.append(self.step(tokens[first : first + MAX_ROWS], [self._length] * len(slots), slots))
            if len(tokens) > MAX_ROWS:
                parts[-1] = parts[-1].clone()
        self._length += 1
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def adopt(self, slot: int, cache: KVCache, row: int = 0) -> None:
        """Take over what the network itself has read into a cache."""
        length, dim, pairs = cache.length, self.config.head_dim, self.keys.shape[-1]
        filled = up(length, LANES)
        keys = torch.zeros(self.config.n_layer, self.config.n_kv_head, filled, self.width, dtype=self.dtype)
        keys[:, :, :length, :dim] = cache.keys[:, row, :, :length]
        self.values[:, slot, :, :length, :dim] = cache.values[:, row, :, :length]
        tiles = keys.view(*keys.shape[:2], -1, LANES, self.width // pairs, pairs).transpose(3, 4)  # [layers, K, tiles, D/pairs, 16, pairs]
        self.keys[:, slot, :, : filled // LANES] = tiles


class PlainRunner:
    """Runs the network itself, in PyTorch: the reference, and what runs where there is no program."""

    def __init__(self, network: GPT) -> None:
        self.network, self.config, self.max_length = network, network.config, network.config.context_length
        self._cache: KVCache | None = None

    @property
    def length(self) -> int:
        return self._cache.length if self._cache is not None else 0

    def start(self, texts: Sequence[Sequence[int]]) -> Tensor:
        self._cache = KVCache(self.config, len(texts), self.max_length, self.network.dtype, self.network.device)
        return self._forward(torch.tensor(texts))

    def advance(self, tokens: Sequence[int], kept: Sequence[int]) -> Tensor:
        assert self._cache is not None
        if len(kept) < self._cache.keys.shape[1]:
            self._cache.keep(torch.tensor(kept))
        return self._forward(torch.tensor(tokens)[:, None])

    def _forward(self, ids: Tensor) -> Tensor:
        with torch.no_grad(), evaluating(self.network):
            logits: Tensor = self.network(ids.to(self.network.device), cache=self._cache, last=True)[:, -1].float().cpu()
        return logits


@contextmanager
def evaluating(network: GPT) -> Iterator[None]:
    """Without dropout, whatever the network is doing otherwise."""
    training = network.training
    if training:
        network.eval()
    try:
        yield
    finally:
        if training:
            network.train()


def pick_runner(network: GPT, slots: int) -> Runner:
    """The lowered program where there is one and it is worth its start, and else the network itself, saying why once."""
    if network.device.type != "cpu" or network.parameter_count() < WORTH_LOWERING:
        return PlainRunner(network)
    try:
        return LoweredRunner(network, slots)
    except CannotLower as error:
        say_once(f"writing with PyTorch, which takes several times as long: {error}")
        return PlainRunner(network)


@cache
def say_once(sentence: str) -> None:
    """A note on standard error, or wherever the program sends newleaf's log; the same one is not repeated."""
    logging.getLogger("newleaf").warning(sentence)
