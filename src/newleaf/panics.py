"""What Rust's panics write to standard error by themselves is taken away, since the error that they become
says it in one line."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

# As Rust's standard library writes it: where, what, the calls on the way (where RUST_BACKTRACE is set), and
# how to see more of them.
MESSAGE = re.compile(
    rb"\n?thread '[^\n]*' (?:\(\d+\) )?panicked at [^\n]*\n[^\n]*\n"
    rb"(?:stack backtrace:\n(?: [^\n]*\n)*)?(?:note: [^\n]*RUST_BACKTRACE[^\n]*\n)?"
)

# the file that standard error is while it is taken aside; empty before the first time
_aside: list[BinaryIO] = []
_inside = False


@contextmanager
def filter_panic_messages() -> Iterator[None]:
    """Around calls of a native library: whatever else comes to standard error meanwhile, from any thread, is
    passed on when they return.

    Standard error is the whole process's, so this happens in the main thread alone, where commands run;
    elsewhere the messages stay.
    """
    global _inside
    if _inside or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        if not _aside:
            _aside.append(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 (kept for the next call)
        before = os.dup(2)
    except OSError:  # no standard error, or nowhere to put it
        yield
        return
    aside, _inside = _aside[0].fileno(), True
    os.dup2(aside, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        _inside = False
        _pass_on(aside)


def _pass_on(aside: int) -> None:
    """Write what came, without the messages, to where it should have gone."""
    if not (size := os.lseek(aside, 0, os.SEEK_CUR)):
        return
    os.lseek(aside, 0, os.SEEK_SET)
    came = os.read(aside, size)
    os.lseek(aside, 0, os.SEEK_SET)
    os.ftruncate(aside, 0)
    if rest := MESSAGE.sub(b"", came):
        with suppress(OSError):
            os.write(2, rest)
