"""Conversions: every family to GGUF in each type and back, folders in each number format, packed weights, by
Model.save and the command."""

from __future__ import annotations

from typing import Any

import torch

import newleaf
from tools.same_outputs.digest import digest, folder_digest
from tools.same_outputs.models import FAMILIES, make_model
from tools.same_outputs.workplace import Workplace

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "MXFP4")
REFUSED = "refused"


def outputs(work: Workplace) -> dict[str, Any]:
    found: dict[str, Any] = {family: of_family(work, family) for family in FAMILIES}
    found["command"] = by_command(work)
    return found


def of_family(work: Workplace, family: str) -> dict[str, Any]:
    """The model's folder written anew, and each GGUF's bytes with the folder that it opens to."""
    source = work.once(f"models/{family}-small", lambda path: make_model(path, family))
    model = newleaf.load(source, threads=work.threads)
    again = work.place(f"converted/{family}/folder")
    model.save(again)
    found: dict[str, Any] = {"folder": folder_digest(again)}
    for kind in TYPES:
        found[kind] = through_gguf(work, model, family, kind)
    for weights in ("bf16", "int8", "int4"):
        packed = work.place(f"converted/{family}/{weights}")
        newleaf.load(source, weights=weights, threads=work.threads).save(packed)
        found[weights] = folder_digest(packed)
    return found


def through_gguf(work: Workplace, model: newleaf.Model, family: str, kind: str) -> Any:
    """To GGUF and back; "refused" for a type or a family that GGUF has no layout for."""
    file, back = work.place(f"converted/{family}/{kind}.gguf"), work.place(f"converted/{family}/{kind}-back")
    try:
        model.save(file, type=kind)
    except newleaf.InputError:
        return REFUSED
    opened = newleaf.load(file, threads=work.threads)
    opened.save(back)
    text = opened.generate("def wrap(", temperature=0, max_tokens=12)
    return {"file": digest(file.read_bytes()), "back": folder_digest(back), "greedy": text}


def by_command(work: Workplace) -> dict[str, Any]:
    """`newleaf convert` from a folder in bf16, there and back."""
    source = work.once(
        "models/qwen3-large-bf16", lambda path: make_model(path, "qwen3", "large", torch.bfloat16)
    )
    file, half = work.place("converted/command.gguf"), work.place("converted/half")
    work.command("convert", source, file, "--type", "Q8_0")
    work.command("convert", file, half, "--dtype", "fp16")
    return {"file": digest(file.read_bytes()), "back": folder_digest(half)}
