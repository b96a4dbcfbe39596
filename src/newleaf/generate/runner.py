"""Networks at work: tokens of several sequences in, logits out, with the keys and values of what they have read kept in slots."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from newleaf.generate.crew import Crew
from newleaf.generate.kernels.layout import LANES, State
from newleaf.generate.lowering import lower
from newleaf.generate.paged_cache import PagedCache
from newleaf.generate.pages import AddressedMemory, Pages
from newleaf.generate.program import CannotLower, up
from newleaf.kernels.product_speed import bf16_is_faster
from newleaf.model import GPT, GPTConfig, KVCache
from newleaf.quant.layers import PackedWeight

MAX_ROWS = 64  # of one step
READING = 256  # tokens of a prompt that PyTorch reads at once
PARTS = 1024  # the same where there is no program
COMPILING = "compiling the kernels for this machine; this happens once and takes up to half a minute"
WORTH_LOWERING = 5_000_000  # weights: below, loading the kernels takes longer than most texts


class Runner(Protocol):
    """What writes several texts with a network, one token of each at a time."""

    config: GPTConfig
    max_length: int  # tokens that a text may have

    def start(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Read texts [B] of equal length from their beginning, or their later half where they fill the context; logits fp32 [B, V] after
        their last tokens."""

    def advance(self, tokens: Sequence[int], kept: Sequence[int]) -> Tensor:
        """Give a token each to the texts `kept` (their numbers among those that are left; the rest is dropped); logits fp32 [R, V]."""

    @property
    def length(self) -> int:
        """Tokens that each text has now."""


class LoweredRunner:
    """Runs the lowered program of a network; keys and values in `cache`: bf16, codes of 8 bits (torch.int8), or None for fp32 where the
    weights are fp32 and bf16 otherwise.

    Weights are used where they lie; vectors of them (norms, biases) are copied. Keys and values lie in `pages`, which grow with the texts;
    `limit` bounds their bytes. `adapted` are networks over the same weights, each with an adapter, which slots may be for (`wear`).
    Raises CannotLower for networks that kernels do not know.
    """

    def __init__(
        self,
        network: GPT,
        slots: int = 1,
        max_length: int | None = None,
        threads: int | None = None,
        limit: int | None = None,
        adapted: Sequence[GPT] = (),
        cache: torch.dtype | None = None,
    ) -> None:
        config = network.config
        self.networks, self.config = (network, *adapted), config
        self.wearing: dict[int, int] = {}  # slot → which of the networks its text is for, unless it is the first
        self.max_length = min(max_length or config.context_length, config.context_length)
        self.packed, self.dtype = is_packed(network), cache_dtype(network)  # the type of keys and values that PyTorch reads
        self.program = lower(network, threads or torch.get_num_threads(), MAX_ROWS, self.max_length, adapted)
        self.memory = AddressedMemory(config, cache or self.dtype)
        self.pages = Pages(config, cache or self.dtype, slots, self.max_length, limit, self.memory)
        self._layers, self._placed = np.zeros((config.n_layer, 2), dtype=np.int64), 0
        self._alive: list[int] = []
        self._lengths: list[int] = []
        self.crew = Crew(self.program)
        self._make_room()
        self._warm_up()

    def _make_room(self) -> None:
        """Where the cache is, and each thread's scratch memory."""
        config, threads, width = self.config, self.program.threads, self.memory.width
        self._scores = torch.zeros(threads, 4 * (up(self.max_length, LANES) + 2 * LANES), dtype=torch.uint8)
        self._products = torch.zeros(threads, max(2 * 64 * MAX_ROWS, 4 * width) + 64, dtype=torch.uint8)
        values = {
            State.HEADS: config.n_head, State.KV_HEADS: config.n_kv_head, State.HEAD_DIM: config.head_dim, State.HEAD_WIDTH: width,
            State.NUMBER_BYTES: self.pages.dtype.itemsize, State.HEAD_BYTES: self.memory.head_bytes,
            State.KEY_BYTES: self.memory.key_bytes,
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
            self.pages.release(0)
        finally:
            late.cancel()

    def step(self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], wanted: int | None = None) -> Tensor:
        """Logits [wanted, V] of the first `wanted` rows (None: of all); the tensor is overwritten by the next call.

        Rows are tokens of one text or of several; those of one stand in order. A row's logits do not depend on the other rows, bit for
        bit. Raises ValueError for more than 64 rows, or rows that do not fit, and OutOfPagesError.
        """
        rows, state = len(tokens), self.crew.state
        if not 0 < rows <= MAX_ROWS:
            raise ValueError(f"a step takes 1 to {MAX_ROWS} rows, not {rows}")
        limits = (tokens, self.config.vocab_size), (positions, self.max_length), (slots, self.pages.slots)
        for column, (values, limit) in enumerate(limits):
            if not (len(values) == rows and min(values) >= 0 and max(values) < limit):
                raise ValueError(f"the tokens, positions and slots {list(tokens), list(positions), list(slots)} do not fit this network")
            start = State.TOKENS + column * MAX_ROWS
            state[start : start + rows] = values
        spans: dict[int, tuple[int, int]] = {}
        for slot, position in zip(slots, positions, strict=True):
            first, last = spans.get(slot, (position, position))
            spans[slot] = min(first, position), max(last, position)
        for slot, (first, last) in spans.items():
            self.pages.reserve(slot, first, last + 1)
        if self.program.adapters is not None:
            self.program.adapters[:rows, 0] = torch.tensor([self.wearing.get(slot, 0) for slot in slots])
        wanted = rows if wanted is None else wanted
        self._place_pages()
        state[State.ROWS], state[State.WANTED] = rows, wanted
        self.crew.run()
        return self.program.logits[:wanted]

    def wear(self, slot: int, number: int) -> None:
        """The slot's text is for this one of the networks from now on; 0 is the first."""
        self.wearing[slot] = number

    def read(self, slot: int, ids: Sequence[int], start: int = 0) -> Tensor:
        """Read a text whose first `start` tokens the slot holds already; logits [V] after its last token.

        Packed weights are read through the kernels, many tokens a step. For plain ones PyTorch's matrix products are faster, for all but
        the last token, unless they are of bf16 and this machine is slow at those.
        """
        if len(ids) - start > 1 and self.reads_by_products:
            for first in range(start, len(ids) - 1, READING):
                self.read_by_products(slot, ids[first : min(first + READING, len(ids) - 1)], first)
            start = len(ids) - 1
        for first in range(start, len(ids), MAX_ROWS):
            end = min(first + MAX_ROWS, len(ids))
            rows = [end - 1, *range(first, end - 1)] if end == len(ids) else list(range(first, end))
            logits = self.step([ids[row] for row in rows], rows, [slot] * len(rows), int(end == len(ids)))
        return logits[0]

    @property
    def reads_by_products(self) -> bool:
        """Whether prompts are read faster by PyTorch's matrix products than through the kernels."""
        return not self.packed and (self.dtype == torch.float32 or bf16_is_faster(torch.device("cpu")))

    def read_by_products(self, slot: int, ids: Sequence[int], start: int) -> None:
        """Read tokens at positions from `start` on with the network itself, and keep their keys and values."""
        self.pages.reserve(slot, start, start + len(ids))
        self._place_pages()
        network = self.networks[self.wearing.get(slot, 0)]
        cache = PagedCache(self.config, self.crew.state, slot, start)
        with torch.no_grad(), evaluating(network), torch.autocast("cpu", torch.bfloat16, enabled=self.packed):
            network.hidden(torch.tensor([list(ids)]), cache=cache)

    def _place_pages(self) -> None:
        """For each layer, where its group's table of pages is, and how many bytes into a page the layer begins."""
        table = self.pages.table
        if table.ctypes.data != self._placed:
            self._placed = table.ctypes.data
            for number, strand in enumerate(self.pages.strands):
                for place, layer in enumerate(strand.layers):
                    self._layers[layer] = table[number].ctypes.data, place * self.memory.layer_bytes
            self.crew.state[State.LAYERS], self.crew.state[State.PAGE_COUNT] = self._layers.ctypes.data, table.shape[2]

    @property
    def length(self) -> int:
        return max(self._lengths, default=0)

    def start(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Texts take the slots in order; equal ones are read once."""
        texts = [fitting(text, self.max_length) for text in texts]
        self.pages.add_slots(max(0, len(texts) - self.pages.slots))
        for slot in range(self.pages.slots):
            self.pages.release(slot)
        self._alive, self._lengths = list(range(len(texts))), [len(text) for text in texts]
        logits: list[Tensor] = []
        for slot, text in enumerate(texts):
            twin = texts.index(text)
            if twin == slot:
                logits.append(self.read(slot, text).clone())
            else:
                self.pages.fork(twin, slot, len(text))
                logits.append(logits[twin])
        return torch.stack(logits)

    def advance(self, tokens: Sequence[int], kept: Sequence[int]) -> Tensor:
        """The tensor may be overwritten by the next call."""
        self._keep(kept)
        parts = []
        for first in range(0, len(tokens), MAX_ROWS):
            rows = slice(first, first + MAX_ROWS)
            parts.append(self.step(tokens[rows], self._lengths[rows], self._alive[rows]))
            if len(tokens) > MAX_ROWS:
                parts[-1] = parts[-1].clone()
        self._lengths = [length + 1 for length in self._lengths]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _keep(self, kept: Sequence[int]) -> None:
        """Slots for the texts that go on; one that goes on in several ways is forked."""
        before, lengths = self._alive, self._lengths
        for row in set(range(len(before))) - set(kept):
            self.pages.release(before[row])
        self._alive, self._lengths = [], [lengths[row] for row in kept]
        free = [slot for slot in range(self.pages.slots) if slot not in {before[row] for row in kept}]
        for row in kept:
            slot = before[row]
            if slot in self._alive:
                if not free:
                    free.append(self.pages.slots)
                    self.pages.add_slots(1)
                self.pages.fork(slot, free[0], lengths[row])
                slot = free.pop(0)
            self._alive.append(slot)


class PlainRunner:
    """Runs the network itself, in PyTorch: the reference, and what runs where there is no program.

    Texts may have different lengths: shorter ones are padded on the left, where nothing looks. One may be continued in several ways: its
    number may come several times in `kept`.
    """

    def __init__(self, network: GPT, cache: torch.dtype | None = None) -> None:
        self.network, self.config, self.max_length = network, network.config, network.config.context_length
        self.dtype = cache or network.dtype
        self._cache: KVCache | None = None

    @property
    def length(self) -> int:
        return self._cache.length if self._cache is not None else 0

    def start(self, texts: Sequence[Sequence[int]]) -> Tensor:
        texts = [fitting(text, self.max_length) for text in texts]
        longest = max(len(text) for text in texts)
        ids = torch.tensor([[0] * (longest - len(text)) + list(text) for text in texts])
        real = torch.arange(longest).flip(0) < torch.tensor([[len(text)] for text in texts])
        self._cache = KVCache(self.config, len(texts), longest, self.dtype, self.network.device)
        return self._forward(ids, None if bool(real.all()) else real.to(self.network.device))

    def resume(self, kept: int, ids: Sequence[int]) -> Tensor:
        """Of a single text keep the first `kept` tokens and read `ids` after them; logits fp32 [1, V] after the last."""
        assert self._cache is not None
        self._cache.length = kept
        return self._forward(torch.tensor([ids]), None)

    def advance(self, tokens: Sequence[int], kept: Sequence[int]) -> Tensor:
        assert self._cache is not None
        if list(kept) != list(range(self._cache.keys.shape[1])):
            self._cache.keep(torch.tensor(kept))
        return self._forward(torch.tensor(tokens)[:, None], None)

    def _forward(self, ids: Tensor, real: Tensor | None) -> Tensor:
        cache = self._cache
        assert cache is not None
        if cache.length + ids.shape[1] > cache.max_length:
            length = min(max(2 * cache.max_length, cache.length + ids.shape[1]), self.max_length)
            self._cache = KVCache(self.config, cache.keys.shape[1], length, self.dtype, self.network.device)
            self._cache.take(cache, cache.length)
        with torch.no_grad(), evaluating(self.network):
            for first in range(0, ids.shape[1], PARTS):  # masks and scores are bounded
                part = slice(first, first + PARTS)
                own = real[:, part] if real is not None else None
                logits: Tensor = self.network(ids[:, part].to(self.network.device), real=own, cache=self._cache, last=True)
        return logits[:, -1].float().cpu()


def is_packed(network: GPT) -> bool:
    return any(isinstance(module, PackedWeight) for module in network.modules())


def cache_dtype(network: GPT) -> torch.dtype:
    """What a program keeps keys and values in."""
    plain = not is_packed(network) and all(parameter.dtype == torch.float32 for parameter in network.parameters())
    return torch.float32 if plain else torch.bfloat16


def fitting(text: Sequence[int], limit: int) -> Sequence[int]:
    """A text, or its later half if it fills a context of `limit`."""
    return text if len(text) < limit else text[-((limit + 1) // 2) :]


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


def pick_runner(network: GPT, slots: int, cache: torch.dtype | None = None) -> Runner:
    """The lowered program where there is one and it is worth its start, and else the network itself, saying why once."""
    sharded = type(network) is not GPT  # FSDP2 gives it a class of its own; each process has only parts of the weights
    if network.device.type != "cpu" or network.parameter_count() < WORTH_LOWERING or sharded:
        return PlainRunner(network, cache)
    try:
        return LoweredRunner(network, slots, cache=cache)
    except CannotLower as error:
        say_once(f"writing with PyTorch, which takes several times as long: {error}")
        return PlainRunner(network, cache)


@cache
def say_once(sentence: str) -> None:
    """A note on standard error, or wherever the program sends newleaf's log; the same one is not repeated."""
    logging.getLogger("newleaf").warning(sentence)
