"""All that newleaf needs of Numba's and llvmlite's private or unstable interfaces.

No other file imports `numba.core`, `numba._…` or `llvmlite.ir`. Public names (`numba.float32`) are imported
where they are used. `tests/kernels/test_numba_internals.py` checks each thing that this file relies on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba._dynfunc import make_function
from numba.core import config, types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager
from numba.core.sigutils import normalize_signature
from numba.core.typed_passes import NativeLowering, NoPythonBackend, NopythonTypeInference, PreLowerStripPhis
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.core.untyped_passes import FixupArgs, IRProcessing, ReconstructSSA, TranslateByteCode
from numba.extending import intrinsic, lower_builtin, models, register_model

__all__ = [
    "Machine",
    "Vector",
    "cached_cfunc",
    "cached_dispatcher",
    "define_operator",
    "define_vector",
    "instruction",
    "ir",
    "linked_function",
    "reload_environment",
    "types",
]

# Kernels never raise, so nothing checks for errors. Their arrays belong to Python, so nothing counts
# references (`_nrt`).
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}

# Numba's passes without those for closures, exceptions and parallel loops, which kernels do not have.
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


def reload_environment() -> None:
    """Read NUMBA_CPU_NAME and NUMBA_CPU_FEATURES again, after Numba was imported."""
    config.reload_config()


class Machine:
    """The target that Numba compiles for: its architecture, LLVM's name of the CPU and the CPU's features."""

    def __init__(self, context: Any) -> None:
        triple, self.name, features = context.codegen().magic_tuple()
        self.features = {name[1:] for name in features.split(",") if name.startswith("+")}
        self.x86, self.arm = triple.startswith("x86_64"), triple.startswith(("aarch64", "arm64"))

    def has(self, *features: str) -> bool:
        return self.features.issuperset(features)


class Vector(types.Type):
    """A Numba type that is one LLVM vector."""


_LLVM_TYPES: dict[str, Any] = {}


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _LLVM_TYPES[vector.name])


def define_vector(name: str, llvm_type: Any) -> Vector:
    """A new Numba type, represented by this LLVM vector type."""
    _LLVM_TYPES[name] = llvm_type
    return Vector(name)


def define_operator(symbol: Any, vector: Vector, emit: Callable[[Any, Any, Any], Any]) -> None:
    """Define a Python operator between two vectors of one type: emit(builder, left, right) → value."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            return signature(vector, vector, vector) if args == (vector, vector) else None

    infer_global(symbol)(Template)
    lower_builtin(symbol, vector, vector)(lambda context, builder, sig, args: emit(builder, *args))


def instruction(result: types.Type, *arguments: types.Type) -> Callable[[Callable[..., Any]], Any]:
    """Make a kernel instruction from emit(builder, machine, *values) → value, which emits its LLVM code."""

    def make(emit: Callable[..., Any]) -> Any:
        def typed() -> Any:
            def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                value = emit(builder, Machine(context), *values)
                return context.get_dummy_value() if result is types.void else value

            return result(*arguments), generate

        # Numba counts the parameters of an intrinsic, so each number of them needs its own function.
        forms: tuple[Callable[..., Any], ...] = (
            lambda typingctx: typed(),
            lambda typingctx, a: typed(),
            lambda typingctx, a, b: typed(),
            lambda typingctx, a, b, c: typed(),
            lambda typingctx, a, b, c, d: typed(),
            lambda typingctx, a, b, c, d, e: typed(),
        )
        form = forms[len(arguments)]
        form.__name__, form.__doc__ = emit.__name__, emit.__doc__
        return intrinsic(form)

    return make


class KernelCompiler(CompilerBase):
    """Numba's compiler with only the passes that kernels need."""

    def define_pipelines(self) -> list[Any]:
        passes = PassManager("kernel")
        for each in PASSES:
            passes.add_pass(each, each.name())
        passes.finalize()
        return [passes]


class _UnoptimizedLibrary(JITCodeLibrary):
    """LLVM code of one function, which is optimised as part of the kernel that it is linked into."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _LinkedFunctionCompiler(KernelCompiler):
    """Compiles a function to LLVM code and no further."""

    def _compile_core(self) -> Any:
        state = self.state
        state.library = _UnoptimizedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        result = super()._compile_core()
        # Callers find the code by the function that Python would call. Python never calls this one.
        name = result.fndesc.qualname
        entry_point = make_function(
            result.fndesc.lookup_module(), name, "", 0, result.environment, (result.library,)
        )
        state.targetctx.insert_user_function(entry_point, result.fndesc, [result.library])
        return result._replace(entry_point=entry_point)


# A decorator for a function that only kernels call.
linked_function: Any = njit(**OPTIONS | {"no_cpython_wrapper": True}, pipeline_class=_LinkedFunctionCompiler)


class _SourceDigestCache(FunctionCache):
    """Numba's cache on disk, with a digest of the sources in its key."""

    def __init__(self, function: Callable[..., Any], digest: str) -> None:
        super().__init__(function)
        self._digest = digest

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), self._digest)


def cached_dispatcher(function: Callable[..., Any], digest: str) -> Any:
    """A function that Python calls, compiled at its first call or loaded from the cache on disk."""
    dispatcher: Any = njit(**OPTIONS, pipeline_class=KernelCompiler)(function)
    dispatcher._cache = _SourceDigestCache(function, digest)
    return dispatcher


def cached_cfunc(signature: Any, function: Callable[..., Any], digest: str) -> Any:
    """A function that C calls at its `address`, compiled now or loaded from the cache on disk."""
    compiler: Any = KernelCompiler  # any CompilerBase will do, though CFunc's default is Compiler
    options = {"error_model": "numpy"}
    cfunc: Any = CFunc(
        function, normalize_signature(signature), locals={}, options=options, pipeline_class=compiler
    )
    cfunc._cache = _SourceDigestCache(function, digest)
    cfunc.compile()
    return cfunc
