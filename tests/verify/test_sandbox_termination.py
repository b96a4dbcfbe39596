"""No process of a program outlives its run, and the caller's memory stays bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from newleaf.verify.sandbox import run_program, run_tests
from newleaf.verify.sandbox.run import POLICIES

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="these programs fork")

OUTLIVE = """
import ctypes, os, signal, time
libc = ctypes.CDLL(None)
for number in range(1, 64):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for generation in range(3):
    if os.fork() == 0:
        os.setsid()
        libc.prctl(1, 0, 0, 0, 0)
        libc.prctl(36, 1, 0, 0, 0)
for number in range(64):
    try: os.close(number)
    except OSError: pass
time.sleep(600)
"""


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Part of the command line of every process that this test starts, and of those that they fork."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return str(tmp_path)


def alive(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        if (
            any(mark in word for word in process.info["cmdline"] or ())
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ):
            found.append(process.info["pid"])
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.parametrize(
    "policies",
    [
        POLICIES,
        ("namespaces",),
        ("namespaces", "rootfs"),
        ("seccomp",),
        ("rlimits", "audit_hook"),
        ("rlimits",),
    ],
)
@pytest.mark.parametrize(
    "source", [OUTLIVE, "import time; time.sleep(600)", "while True: pass", "import os; os.abort()"]
)
def test_no_process_is_left_after_a_run(source: str, policies: tuple[str, ...], mark: str) -> None:
    found = run_program(source, seconds=0.5, policies=policies)
    assert not found.passed
    assert alive(mark) == []


def test_no_process_is_left_of_a_hostile_test_file(mark: str) -> None:
    assert not run_tests("f = len", OUTLIVE, ["f"], seconds=0.5, policies=("namespaces",)).passed
    assert alive(mark) == []


def test_all_processes_end_when_newleaf_is_killed(tmp_path: Path) -> None:
    code = (
        f"import tempfile\ntempfile.tempdir = {str(tmp_path)!r}\nfrom newleaf.verify.sandbox import "
        f"run_program\n"
        "run_program('import time; time.sleep(600)', seconds=600)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as newleaf:
        wait(lambda: len(alive(str(tmp_path / "newleaf-run"))) >= 4)
        newleaf.send_signal(signal.SIGKILL)
        newleaf.wait()
    wait(lambda: not alive(str(tmp_path / "newleaf-run")))


def test_workers_end_with_their_guardians(tmp_path: Path) -> None:
    code = (
        f"import tempfile\ntempfile.tempdir = {str(tmp_path)!r}\nfrom newleaf.verify.sandbox import "
        f"run_program\n"
        "print(run_program('import time; time.sleep(600)', seconds=600).passed)"
    )
    mark = str(tmp_path / "newleaf-run")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as newleaf:
        try:
            wait(lambda: len(alive(mark)) >= 4)
            time.sleep(0.5)  # for the policies to be applied
            for supervisor in psutil.Process(newleaf.pid).children():
                supervisor.kill()
            wait(lambda: not alive(mark))
            assert newleaf.communicate(timeout=30)[0] == b"False\n"
        finally:
            newleaf.kill()


def wait(condition: Callable[[], object], polls: int = 600) -> None:
    for _ in range(polls):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("the condition did not become true")


FLOOD = """
import os
data = bytes(1 << 20)
for number in range(64):
    try:
        for _ in range(600): os.write(number, data)
    except OSError: pass
while True: pass
"""


@pytest.mark.parametrize("flooder", ["program", "tests"])
def test_output_on_every_descriptor_is_not_buffered(flooder: str) -> None:
    """600 MB once raised the caller to 2.4 GB."""
    what = "run_program(" if flooder == "program" else "run_tests('f = len', functions=['f'], tests="
    act = f"{what}{FLOOD!r}, seconds=2, policies=())"
    code = (
        "import resource\nfrom newleaf.verify.sandbox import run_program, run_tests\nrun_program('pass')\n"
        f"before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nassert not {act}.passed\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert int(done.stdout) < 20_000, done.stderr  # kB, on Linux


def test_processes_and_threads_are_few_even_without_the_filter() -> None:
    bomb = (
        "import os, time\ncount = 0\n"
        "try:\n    while count < 500:\n        if os.fork() == 0:\n            time.sleep(60); "
        "os._exit(0)\n        count += 1\n"
        "except OSError:\n    pass\nassert 0 < count < 100, count"
    )
    policies = ("rlimits", "namespaces", "rootfs", "capabilities")
    found = run_program("pass", policies=policies)
    if found.policies != policies:
        pytest.skip("; ".join(found.unavailable))
    found = run_program(bomb, seconds=10, policies=policies)
    assert found.passed, found.reason
    threads = (
        "import threading, time\nthreading.stack_size(32768)\ncount = 0\n"
        "try:\n    while count < 2000:\n        threading.Thread(target=time.sleep, args=(60,), "
        "daemon=True).start()\n        count += 1\n"
        "except RuntimeError:\n    pass\nassert 0 < count < 100, count"
    )
    found = run_program(threads, seconds=10)
    assert found.passed, found.reason


def test_programs_run_concurrently_from_several_threads() -> None:
    results: list[bool] = []

    def run(number: int) -> None:
        results.append(
            run_tests(f"def f(): return {number}", f"assert f() == {number}", ["f"], seconds=10).passed
        )

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 6


def test_an_interrupt_leaves_no_process(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("newleaf.verify.sandbox.run.read_result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_program("while True: pass", seconds=60)
    assert alive(mark) == []
