"""System calls that Python's standard library does not have."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 4, 22, 24, 28
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47


class Kernel:
    """System calls through the C library. Each raises OSError with its name when the kernel refuses it."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)

    def call(self, name: str, *arguments: object) -> int:
        """A function of the C library."""
        return self._checked(name, getattr(self.libc, name)(*map(_word, arguments)))

    def syscall(self, name: str, number: int, *arguments: object) -> int:
        """A system call by its number, where the C library has no function for it."""
        return self._checked(name, self.libc.syscall(ctypes.c_long(number), *map(_word, arguments)))

    def prctl(self, option: int, *arguments: int) -> int:
        return self.call("prctl", option, *(*arguments, 0, 0, 0, 0)[:4])

    def _checked(self, name: str, result: int) -> int:
        if result == -1:
            error = ctypes.get_errno()
            raise OSError(error, f"{name}: {os.strerror(error)}")
        return result


def read_text(path: str) -> str:
    """The text of a file in /proc or /sys. Raises OSError."""
    with open(path) as file:
        return file.read()


def write_text(path: str, text: str) -> None:
    """Write to a file in /proc or /sys. Raises OSError."""
    with open(path, "w") as file:
        file.write(text)


def _word(value: object) -> object:
    """Integers as machine words, as variadic C functions read them."""
    return ctypes.c_long(value) if isinstance(value, int) else value
