"""The supervisor between newleaf and a worker: creates the worker's namespaces, and kills and reaps it.

The supervisor runs no untrusted code. It stays outside the worker's PID namespace, where the worker cannot
see it. It holds the parent pipe, whose other end is newleaf's. When that closes, for any reason, the worker
is killed and reaped; with the first process of a PID namespace, the kernel kills all others.
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
KILL_SECONDS = 5.0  # for killing what outlived a worker without namespaces
MAX_DESCRIPTORS = 64
POLL_SECONDS = 0.01  # between two polls where the kernel has no pidfd


def fork_worker(kernel: Kernel, namespaces: bool, parent_pipe: int, timeout: float) -> str | None:
    """Fork. Only the worker returns: None, or why it has not the namespaces that were requested.

    Where newleaf runs as root, the new user namespace gets a second user, nobody. The worker becomes nobody
    once it needs no privileges any more.
    """
    problem, root = None, False
    with contextlib.suppress(OSError):
        kernel.prctl(PR_SET_CHILD_SUBREAPER, 1)
    requests, replies = os.pipe(), os.pipe()
    if namespaces:
        try:
            root = _unshare_pids(kernel)
        except OSError as error:
            namespaces, problem = False, _reason(error)
    worker = os.fork()
    if worker:
        try:
            os.close(requests[1])
            os.close(replies[0])
            with contextlib.suppress(OSError):  # the worker may have ended already
                if os.read(requests[0], 1):
                    os.write(replies[1], b"y" if _map_users(worker) else b"n")
            supervise(worker, parent_pipe, timeout, namespaces)
        finally:
            os._exit(1)
    os.close(requests[0])
    os.close(replies[1])
    if namespaces:
        try:
            has_user_namespace = not root or _unshare_users(kernel, requests[1], replies[0])
            _unshare_rest(kernel)
            if has_user_namespace:
                _forbid_user_namespaces()
        except OSError as error:
            problem = _reason(error)
    os.close(requests[1])
    os.close(replies[0])
    return problem


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:  # what the kernel says where user.max_user_namespaces is 0
        return "this system allows no more user namespaces"
    return str(error.strerror)


def _unshare_pids(kernel: Kernel) -> bool:
    """Start a new PID namespace with the next fork, without root's privileges in a new user namespace.

    Returns whether root's privileges did it.
    """
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # root of a container may have no more privileges than others
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


def _unshare_users(kernel: Kernel, request: int, reply: int) -> bool:
    """Move root's worker into a user namespace, whose uid_map the supervisor writes.

    Where the system allows none, root's privileges do the rest. They are dropped later all the same.
    """
    try:
        kernel.call("unshare", CLONE_NEWUSER)
    except OSError:
        return False
    os.write(request, b"?")
    if os.read(reply, 1) != b"y":
        raise OSError(1, "uid_map: not written")
    return True


def _map_users(worker: int) -> bool:
    for users in (f"0 0 1\n{NOBODY} {NOBODY} 1\n", "0 0 1\n"):
        with contextlib.suppress(OSError):
            write_text(f"/proc/{worker}/uid_map", users)
            write_text(f"/proc/{worker}/gid_map", users)
            return True
    return False


def _unshare_rest(kernel: Kernel) -> None:
    try:
        kernel.call("unshare", OTHERS | CLONE_NEWCGROUP)
    except OSError:  # before Linux 4.6
        kernel.call("unshare", OTHERS)


def _forbid_user_namespaces() -> None:
    """Forbid further user namespaces, in which the worker would be root again.

    The setting is this namespace's own; without a user namespace it would be the machine's. Where /proc/sys
    is read-only, the seccomp filter alone refuses.
    """
    with contextlib.suppress(OSError):
        write_text("/proc/sys/user/max_user_namespaces", "0")


def supervise(worker: int, parent_pipe: int, timeout: float, namespaces: bool) -> NoReturn:
    """Wait for the worker, the parent pipe or the timeout, then kill and reap the worker.

    Exits with the worker's exit status.
    """
    # Above all the pipe between tests and program, which must close with the worker.
    for number in range(MAX_DESCRIPTORS):
        if number != parent_pipe:
            with contextlib.suppress(OSError):
                os.close(number)
    with contextlib.suppress(BaseException):
        _wait(worker, parent_pipe, time.monotonic() + timeout)
    with contextlib.suppress(OSError):
        os.kill(worker, signal.SIGKILL)
    status = os.waitpid(worker, 0)[1]  # returns once all processes of the namespace are gone
    if not namespaces:
        _kill_orphans()
    code = os.waitstatus_to_exitcode(status)
    os._exit(128 - code if code < 0 else code)


def _kill_orphans() -> None:
    """Kill what the worker started: its orphans become children of this process, a subreaper."""
    children = f"/proc/self/task/{os.getpid()}/children"
    if not os.path.exists(children):  # a kernel without that list: the process group, this process with it
        os.killpg(os.getpgrp(), signal.SIGKILL)
    deadline = time.monotonic() + KILL_SECONDS
    while time.monotonic() < deadline:
        for child in read_text(children).split():
            with contextlib.suppress(OSError):
                os.kill(int(child), signal.SIGKILL)
        try:
            os.waitpid(-1, os.WNOHANG)
        except OSError:  # none is left
            return
        time.sleep(POLL_SECONDS / 10)


def _wait(worker: int, parent_pipe: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(parent_pipe, 0)  # POLLERR: the other end is closed
    pidfd = -1
    with contextlib.suppress(AttributeError, OSError):
        pidfd = os.pidfd_open(worker)
        poll.register(pidfd, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(1000 * (left if pidfd >= 0 else min(left, POLL_SECONDS))):
            return
        if pidfd < 0 and os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
