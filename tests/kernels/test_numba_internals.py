"""What newleaf needs of Numba's private interface: run this with a new Numba before raising its pin.

A failure names the thing that changed. All of them are used in `newleaf/kernels/numba_internals.py` alone.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from numba.core.compiler import DefaultPassBuilder, Flags
from numba.core.registry import cpu_target

from newleaf.kernels import atomics, load_store, simd
from newleaf.kernels.compile_cache import cached_callback, cached_kernel
from newleaf.kernels.compiler import kernel
from newleaf.kernels.numba_internals import PASSES, Machine, Vector, types

SRC = Path(__file__).parents[2] / "src" / "newleaf"
PRIVATE = ("numba.core", "numba._", "numba.extending", "numba.experimental", "llvmlite.ir")
SPLIT_IMPORTS = {("numba", "core"), ("numba", "extending"), ("llvmlite", "ir")}

# module, name, the parameters that are relied on (None: only that it is there)
SIGNATURES = [
    ("numba._dynfunc", "make_function", None),
    ("numba.core.caching", "FunctionCache.__init__", ["self", "py_func"]),
    ("numba.core.caching", "FunctionCache._index_key", ["self", "sig", "codegen"]),
    (
        "numba.core.ccallback",
        "CFunc.__init__",
        ["self", "pyfunc", "sig", "locals", "options", "pipeline_class"],
    ),
    ("numba.core.ccallback", "CFunc.compile", ["self"]),
    ("numba.core.codegen", "JITCodeLibrary.__init__", ["self", "codegen", "name"]),
    ("numba.core.codegen", "JITCodeLibrary._optimize_functions", ["self", "ll_module"]),
    ("numba.core.codegen", "JITCodeLibrary._optimize_final_module", ["self"]),
    ("numba.core.codegen", "JITCodeLibrary._finalize_final_module", ["self"]),
    ("numba.core.codegen", "CPUCodegen.magic_tuple", ["self"]),
    ("numba.core.compiler", "CompilerBase.define_pipelines", ["self"]),
    ("numba.core.compiler", "CompilerBase._compile_core", ["self"]),
    ("numba.core.compiler_machinery", "PassManager.add_pass", ["self", "pss", "description"]),
    ("numba.core.compiler_machinery", "PassManager.finalize", ["self"]),
    ("numba.core.cpu", "CPUContext.insert_user_function", ["self", "func", "fndesc", "libs"]),
    ("numba.core.cpu", "CPUContext.get_dummy_value", ["self"]),
    ("numba.core.sigutils", "normalize_signature", ["sig"]),
    ("numba.core.typing.templates", "AbstractTemplate", None),
    ("numba.core.typing.templates", "infer_global", None),
    ("numba.core.typing.templates", "signature", None),
    ("numba.extending", "intrinsic", None),
    ("numba.extending", "lower_builtin", None),
    ("numba.extending", "models.PrimitiveModel.__init__", ["self", "dmm", "fe_type", "be_type"]),
    ("numba.extending", "register_model", None),
]


@pytest.mark.parametrize(
    ("module", "name", "parameters"), SIGNATURES, ids=[f"{m}.{n}" for m, n, _ in SIGNATURES]
)
def test_numba_has_what_is_used_of_it_with_the_same_parameters(
    module: str, name: str, parameters: list[str] | None
) -> None:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if parameters is not None:
        assert list(inspect.signature(found).parameters) == parameters


def test_private_modules_of_numba_are_imported_in_one_file_alone() -> None:
    users = set()
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                private = any(alias.name.startswith(PRIVATE) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                named = {(node.module, alias.name) for alias in node.names}
                private = node.module.startswith(PRIVATE) or not SPLIT_IMPORTS.isdisjoint(named)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                private = node.value.id in ("nb", "numba") and node.attr in ("core", "extending", "types")
            else:
                private = False
            if private:
                users.add(path.relative_to(SRC).as_posix())
    assert users == {"kernels/numba_internals.py"}


def test_numba_runs_the_same_passes_in_the_same_order_among_its_own() -> None:
    state = SimpleNamespace(flags=Flags(), func_ir=None)
    own = [
        each
        for define in (
            DefaultPassBuilder.define_untyped_pipeline,
            DefaultPassBuilder.define_typed_pipeline,
            DefaultPassBuilder.define_nopython_lowering_pipeline,
        )
        for each, _ in define(state).passes
    ]
    places = [own.index(each) for each in PASSES]
    assert places == sorted(places)


def test_code_is_compiled_for_the_processor_that_the_environment_names() -> None:
    program = """
import os, numba
from numba.core.registry import cpu_target
from newleaf.kernels.numba_internals import reload_environment
os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"] = "generic", "+sse2,-avx"
reload_environment()
print(*cpu_target.target_context.codegen().magic_tuple()[1:])
"""
    assert output(program) == "generic +sse2,-avx"


def test_the_target_is_a_triple_a_processor_and_features_with_signs() -> None:
    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    assert triple.count("-") >= 2
    assert name
    assert all(feature.startswith(("+", "-")) for feature in features.split(","))
    machine = Machine(cpu_target.target_context)
    assert machine.x86 or machine.arm
    assert machine.has()
    assert not machine.has("no such feature")


class Column(IntEnum):
    COUNT = 0
    ADDRESS = 3


@kernel
def tripled(value: Any) -> Any:
    return 3 * value


def use_column(table: Any) -> Any:
    return tripled(table[Column.ADDRESS]) + 8 * Column.ADDRESS


def test_a_kernel_calls_linked_functions_and_reads_named_columns_as_constants() -> None:
    entry = cached_kernel(use_column)
    assert entry(np.array([1, 2, 3, 4])) == 36
    (compiled,) = entry.overloads.values()
    code = compiled.library.get_llvm_str()
    assert "call" not in "".join(line for line in code.splitlines() if "tripled" in line)  # inlined


def test_a_linked_function_is_llvm_code_and_no_machine_code() -> None:
    @kernel
    def squared(value: Any) -> Any:
        return value * value

    squared.compile("int64(int64)")
    (compiled,) = squared.overloads.values()
    assert not compiled.library._finalized
    assert "define" in compiled.library.get_llvm_str()


def use_vectors(a: Any, b: Any, out: Any) -> None:
    x, y = load_store.load(a), load_store.load(b)
    load_store.store(out, (x + y) * (x - y) / y)
    n = simd.broadcast_int(6)
    bits = ((n + n) - simd.broadcast_int(1)) & (n | simd.broadcast_int(9))
    load_store.store(out + 64, simd.to_floats((bits << simd.broadcast_int(2)) >> simd.broadcast_int(1)))


def test_vectors_have_operators_and_live_in_registers() -> None:
    a, b = np.arange(16, dtype=np.float32), np.arange(1, 17, dtype=np.float32)
    out = np.empty(32, dtype=np.float32)
    cached_kernel(use_vectors)(a.ctypes.data, b.ctypes.data, out.ctypes.data)
    np.testing.assert_allclose(out[:16], (a + b) * (a - b) / b, rtol=1e-6)
    assert (out[16:] == (((6 + 6 - 1) & (6 | 9)) << 2) >> 1).all()


def test_vector_types_are_equal_by_name_as_cached_signatures_need() -> None:
    import pickle

    assert Vector("f32x16") == Vector("f32x16") != Vector("i32x16")
    assert pickle.loads(pickle.dumps(Vector("f32x16"))) == Vector("f32x16")


def use_atomics(address: Any) -> Any:
    before = atomics.atomic_add(address, 5)
    atomics.spin_pause()
    atomics.atomic_store(address + 8, before)
    return atomics.atomic_load(address)


def test_atomics_return_what_stood_there_and_are_sequentially_consistent() -> None:
    shared = np.array([37, 0])
    entry = cached_kernel(use_atomics)
    assert entry(shared.ctypes.data) == 42
    assert shared.tolist() == [42, 37]
    (compiled,) = entry.overloads.values()
    code = compiled.library.get_llvm_str()
    for emitted in ("atomicrmw add", "load atomic i64", "store atomic i64"):
        assert any(emitted in line and "seq_cst" in line for line in code.splitlines()), emitted


def store_sum(table: Any) -> None:
    load_store.store_long(table + 16, load_store.load_long(table) + load_store.load_long(table + 8))


def test_a_callback_has_an_address_that_c_can_call() -> None:
    table = np.array([40, 2, 0])
    made = cached_callback(types.void(types.int64), store_sum)
    assert made.address > 0
    made.ctypes(table.ctypes.data)
    assert table[2] == 42


@pytest.mark.parametrize("decorated", ["cached_kernel(entry)", "cached_callback(int64(int64), entry)"])
def test_a_second_process_loads_compiled_code_from_the_cache(tmp_path: Path, decorated: str) -> None:
    source = f"""
from numba import int64
from newleaf.kernels import compile_cache
from newleaf.kernels.compile_cache import cached_callback, cached_kernel
def entry(x):
    return x + 1
entry = {decorated}
call = getattr(entry, "ctypes", entry)
hits = lambda: entry.cache_hits if hasattr(entry, "cache_hits") else sum(entry.stats.cache_hits.values())
"""
    (tmp_path / "entry.py").write_text(source)
    program = "import entry; print(entry.call(1), entry.hits())"

    def run() -> str:
        return output(program, PYTHONPATH=str(tmp_path), NUMBA_CACHE_DIR=str(tmp_path / "cache"))

    assert [run(), run()] == ["2 0", "2 1"]
    (tmp_path / "beside.py").write_text("")  # another source beside the entry changes the digest
    assert run() == "2 0"


def test_kernels_run_without_the_interpreter_lock(tmp_path: Path) -> None:
    """Two threads that wait for each other inside a kernel would otherwise never return."""
    source = """
import threading
import numpy as np
from newleaf.kernels import atomics
from newleaf.kernels.compile_cache import cached_kernel

@cached_kernel
def wait_for_both(address):
    atomics.atomic_add(address, 1)
    while atomics.atomic_load(address) < 2:
        atomics.spin_pause()

shared = np.array([1])
wait_for_both(shared.ctypes.data)  # compiles it
shared[0] = 0
threads = [threading.Thread(target=wait_for_both, args=(shared.ctypes.data,), daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(60)
print(shared[0], any(thread.is_alive() for thread in threads))
"""
    (tmp_path / "waiting.py").write_text(source)
    environment = {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert output("import waiting", **environment) == "2 False"


def output(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()
