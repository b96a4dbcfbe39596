"""What an adapter is, read from its configuration and the head of its weights."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open

from newleaf.adapters.peft_format import gives_labels
from newleaf.errors import InputError
from newleaf.storage.adapter_folder import (
    NEWLEAF_FILE,
    WEIGHTS,
    adapter_folder,
    base_of,
    read_adapter_config,
    read_notes,
)
from newleaf.storage.classifier_adapter import NOTE
from newleaf.storage.classifier_folder import parse_head
from newleaf.untrusted import check_regular, native_errors_as_input_errors


def adapter_info(name: str | Path) -> dict[str, Any]:
    """Facts about an adapter on this disk, or about a run's; `base` is where the model is that it is for.

    Raises InputError when it is damaged or uses what newleaf does not honour.
    """
    folder = adapter_folder(name)
    about = read_adapter_config(folder)
    kind = ("rank-stabilised " if about.get("use_rslora") else "") + (
        "DoRA" if about.get("use_dora") else "LoRA"
    )
    return {
        "adapter": str(folder),
        "method": f"{kind}, rank {about['r']}, alpha {about['lora_alpha']}",
        "on": _target_modules(about),
        "adapter_parameters": _count_parameters(folder),
        "gives": _output_kind(folder, about),
        "base": base_of(folder) if about.get("base_model_name_or_path") else None,
    }


def _target_modules(about: dict[str, Any]) -> str:
    """Layers by what they are called in every block, such as "mlp.up_proj"."""
    modules = about.get("target_modules") or []
    each = [modules] if isinstance(modules, str) else modules
    return ", ".join(
        sorted({re.sub(r"^.*\.\d+\.", "", name) for name in [*each, *(about.get("target_parameters") or [])]})
    )


def _count_parameters(folder: Path) -> int:
    if not (folder / WEIGHTS).exists():
        raise InputError(f"{folder}: {WEIGHTS} is missing")
    check_regular(folder / WEIGHTS)
    with (
        native_errors_as_input_errors(f"{folder}: {WEIGHTS} is damaged or not safetensors"),
        safe_open(folder / WEIGHTS, framework="pt") as file,
    ):
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (it is no dictionary)


def _output_kind(folder: Path, about: dict[str, Any]) -> str:
    if not gives_labels(about):
        return "text"
    noted = read_notes(folder).get(NOTE)
    if noted is None:
        return "labels"
    head = parse_head(noted, folder / NEWLEAF_FILE)
    if head.regression:
        return "a number" if head.outputs == 1 else f"{head.outputs} numbers"
    return f"{head.shape}: {', '.join(map(str, head.labels))}" if head.labels else head.shape
