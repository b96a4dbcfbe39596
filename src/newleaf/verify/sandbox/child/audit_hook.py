"""A Python audit hook (PEP 578) that refuses sockets, processes and writes outside the program's folder.

It is the weakest policy: a program that knows Python's internals gets around it.
"""

from __future__ import annotations

import os
import sys

WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Prefixes of audit events.
REFUSED_EVENTS = (
    "socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill",
    "os.putenv", "os.unsetenv", "os.startfile", "ctypes.", "pty.", "signal.pthread_kill", "sys.remote_exec",
    "winreg.", "mmap.", "webbrowser.", "urllib.", "ftplib.", "smtplib.", "http.",
)  # fmt: skip
PATH_EVENTS = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown",
    "os.truncate", "os.utime", "shutil.", "os.chdir", "os.chflags", "os.setxattr", "os.removexattr",
)  # fmt: skip


def install(folder: str) -> None:
    """Refuse sockets, processes, native code, and changes to files outside the folder."""
    root = os.path.realpath(folder)
    # Local names: the program can replace those of the modules.
    real, text_of, kinds, join = os.path.realpath, os.fsdecode, (str, bytes, os.PathLike), os.path.join

    def in_folder(path: object) -> bool:
        if not isinstance(path, kinds):
            return isinstance(path, int)
        name = text_of(path)
        return name == os.devnull or real(join(root, name)).startswith(root + os.sep) or real(name) == root

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writing = (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or (
                isinstance(flags, int) and flags & WRITE_FLAGS
            )
            if writing and not in_folder(path):
                raise PermissionError(f"{path}: outside the program's folder")
        elif event.startswith(PATH_EVENTS):
            if not all(in_folder(each) for each in arguments if isinstance(each, kinds)):
                raise PermissionError(f"{event}: outside the program's folder")
        elif event.startswith(REFUSED_EVENTS) or (
            event == "import" and arguments[0] in ("_posixsubprocess", "_ctypes")
        ):
            raise PermissionError(f"{event}: not for programs under test")

    sys.addaudithook(hook)
