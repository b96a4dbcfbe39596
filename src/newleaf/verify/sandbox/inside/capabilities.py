"""Giving up every right of the superuser, for good."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from pathlib import Path

from .guardian import NOBODY
from .system import PR_CAP_AMBIENT, PR_CAPBSET_DROP, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECUREBITS, Kernel

AMBIENT_CLEAR_ALL = 4
VERSION_3 = 0x20080522
CAPABILITIES = 64  # those that a kernel does not know are refused
# No rights by being root, none kept over a change of user, none raised by a program's file; each with its lock.
SECURE_BITS = 0b11101111


def drop_capabilities(kernel: Kernel) -> None:
    """Empty the bounding, ambient, effective, permitted and inheritable sets; root becomes nobody where Python's files stay readable.

    Raises OSError where a right is left.
    """
    for number in range(CAPABILITIES):
        with contextlib.suppress(OSError):
            kernel.prctl(PR_CAPBSET_DROP, number)
    with contextlib.suppress(OSError):
        kernel.prctl(PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL)
    with contextlib.suppress(OSError):  # no right to do so: then there is none to lose
        kernel.prctl(PR_SET_SECUREBITS, SECURE_BITS)
    if os.geteuid() == 0:
        _become_nobody()
    header = ctypes.create_string_buffer(struct.pack("Ii", VERSION_3, 0))
    kernel.call("capset", header, ctypes.create_string_buffer(bytes(24)))
    kernel.prctl(PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(PR_SET_DUMPABLE, 0)  # closes /proc/PID/mem to others of the same user, where there is a /proc
    held = ctypes.create_string_buffer(24)
    kernel.call("capget", header, held)
    if any(held.raw):
        raise OSError(1, "capset: some are left")


def _become_nobody() -> None:
    place = Path(os.__file__)
    steps = [place.parent, *place.parents] if place.is_absolute() else [Path("/nowhere")]
    readable = all(folder.exists() and folder.stat().st_mode & 0o001 for folder in steps) and place.stat().st_mode & 0o004
    if not readable or not all(Path(path).stat().st_mode & 0o001 for path in sys.path if Path(path).is_dir()):
        return
    with contextlib.suppress(OSError):
        os.chown(".", NOBODY, NOBODY)
    with contextlib.suppress(OSError):  # a namespace that has no such user
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
