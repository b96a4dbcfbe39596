"""The cache: folders under a key that appear whole or not at all; a damaged one is named and built anew."""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from newleaf.errors import InputError
from newleaf.storage.atomic_write import replace_directory
from newleaf.storage.checksums import file_crc32

MANIFEST = "meta.json"
LEFTOVER_MAX_AGE_SECONDS = 2 * 24 * 3600
NO_SPACE_ERRNOS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def default_cache_directory() -> Path:
    """NEWLEAF_CACHE, or the system's place for caches."""
    named = os.environ.get("NEWLEAF_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("newleaf", appauthor=False))


def cache_key(*parts: Any) -> str:
    """A name for these JSON values."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def cached_directory(folder: Path, build: Callable[[Path], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """What was sealed in `folder`, and whether it was there; if not, `build` fills a folder aside and says
    what to seal with it.

    Each file's checksum is compared on opening, which reads it once; a warning names one that was damaged.
    Raises InputError when the disk is full or does not let us write.
    """
    found = _read_manifest(folder)
    if found is not None:
        return found, True
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder.parent)
        with replace_directory(
            folder, unless=lambda other: _read_manifest(other, warn=False) is not None
        ) as building:
            meta = build(building)
            (building / MANIFEST).write_text(_manifest(building, meta), encoding="utf-8")
    except OSError as error:
        raise _as_input_error(error, folder.parent) from error
    return meta, False


def _manifest(building: Path, meta: dict[str, Any]) -> str:
    """The seal of a folder that is filled: its files' sizes and checksums, `meta`, and a checksum of
    these."""
    content = {
        "files": {path.name: [path.stat().st_size, file_crc32(path)] for path in sorted(building.iterdir())},
        "meta": meta,
    }
    content = json.loads(json.dumps(content))  # as it will be read, names that were numbers included
    return json.dumps(content | {"checksum": cache_key(content)}, ensure_ascii=False)


def _read_manifest(folder: Path, warn: bool = True) -> dict[str, Any] | None:
    """The seal's `meta`; None when there is none, or, with a warning, when a file is not what it was when it
    was sealed."""
    damaged = folder / MANIFEST
    try:
        if not damaged.exists():
            return None
        found = json.loads(damaged.read_text(encoding="utf-8"))
        if "sizes" in found:  # by an earlier version, without checksums
            return None
        if found.pop("checksum") != cache_key(found):
            raise ValueError
        for name, (size, checksum) in found["files"].items():
            damaged = folder / name
            if damaged.stat().st_size != size or file_crc32(damaged) != checksum:
                raise ValueError
        meta: dict[str, Any] = found["meta"]
        return meta
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if warn:
            logging.getLogger("newleaf").warning(f"{damaged}: damaged in the cache, so it is made anew")
        return None


def _remove_leftovers(parent: Path) -> None:
    """Removes what killed runs left behind, once it is old enough to be nobody's."""
    for leftover in parent.glob(".*.tmp"):
        try:
            if time.time() - leftover.stat().st_mtime > LEFTOVER_MAX_AGE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
        except OSError:
            continue  # another process was faster


def _as_input_error(error: OSError, folder: Path) -> InputError:
    if error.errno in NO_SPACE_ERRNOS or getattr(error, "winerror", None) == 112:
        return InputError(
            f"{folder}: the disk is full; free some space, or set NEWLEAF_CACHE to a folder on another disk"
        )
    return InputError(
        f"{folder}: cannot be written ({error.strerror or error}); set NEWLEAF_CACHE to a folder of yours"
    )
