"""The decorator for functions that kernels are made of.

Each function is translated to LLVM code on its own. It is optimised and compiled once, together with the
kernel that calls it. Stock Numba compiles a function once for itself and again for each caller: seven times
for the innermost here.
"""

from __future__ import annotations

from typing import Any

from newleaf.kernels.numba_internals import linked_function

# A function of a kernel. Python cannot call it.
kernel: Any = linked_function
