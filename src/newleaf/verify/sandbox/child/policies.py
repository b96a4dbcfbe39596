"""Applies the sandbox's policies, one after another, and records which are in force."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from . import audit_hook, capabilities, landlock, rlimits, root_filesystem, seccomp, supervisor
from .system import PR_SET_PDEATHSIG, Kernel, write_text

LINUX_ONLY = ("namespaces", "rootfs", "capabilities", "landlock", "seccomp")


def apply_policies(
    requested: list[str], folder: str, parent_pipe: int, memory: int, seconds: float, timeout: float
) -> tuple[list[str], list[str]]:
    """Fork, and return in the worker alone: (policies in force, a sentence for each unavailable one).

    `seconds` limits processor time. After `timeout` seconds the supervisor kills the worker.
    """
    applied: list[str] = []
    unavailable: list[str] = []

    def apply(policy: str, act: Callable[[], object]) -> None:
        if policy not in requested:
            return
        try:
            act()
            applied.append(policy)
        except (OSError, ValueError, AttributeError) as error:
            unavailable.append(f"no {policy}: {getattr(error, 'strerror', None) or error}")

    def enter_root() -> None:
        if "namespaces" not in applied:
            raise OSError("it needs namespaces")
        root_filesystem.enter(kernel, folder)

    apply("rlimits", lambda: rlimits.set_rlimits(memory, seconds))
    if sys.platform == "linux":
        kernel = Kernel()
        problem = supervisor.fork_worker(kernel, "namespaces" in requested, parent_pipe, timeout)
        apply("namespaces", lambda: _raise_if(problem))
        os.close(parent_pipe)
        with contextlib.suppress(OSError):  # where memory runs out, the kernel kills this process first
            write_text("/proc/self/oom_score_adj", "1000")
        apply("rootfs", enter_root)
        apply("capabilities", lambda: capabilities.drop_capabilities(kernel))
        kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which would clear it
        apply("landlock", lambda: landlock.restrict(kernel, "."))
        apply("seccomp", lambda: seccomp.install(kernel))
    else:
        unavailable += [f"no {policy}: it is Linux's" for policy in LINUX_ONLY if policy in requested]
    if "rlimits" in applied and ("namespaces" in applied or "seccomp" not in applied):
        rlimits.limit_processes()
    apply("audit_hook", lambda: audit_hook.install("."))
    return applied, unavailable


def _raise_if(problem: str | None) -> None:
    if problem:
        raise OSError(problem)
