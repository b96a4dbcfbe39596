"""Runs programs that a model wrote, in a child process that can do next to nothing; sandbox_child.py closes the doors from inside."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

CHILD = Path(__file__).with_name("sandbox_child.py")
MEMORY = 1 << 30  # bytes of address space
FILE_SIZE = 1 << 20  # bytes that a file may have
GRACE = 2.0  # seconds for the interpreter to start and the child to close its doors


@dataclass(frozen=True)
class Outcome:
    """How a program ended: whether it ran to its end, and if not, why; `walls` are the protections that this system gave."""

    passed: bool
    reason: str
    walls: tuple[str, ...] = ()


def run_program(source: str, seconds: float = 3.0, memory: int = MEMORY) -> Outcome:
    """Run Python source to its end. It has `seconds` of wall clock and of processor time, `memory` bytes, an empty folder that goes with
    it, nothing of the environment, no network, and no further processes."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="newleaf-run-", ignore_cleanup_errors=True) as folder:
        request = {"source": source, "token": token, "seconds": seconds, "memory": memory, "file_size": FILE_SIZE, "folder": folder}
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"} | {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ},
            start_new_session=True,
            close_fds=True,
        )
        try:
            said, _ = child.communicate(json.dumps(request).encode(), timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            return Outcome(False, f"took longer than {seconds:g} s")
        finally:
            _end(child)
    return _outcome(said, token, child.returncode)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and whatever it may have started: its process group, and with its first process its whole namespace."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            child.kill()
    else:
        child.kill()
    deadline = time.monotonic() + 5
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _outcome(said: bytes, token: str, code: int | None) -> Outcome:
    """Only the child's own last word, which carries the token, counts; the program's output goes nowhere."""
    walls: tuple[str, ...] = ()
    for line in said.decode("utf-8", errors="replace").splitlines():
        word, _, rest = line.partition(" ")
        if word == f"{token}:walls":
            walls = tuple(rest.split())
        elif word == f"{token}:passed":
            return Outcome(True, "passed", walls)
        elif word == f"{token}:failed":
            return Outcome(False, rest, walls)
    return Outcome(False, f"ended by signal {-code}" if code is not None and code < 0 else "ended before its tests did", walls)
