"""Writing one safetensors file, with a checksum of each tensor in its metadata."""

import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from newleaf.storage.checksums import checksum_metadata


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file in place, with a checksum of each tensor in its metadata. What the system
    refuses is an OSError here as elsewhere, and not an error of the format's."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    path.touch()
    # what this user's files have; safetensors' own is one that only the owner reads
    mode = path.stat().st_mode & 0o7777
    try:
        metadata = {"format": "pt"} | checksum_metadata(whole)
        save_file(whole, path, metadata=metadata)
        _sort_metadata(path, metadata)
        path.chmod(mode)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        # Windows' own number for a full disk
        number = errno.ENOSPC if found[1] == "112" and os.name == "nt" else int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from None


def _sort_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """The library writes metadata in an order that changes from file to file; the same tensors are to make
    the same bytes."""
    wanted, turned = (
        json.dumps(dict(pairs), separators=(",", ":")).encode()
        for pairs in (list(metadata.items()), list(metadata.items())[::-1])
    )
    with path.open("rb+") as file:
        start = 8 + len(b'{"__metadata__":')  # behind the header's length
        file.seek(start)
        if file.read(len(turned)) == turned:
            file.seek(start)
            file.write(wanted)
