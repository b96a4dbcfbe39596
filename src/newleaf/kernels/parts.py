"""A kernel's functions: translated one by one, but optimised and made machine code of once, inside the kernel that calls them.

Numba by itself does the latter for every function and again for each function that calls it, seven times for the innermost ones here.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numba._dynfunc import make_function
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _Part(JITCodeLibrary):
    """LLVM code that waits to be linked into a kernel's."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _PartCompiler(Compiler):
    """Numba's way from a function to LLVM code, and no further."""

    def _compile_core(self) -> Any:
        state = self.state
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        result = super()._compile_core()
        # Callers find a function's code under what Python would call; here that is never called.
        name = result.fndesc.qualname
        never_called = make_function(result.fndesc.lookup_module(), name, "", 0, result.environment, (result.library,))
        state.targetctx.insert_user_function(never_called, result.fndesc, [result.library])
        return result._replace(entry_point=never_called)


# A function of a kernel. It never raises, so that nothing has to look for errors, and Python cannot call it.
kernel = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=_PartCompiler)
