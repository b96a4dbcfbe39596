"""The process between newleaf and a worker: puts the worker into namespaces, and ends it, whatever it does, when its time is over.

The guardian runs no stranger's code, and stands outside the worker's process namespace, where the worker cannot see it.
It holds a pipe whose other end is newleaf's (the life line): when that closes, for any reason, the worker is killed and
reaped, and with the first process of a namespace every other one of it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path
from typing import NoReturn

from .system import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    Kernel,
)

NOBODY = 65534
OTHERS = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
DESCRIPTORS = 64
POLL = 0.01  # seconds between two looks where the kernel has no descriptors of processes


def fork_worker(kernel: Kernel | None, life: int, seconds: float) -> str | None:
    """Fork; only the worker returns, with None or why it has no namespaces. Without a kernel given, none are asked for.

    As root the new user namespace gets a second user, nobody, whom the worker becomes once it needs no rights any more.
    """
    problem = None if kernel else "not asked for"
    root = os.geteuid() == 0
    asks, answers = os.pipe(), os.pipe()
    if kernel:
        try:
            _new_processes(kernel, root)
        except OSError as error:
            kernel, problem = None, str(error.strerror)
    worker = os.fork()
    if worker:
        os.close(asks[1])
        os.close(answers[0])
        if os.read(asks[0], 1):
            os.write(answers[1], b"y" if _map_users(worker) else b"n")
        guard(worker, life, seconds, namespaces=kernel is not None)
    os.close(asks[0])
    os.close(answers[1])
    if kernel:
        try:
            if root:
                _own_users(kernel, asks[1], answers[0])
            _new_others(kernel)
        except OSError as error:
            problem = str(error.strerror)
    os.close(asks[1])
    os.close(answers[0])
    return problem


def _new_processes(kernel: Kernel, root: bool) -> None:
    """The next fork begins a new namespace of processes. Whoever is not root needs a user namespace first, where he may."""
    if root:
        kernel.call("unshare", CLONE_NEWPID)
        return
    user, group = os.geteuid(), os.getegid()
    kernel.call("unshare", CLONE_NEWUSER | CLONE_NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with contextlib.suppress(OSError):
            Path(f"/proc/self/{name}").write_text(text)


def _own_users(kernel: Kernel, ask: int, answer: int) -> None:
    """Root's worker: a user namespace, whose users the guardian writes. Where the system allows none, root's rights do the rest, and are
    dropped later all the same."""
    try:
        kernel.call("unshare", CLONE_NEWUSER)
    except OSError:
        return
    os.write(ask, b"?")
    if os.read(answer, 1) != b"y":
        raise OSError(1, "uid_map: not written")


def _map_users(worker: int) -> bool:
    folder = Path(f"/proc/{worker}")
    for users in (f"0 0 1\n{NOBODY} {NOBODY} 1\n", "0 0 1\n"):
        with contextlib.suppress(OSError):
            (folder / "uid_map").write_text(users)
            (folder / "gid_map").write_text(users)
            return True
    return False


def _new_others(kernel: Kernel) -> None:
    try:
        kernel.call("unshare", OTHERS | CLONE_NEWCGROUP)
    except OSError:  # before Linux 4.6
        kernel.call("unshare", OTHERS)
    # Nobody in here makes another user namespace, in which he would be root again. A read-only /proc/sys refuses; the filter holds then.
    with contextlib.suppress(OSError):
        Path("/proc/sys/user/max_user_namespaces").write_text("0")


def guard(worker: int, life: int, seconds: float, namespaces: bool) -> NoReturn:
    """Wait for the worker's end, the life line's, or the clock's; then kill the worker, reap it, and end as it did."""
    for number in range(DESCRIPTORS):  # above all the pipe between judge and program: its end is to be the worker's
        if number != life:
            with contextlib.suppress(OSError):
                os.close(number)
    with contextlib.suppress(BaseException):
        _wait(worker, life, time.monotonic() + seconds)
    with contextlib.suppress(OSError):
        os.kill(worker, signal.SIGKILL)
    status = os.waitpid(worker, 0)[1]  # returns once all processes of the namespace are gone
    if not namespaces:  # whatever the worker may have started elsewhere; and this process with it
        os.killpg(os.getpgrp(), signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    os._exit(128 - code if code < 0 else code)


def _wait(worker: int, life: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(life, 0)  # an error here is that nobody holds the other end any more
    pidfd = -1
    with contextlib.suppress(AttributeError, OSError):
        pidfd = os.pidfd_open(worker)
        poll.register(pidfd, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(1000 * (left if pidfd >= 0 else min(left, POLL))):
            return
        if pidfd < 0 and os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
