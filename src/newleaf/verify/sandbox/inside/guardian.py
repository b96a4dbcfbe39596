"""The process between newleaf and a worker: puts it into namespaces, and ends it for certain.

The guardian runs no stranger's code, and stands outside the worker's process namespace, where the worker
cannot see it. It holds a pipe whose other end is newleaf's (the life line): when that closes, for any reason,
the worker is killed and reaped, and with the first process of a namespace every other one of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time

from .system import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_CHILD_SUBREAPER,
    Kernel,
    read_text,
    write_text,
)

TYPE_CHECKING = False  # typing takes longer to import than all of this; checkers know the name
if TYPE_CHECKING:
    from typing import NoReturn

NOBODY = 65534
OTHERS = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
SWEEP = 5.0  # seconds for ending what outlived a worker without namespaces
DESCRIPTORS = 64
POLL = 0.01  # seconds between two looks where the kernel has no descriptors of processes


def fork_worker(kernel: Kernel, namespaces: bool, life: int, seconds: float) -> str | None:
    """Fork; only the worker returns, with None, or why it has no namespaces where it should.

    With root's rights the new user namespace gets a second user, nobody, whom the worker becomes once it
    needs no rights any more.
    """
    problem, root = None, False
    with contextlib.suppress(OSError):
        kernel.prctl(PR_SET_CHILD_SUBREAPER, 1)
    asks, answers = os.pipe(), os.pipe()
    if namespaces:
        try:
            root = _new_processes(kernel)
        except OSError as error:
            namespaces, problem = False, _sentence(error)
    worker = os.fork()
    if worker:
        try:
            os.close(asks[1])
            os.close(answers[0])
            with contextlib.suppress(OSError):  # the worker may have ended already
                if os.read(asks[0], 1):
                    os.write(answers[1], b"y" if _map_users(worker) else b"n")
            guard(worker, life, seconds, namespaces)
        finally:
            os._exit(1)
    os.close(asks[0])
    os.close(answers[1])
    if namespaces:
        try:
            own_users = not root or _own_users(kernel, asks[1], answers[0])
            _new_others(kernel)
            if own_users:
                _last_users()
        except OSError as error:
            problem = _sentence(error)
    os.close(asks[1])
    os.close(answers[0])
    return problem


def _sentence(error: OSError) -> str:
    if error.errno == errno.ENOSPC:  # what the kernel says where user.max_user_namespaces is 0
        return "this system allows no more user namespaces"
    return str(error.strerror)


def _new_processes(kernel: Kernel) -> bool:
    """The next fork begins a new namespace of processes; without root's rights, in a new user namespace.

    Returns whether it went by root's rights.
    """
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # root of a container may have no more rights than others
            kernel.call("unshare", CLONE_NEWPID)
            return True
    user, group = os.geteuid(), os.getegid()
    kernel.call("unshare", CLONE_NEWUSER | CLONE_NEWPID)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with contextlib.suppress(OSError):
            write_text(f"/proc/self/{name}", text)
    return False


def _own_users(kernel: Kernel, ask: int, answer: int) -> bool:
    """Root's worker: a user namespace, whose users the guardian writes.

    Where the system allows none, root's rights do the rest, and are dropped later all the same.
    """
    try:
        kernel.call("unshare", CLONE_NEWUSER)
    except OSError:
        return False
    os.write(ask, b"?")
    if os.read(answer, 1) != b"y":
        raise OSError(1, "uid_map: not written")
    return True


def _map_users(worker: int) -> bool:
    for users in (f"0 0 1\n{NOBODY} {NOBODY} 1\n", "0 0 1\n"):
        with contextlib.suppress(OSError):
            write_text(f"/proc/{worker}/uid_map", users)
            write_text(f"/proc/{worker}/gid_map", users)
            return True
    return False


def _new_others(kernel: Kernel) -> None:
    try:
        kernel.call("unshare", OTHERS | CLONE_NEWCGROUP)
    except OSError:  # before Linux 4.6
        kernel.call("unshare", OTHERS)


def _last_users() -> None:
    """Nobody in here makes another user namespace, in which he would be root again.

    The number is this namespace's own; without one it would be the machine's. Where /proc/sys is read-only,
    the filter alone refuses.
    """
    with contextlib.suppress(OSError):
        write_text("/proc/sys/user/max_user_namespaces", "0")


def guard(worker: int, life: int, seconds: float, namespaces: bool) -> NoReturn:
    """Wait for the worker's end, the life line's or the clock's; kill the worker, reap it, and end as it
    did."""
    # above all the pipe between judge and program, which ends with the worker
    for number in range(DESCRIPTORS):
        if number != life:
            with contextlib.suppress(OSError):
                os.close(number)
    with contextlib.suppress(BaseException):
        _wait(worker, life, time.monotonic() + seconds)
    with contextlib.suppress(OSError):
        os.kill(worker, signal.SIGKILL)
    status = os.waitpid(worker, 0)[1]  # returns once all processes of the namespace are gone
    if not namespaces:
        _end_others()
    code = os.waitstatus_to_exitcode(status)
    os._exit(128 - code if code < 0 else code)


def _end_others() -> None:
    """Kill what the worker started, wherever it went: its orphans become children of this process, a
    subreaper."""
    children = f"/proc/self/task/{os.getpid()}/children"
    if not os.path.exists(children):  # a kernel without that list: the process group, this process with it
        os.killpg(os.getpgrp(), signal.SIGKILL)
    deadline = time.monotonic() + SWEEP
    while time.monotonic() < deadline:
        for child in read_text(children).split():
            with contextlib.suppress(OSError):
                os.kill(int(child), signal.SIGKILL)
        try:
            os.waitpid(-1, os.WNOHANG)
        except OSError:  # none is left
            return
        time.sleep(POLL / 10)


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
