"""The operating system's limits on memory, processor time, files and processes of one process."""

from __future__ import annotations

import contextlib

FILE_SIZE = 1 << 20  # bytes that a file may have
OPEN_FILES = 64
PROCESSES = 16  # threads count as processes


def set_limits(memory: int, seconds: float) -> None:
    """Memory in bytes of address space, seconds of processor time.

    Raises OSError where the system has no such limits (Windows).
    """
    try:
        import resource
    except ImportError:
        raise OSError("this system has no resource limits") from None
    wanted = {
        "AS": memory,
        "CPU": int(seconds) + 1,
        "FSIZE": FILE_SIZE,
        "CORE": 0,
        "NOFILE": OPEN_FILES,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    }
    for name, value in wanted.items():
        _lower(resource, f"RLIMIT_{name}", value)


def limit_processes() -> None:
    """Sensible only where nobody else is counted (a user namespace of its own), or where no filter refuses
    processes: it counts all of the user's.
    """
    with contextlib.suppress(ImportError):
        import resource

        _lower(resource, "RLIMIT_NPROC", PROCESSES)


def _lower(resource: object, name: str, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # a limit that this system does not have
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]  # type: ignore[attr-defined]
        value = value if hard < 0 else min(value, hard)
        resource.setrlimit(which, (value, value))  # type: ignore[attr-defined]
