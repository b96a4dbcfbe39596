"""A state of which each process holds a part, on disk: torch.distributed.checkpoint in its safetensors form,
for any number of readers."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from newleaf.train.distributed.sharding import Replicated


def write_shards(folder: Path, tensors: Mapping[str, Tensor], layout: Replicated) -> None:
    """A file from each process, of its part of the DTensors.

    All must call it; raises OSError in all when one could not write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    layout.ranks.on_rank_zero(lambda: folder.mkdir(parents=True, exist_ok=True))
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer, process_group=layout.ranks.group)
    except CheckpointException as failed:
        raise _system_error(failed.failures, folder) from None


def read_shards(folder: Path, layout: Replicated) -> dict[str, Tensor]:
    """What this process has of each tensor that any number of processes wrote.

    Several must call it together.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    described = reader.read_metadata().state_dict_metadata.items()
    wanted = {
        name: layout.blank(about.size, about.properties.dtype)
        for name, about in described
        if isinstance(about, TensorStorageMetadata)
    }
    try:
        with warnings.catch_warnings():
            # one process reads alone, as it is meant to
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load(
                wanted,
                storage_reader=reader,
                process_group=layout.ranks.group,
                no_dist=layout.ranks.size == 1,
            )
    except CheckpointException as failed:
        raise _system_error(failed.failures, folder) from None
    return {name: layout.local(tensor) for name, tensor in wanted.items()}


def _system_error(failures: Mapping[int, Any], folder: Path) -> OSError:
    """The first process's trouble, as the system's where it was."""
    rank, (found, _) = min(failures.items(), key=lambda item: item[0])
    if isinstance(found, OSError):
        return found
    return OSError(errno.EIO, f"process {rank}: {' '.join(str(found).split())}", str(folder))
