"""Weights to codes: for each group the scale that leaves the least squared error, and not the one that just
reaches its largest."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from newleaf.quant.packed import LANES, Format, Packed, pack_codes, pack_scales

# Which part of the range the largest weight of a group is given: a scale that clips it a little may serve the
# other 31 better.
STRETCHES = {8: (1.0,), 4: (1.0, 0.93, 0.86, 1.07)}
CHUNK = 1 << 19  # weights quantised at once: their errors under every stretch stay in cache
# the exponent that `factor` gives the largest scale, so that fp16, which ends at 2^-24, holds ones 2^34 times
# smaller
LARGEST = 10


def quantize(weight: Tensor, format: Format) -> Packed:
    """Weights [rows, columns] or [E, rows, columns], any float type, packed in `format`; they are read a
    chunk of rows at a time.

    Raises ValueError for weights that are not finite.
    """
    rows, columns = weight.shape[-2:]
    tiles, groups = -(-rows // LANES), -(-columns // format.group)
    lead = weight.shape[:-2]
    weight = weight.contiguous()
    largest = max(abs(float(end)) for end in weight.aminmax()) if weight.numel() else 0.0
    if not math.isfinite(largest):
        raise ValueError("weights that are not finite cannot be quantised")
    factor = 2.0 ** (math.frexp(largest / format.zero)[1] - LARGEST) if largest else 1.0
    per_code = 8 // format.bits * 4
    codes = torch.empty(*lead, tiles, groups * format.group // per_code, LANES, 4, dtype=torch.uint8)
    scales = torch.empty(*lead, tiles, groups, LANES, dtype=torch.float16)
    step = max(1, CHUNK // (LANES * columns))
    flat = weight.reshape(-1, rows, columns) if lead else weight.unsqueeze(0)
    for matrix, into_codes, into_scales in zip(
        flat, codes.view(-1, *codes.shape[-4:]), scales.view(-1, *scales.shape[-3:]), strict=True
    ):
        for tile in range(0, tiles, step):
            some = matrix[tile * LANES : (tile + step) * LANES].float() / factor
            whole = -(-some.shape[0] // LANES) * LANES
            some = F.pad(some, (0, groups * format.group - columns, 0, whole - some.shape[0]))
            found, scale = _codes(torch.unflatten(some, -1, (groups, format.group)), format)
            into_codes[tile : tile + step] = pack_codes(found.flatten(-2), format.bits)
            into_scales[tile : tile + step] = pack_scales(scale)
    return Packed(codes, scales, tuple(weight.shape), format, factor)


def _codes(weights: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """The codes uint8 and fp16 scales [rows, groups] of weights [rows, groups, group]."""
    zero, top = format.zero, 2 * format.zero - 1
    low, high = weights.amin(-1), weights.amax(-1)
    # The farther end gets the code that has no opposite: −8 of −8 … 7. So the scale may be negative.
    farther = torch.where(high > -low, high, low)
    best = best_error = None
    for stretch in STRETCHES[format.bits]:
        scale = (farther * (stretch / -zero)).half()
        codes = (weights * _inverse(scale)).round_().clamp_(-zero, top - zero)
        if len(STRETCHES[format.bits]) == 1:
            return codes.add_(zero).to(torch.uint8), scale
        # The least-squares scale for these codes, ⟨w, q⟩ / ⟨q, q⟩, and the error it leaves, up to the
        # constant ⟨w, w⟩.
        inner, square = (weights * codes).sum(-1), codes.square().sum(-1)
        scale = torch.where(square > 0, inner / square, 0).half()
        error = scale.float() * (scale.float() * square - 2 * inner)
        if best is None or best_error is None:
            best, best_error = scale, error
        else:
            better = error < best_error
            best, best_error = torch.where(better, scale, best), torch.where(better, error, best_error)
    assert best is not None
    codes = (weights * _inverse(best)).round_().clamp_(-zero, top - zero)
    return codes.add_(zero).to(torch.uint8), best


def _inverse(scale: Tensor) -> Tensor:
    wide = scale.float()
    return torch.where(wide != 0, 1 / wide, 0).unsqueeze(-1)
