"""Compiled kernels kept on disk, until any source of theirs changes: Numba by itself looks at the file of the
entry alone."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import sigutils
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

from newleaf.kernels.compiler import OPTIONS, ShortCompiler


@cache
def digest(folder: Path) -> str:
    """Of all sources that compiled code may be made of: this folder's, and those beside the entry."""
    found = hashlib.sha256()
    for path in sorted({*Path(__file__).parent.glob("*.py"), *folder.glob("*.py")}):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


class KernelCache(FunctionCache):
    """Numba's cache with that digest in its key."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        folder = Path(inspect.getfile(self._py_func)).parent
        return (*super()._index_key(sig, codegen), digest(folder))


def cached_kernel(function: Callable[..., Any]) -> Any:
    """A function that Python calls: compiled at its first call, or taken from the disk. It runs without the
    interpreter's lock."""
    made: Any = njit(**OPTIONS, pipeline_class=ShortCompiler)(function)
    made._cache = KernelCache(function)
    return made


def cached_callback(signature: Any, function: Callable[..., Any]) -> Any:
    """A function that C calls, compiled now, or taken from the disk."""
    compiler: Any = ShortCompiler  # a CompilerBase serves, though CFunc says Compiler
    options = {"error_model": "numpy"}
    made: Any = CFunc(
        function, sigutils.normalize_signature(signature), locals={}, options=options, pipeline_class=compiler
    )
    made._cache = KernelCache(function)
    made.compile()
    return made
