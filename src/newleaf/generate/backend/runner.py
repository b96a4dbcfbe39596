"""A lowered program at work: tokens of several texts in, logits out, with the keys and values of what they
have read kept in slots."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import Tensor

from newleaf.generate.backend.lowered_program import up
from newleaf.generate.backend.lowering import lower
from newleaf.generate.backend.thread_pool import ThreadPool
from newleaf.generate.kernels.layout import LANES, LayerPages, State
from newleaf.generate.kv.paged_cache import AddressedPageStorage, PagedCache
from newleaf.generate.kv.torch_view import TorchCacheView
from newleaf.kernels.matmul_speed import bf16_is_faster
from newleaf.model import GPT
from newleaf.quant.packed_layers import PackedWeight

MAX_ROWS = 64  # of one step
READING = 256  # tokens of a prompt that PyTorch reads at once
COMPILING = "compiling the kernels for this machine; this happens once and takes up to half a minute"


class LoweredRunner:
    """Runs the lowered program of a network; keys and values in `cache`: bf16, codes of 8 bits (torch.int8),
    or None for fp32 where the weights are fp32 and bf16 otherwise.

    Weights are used where they lie; vectors of them (norms, biases) are copied. Keys and values lie in
    `pages`, which grow with the texts; `limit` bounds their bytes. `adapted` are networks over the same
    weights, each with an adapter, which slots may be for (`set_adapter`). Raises CannotLower for networks
    that kernels do not know.
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
        # slot → which of the networks its text is for, unless it is the first
        self.adapter_of_slot: dict[int, int] = {}
        self.max_length = min(max_length or config.context_length, config.context_length)
        # the type of keys and values that PyTorch reads
        self.packed, self.dtype = is_packed(network), cache_dtype(network)
        self.program = lower(network, threads or torch.get_num_threads(), MAX_ROWS, self.max_length, adapted)
        self.memory = AddressedPageStorage(config, cache or self.dtype)
        self.pages = PagedCache(config, cache or self.dtype, slots, self.max_length, limit, self.memory)
        self._layers, self._placed = np.zeros((config.n_layer, LayerPages.SIZE), dtype=np.int64), 0
        self.thread_pool = ThreadPool(self.program)
        self._make_room()
        self._warm_up()

    def _make_room(self) -> None:
        """Where the cache is, and each thread's scratch memory."""
        config, threads, width = self.config, self.program.threads, self.memory.width
        self._scores = torch.zeros(threads, 4 * (up(self.max_length, LANES) + 2 * LANES), dtype=torch.uint8)
        self._products = torch.zeros(threads, max(2 * 64 * MAX_ROWS, 4 * width) + 64, dtype=torch.uint8)
        values = {
            State.HEADS: config.n_head, State.KV_HEADS: config.n_kv_head, State.HEAD_DIM: config.head_dim,
            State.HEAD_WIDTH: width, State.ELEMENT_BYTES: self.pages.dtype.itemsize,
            State.HEAD_BYTES: self.memory.head_bytes, State.KEY_BYTES: self.memory.key_bytes,
            State.SCORES: self._scores.data_ptr(), State.SCORES_STRIDE: self._scores.shape[1],
            State.SCRATCH: self._products.data_ptr(), State.SCRATCH_STRIDE: self._products.shape[1],
        }  # fmt: skip
        for column, value in values.items():
            self.thread_pool.state[column] = value

    def _warm_up(self) -> None:
        """The first step loads the compiled kernels, or compiles them, which a person should know about."""
        late = threading.Timer(2.0, say_once, (COMPILING,))
        late.start()
        try:
            self.step([0], [0], [0])
            self.pages.release(0)
        finally:
            late.cancel()

    def step(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], wanted: int | None = None
    ) -> Tensor:
        """Logits [wanted, V] of the first `wanted` rows (None: of all); the tensor is overwritten by the next
        call.

        Rows are tokens of one text or of several; those of one stand in order. A row's logits do not depend
        on the other rows, bit for bit. Raises ValueError for more than 64 rows, or rows that do not fit, and
        OutOfPagesError.
        """
        rows, state = len(tokens), self.thread_pool.state
        if not 0 < rows <= MAX_ROWS:
            raise ValueError(f"a step takes 1 to {MAX_ROWS} rows, not {rows}")
        limits = (tokens, self.config.vocab_size), (positions, self.max_length), (slots, self.pages.slots)
        for column, (values, limit) in enumerate(limits):
            if not (len(values) == rows and min(values) >= 0 and max(values) < limit):
                raise ValueError(
                    f"the tokens, positions and slots {list(tokens), list(positions), list(slots)} do not "
                    f"fit this network"
                )
            start = State.TOKENS + column * MAX_ROWS
            state[start : start + rows] = values
        spans: dict[int, tuple[int, int]] = {}
        for slot, position in zip(slots, positions, strict=True):
            first, last = spans.get(slot, (position, position))
            spans[slot] = min(first, position), max(last, position)
        for slot, (first, last) in spans.items():
            self.pages.reserve(slot, first, last + 1)
        if self.program.adapters is not None:
            self.program.adapters[:rows, 0] = torch.tensor(
                [self.adapter_of_slot.get(slot, 0) for slot in slots]
            )
        wanted = rows if wanted is None else wanted
        self._place_pages()
        state[State.ROWS], state[State.LOGIT_ROWS] = rows, wanted
        self.thread_pool.run()
        return self.program.logits[:wanted]

    def set_adapter(self, slot: int, number: int) -> None:
        """The slot's text is for this one of the networks from now on; 0 is the first."""
        self.adapter_of_slot[slot] = number

    def read(self, slot: int, ids: Sequence[int], start: int = 0) -> Tensor:
        """Read a text whose first `start` tokens the slot holds already; logits [V] after its last
        token.

        Packed weights are read through the kernels, many tokens a step. For plain ones PyTorch's matrix
        products are faster, for all but the last token, unless they are of bf16 and this machine is slow at
        those.
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
        """Read tokens at positions from `start` on with the network itself, and keep their keys and
        values."""
        self.pages.reserve(slot, start, start + len(ids))
        self._place_pages()
        network = self.networks[self.adapter_of_slot.get(slot, 0)]
        cache = TorchCacheView(self.config, self.thread_pool.state, slot, start)
        with torch.no_grad(), evaluating(network), torch.autocast("cpu", torch.bfloat16, enabled=self.packed):
            network.hidden(torch.tensor([list(ids)]), cache=cache)

    def _place_pages(self) -> None:
        """For each layer, where its group's table of pages is, and how many bytes into a page the layer
        begins."""
        table = self.pages.table
        if table.ctypes.data != self._placed:
            self._placed = table.ctypes.data
            for number, layer_group in enumerate(self.pages.layer_groups):
                for place, layer in enumerate(layer_group.layers):
                    self._layers[layer, LayerPages.PAGE_TABLE] = table[number].ctypes.data
                    self._layers[layer, LayerPages.OFFSET] = place * self.memory.layer_bytes
            state = self.thread_pool.state
            state[State.LAYERS], state[State.PAGE_COUNT] = self._layers.ctypes.data, table.shape[2]


def is_packed(network: GPT) -> bool:
    return any(isinstance(module, PackedWeight) for module in network.modules())


def cache_dtype(network: GPT) -> torch.dtype:
    """What a program keeps keys and values in."""
    plain = not is_packed(network) and all(
        parameter.dtype == torch.float32 for parameter in network.parameters()
    )
    return torch.float32 if plain else torch.bfloat16


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


@cache
def say_once(sentence: str) -> None:
    """A note on standard error, or wherever the program sends newleaf's log; the same one is not repeated."""
    logging.getLogger("newleaf").warning(sentence)
