"""Every family, small and large: logits in each number format, and texts, greedy and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import newleaf
from tools.same_outputs.digest import tensor_digest
from tools.same_outputs.models import FAMILIES, SPECIAL, VOCABULARY, make_model
from tools.same_outputs.workplace import Workplace

FORMATS = {"small": ("fp32", "bf16", "int8", "int4"), "large": ("fp32", "bf16", "int8")}
FURTHER = ("fp32", "int8")  # in these formats, texts of several kinds
FOUR_BITS = ("qwen3", "gpt_oss")  # large models also in four bits, whose packing takes seconds
PROMPT = "def wrap(text, width):\n    return"
SENTENCE = "The text is wrapped at white space, and a line that is too long is broken. "
LONG, FULL = SENTENCE * 3, SENTENCE * 8  # of a context of 256 tokens they take about 90 and 245


def outputs(work: Workplace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family in FAMILIES:
        for size, formats in FORMATS.items():
            folder = work.once(
                f"models/{family}-{size}", lambda path, f=family, s=size: make_model(path, f, s)
            )
            more = ("int4",) if size == "large" and family in FOUR_BITS else ()
            found[f"{family}-{size}"] = {
                weights: of_model(folder, weights, work.threads) for weights in (*formats, *more)
            }
        bits = newleaf.load(folder, threads=work.threads, cache="int8")
        found[f"{family}-large"]["cache of 8 bits"] = bits.generate(LONG, temperature=0, max_tokens=16)
    return found


def of_model(folder: Path, weights: str, threads: int) -> dict[str, Any]:
    """`past the context` begins before it is full and ends after that."""
    model = newleaf.load(folder, weights=weights, threads=threads)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(len(SPECIAL), VOCABULARY, (2, 40), generator=generator)
    with torch.no_grad():
        logits = model.network(ids)
    found = {"logits": tensor_digest(logits), "greedy": model.generate(PROMPT, temperature=0, max_tokens=16)}
    if weights in FURTHER:
        found["drawn"] = model.generate(PROMPT, seed=11, max_tokens=16)
        found["past the context"] = model.generate(FULL, seed=12, max_tokens=24)
    return found
