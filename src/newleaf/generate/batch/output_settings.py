"""What a file of continuations was written with: a second start goes on with it only if everything is the
same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from newleaf.errors import InputError
from newleaf.generate.batch.prompt_file import Prompt, lines_done
from newleaf.generate.options import SamplingConfig
from newleaf.model import GPT
from newleaf.storage.atomic_write import write_json

SAMPLES = 16  # values taken of each tensor to tell one model from another
NOT_IN_TEXT = ("speculation",)  # options that change no text


def settings_path(out: Path) -> Path:
    """The file beside `out` that says what it was written with."""
    return out.with_name(out.name + ".settings.json")


def settings_of(network: GPT, tokenizer: str, config: SamplingConfig) -> dict[str, Any]:
    """The model's weights and tokenizer by fingerprints, and every option, as JSON."""
    options = {name: value for name, value in asdict(config).items() if name not in NOT_IN_TEXT}
    found: dict[str, Any] = json.loads(
        json.dumps({"model": _weights(network), "tokenizer": tokenizer, "options": options})
    )
    return found


def begin_output(out: Path, prompts: Sequence[Prompt], settings: Mapping[str, Any], overwrite: bool) -> int:
    """Make `out` a file of these prompts and settings: new, gone on with behind its last whole line, or with
    `overwrite` begun again. Returns how many lines it has.

    Raises InputError, and changes nothing, for a file that was written with others, naming what differs.
    """
    path = settings_path(out)
    done, size = (0, 0) if overwrite else lines_done(out, prompts)
    if done and (different := _different(path, settings)):
        raise InputError(f"{out}: {different}; name another --out, or --overwrite to begin again")
    write_json(path, settings)
    with out.open("ab") as file:
        file.truncate(size)
    return done


def _different(path: Path, settings: Mapping[str, Any]) -> str:
    try:
        before = json.loads(path.read_text("utf-8"))
        old, new = before["options"], settings["options"]
        names = [name for name in new if old.get(name) != new[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"there is no {path.name} that says what it was written with"
    for name in ("model", "tokenizer"):
        if before.get(name) != settings[name]:
            return f"was written by another model ({name} differs)"
    if not names:
        return ""
    return "was written with " + ", ".join(
        f"{name}={old.get(name)!r} (now {new[name]!r})" for name in names[:3]
    )


@torch.no_grad()
def _weights(network: GPT) -> str:
    """A short name made of the shape of every tensor, packed ones and adapters' too, and of some of its
    values."""
    found = hashlib.blake2b(repr(network.config).encode(), digest_size=12)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        flat = tensor.detach().reshape(-1)
        some = (
            flat[torch.linspace(0, max(len(flat) - 1, 0), SAMPLES, dtype=torch.long, device=flat.device)]
            if len(flat)
            else flat
        )
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(some.cpu().to(torch.float64).numpy().tobytes())
    return found.hexdigest()
