"""Starts the sandbox's two processes, hears the judge, and ends both for certain."""

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

START = "import sys; sys.path.insert(0, {folder!r}); from inside import main; del sys.path[0]; main.main()"
HEARD = 1 << 16  # bytes that are read of what a judge says
END_SECONDS = 10.0  # for a guardian to end its worker

Child = subprocess.Popen[bytes]


@contextmanager
def two_processes(
    options: dict[str, Any], request: dict[str, Any], folder: Path
) -> Iterator[tuple[Child, Child]]:
    """The judge, who gets the request, and the program, joined by two pipes; both are gone, with all that
    they started, at the end.
    """
    for role in ("judge", "program"):
        (folder / role).mkdir(mode=0o700)
    paper = folder / "request"
    paper.touch(mode=0o600)
    paper.write_text(json.dumps(request), encoding="ascii")
    to_program, to_judge = os.pipe(), os.pipe()
    children: list[Child] = []
    try:
        try:
            children.append(
                _start({**options, "folder": str(folder / "program")}, to_program[0], to_judge[1], folder)
            )
            children.append(
                _start(
                    {**options, "folder": str(folder / "judge"), "request": str(paper)},
                    to_judge[0],
                    to_program[1],
                    folder,
                )
            )
        finally:
            for number in (*to_program, *to_judge):
                os.close(number)
        yield children[1], children[0]
    finally:
        for child in children:
            end(child)


def _start(options: dict[str, Any], reading: int, writing: int, folder: Path) -> Child:
    return subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            START.format(folder=str(Path(__file__).parent)),
            json.dumps(options),
        ],
        stdin=reading,
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={"LC_ALL": "C.UTF-8"}
        | {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ},
        start_new_session=True,
        close_fds=True,
    )


def hear(child: Child, seconds: float) -> bytes:
    """The first line that a judge says, or what there is of it when the time or the bytes are used up."""
    said = bytearray()

    def read() -> None:
        assert child.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            while len(said) < HEARD and b"\n" not in said and (part := os.read(child.stderr.fileno(), HEARD)):
                said.extend(part)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(seconds)
    return bytes(said)


def end(child: Child) -> None:
    """Close the life line, on which the guardian kills and reaps; where there is none, or it does not answer,
    kill.
    """
    if sys.platform != "linux":
        _kill(child)
    if child.stderr is not None:
        child.stderr.close()
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(child)
        child.wait(END_SECONDS)


def _kill(child: Child) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()


def ended_by(child: Child) -> int:
    """The signal that ended a worker, 0 for none; guardians tell it as shells do."""
    code = child.returncode or 0
    return -code if code < 0 else max(code - 128, 0)
