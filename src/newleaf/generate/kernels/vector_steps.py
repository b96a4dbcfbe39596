"""Steps on one small vector: norms, quantization of inputs, and the choice of experts."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from newleaf.generate.kernels.elementwise import normalize, quantize_int8
from newleaf.generate.kernels.layout import ExpertChoice, Norm, Op, Quantize, Route, Step
from newleaf.generate.kernels.state_access import row_address
from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import load_float, load_long, store_long
from newleaf.kernels.simd import bits_from_float, float_from_bits


@kernel
def run_vector_step(step: Any, buffers: Any, row: Any, owner: Any) -> None:
    """A step on one row; `owner` is the thread whose copy of the buffers is used."""
    op = step[Step.OP]
    if op == Op.NORM:
        x = row_address(buffers, step[Norm.INPUT], row, owner)
        out = row_address(buffers, step[Norm.OUT], row, owner)
        epsilon = float_from_bits(step[Norm.EPSILON])
        weight, bias, width = step[Norm.WEIGHT], step[Norm.BIAS], step[Norm.WIDTH]
        normalize(x, out, weight, bias, width, epsilon, step[Norm.SUBTRACT_MEAN])
    elif op == Op.QUANTIZE:
        x = row_address(buffers, step[Quantize.INPUT], row, owner)
        out = row_address(buffers, step[Quantize.OUT], row, owner)
        quantize_int8(x, out, step[Quantize.WIDTH], step[Quantize.GROUP])
    elif op == Op.ROUTE:
        scores = row_address(buffers, step[Route.SCORES], row, owner)
        out = row_address(buffers, step[Route.OUT], row, owner)
        top_k_experts(scores, out, step[Route.EXPERTS], step[Route.ACTIVE])


@kernel
def top_k_experts(scores: Any, out: Any, experts: Any, active: Any) -> None:
    """The `active` experts of the highest scores, and the softmax over these, as `ExpertChoice`s."""
    top = nb.float32(0.0)
    for k in range(active):
        best = -1
        for expert in range(experts):
            taken = False
            for earlier in range(k):
                taken |= load_long(out + ExpertChoice.SIZE * earlier) == expert
            if not taken and (best < 0 or load_float(scores + 4 * expert) > load_float(scores + 4 * best)):
                best = expert
        store_long(out + ExpertChoice.SIZE * k, best)
        if k == 0:
            top = load_float(scores + 4 * best)
    total = nb.float32(0.0)
    for k in range(active):
        choice = out + ExpertChoice.SIZE * k
        power = nb.float32(np.exp(load_float(scores + 4 * load_long(choice)) - top))
        total += power
        store_long(choice + ExpertChoice.WEIGHT, bits_from_float(power))
    for k in range(active):
        weight = out + ExpertChoice.SIZE * k + ExpertChoice.WEIGHT
        store_long(weight, bits_from_float(float_from_bits(load_long(weight)) / total))
