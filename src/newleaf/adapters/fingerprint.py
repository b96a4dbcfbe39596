"""What tells one base from another, however many bits its weights are kept in: some of its weights, and a
short name made of them."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from newleaf.adapters.adapter import weight_of
from newleaf.model import GPT, GPTConfig
from newleaf.quant.packed import Packed

SAMPLES = 24  # weights taken of each matrix
# How far two sets of samples may be apart, as a share of their size: rounding to bf16 leaves 0.2 %, to 8 bits
# 1 %, to 4 bits about 10 %.
NEAR, NEAR_PACKED = 0.005, 0.25


@torch.no_grad()
def fingerprint(config: GPTConfig, weight: Callable[[str], Tensor | Packed]) -> dict[str, Any]:
    """`id`, the weights sampled (`samples`) and whether they come from packed matrices (`packed`); `weight`
    gives a base's by name."""
    names = [
        f"blocks.{layer}.attention.{part}.weight"
        for layer in _some(config.n_layer)
        for part in ("q", "v", "out")
    ]
    matrices = [weight(name) for name in ("embedding.token.weight", *names)]
    samples = torch.cat([_samples(matrix) for matrix in matrices]).tolist()
    shape = ",".join(str(value) for value in (config.vocab_size, config.n_layer, config.n_embd))
    name = hashlib.blake2b(
        shape.encode() + struct.pack(f"<{len(samples)}f", *samples), digest_size=6
    ).hexdigest()
    return {"id": name, "packed": any(isinstance(matrix, Packed) for matrix in matrices), "samples": samples}


def fingerprint_of(network: GPT) -> dict[str, Any]:
    """That of an open network; an adapter on it is not seen."""
    return fingerprint(network.config, lambda name: weight_of(network, name))


def same_base(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two fingerprints are of the same weights, up to the number format they are kept in."""
    first, second = one["samples"], other["samples"]
    if len(first) != len(second):
        return False
    if one["id"] == other["id"]:
        return True
    apart = math.dist(first, second)
    return apart <= (NEAR_PACKED if one["packed"] or other["packed"] else NEAR) * math.hypot(*first)


def _some(layers: int) -> list[int]:
    return sorted({0, layers // 2, layers - 1})


def _samples(matrix: Tensor | Packed) -> Tensor:
    """Weights spread evenly over a matrix, fp32."""
    rows, columns = matrix.shape[-2:]
    at = torch.arange(SAMPLES)
    row, column = at * (rows - 1) // (SAMPLES - 1), (at * 7919) % columns
    if isinstance(matrix, Packed):
        return matrix.take(row)[at, column].float()
    return matrix.detach()[row.to(matrix.device), column.to(matrix.device)].float().cpu()
