"""Resource limits (setrlimit) on memory, processor time, files and processes of one process."""

from __future__ import annotations

import contextlib

MAX_FILE_BYTES = 1 << 20
MAX_OPEN_FILES = 64
MAX_PROCESSES = 16  # threads count as processes


def set_rlimits(memory: int, seconds: float) -> None:
    """Limit address space to `memory` bytes, and processor time to `seconds`.

    Raises OSError where the system has no such limits (Windows).
    """
    try:
        import resource
    except ImportError:
        raise OSError("this system has no resource limits") from None
    limits = {
        "AS": memory,
        "CPU": int(seconds) + 1,
        "FSIZE": MAX_FILE_BYTES,
        "CORE": 0,
        "NOFILE": MAX_OPEN_FILES,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    }
    for name, value in limits.items():
        _lower(resource, f"RLIMIT_{name}", value)


def limit_processes() -> None:
    """Limit the number of processes.

    The kernel counts all processes of the user. So this makes sense only in a user namespace of its own, or
    where no seccomp filter refuses processes.
    """
    with contextlib.suppress(ImportError):
        import resource

        _lower(resource, "RLIMIT_NPROC", MAX_PROCESSES)


def _lower(resource: object, name: str, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # a limit that this system does not have
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]  # type: ignore[attr-defined]
        value = value if hard < 0 else min(value, hard)
        resource.setrlimit(which, (value, value))  # type: ignore[attr-defined]
