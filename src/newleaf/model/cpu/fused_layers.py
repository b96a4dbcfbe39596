"""Compiled layers for training on a CPU, forward and backward: fewer passes over memory, larger products.

Each computes what the module that calls it computes; where one does not apply (`fits`), the module does it
with PyTorch's operators.
"""

from __future__ import annotations

import struct
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

MIN_TOKENS = 512  # of a forward pass; with fewer, starting Numba and the loops costs more than they save
CHUNK_ROWS = 32  # rows that a thread takes at once
CHUNK_QUERIES = 128  # multiplied at once by the keys that they may see


def available() -> bool:
    """Whether the loops can be compiled on this machine."""
    from newleaf.kernels.instruction_set import why_unsupported

    return why_unsupported() is None


def fits(x: Tensor) -> bool:
    """Whether the compiled loops take activations [B, T, C]: on a CPU, many, bf16 or fp32, C % 16 = 0."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.bfloat16, torch.float32)
        and x.numel() >= MIN_TOKENS * x.shape[-1]
        and x.shape[-1] % 16 == 0
        and available()
    )


def _wide(x: Tensor) -> int:
    """Whether numbers have four bytes and not two."""
    return int(x.dtype == torch.float32)


def _bits(value: float) -> int:
    """An fp32's bits, as the loops' tables hold them."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def _chunks(rows: int) -> int:
    return -(-rows // CHUNK_ROWS)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        from newleaf.kernels import norms

        x, fp32 = x.contiguous(), weight.float()
        out = torch.empty_like(x)
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        norms.rms_norm_forward(
            rows, CHUNK_ROWS, x.data_ptr(), out.data_ptr(), fp32.data_ptr(), width, _wide(x), _bits(eps)
        )
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        from newleaf.kernels import norms

        x, weight = ctx.saved_tensors
        grad, fp32, out = grads[0].contiguous(), weight.float(), torch.empty_like(x)
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        sums = torch.zeros(_chunks(rows), width)
        addresses = (t.data_ptr() for t in (x, grad, out, fp32, sums))
        norms.rms_norm_backward(rows, CHUNK_ROWS, *addresses, CHUNK_ROWS, width, _wide(x), _bits(ctx.eps))
        return out, sums.sum(0).to(weight.dtype), None


def rms_norm(
    x: Float[Tensor, "*batch C"], weight: Float[Tensor, " C"], eps: float
) -> Float[Tensor, "*batch C"]:
    """RMS norm over C."""
    return _RMSNorm.apply(x, weight, eps)  # type: ignore[no-any-return, no-untyped-call]


def softmax_gradients(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N V"]]:
    """Losses in fp32, and their gradients softmax − one-hot, which overwrite the logits.

    Both are zero where a target is below 0.
    """
    from newleaf.kernels import cross_entropy

    rows, width = logits.shape
    losses, targets = torch.empty(rows), targets.contiguous()
    cross_entropy.cross_entropy(
        rows, 8, logits.data_ptr(), targets.data_ptr(), losses.data_ptr(), width, _wide(logits)
    )
    return losses, logits


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        from newleaf.kernels import activations

        both, width = both.contiguous(), both.shape[-1] // 2
        out = torch.empty(*both.shape[:-1], width, dtype=both.dtype)
        activations.swiglu_forward(
            out.numel() // width, CHUNK_ROWS, both.data_ptr(), out.data_ptr(), width, _wide(both)
        )
        ctx.save_for_backward(both)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        from newleaf.kernels import activations

        (both,) = ctx.saved_tensors
        grad, gradients = grads[0].contiguous(), torch.empty_like(both)
        width = grad.shape[-1]
        activations.swiglu_backward(
            grad.numel() // width,
            CHUNK_ROWS,
            both.data_ptr(),
            grad.data_ptr(),
            gradients.data_ptr(),
            width,
            _wide(grad),
        )
        return gradients


def swiglu(both: Float[Tensor, "*batch 2*F"]) -> Float[Tensor, "*batch F"]:
    """silu(gate) · up, of gate and up concatenated."""
    return _SwiGLU.apply(both)  # type: ignore[no-any-return, no-untyped-call]


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        from newleaf.kernels import activations

        x = x.contiguous()
        out, width = torch.empty_like(x), x.shape[-1]
        activations.gelu_forward(
            x.numel() // width, CHUNK_ROWS, x.data_ptr(), out.data_ptr(), width, _wide(x)
        )
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        from newleaf.kernels import activations

        (x,) = ctx.saved_tensors
        grad, out, width = grads[0].contiguous(), torch.empty_like(x), x.shape[-1]
        activations.gelu_backward(
            x.numel() // width, CHUNK_ROWS, x.data_ptr(), grad.data_ptr(), out.data_ptr(), width, _wide(x)
        )
        return out


def gelu_tanh(x: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch F"]:
    """GELU by tanh."""
    return _GELU.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class _Attention(torch.autograd.Function):
    """Everything between the projections before attention and the one after it.

    q k v ─► QK norm, rotary, heads split ─► scores ─► causal softmax ─► · v ─► heads concatenated
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, q_norm: Tensor | None, k_norm: Tensor | None, cos: Tensor | None,
        sin: Tensor | None, heads: int, kv_heads: int, eps: float, scale: float, starts: Tensor | None,
    ) -> Tensor:  # fmt: skip
        from newleaf.kernels import causal_softmax, split_heads
        from newleaf.kernels.llvm_vectors import LANES

        qkv = qkv.contiguous()
        batch, length, width = qkv.shape
        dim, group = width // (heads + 2 * kv_heads), heads // kv_heads
        # Queries that share a key head are adjacent.
        q = torch.empty(batch * kv_heads, group, length, dim, dtype=qkv.dtype)
        k, v = torch.empty(2, batch * kv_heads, length, dim, dtype=qkv.dtype).unbind()
        tables = [norm.float() if norm is not None else None for norm in (q_norm, k_norm)] + [cos, sin]
        about = (length, heads, dim, _wide(qkv), _bits(eps), _bits(scale), kv_heads, _address(starts))
        split_heads.split_heads_forward(
            batch * length, CHUNK_ROWS, *map(_address, (qkv, q, k, v, *tables)), *about
        )
        mixed, shares, keys = torch.empty_like(q), [], []
        for start in range(0, length, CHUNK_QUERIES):
            end = min(start + CHUNK_QUERIES, length)
            # None of these queries sees a key before `low`.
            low = 0 if starts is None else int(starts[:, start].min()) // LANES * LANES
            scores = torch.bmm(_flat_queries(q, start, end), k[:, low:end].mT)
            rows = batch * heads * (end - start)
            places = (
                (0, 0, 0, 1)
                if starts is None
                else (starts[:, start:].data_ptr(), length, low, heads * (end - start))
            )
            causal_softmax.causal_softmax_forward(
                rows, CHUNK_ROWS, scores.data_ptr(), end - start, end - low, start - low, _wide(qkv), *places
            )
            mixed[:, :, start:end] = torch.bmm(scores, v[:, low:end]).view(-1, group, end - start, dim)
            shares.append(scores)
            keys.append((low, end))
        ctx.save_for_backward(qkv, q, k, v, *shares)
        # The loops have the addresses of tables and starts, which must live as long.
        ctx.tables, ctx.about, ctx.keys, ctx.starts = tables, about, keys, starts
        return mixed.view(batch, heads, length, dim).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from newleaf.kernels import causal_softmax, split_heads

        qkv, q, k, v, *shares = ctx.saved_tensors
        length, heads, dim, wide, *_ = ctx.about
        batch, group = len(qkv), q.shape[1]
        grad = grads[0].view(batch, length, heads, dim).transpose(1, 2).reshape(q.shape)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        # The last queries may see all keys: their gradients are written first, and the others are added.
        if ctx.keys[-1] != (0, length):
            dk.zero_()
            dv.zero_()
        for share, start, (low, end) in zip(
            reversed(shares), reversed(range(0, length, CHUNK_QUERIES)), reversed(ctx.keys), strict=True
        ):
            some = _flat_queries(grad, start, end)
            gradient = torch.bmm(some, v[:, low:end].mT)
            rows = batch * heads * (end - start)
            about = (end - start, end - low, start - low, wide)
            causal_softmax.causal_softmax_backward(
                rows, CHUNK_ROWS, share.data_ptr(), gradient.data_ptr(), *about
            )
            dq[:, :, start:end] = torch.bmm(gradient, k[:, low:end]).view(-1, group, end - start, dim)
            if (low, end) == (0, length):
                torch.bmm(share.mT, some, out=dv)
                torch.bmm(gradient.mT, _flat_queries(q, start, end), out=dk)
            else:
                dv[:, low:end] += torch.bmm(share.mT, some)
                dk[:, low:end] += torch.bmm(gradient.mT, _flat_queries(q, start, end))
        back = torch.empty_like(qkv)
        sums = torch.zeros(_chunks(batch * length), 2, dim)
        addresses = map(_address, (qkv, dq, dk, dv, *ctx.tables))
        split_heads.split_heads_backward(
            batch * length, CHUNK_ROWS, *addresses, *ctx.about, back.data_ptr(), sums.data_ptr(), CHUNK_ROWS
        )
        q_sum, k_sum = sums.sum(0).to(q.dtype) if ctx.tables[0] is not None else (None, None)
        return back, q_sum, k_sum, None, None, None, None, None, None, None


def _flat_queries(heads: Tensor, start: int, end: int) -> Tensor:
    """Positions from `start` to `end` of [N, G, T, D], as [N, G · positions, D]."""
    return heads[:, :, start:end].flatten(1, 2)


def _address(tensor: Tensor | None) -> int:
    return tensor.data_ptr() if tensor is not None else 0


def causal_attention(
    qkv: Float[Tensor, "B T (H+2K)*D"],
    norms: tuple[Float[Tensor, " D"], Float[Tensor, " D"]] | None,
    eps: float,
    rotary: tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]] | None,
    heads: int,
    kv_heads: int,
    scale: float,
    starts: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T H*D"]:
    """Causal attention of concatenated queries, keys and values, before the output projection.

    `norms` are the weights of QK norm; `rotary` fp32 tables of cosines and sines. Where `starts` (int32) is
    given, a query sees nothing before that position.
    """
    q_norm, k_norm = norms or (None, None)
    cos, sin = rotary or (None, None)
    return _Attention.apply(qkv, q_norm, k_norm, cos, sin, heads, kv_heads, eps, scale, starts)  # type: ignore[no-any-return, no-untyped-call]
