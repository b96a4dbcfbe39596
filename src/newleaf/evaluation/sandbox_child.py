"""The process in which a model's program runs: closes every door it can, then runs the program and says how it ended.

Run as a file; imports nothing of newleaf. Doors, as far as the system has them: limits on memory, processor time, file sizes and
processes; fresh namespaces without a network, with a file system that can be read only but for the program's folder; a filter on system
calls (no processes, no sockets); and, everywhere, a hook on Python's own audited actions, which is no wall by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import platform
import signal
import struct
import sys
import time
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_THREAD = 0x10000000, 0x20000000, 0x40000000, 0x00010000
MS_REC_PRIVATE = 0x4000 | 0x40000
AT_RECURSIVE, ATTR_RDONLY, MOUNT_SETATTR = 0x8000, 1, 442
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_FILTER = 38, 22, 2
ALLOW, REFUSE, NOT_THERE = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38  # EPERM; ENOSYS, after which libc tries clone
PROCESSES = 16
FOLDER_SIZE = 16 << 20

# By machine: audit architecture, and the numbers of clone, clone3, and of what is refused: fork, vfork, execve, execveat, socket,
# socketpair, ptrace, mount, unshare, setns, kill, tkill, tgkill, process_vm_writev, bpf, keyctl, io_uring_setup.
CALLS = {
    "x86_64": (0xC000003E, 56, 435, (57, 58, 59, 322, 41, 53, 101, 165, 272, 308, 62, 200, 234, 311, 321, 250, 425)),
    "aarch64": (0xC00000B7, 220, 435, (221, 281, 198, 199, 117, 40, 97, 268, 129, 130, 131, 271, 280, 219, 425)),
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NOT_FOR_PROGRAMS = (
    "socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill", "os.putenv", "os.unsetenv",
    "os.startfile", "ctypes.", "pty.", "signal.pthread_kill", "sys.remote_exec", "winreg.", "mmap.", "webbrowser.", "urllib.", "ftplib.",
    "smtplib.", "http.",
)  # fmt: skip
PATH_EVENTS = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate", "os.utime",
               "shutil.", "os.chdir", "os.chflags", "os.setxattr", "os.removexattr")  # fmt: skip


def limit(request: dict[str, object]) -> bool:
    try:
        import resource
    except ImportError:
        return False
    memory, seconds, size = int(str(request["memory"])), int(float(str(request["seconds"]))) + 1, int(str(request["file_size"]))
    wanted = [("RLIMIT_AS", memory), ("RLIMIT_CPU", seconds), ("RLIMIT_FSIZE", size), ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 64)]
    for name, value in [*wanted, ("RLIMIT_NPROC", PROCESSES)]:
        with contextlib.suppress(OSError, ValueError):
            which = getattr(resource, name)
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
    return True


def enter_namespaces(libc: ctypes.CDLL, folder: str) -> bool:
    """Fresh users, network, processes and mounts; the process that goes on is the first of its kind, and all others end with it."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with contextlib.suppress(OSError):
            Path(f"/proc/self/{name}").write_text(text)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG: killed with its parent
    libc.mount(None, b"/", None, MS_REC_PRIVATE, None)
    path = os.fsencode(folder)
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", ATTR_RDONLY, 0, 0, 0))
    sealed = bool(libc.syscall(MOUNT_SETATTR, -100, b"/", AT_RECURSIVE, attributes, 32) == 0)
    # A folder of its own, in memory, over the one that is sealed.
    if libc.mount(b"tmpfs", path, b"tmpfs", 6, f"size={FOLDER_SIZE},mode=700".encode()) == 0:
        os.chdir(folder)
    return sealed


def filter_calls(libc: ctypes.CDLL) -> bool:
    """A seccomp filter: no new processes (threads are), no programs, no sockets, no tracing."""
    calls = CALLS.get(platform.machine())
    if calls is None or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    machine, clone, clone3, refused = calls
    load, equal, all_bits, give = 0x20, 0x15, 0x45, 0x06
    # (operation, argument, steps to skip if true, if false); offsets into struct seccomp_data: 4 the machine, 0 the call, 16 its argument
    rules = [(load, 4, 0, 0), (equal, machine, 1, 0), (give, REFUSE, 0, 0), (load, 0, 0, 0)]
    rules += [(equal, clone3, 0, 1), (give, NOT_THERE, 0, 0)]
    for number in refused:
        rules += [(equal, number, 0, 1), (give, REFUSE, 0, 0)]
    rules += [(0x35, 0x40000000, 0, 1), (give, REFUSE, 0, 0)]  # x32's numbers for the same calls
    rules += [(equal, clone, 0, 3), (load, 16, 0, 0), (all_bits, CLONE_THREAD, 1, 0), (give, REFUSE, 0, 0), (give, ALLOW, 0, 0)]
    code = b"".join(struct.pack("HBBI", operation, yes, no, value) for operation, value, yes, no in rules)
    buffer = ctypes.create_string_buffer(code)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(buffer)))
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_FILTER, header, 0, 0) == 0)


def watch(folder: str) -> None:
    """Refuse what Python itself announces: sockets, processes, native code, and changes to files outside the folder."""
    root = os.path.realpath(folder)
    real, text_of, kinds, join = os.path.realpath, os.fsdecode, (str, bytes, os.PathLike), os.path.join

    def inside(path: object) -> bool:
        if not isinstance(path, kinds):
            return isinstance(path, int)
        name = text_of(path)
        return name == os.devnull or real(join(root, name)).startswith(root + os.sep) or real(name) == root

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writing = (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or (isinstance(flags, int) and flags & WRITES)
            if writing and not inside(path):
                raise PermissionError(f"{path}: outside the program's folder")
        elif event.startswith(PATH_EVENTS):
            if not all(inside(each) for each in arguments if isinstance(each, kinds)):
                raise PermissionError(f"{event}: outside the program's folder")
        elif event.startswith(NOT_FOR_PROGRAMS) or (event == "import" and arguments[0] in ("_posixsubprocess", "_ctypes")):
            raise PermissionError(f"{event}: not for programs under test")

    sys.addaudithook(hook)


class Nothing(io.StringIO):
    """Swallows what is printed, and has nothing to read."""

    def write(self, text: str) -> int:
        return len(text)


def main() -> None:
    request = json.loads(sys.stdin.buffer.read())
    token, folder = request["token"], request["folder"]
    out = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    walls = ["limits"] if limit(request) else []
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        walls += ["namespaces"] if enter_namespaces(libc, folder) else []
        walls += ["filter"] if filter_calls(libc) else []
    os.environ.clear()
    sys.argv[:] = ["program"]
    end = os._exit
    write = os.write
    write(out, f"{token}:walls {' '.join([*walls, 'hook'])}\n".encode())
    sys.stdout, sys.stderr, sys.stdin = Nothing(), Nothing(), Nothing()
    source = request["source"]
    seconds = float(request["seconds"])
    del request

    def say(text: str) -> None:
        write(out, f"{token}:{text}\n".encode("utf-8", "replace"))
        end(0)

    if not _compiles(source):
        say("failed is not Python")
    code = compile(source, "program", "exec", dont_inherit=True)
    late = f"failed took longer than {seconds:g} s"
    clock, begun = time.monotonic, time.monotonic()
    if hasattr(signal, "setitimer"):  # whoever gets around this is killed by the parent a little later
        signal.signal(signal.SIGALRM, lambda *_: say(late))
        signal.setitimer(signal.ITIMER_REAL, seconds)
    watch(folder)
    try:
        exec(code, {"__name__": "__main__"})
    except BaseException as error:  # SystemExit too: the tests after it have not run
        say("failed " + f"{type(error).__name__}: {error}".replace("\n", " ")[:200])
    say("passed " if clock() - begun <= seconds else late)


def _compiles(source: str) -> bool:
    try:
        compile(source, "program", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True


if __name__ == "__main__":
    main()
