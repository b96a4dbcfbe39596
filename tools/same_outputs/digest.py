"""Digests of tensors, files and folders, without what may differ between two runs of the same code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from torch import Tensor

# What is left out of JSON and YAML, by the name of its field, and why.
LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(
        ("seconds", "train_seconds", "total_seconds", "tokens_per_second", "begun", "time_ms"),
        "time and speed"
    ),
    **dict.fromkeys(("matrix_flops", "machine", "python", "torch", "transformers_version"),
    "what the machine is and has"),
    **dict.fromkeys(("newleaf", "version"), "newleaf's version"),
    **dict.fromkeys(("id", "item_id", "response_id", "created", "created_at", "completed_at"),
    "a request's own"),
    "system_fingerprint": "a hash over names of fields, which a renaming may change",
    "cached_tokens": "depends on which request came first",
}  # fmt: skip


def kept(value: Any) -> Any:
    """A JSON value without the fields that are left out, at any depth; the order of the others stays.
    Dictionaries, and ids that are numbers, stay whatever they are called: config.json's section `newleaf` is
    no version, and a token's id no request's."""
    if isinstance(value, dict):
        return {name: kept(each) for name, each in value.items() if not _left_out(name, each)}
    return [kept(each) for each in value] if isinstance(value, list | tuple) else value


def _left_out(name: Any, value: Any) -> bool:
    return name in LEFT_OUT and not isinstance(value, dict) and not (name == "id" and isinstance(value, int))


def digest(content: bytes | str) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def tensor_digest(tensor: Tensor) -> str:
    """Of the type, the shape and the bytes of each number."""
    whole = tensor.detach().cpu().contiguous()
    content = whole.reshape(-1).view(torch.uint8).numpy().tobytes() if whole.numel() else b""
    return f"{str(whole.dtype).removeprefix('torch.')}{list(whole.shape)} {digest(content)}"


def file_digest(path: Path) -> Any:
    """A safetensors file by its bytes and by its tensors, in their order; JSON and YAML by their content
    without what is left out; any other file by its bytes."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            tensors = {name: tensor_digest(file.get_tensor(name)) for name in file.offset_keys()}
        return {"bytes": digest(path.read_bytes())} | tensors
    if path.suffix in (".yaml", ".yml"):
        return kept(yaml.safe_load(path.read_text("utf-8")))
    if path.suffix == ".json" and path.name != "tokenizer.json":
        return kept(json.loads(path.read_text("utf-8")))
    return digest(path.read_bytes())


def folder_digest(folder: Path) -> dict[str, Any]:
    """Each file below, by its path from the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def without_folder(value: Any, folder: str) -> Any:
    """The same with "…" wherever the temporary folder's path stands in a text."""
    if isinstance(value, dict):
        return {name: without_folder(each, folder) for name, each in value.items()}
    if isinstance(value, list):
        return [without_folder(each, folder) for each in value]
    return value.replace(folder, "…") if isinstance(value, str) else value
