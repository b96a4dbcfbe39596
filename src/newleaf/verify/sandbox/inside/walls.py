"""Puts up the walls, one after another, and tells which stand and why others do not."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from . import capabilities, guardian, hook, landlock, limits, seccomp, tree
from .system import PR_SET_PDEATHSIG, Kernel, write_text

LINUX_ONLY = ("namespaces", "tree", "capabilities", "landlock", "filter")


def raise_walls(
    asked: list[str], folder: str, life: int, memory: int, seconds: float, patience: float
) -> tuple[list[str], list[str]]:
    """From here on only the worker goes on, within the walls asked for: (those that stand, a sentence for
    each that does not).

    `seconds` are of processor time; after `patience` the guardian ends the worker.
    """
    standing: list[str] = []
    missing: list[str] = []

    def put_up(wall: str, act: Callable[[], object]) -> None:
        if wall not in asked:
            return
        try:
            act()
            standing.append(wall)
        except (OSError, ValueError, AttributeError) as error:
            missing.append(f"no {wall}: {getattr(error, 'strerror', None) or error}")

    put_up("limits", lambda: limits.set_limits(memory, seconds))
    kernel = Kernel() if sys.platform == "linux" else None
    if kernel:
        problem = guardian.fork_worker(kernel, "namespaces" in asked, life, patience)
        put_up("namespaces", lambda: _agree(problem))
        os.close(life)
        with contextlib.suppress(OSError):  # where memory runs out, this process goes first
            write_text("/proc/self/oom_score_adj", "1000")
        put_up(
            "tree",
            lambda: (
                tree.enter_tree(kernel, folder) if "namespaces" in standing else _agree("it needs namespaces")
            ),
        )
        put_up("capabilities", lambda: capabilities.drop_capabilities(kernel))
        kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which would clear it
        put_up("landlock", lambda: landlock.restrict(kernel, "."))
        put_up("filter", lambda: seccomp.install(kernel))
    else:
        missing += [f"no {wall}: it is Linux's" for wall in LINUX_ONLY if wall in asked]
    if "limits" in standing and ("namespaces" in standing or "filter" not in standing):
        limits.limit_processes()
    put_up("hook", lambda: hook.watch("."))
    return standing, missing


def _agree(problem: str | None) -> None:
    if problem:
        raise OSError(problem)
