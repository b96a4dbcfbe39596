"""What a sandboxed program cannot do: fork, loop forever, use much memory, files elsewhere, sockets."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from fake_clocks import HANGS

from newleaf.verify.sandbox import run_program, run_tests
from newleaf.verify.sandbox.run import POLICIES


def test_a_program_that_runs_to_its_end_passes_and_one_that_does_not_fails() -> None:
    assert run_program("x = sum(range(10))\nassert x == 45\nprint(x)").passed
    found = run_program("assert 1 == 2, 'not equal'")
    assert (found.passed, found.reason) == (False, "AssertionError: not equal")
    assert run_program("def f(:").reason == "is not Python"


@pytest.mark.parametrize(
    "ending", ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "exit()", "quit(0)"]
)
def test_leaving_before_the_tests_is_no_pass(ending: str) -> None:
    assert not run_program(f"{ending}\nassert False").passed


def test_writing_a_passing_result_is_no_pass() -> None:
    assert not run_program(
        "import os\nfor n in range(64):\n    try: os.write(n, b'passed \\n')\n    except OSError: "
        "pass\nos._exit(0)"
    ).passed


def test_an_endless_loop_is_ended_by_the_timeout() -> None:
    for source in (
        "while True: pass",
        "import time; time.sleep(600)",
        "try:\n  while True: pass\nexcept BaseException:\n  while True: pass",
    ):
        begun = time.monotonic()
        assert not run_program(source, seconds=0.5).passed
        assert time.monotonic() - begun < HANGS


def test_a_pass_after_the_timeout_is_none() -> None:
    source = "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\ntime.sleep(1.0)"
    assert "longer" in run_program(source, seconds=0.5).reason
    # Tests that switch their own timer off.
    slow = "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\ntime.sleep(1.0)"
    assert "longer" in run_tests("f = len", slow, ["f"], seconds=0.5).reason


def test_memory_is_limited() -> None:
    for source in (
        "x = bytearray(3 << 30)",
        "x = []\nwhile True: x.append(bytearray(8 << 20))",
        "x = 'a' * (1 << 40)",
    ):
        assert "MemoryError" in run_program(source, seconds=10).reason


def test_files_are_limited_in_size_and_stay_in_the_programs_folder(tmp_path: Path) -> None:
    assert run_program("open('a.txt', 'w').write('x')\nassert open('a.txt').read() == 'x'").passed
    assert not run_program("open('a', 'wb').write(bytes(5 << 20))").passed
    outside = tmp_path / "outside.txt"
    outside.write_text("kept")
    for source in (
        f"open({str(outside)!r}, 'w').write('gone')",
        f"import os; os.remove({str(outside)!r})",
        f"import os; os.rename({str(outside)!r}, 'mine')",
        f"import os; os.open({str(tmp_path / 'new')!r}, os.O_CREAT | os.O_WRONLY)",
        f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'made').mkdir()",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        "open('../escaped', 'w')",
    ):
        assert not run_program(source).passed, source
    assert outside.read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside.txt"]


def test_the_folder_is_empty_and_goes_with_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = (
        "import os\nassert os.listdir('.') == []\nopen('x', 'w').write('x')\nassert os.listdir('.') == ['x']"
    )
    for policies in (POLICIES, tuple(policy for policy in POLICIES if policy != "rootfs")):
        for _ in range(2):
            found = run_program(source, policies=policies)
            assert found.passed, found.reason
        assert list(tmp_path.iterdir()) == []


def test_no_network_no_processes_no_native_code() -> None:
    for source in (
        "import socket; socket.socket()",
        "import socket; socket.create_connection(('127.0.0.1', 80), 1)",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1', timeout=1)",
        "import os; os.fork()",
        "import os\nwhile True:\n    os.fork()",
        "import os; os.system('true') == 0 or 1/0",
        "import subprocess; subprocess.run(['true'], check=True)",
        "import os; os.execv('/bin/true', ['true'])",
        "import multiprocessing as m; p = m.Process(target=print); p.start(); p.join(); assert p.exitcode "
        "== 0",
        "import ctypes; ctypes.CDLL(None)",
        "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
    ):
        assert not run_program(source, seconds=5).passed, source


def test_a_program_has_no_descriptors_but_the_null_device_and_its_pipe_to_the_tests() -> None:
    source = (
        "import os, stat\nkinds = []\nfor number in range(256):\n"
        "    try: kinds.append(stat.S_IFMT(os.fstat(number).st_mode))\n    except OSError: pass\n"
        "assert sorted(kinds) == sorted([stat.S_IFCHR] * 3 + [stat.S_IFIFO] * 2), kinds"
    )
    if sys.platform == "linux":
        found = run_program(source)
        assert found.passed, found.reason


def test_a_program_that_crashes_is_named_by_its_signal() -> None:
    if hasattr(os, "fork"):
        source = "import os\nos.abort()"
        assert run_program(source).reason.startswith("ended before its tests did: signal ")
    assert run_program("import os\nos._exit(0)").reason == "ended before its tests did"


def test_threads_are_allowed() -> None:
    assert run_program("import threading\nt = threading.Thread(target=print)\nt.start(); t.join()").passed


ESCAPE = """
import gc, sys
# The audit hook looks its helpers up where the program can change them.
sys.modules['__main__'].isinstance = lambda *_: False
libc = next(each for each in gc.get_objects() if type(each).__name__ == 'CDLL')
writable = (0).to_bytes(8, 'little') + (1).to_bytes(8, 'little') + bytes(16)
libc.syscall(442, -100, b'/', 0, writable, 32)
open({place!r}, 'w').write('x')
"""


def test_a_read_only_root_cannot_be_remounted_writable(tmp_path: Path) -> None:
    place = tmp_path / "escaped"
    assert not run_program(ESCAPE.format(place=str(place))).passed
    assert not place.exists()


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "abc123")
    assert run_program("import os\nassert not os.environ").passed
    if sys.platform == "linux":
        found = run_program("raise ValueError(open('/proc/self/environ').read())")
        assert "abc123" not in found.reason


def test_no_process_is_left_behind() -> None:
    if not hasattr(os, "getpgid"):
        pytest.skip("no process groups here")
    before = set(children())
    run_program("import time; time.sleep(600)", seconds=0.3)
    assert set(children()) <= before


def children() -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process().children(recursive=True)]


def test_the_old_names_of_policies_work_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="walls is called policies now"):
        found = run_program("pass", walls=("limits", "hook"))
    assert found.policies == ("rlimits", "audit_hook")
    with pytest.warns(DeprecationWarning, match=r"Outcome\.walls is called Outcome\.policies now"):
        assert found.walls == found.policies
    with pytest.warns(DeprecationWarning, match=r"Outcome\.missing is called Outcome\.unavailable now"):
        assert found.missing == found.unavailable
