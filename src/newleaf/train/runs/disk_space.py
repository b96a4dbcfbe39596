"""What a run will write, beside what the disk has left: said before the first step, while there is still time
to choose."""

from __future__ import annotations

import shutil
from pathlib import Path

from newleaf.errors import InputError
from newleaf.format_amounts import byte_size


def describe_disk_use(folder: Path, checkpoint: int, model: int, keep: int, already: int = 0) -> str:
    """A sentence on what checkpoints of `checkpoint` bytes and a model of `model` bytes will take, `keep` of
    the former being kept.

    `already` bytes of the run's own are on the disk and will be replaced. Raises InputError when not even the
    first of each fits.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free + already
    most = (keep + 1) * checkpoint + 2 * model  # a new one is written before an old one goes
    if free < checkpoint + model:
        raise InputError(
            f"{folder}: the disk has {byte_size(free)} left, and a checkpoint takes {byte_size(checkpoint)} "
            f"and the model {byte_size(model)}; "
            "free some space, or choose an --out on another disk"
        )
    sentence = (
        f"Disk: a checkpoint takes {byte_size(checkpoint)}, the last {keep} are kept beside the best "
        f"model ({byte_size(model)})"
    )
    if free < most:
        return (
            f"Warning: {sentence}: up to {byte_size(most)}, and only {byte_size(free)} are free; "
            f"checkpoints that do not fit are left out."
        )
    return f"{sentence}: at most {byte_size(most)}."


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in and under it; 0 when it is not there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
