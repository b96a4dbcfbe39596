"""Runs a program's tests in two child processes, which are sandboxed and share no memory."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from newleaf.verify.sandbox.child.test_runner import ENDED
from newleaf.verify.sandbox.processes import read_result, start_processes, terminating_signal

MAX_MEMORY = 1 << 30  # bytes of address space, of each process
START_SECONDS = 5.0  # for the interpreters to start and the policies to be applied
POLICIES = ("rlimits", "namespaces", "rootfs", "capabilities", "landlock", "seccomp", "audit_hook")
# The old names of policies, which `walls` takes.
OLD_POLICIES = {"limits": "rlimits", "tree": "rootfs", "filter": "seccomp", "hook": "audit_hook"}


@dataclass(frozen=True)
class Outcome:
    """Whether the tests passed, and if not, why.

    `policies` were in force in both processes. `unavailable` has a sentence for each that this system does
    not support.
    """

    passed: bool
    reason: str
    policies: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()

    @property
    def walls(self) -> tuple[str, ...]:
        """The old name of `policies`."""
        _warn("Outcome.walls", "Outcome.policies", 3)
        return self.policies

    @property
    def missing(self) -> tuple[str, ...]:
        """The old name of `unavailable`."""
        _warn("Outcome.missing", "Outcome.unavailable", 3)
        return self.unavailable


def run_tests(
    program: str,
    tests: str,
    functions: Sequence[str],
    seconds: float = 3.0,
    memory: int = MAX_MEMORY,
    policies: Sequence[str] = POLICIES,
    walls: Sequence[str] | None = None,
) -> Outcome:
    """Whether a program, as Python source, passes tests, as Python source: they pass by running to their end.

    The tests run in a process of their own and find `functions` there by name. A call runs the program's
    function in the program's process. Arguments and results are copied as plain data: None, bool, int,
    float, complex, str, bytes, bytearray, range, list, tuple, set, frozenset, dict and its views, and
    iterators, which are read to their end. A value of a subclass arrives as its base type. Any other result
    fails the tests with its type's name, whatever they catch. An exception arrives as the nearest built-in
    type. So no code of the program acts on the tests or their result.

    `seconds` limits wall clock and processor time of program and tests together, `memory` the bytes of each.
    Both have an empty folder that is deleted afterwards, no environment, no network and no child processes.
    `policies` selects some of the sandbox's policies, for tests of each. `walls` is its old name.
    """
    return _run(program, "program", tests, functions, seconds, memory, _selected(policies, walls))


def run_program(
    program: str,
    seconds: float = 3.0,
    memory: int = MAX_MEMORY,
    policies: Sequence[str] = POLICIES,
    walls: Sequence[str] | None = None,
) -> Outcome:
    """Run a program in the same two processes, without tests: `passed` means that it ran to its end.

    A program can pretend to. So a program that brings its own tests proves nothing; use `run_tests`.
    """
    return _run(program, "__main__", "", (), seconds, memory, _selected(policies, walls))


def _selected(policies: Sequence[str], walls: Sequence[str] | None) -> list[str]:
    if walls is None:
        return list(policies)
    _warn("walls", "policies", 4)
    return [OLD_POLICIES.get(name, name) for name in walls]


def _warn(old: str, new: str, stacklevel: int) -> None:
    warnings.warn(f"{old} is called {new} now", DeprecationWarning, stacklevel=stacklevel)


def _run(
    program: str,
    name: str,
    tests: str,
    functions: Sequence[str],
    seconds: float,
    memory: int,
    policies: list[str],
) -> Outcome:
    options = {"seconds": seconds, "timeout": seconds + START_SECONDS, "memory": memory, "policies": policies}
    request = {"program": program, "name": name, "tests": tests, "functions": list(functions)}
    with (
        tempfile.TemporaryDirectory(prefix="newleaf-run-", ignore_cleanup_errors=True) as folder,
        start_processes(options, request, Path(folder).resolve()) as (test_runner, program_runner),
    ):
        result = read_result(test_runner, seconds + START_SECONDS + 1)
    outcome = _outcome(result, seconds)
    signal = terminating_signal(program_runner)
    if outcome.reason == ENDED and signal:
        return replace(outcome, reason=f"{outcome.reason}: signal {signal}")
    return outcome


def _outcome(result: bytes, seconds: float) -> Outcome:
    if not result:
        return Outcome(False, f"took longer than {seconds:g} s, or the test runner ended without a result")
    try:
        found = json.loads(result)
        return Outcome(
            bool(found["passed"]),
            str(found["reason"]),
            tuple(map(str, found["policies"])),
            tuple(map(str, found["unavailable"])),
        )
    except (ValueError, KeyError, TypeError):
        return Outcome(False, "the test runner gave no result")
