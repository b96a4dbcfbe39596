"""Drops all Linux capabilities for good."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys

from .supervisor import NOBODY
from .system import (
    PR_CAP_AMBIENT,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECUREBITS,
    Kernel,
)

AMBIENT_CLEAR_ALL = 4
VERSION_3 = 0x20080522
MAX_CAPABILITIES = 64  # a kernel refuses numbers that it does not know
# NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock.
SECURE_BITS = 0b11101111


def drop_capabilities(kernel: Kernel) -> None:
    """Empty all capability sets. Root becomes nobody where Python's files stay readable.

    Raises OSError where a capability is left.
    """
    for number in range(MAX_CAPABILITIES):
        with contextlib.suppress(OSError):
            kernel.prctl(PR_CAPBSET_DROP, number)
    with contextlib.suppress(OSError):
        kernel.prctl(PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL)
    with contextlib.suppress(OSError):  # no CAP_SETPCAP: then there is none to lose
        kernel.prctl(PR_SET_SECUREBITS, SECURE_BITS)
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # folders that nobody cannot read, or no such user
            _become_nobody()
    header = ctypes.create_string_buffer(struct.pack("Ii", VERSION_3, 0))
    kernel.call("capset", header, ctypes.create_string_buffer(bytes(24)))
    kernel.prctl(PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(PR_SET_DUMPABLE, 0)  # closes /proc/PID/mem to others of the same user
    held = ctypes.create_string_buffer(24)
    kernel.call("capget", header, held)
    if any(held.raw):
        raise OSError(1, "capset: some are left")


def _become_nobody() -> None:
    if not all(map(_is_world_readable, (os.__file__, *filter(os.path.isdir, sys.path)))):
        return
    with contextlib.suppress(OSError):
        os.chown(".", NOBODY, NOBODY)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _is_world_readable(path: str) -> bool:
    if not os.stat(path).st_mode & 0o004:
        return False
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & 0o001:
            return False
    return True
