"""The complete network: token ids in, logits of the next token out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from newleaf.model.block import Block
from newleaf.model.context import build_context
from newleaf.model.count import count_parameters
from newleaf.model.embedding import Embedding
from newleaf.model.gpt_config import GPTConfig
from newleaf.model.initialize import initialize
from newleaf.model.kv_cache import Cache
from newleaf.model.loss import linear_cross_entropy
from newleaf.model.masks import Placement
from newleaf.model.norm import build_norm


class GPT(nn.Module):
    """A decoder-only transformer, built from a `GPTConfig`: embedding → n_layer blocks → final norm → head.

    `network(ids)` takes ids [B, T] and returns logits [B, T, V]; the logits at t are for the token at t + 1.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        # Gradient checkpointing: keep each block's input only, and recompute the rest in the backward pass.
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
        ids: Int[Tensor, "B T"],
        *,
        real: Bool[Tensor, "B T"] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
        placement: Placement | None = None,
        logits_to_keep: Int[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "B T V"] | Float[Tensor, "N V"]:
        """Logits [B, T, V]; or [N, V] of `logits_to_keep`, indices into the B·T tokens of the batch.

        `real` is false at padding, which no token sees. `documents` numbers the document of each token, and
        tokens see only their own. `cache` holds earlier tokens, and these are appended to it. `placement`
        says where tokens stand in rows that are not one text each; `real` and `documents` are then ignored.
        Raises ValueError when the tokens do not fit the context.
        """
        x = self.hidden(ids, real=real, documents=documents, cache=cache, placement=placement)
        logits: Tensor = self.head(x if logits_to_keep is None else x.flatten(0, 1)[logits_to_keep])
        return logits

    def loss(
        self,
        ids: Int[Tensor, "B T"],
        targets: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        reduction: str = "mean",
    ) -> Float[Tensor, ""] | Float[Tensor, "B T"]:
        """Cross-entropy in nats; targets of -100 do not count. `reduction`: mean, sum or none ([B, T])."""
        x = self.hidden(ids, documents=documents)
        return linear_cross_entropy(x, self.head.weight, self.head.bias, targets, reduction)

    def hidden(
        self,
        ids: Int[Tensor, "B T"],
        *,
        real: Bool[Tensor, "B T"] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
        placement: Placement | None = None,
    ) -> Float[Tensor, "B T C"]:
        """What the head reads, after the final norm. Arguments as in `forward`."""
        context = build_context(self.config, ids, real, documents, cache, placement)
        x = self.embedding(ids, context.positions)
        context = context.to(x.dtype)
        recompute = self.recompute and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, context, use_reentrant=False) if recompute else block(x, context)
        if cache is not None:
            cache.advance(ids.shape[1])
        normed: Tensor = self.final_norm(x)
        return normed

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the norms, in which activations are computed; packed matrices are unpacked to it."""
        return next(self.blocks.parameters()).dtype

    @property
    def layers(self) -> Iterator[Block]:
        """The blocks, first to last."""
        return (block for block in self.blocks if isinstance(block, Block))

    def parameter_count(self) -> int:
        """Number of weights; a tied head counts once."""
        return count_parameters(self.config).total

    def weight_bytes(self) -> int:
        """Memory of weights and tables in bytes, each storage counted once."""
        storages = [tensor.untyped_storage() for tensor in (*self.parameters(), *self.buffers())]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
