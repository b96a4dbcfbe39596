"""Whether a number format can hold a tensor: what is too large for it would become infinity without a
word."""

from __future__ import annotations

import torch
from torch import Tensor

from newleaf.errors import InputError

FP16_MAX = 65_504.0
# GGUF's formats whose blocks have a scale in fp16: the largest weight of a block is so many scales.
BLOCK_CODE_MAX = {"Q8_0": 127, "Q4_0": 8}


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises InputError, naming the tensor, for one that holds NaN or infinity."""
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        what = "NaN" if bool(tensor.isnan().any()) else "infinity"
        raise InputError(
            f"{name} holds {what}: the model is damaged, or its training diverged; nothing is written"
        )


def check_range(name: str, tensor: Tensor, kind: str) -> None:
    """Raises InputError, naming the tensor, where a weight is beyond the range of `kind`: fp16, bf16, or one
    of GGUF's formats."""
    check_finite(name, tensor)
    if not tensor.numel():
        return
    largest = float(tensor.abs().max())
    if kind in BLOCK_CODE_MAX:
        fits = bool(torch.tensor(largest / BLOCK_CODE_MAX[kind]).half().isfinite())
        limit, advice = f"{FP16_MAX * BLOCK_CODE_MAX[kind]:,.0f}", "choose BF16 or F32"
    elif kind in ("fp16", "F16"):
        fits, limit, advice = bool(torch.tensor(largest).half().isfinite()), "65,504", "choose bf16 or fp32"
    elif kind in ("bf16", "BF16"):
        fits, limit, advice = bool(torch.tensor(largest).bfloat16().isfinite()), "3.39e38", "choose fp32"
    else:
        return
    if not fits:
        raise InputError(
            f"{name} has a value of {largest:,.6g}, beyond {kind}'s range, which ends at {limit}; {advice}"
        )
