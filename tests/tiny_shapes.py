"""Fields of `GPTConfig` that make a small network of a family's layout, for tests that add its sizes."""

from __future__ import annotations

from typing import Any

LLAMA: dict[str, Any] = {
    "norm": "rms_norm", "positions": "rotary", "activation": "silu", "gated": True,
    "attention_bias": False, "attention_out_bias": False, "feedforward_bias": False,
}  # fmt: skip
TINY: dict[str, Any] = {"vocab_size": 272, "context_length": 16, "n_head": 2, "n_embd": 32, "n_inner": 32}
GPT_OSS: dict[str, Any] = {
    "norm": "rms_norm", "positions": "rotary", "activation": "clamped_swiglu", "gated": True, "sinks": True,
    "n_expert": 4, "n_expert_active": 2, "windows": (8, 0), "yarn_factor": 2.0, "tie_embeddings": False,
}  # fmt: skip
