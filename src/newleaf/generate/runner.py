"""Networks at work: tokens of several sequences in, logits out, with the keys and values of what they have read kept in slots."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from newleaf.generate.crew import Crew
from newleaf.generate.kernels.layout import LANES, State
from newleaf.generate.lowering import lower
from newleaf.generate.program import up
from newleaf.model import GPT, KVCache

MAX_ROWS = 16


class LoweredRunner:
    """Runs the lowered program of a network. A slot holds one sequence; a row is one token of one slot at one position."""

    def __init__(self, network: GPT, slots: int = 1, max_length: int | None = None, threads: int | None = None) -> None:
        config = network.config
        self.network, self.config, self.slots = network, config, slots
        self.max_length = up(max_length or config.context_length, LANES)
        self.program = lower(network, threads or torch.get_num_threads(), MAX_ROWS, self.max_length)
        self.crew = Crew(self.program)
        plain = [parameter.dtype for parameter in network.parameters()]
        packed = any(True for name, _ in network.named_buffers() if name.endswith(".codes"))
        self.dtype = torch.float32 if not packed and all(dtype == torch.float32 for dtype in plain) else torch.bfloat16
        self.width = up(config.head_dim, LANES)
        shape = (config.n_layer, slots, config.n_kv_head, self.max_length)
        pairs = 2 if self.dtype == torch.bfloat16 else 1
        self.keys = torch.zeros(*shape[:3], self.max_length // LANES, self.width // pairs, LANES, pairs, dtype=self.dtype)
        self.values = torch.zeros(*shape, self.width, dtype=self.dtype)
        scores = 4 * (self.max_length + LANES)
        threads_ = self.program.threads
        self._scratch = torch.zeros(threads_, scores + 64, dtype=torch.uint8)
        self._tiles = torch.zeros(threads_, max(2 * 64 * MAX_ROWS, 4 * self.width) + 64, dtype=torch.uint8)
        state = self.crew.state
        for column, value in {
            State.HEADS: config.n_head, State.KV_HEADS: config.n_kv_head, State.HEAD_DIM: config.head_dim, State.HEAD_WIDTH: self.width,
            State.KEYS: self.keys.data_ptr(), State.VALUES: self.values.data_ptr(), State.CACHE_BF16: int(pairs == 2),
            State.CACHE_LENGTH: self.max_length, State.SLOTS: slots,
            State.SCORES: self._scratch.data_ptr(), State.SCORES_STRIDE: self._scratch.shape[1],
            State.TILE: self._tiles.data_ptr(), State.TILE_STRIDE: self._tiles.shape[1],
        }.items():  # fmt: skip
            state[column] = value

    def step(self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int]) -> Tensor:
        """Logits fp32 [R, V] of up to 16 rows, which go into their slots. The tensor is overwritten by the next step."""
        rows, state, most = len(tokens), self.crew.state, MAX_ROWS
        state[State.ROWS] = rows
        state[State.TOKENS : State.TOKENS + rows] = tokens
        state[State.TOKENS + most : State.TOKENS + most + rows] = positions
        state[State.TOKENS + 2 * most : State.TOKENS + 2 * most + rows] = slots
        self.crew.run()
        return self.program.logits[:rows]

    def adopt(self, slot: int, cache: KVCache, row: int = 0) -> None:
        """Take over what the network itself has read into a cache."""
        length, dim = cache.length, self.config.head_dim
        filled = up(length, LANES)
        keys = torch.zeros(*cache.keys.shape[:1], *cache.keys.shape[2:3], filled, self.width, dtype=self.dtype)
        keys[:, :, :length, :dim] = cache.keys[:, row, :, :length]
        self.values[:, slot, :, :length, :dim] = cache.values[:, row, :, :length]
        pairs = self.keys.shape[-1]
        tiles = keys.unflatten(2, (-1, LANES)).unflatten(-1, (-1, pairs)).transpose(3, 4)  # [layers, K, tiles, D/pairs, 16, pairs]
        self.keys[:, slot, :, : filled // LANES] = tiles
