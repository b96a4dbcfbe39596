"""The seccomp filter: allows the system calls that system_calls.py lists, refuses the rest."""

from __future__ import annotations

import ctypes
import os
import struct

from .system import PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, Kernel
from .system_calls import ALLOWED, AUDIT, CHECKED, MISSING, numbers

FILTER_MODE = 2
ALLOW, REFUSE, NO_SUCH_CALL = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38  # EPERM, ENOSYS
# BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K and BPF_RET | BPF_K
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, MACHINE, ARGUMENTS = 0, 4, 16  # offsets into struct seccomp_data; arguments are eight bytes each

# Flags of clone for a thread, by glibc and by musl: VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS,
# PARENT_SETTID, CHILD_CLEARTID.
THREADS = (0x3D0F00, 0x7D0F00)
THREAD_NAME_OPTIONS = (15, 16)  # PR_SET_NAME, PR_GET_NAME
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)  # F_DUPFD … F_SETLKW, F_DUPFD_CLOEXEC, F_GETPIPE_SZ

Rule = tuple[int, int, int, int]  # operation, steps to skip if true, if false, value


def filter_rules(machine: str, process: int) -> list[Rule]:
    """The filter as a classic BPF program. `process` is the caller's PID, which it may send signals to."""
    # Of each call, which argument is checked, and the values that are allowed.
    checks = {
        "clone": (0, THREADS),
        "prctl": (0, THREAD_NAME_OPTIONS),
        "ioctl": (1, IOCTLS),
        "fcntl": (1, FCNTLS),
        "tgkill": (0, (process,)),
        "prlimit64": (0, (0,)),
    }
    rules: list[Rule] = [
        (LOAD, 0, 0, MACHINE),
        (JUMP_IF_EQUAL, 1, 0, AUDIT[machine]),
        (RETURN, 0, 0, REFUSE),
        (LOAD, 0, 0, NUMBER),
    ]
    for number in numbers(machine, ALLOWED).values():
        rules += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    for number in numbers(machine, {**MISSING}).values():
        rules += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, NO_SUCH_CALL)]
    for name, number in numbers(machine, {**CHECKED}).items():
        argument, values = checks[name]
        rules += [(JUMP_IF_EQUAL, 0, len(values) + 3, number), (LOAD, 0, 0, ARGUMENTS + 8 * argument)]
        # These arguments are 32 bits wide, of which both machines (little-endian) store the lower half first.
        rules += [(JUMP_IF_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
        rules += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    return [*rules, (RETURN, 0, 0, REFUSE)]


def install(kernel: Kernel) -> None:
    """Filter the calls of this process from now on. Raises OSError."""
    machine = os.uname().machine
    if machine not in AUDIT:
        raise OSError(f"no list of system calls for {machine}")
    rules = filter_rules(machine, os.getpid())
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code)))
    kernel.prctl(PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.addressof(header))
