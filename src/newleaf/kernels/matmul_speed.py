"""How fast this machine multiplies matrices, measured: a processor's flags say what it knows, and not how
quickly it does it."""

from __future__ import annotations

import time
from functools import cache

import torch

MAX_SECONDS = 0.05  # seconds that a comparison takes; longer only where one product does
TRIALS = 12
MIN_SPEEDUP = 1.2  # times as fast as in fp32: what products in bf16 must be for it to be worth its rounding


def matmul_speed(dtype: torch.dtype, device: torch.device, seconds: float = 0.25) -> float:
    """FLOP/s of matrix products of the shape that small models train with, the best of the trials that fit in
    `seconds`."""
    rows, width, inner = 4096, 256, 768
    left, right = (
        torch.randn(rows, width, device=device).to(dtype),
        torch.randn(width, inner, device=device).to(dtype),
    )
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end or best == 0.0:
        best = max(best, 2 * rows * width * inner / _seconds(left, right))
    return best


def bf16_is_faster(device: torch.device) -> bool:
    """Whether matrix products in bf16 are clearly faster here than in fp32, for the threads that PyTorch has
    now."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _bf16_beats_fp32(torch.get_num_threads())


@cache
def _bf16_beats_fp32(threads: int) -> bool:
    """Products of both kinds in turns, so that whatever else runs disturbs both; the best of each counts.
    Where bf16 is emulated, one product of this size takes a tenth of a second."""
    rows, width, inner = 256, 256, 768
    pairs = {
        dtype: (torch.randn(rows, width).to(dtype), torch.randn(width, inner).to(dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(pairs, float("inf"))
    end = time.perf_counter() + MAX_SECONDS
    for trial in range(TRIALS):
        for dtype, pair in pairs.items():
            best[dtype] = min(best[dtype], _seconds(*pair))
        if trial and time.perf_counter() > end:  # the first trial of each may have set things up
            break
    return best[torch.float32] > MIN_SPEEDUP * best[torch.bfloat16]


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    start = time.perf_counter()
    (left @ right).sum().item()
    return time.perf_counter() - start
