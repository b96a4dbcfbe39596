"""How Python functions become kernels: each translated on its own, but optimised and turned into instructions
once, inside the kernel.

Numba by itself does the latter for every function and again for each function that calls it, seven times for
the innermost ones here. And of its passes over a function, those are left out that make way for what no
kernel has: closures, exceptions, loops made parallel.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numba._dynfunc import make_function
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import NativeLowering, NoPythonBackend, NopythonTypeInference, PreLowerStripPhis
from numba.core.untyped_passes import FixupArgs, IRProcessing, ReconstructSSA, TranslateByteCode

PASSES = (
    TranslateByteCode,
    FixupArgs,
    IRProcessing,
    ReconstructSSA,
    NopythonTypeInference,
    PreLowerStripPhis,
    NativeLowering,
    NoPythonBackend,
)


class ShortCompiler(CompilerBase):
    """Numba's compiler with the passes that kernels need."""

    def define_pipelines(self) -> list[Any]:
        passes = PassManager("kernel")
        for each in PASSES:
            passes.add_pass(each, each.name())
        passes.finalize()
        return [passes]


class _Part(JITCodeLibrary):
    """LLVM code that waits to be linked into a kernel's."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _PartCompiler(ShortCompiler):
    """The way from a function to LLVM code, and no further."""

    def _compile_core(self) -> Any:
        state = self.state
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        result = super()._compile_core()
        # Callers find a function's code under what Python would call; here that is never called.
        name = result.fndesc.qualname
        never_called = make_function(
            result.fndesc.lookup_module(), name, "", 0, result.environment, (result.library,)
        )
        state.targetctx.insert_user_function(never_called, result.fndesc, [result.library])
        return result._replace(entry_point=never_called)


# Kernels never raise, so that nothing has to look for errors; their arrays are Python's, so that nothing has
# to count who uses them.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}

# A function of a kernel; Python cannot call it.
kernel: Any = njit(**OPTIONS | {"no_cpython_wrapper": True}, pipeline_class=_PartCompiler)
