"""Starts the sandbox's two child processes, reads the result, and terminates both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START = "import sys; sys.path.insert(0, {folder!r}); from child import main; del sys.path[0]; main.main()"
MAX_RESULT_BYTES = 1 << 16  # that are read of what the test runner writes
TERMINATE_SECONDS = 10.0  # for a supervisor to kill its worker

Child = subprocess.Popen[bytes]


@contextmanager
def start_processes(
    options: dict[str, Any], request: dict[str, Any], folder: Path
) -> Iterator[tuple[Child, Child]]:
    """The test runner, which gets the request, and the program runner, joined by two pipes.

    At the end both are gone, with every process that they started.
    """
    for role in ("tests", "program"):
        (folder / role).mkdir(mode=0o700)
    request_file = folder / "request"
    request_file.touch(mode=0o600)
    request_file.write_text(json.dumps(request), encoding="ascii")
    program_options = {**options, "folder": str(folder / "program")}
    tests_options = {**options, "folder": str(folder / "tests"), "request": str(request_file)}
    to_program, to_tests = os.pipe(), os.pipe()
    children: list[Child] = []
    try:
        try:
            children.append(_start(program_options, to_program[0], to_tests[1], folder))
            children.append(_start(tests_options, to_tests[0], to_program[1], folder))
        finally:
            for number in (*to_program, *to_tests):
                os.close(number)
        yield children[1], children[0]
    finally:
        for child in children:
            terminate(child)


def _start(options: dict[str, Any], reading: int, writing: int, folder: Path) -> Child:
    code = START.format(folder=str(Path(__file__).parent))
    inherited = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, json.dumps(options)],
        stdin=reading,
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={"LC_ALL": "C.UTF-8", **inherited},
        start_new_session=True,
        close_fds=True,
    )


def read_result(child: Child, seconds: float) -> bytes:
    """The first line that a test runner writes, or what there is of it when time or bytes run out."""
    result = bytearray()

    def read() -> None:
        assert child.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            while len(result) < MAX_RESULT_BYTES and b"\n" not in result:
                chunk = os.read(child.stderr.fileno(), MAX_RESULT_BYTES)
                if not chunk:
                    return
                result.extend(chunk)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(seconds)
    return bytes(result)


def terminate(child: Child) -> None:
    """Close the parent pipe, on which the supervisor kills its worker. A supervisor that hangs is killed."""
    if sys.platform != "linux":  # there is no supervisor
        _kill(child)
    if child.stderr is not None:
        child.stderr.close()
    try:
        child.wait(TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(child)
        child.wait(TERMINATE_SECONDS)


def _kill(child: Child) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()


def terminating_signal(child: Child) -> int:
    """The signal that ended a worker, 0 for none. Supervisors report it as shells do, as 128 + signal."""
    code = child.returncode or 0
    return -code if code < 0 else max(code - 128, 0)
