"""Compiled kernels, cached on disk until any of their sources changes.

Stock Numba checks only the file of the function that Python calls.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from newleaf.kernels.numba_internals import cached_cfunc, cached_dispatcher


@cache
def digest(folder: Path) -> str:
    """Of all sources that compiled code may depend on: those of this folder and those beside the entry."""
    found = hashlib.sha256()
    for path in sorted({*Path(__file__).parent.glob("*.py"), *folder.glob("*.py")}):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def _digest_for(function: Callable[..., Any]) -> str:
    return digest(Path(inspect.getfile(function)).parent)


def cached_kernel(function: Callable[..., Any]) -> Any:
    """A kernel that Python calls: compiled at its first call, or loaded from the cache."""
    return cached_dispatcher(function, _digest_for(function))


def cached_callback(signature: Any, function: Callable[..., Any]) -> Any:
    """A kernel that C calls, compiled now or loaded from the cache."""
    return cached_cfunc(signature, function, _digest_for(function))
