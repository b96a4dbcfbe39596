"""Kernels for other processors than this one: run with fewer instructions, left out, and compiled for ARM."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from newleaf.errors import InputError
from newleaf.kernels import instruction_set

pytest.importorskip("numba")
ROOT = Path(__file__).parents[2]


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="AVX2 is x86's")
def test_kernels_limited_to_avx2_pass_the_same_tests() -> None:
    """Generation's and training's own tests, a few of them, in a process that may use nothing newer."""
    program = """
import sys, pytest
generating = "packed_network_differs and gpt2 or bf16_weights and gptj"
training = "loss_and_gradients_of_the_modules and 96 and qwen3"
tests = ["tests/generate/backend/test_lowering.py", "tests/model/cpu/test_fused_layers.py"]
options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", f"{generating} or {training}"]
failed = pytest.main([*options, *tests])
from numba.core.registry import cpu_target
triple, name, features = cpu_target.target_context.codegen().magic_tuple()
assert name == "x86-64-v3" and "+avx2" in features, (name, features)
assert "+avx512" not in features and "+avxvnni" not in features, features
from newleaf.generate.kernels.interpreter import run
from newleaf.model.cpu import fused_layers as fused
assert run.signatures and fused.available()
sys.exit(failed)
"""
    assert "failed" not in run(program, NEWLEAF_CPU="avx2")


def test_without_kernels_networks_train_and_are_not_lowered() -> None:
    program = """
import sys, torch
from newleaf.generate.backend.thread_pool import CannotLower
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.model import GPT, GPTConfig
net = GPT(GPTConfig(64, 1024, 1, 2, 32))
loss = net.loss(torch.zeros(1, 600, dtype=torch.long), torch.zeros(1, 600, dtype=torch.long))
loss.backward()
assert loss > 0 and net.head.weight.grad is not None
try:
    LoweredRunner(net, threads=1)
except CannotLower as reason:
    print(reason, "numba" in sys.modules)
"""
    assert run(program, NEWLEAF_CPU="none") == "NEWLEAF_CPU is none False\n"


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(instruction_set.CPU_VARIABLE, "avx3")
    with pytest.raises(
        InputError, match="NEWLEAF_CPU: there is no 'avx3'; it is one of avx512, avx-vnni, avx2 and none"
    ):
        instruction_set.cpu_setting()


def test_the_lowered_program_compiles_for_arm_without_x86_instructions() -> None:
    """Compiled, not run: LLVM makes NEON code of the whole program, with dot products, and asks for no
    function but the C library's."""
    program = """
import re
import llvmlite.binding as llvm
from newleaf.kernels.numba_internals import Machine

def arm(self, context):
    self.name, self.features, self.x86, self.arm = "apple-m1", {"neon", "dotprod"}, False, True

Machine.__init__ = arm
from numba import int64, void
from numba.core.compiler_lock import global_compiler_lock
from newleaf.generate.kernels.interpreter import run_program
table, state = int64[:, ::1], int64[::1]
run_program.compile(void(table, table, table, state, int64))
(compiled,) = run_program.overloads.values()
with global_compiler_lock:
    compiled.library.finalize()  # all functions that it calls, in one module
code = compiled.library.get_llvm_str()
assert "llvm.x86" not in code
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
triple = llvm.Target.from_triple("aarch64-apple-darwin")
target = triple.create_target_machine(cpu="apple-m1", features="+neon,+dotprod", opt=2)
code = re.sub(r'(?m)^target (triple|datalayout) = .*$', "", code)
module = llvm.parse_assembly('target triple = "aarch64-apple-darwin"\\n' + code)
module.data_layout = str(target.target_data)
passes = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=2))
passes.getModulePassManager().run(module, passes)
made = target.emit_assembly(module)
calls = set(re.findall(r"\\bbl\\s+_(\\w+)", made)) - set(re.findall(r"(?m)^_(\\w+):", made))
print(made.count("sdot"), made.count("fmla"), sorted(calls))
"""
    sdot, fmla, calls = run(program).split(maxsplit=2)
    assert int(sdot) > 30
    assert int(fmla) > 100
    assert set(eval(calls)) <= {"exp", "expf", "powf", "memset", "memcpy", "bzero"}
