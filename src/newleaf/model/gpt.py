"""The whole network: ids in, logits out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from newleaf.model.attention import Context
from newleaf.model.block import Block
from newleaf.model.count import count_parameters
from newleaf.model.cpu.block_diagonal_attention import PackedDocuments
from newleaf.model.embedding import Embedding
from newleaf.model.gpt_config import GPTConfig
from newleaf.model.initialize import initialize
from newleaf.model.kv_cache import Cache
from newleaf.model.loss import linear_cross_entropy
from newleaf.model.masks import Masks, Placement, attention_mask, token_positions
from newleaf.model.norm import build_norm
from newleaf.model.rotary import rotary_table


class GPT(nn.Module):
    """A decoder-only transformer, built from a `GPTConfig`: embedding → n_layer blocks → final norm → head.

    `network(ids)` takes ids [B, T] and returns logits [B, T, V]; the logits at t are for the token at t + 1.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        # in training, keep each block's input only and compute the rest again on the way back
        self.recompute = False
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = build_norm(config) if config.final_norm else nn.Identity()
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        if config.tie_embeddings:
            self.head.weight = self.embedding.token.weight
        initialize(self, config, self.layers)

    def forward(
        self,
        ids: Tensor,
        *,
        real: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        placement: Placement | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, T, V] for ids [B, T], or [N, V] of the tokens `wanted` alone, numbers [N] in the
        flattened batch.

        `real` [B, T] is false at padding, which no token sees. `documents` [B, T] numbers the document of
        each token, and tokens see only their own. `cache` holds earlier tokens and takes these in. Raises
        ValueError when the tokens do not fit the context.
        """
        hidden = self.hidden(ids, real=real, documents=documents, cache=cache, placement=placement)
        logits: Tensor = self.head(hidden if wanted is None else hidden.flatten(0, 1)[wanted])
        return logits

    def loss(
        self, ids: Tensor, targets: Tensor, *, documents: Tensor | None = None, reduction: str = "mean"
    ) -> Tensor:
        """Cross-entropy in nats of targets [B, T] given ids [B, T]; targets of -100 do not count.
        `reduction`: mean, sum or none [B, T]."""
        return linear_cross_entropy(
            self.hidden(ids, documents=documents), self.head.weight, self.head.bias, targets, reduction
        )

    def hidden(
        self,
        ids: Tensor,
        *,
        real: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        placement: Placement | None = None,
    ) -> Tensor:
        """What the head reads: [B, T, C], after the final norm. Arguments as in `forward`, and `placement`
        where rows are not just one text each; then neither `real` nor `documents` is looked at, and the cache
        holds no padding."""
        count = ids.shape[1]
        past = cache.length if cache is not None else 0
        longest = past + count if placement is None else placement.longest(past)
        if longest > self.config.context_length:
            raise ValueError(f"{longest} tokens do not fit the context of {self.config.context_length}")
        # A cache that has seen padding keeps the record, so that later tokens go on ignoring it.
        seen = cache.note(real, count) if cache is not None else real
        positions = (
            placement.positions(past)
            if placement is not None
            else token_positions(seen, documents, past, count, ids.device)
        )
        x = self.embedding(ids, positions)
        packed_documents = (
            PackedDocuments.of(documents)
            if documents is not None and seen is None and cache is None and placement is None
            else None
        )
        rotary = angles = None
        if self.config.positions == "rotary":
            cos, sin = rotary_table(
                positions if packed_documents is None else torch.arange(count), self.config
            )
            angles = (cos, sin) if cos.ndim == 2 and past == 0 else None
            if packed_documents is not None:
                cos, sin = cos[positions], sin[positions]
            rotary = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)

        def mask(window: int) -> Tensor | None:
            if placement is not None:
                return placement.mask(past, window)
            return attention_mask(seen, documents, past, count, window, ids.device)

        context = Context(Masks(mask), rotary, cache, packed_documents, angles)
        again = self.recompute and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, context, use_reentrant=False) if again else block(x, context)
        if cache is not None:
            cache.advance(count)
        out: Tensor = self.final_norm(x)
        return out

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in: the type of its norms; packed matrices are unpacked to it."""
        return next(self.blocks.parameters()).dtype

    @property
    def layers(self) -> Iterator[Block]:
        """The blocks, first to last."""
        return (block for block in self.blocks if isinstance(block, Block))

    def parameter_count(self) -> int:
        """Number of weights, each counted once however often it is used."""
        return count_parameters(self.config).total

    def weight_bytes(self) -> int:
        """Memory of the weights and tables as they are kept, in bytes, each counted once."""
        tensors = [*self.parameters(), *self.buffers()]
        return sum(
            {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values()
        )
