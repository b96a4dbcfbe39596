"""The cache: folders under a key that appear whole or not at all, and are rebuilt when damaged."""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from newleaf.errors import InputError
from newleaf.storage.files import replace_directory

SEAL = "meta.json"
ABANDONED_SECONDS = 2 * 24 * 3600
NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def default_cache() -> Path:
    """NEWLEAF_CACHE, or the system's place for caches."""
    named = os.environ.get("NEWLEAF_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("newleaf", appauthor=False))


def key_of(*parts: Any) -> str:
    """A name for these JSON values."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def cached(folder: Path, build: Callable[[Path], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """What was sealed in `folder`, and whether it was there; if not, `build` fills a folder aside and says what to seal with it.

    Raises InputError when the disk is full or does not let us write.
    """
    found = _open_sealed(folder)
    if found is not None:
        return found, True
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        with replace_directory(folder, unless=lambda other: _open_sealed(other) is not None) as fresh:
            meta = build(fresh)
            sizes = {path.name: path.stat().st_size for path in fresh.iterdir()}
            (fresh / SEAL).write_text(json.dumps({"sizes": sizes, "meta": meta}, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise _explained(error, folder.parent) from error
    return meta, False


def _open_sealed(folder: Path) -> dict[str, Any] | None:
    """None when anything is missing or has another size than when it was sealed."""
    try:
        sealed = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        if any((folder / name).stat().st_size != size for name, size in sealed["sizes"].items()):
            return None
        meta: dict[str, Any] = sealed["meta"]
        return meta
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _sweep(parent: Path) -> None:
    """Removes what killed runs left behind, once it is old enough to be nobody's."""
    for leftover in parent.glob(".*.tmp"):
        try:
            if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
        except OSError:
            continue  # another process was faster


def _explained(error: OSError, folder: Path) -> InputError:
    if error.errno in NO_SPACE or getattr(error, "winerror", None) == 112:
        return InputError(f"{folder}: the disk is full; free some space, or set NEWLEAF_CACHE to a folder on another disk")
    return InputError(f"{folder}: cannot be written ({error.strerror or error}); set NEWLEAF_CACHE to a folder of yours")
