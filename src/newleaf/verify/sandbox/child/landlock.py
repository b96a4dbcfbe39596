"""Landlock (Linux 5.13): a process gives up writing outside its folder. Needs no privileges or namespaces."""

from __future__ import annotations

import ctypes
import os
import struct

from .system import PR_SET_NO_NEW_PRIVS, Kernel

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION, PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR, MAKE_REG = (
    1 << bit for bit in range(9)
)
MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(9, 16))
WRITES = WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM
NET = 0b11  # bind and connect TCP
SCOPES = 0b11  # abstract sockets, and signals to processes outside
# The access right that each ABI version added.
SINCE = {2: REFER, 3: TRUNCATE, 5: IOCTL_DEV}


def restrict(kernel: Kernel, folder: str) -> None:
    """Refuse to write, create or remove anything outside the folder, and to execute. Raises OSError."""
    version = kernel.syscall("landlock_create_ruleset", CREATE_RULESET, None, 0, VERSION)
    later = sum(right for since, right in SINCE.items() if since <= version)
    handled = EXECUTE | WRITES | MAKE_CHAR | MAKE_SOCK | MAKE_FIFO | MAKE_BLOCK | later
    fields = [handled] + [NET] * (version >= 4) + [SCOPES] * (version >= 6)
    ruleset = ctypes.create_string_buffer(struct.pack(f"{len(fields)}Q", *fields))
    number = kernel.syscall("landlock_create_ruleset", CREATE_RULESET, ruleset, 8 * len(fields), 0)
    for path, rights in ((folder, WRITES | later & (REFER | TRUNCATE)), (os.devnull, WRITE_FILE)):
        _allow(kernel, number, path, rights)
    kernel.prctl(PR_SET_NO_NEW_PRIVS, 1)
    kernel.syscall("landlock_restrict_self", RESTRICT_SELF, number, 0)
    os.close(number)


def _allow(kernel: Kernel, ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, place))
    kernel.syscall("landlock_add_rule", ADD_RULE, ruleset, PATH_BENEATH, rule, 0)
    os.close(place)
