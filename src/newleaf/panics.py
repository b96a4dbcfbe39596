"""Removes the messages that Rust's panics write to standard error: an InputError says it in one line."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

# A panic as Rust's standard library prints it, with a backtrace where RUST_BACKTRACE is set.
MESSAGE = re.compile(
    rb"\n?thread '[^\n]*' (?:\(\d+\) )?panicked at [^\n]*\n[^\n]*\n"
    rb"(?:stack backtrace:\n(?: [^\n]*\n)*)?(?:note: [^\n]*RUST_BACKTRACE[^\n]*\n)?"
)

# The file that holds standard error back, once it was needed.
_aside: list[BinaryIO] = []
_inside = False


@contextmanager
def filter_panic_messages() -> Iterator[None]:
    """Around calls of a native library: holds back standard error, and passes it on without panics.

    Standard error is the whole process's. So this happens in the main thread alone, where commands run; in
    other threads the messages stay.
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
    """Write what was held back, without the panics' messages, to standard error."""
    if not (size := os.lseek(aside, 0, os.SEEK_CUR)):
        return
    os.lseek(aside, 0, os.SEEK_SET)
    came = os.read(aside, size)
    os.lseek(aside, 0, os.SEEK_SET)
    os.ftruncate(aside, 0)
    if rest := MESSAGE.sub(b"", came):
        with suppress(OSError):
            os.write(2, rest)
