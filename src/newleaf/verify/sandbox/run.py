"""Judging programs by tests, in two processes that can do next to nothing and share nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from newleaf.verify.sandbox.processes import ended_by, hear, two_processes

MEMORY = 1 << 30  # bytes of address space, of each process
GRACE = 5.0  # seconds for the interpreters to start and the walls to rise
ENDED = "ended before its tests did"  # as the judge says it
WALLS = ("limits", "namespaces", "tree", "capabilities", "landlock", "filter", "hook")


@dataclass(frozen=True)
class Outcome:
    """How judging ended: whether the tests passed, and if not, why.

    `walls` are the protections that held for both processes, `missing` has a sentence for each that this
    system did not give.
    """

    passed: bool
    reason: str
    walls: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def run_tests(
    program: str,
    tests: str,
    functions: Sequence[str],
    seconds: float = 3.0,
    memory: int = MEMORY,
    walls: Sequence[str] = WALLS,
) -> Outcome:
    """Whether a program, as Python source, passes tests, as Python source: they pass by running to their end.

    The tests run in a process of their own and find there `functions` by name: calling one calls the
    program's, in the program's process. Arguments and results are copied as plain data: None, bool, int,
    float, complex, str, bytes, bytearray, range, list, tuple, set, frozenset, dict and its views, and
    iterators, which are read to their end; a value of a subclass arrives as its base type. Any other result
    is named and fails the tests, whatever they catch. An exception arrives as the nearest built-in type. So
    no code of the program's acts on the tests or the verdict.

    `seconds` are of wall clock and of processor time for program and tests together, `memory` bytes for each
    of the two. Both run with an empty folder that goes with them, no environment, no network and no further
    processes. `walls` leaves out some of the protections; that is for tests of each of them.
    """
    return _judge(program, "program", tests, functions, seconds, memory, walls)


def run_program(
    program: str, seconds: float = 3.0, memory: int = MEMORY, walls: Sequence[str] = WALLS
) -> Outcome:
    """Run a program in the same two processes, without tests: `passed` says that it ran to its end.

    A program can say that of itself without having done so: a program that brings its own tests proves
    nothing by it. To judge one, use `run_tests`.
    """
    return _judge(program, "__main__", "", (), seconds, memory, walls)


def _judge(
    program: str,
    name: str,
    tests: str,
    functions: Sequence[str],
    seconds: float,
    memory: int,
    walls: Sequence[str],
) -> Outcome:
    options = {"seconds": seconds, "patience": seconds + GRACE, "memory": memory, "walls": list(walls)}
    request = {"program": program, "name": name, "tests": tests, "functions": list(functions)}
    with (
        tempfile.TemporaryDirectory(prefix="newleaf-run-", ignore_cleanup_errors=True) as folder,
        two_processes(options, request, Path(folder).resolve()) as (judge, other),
    ):
        said = hear(judge, seconds + GRACE + 1)
    found = _outcome(said, seconds)
    signal = ended_by(other)
    return (
        replace(found, reason=f"{found.reason}: signal {signal}")
        if found.reason == ENDED and signal
        else found
    )


def _outcome(said: bytes, seconds: float) -> Outcome:
    if not said:
        return Outcome(False, f"took longer than {seconds:g} s, or the judge ended without a verdict")
    try:
        found = json.loads(said)
        return Outcome(
            bool(found["passed"]),
            str(found["reason"]),
            tuple(map(str, found["walls"])),
            tuple(map(str, found["missing"])),
        )
    except (ValueError, KeyError, TypeError):
        return Outcome(False, "the judge gave no verdict")
