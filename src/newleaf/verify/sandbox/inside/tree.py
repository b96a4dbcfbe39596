"""A file system of the worker's own: a bare tree in memory, with what Python needs mounted read-only, a small
folder to write in, no /proc, no home, and three devices. The old root is detached, so that there is no path
back.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from .system import Kernel, read_text

NOSUID, NODEV, NOEXEC, READ_ONLY = 2, 4, 8, 1
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 32, 4096, 1 << 14, 1 << 18, 1 << 21
KEPT = 2 | 4 | 8 | 1024 | 2048  # flags of a mount that statvfs gives as mount takes them
AT_FDCWD, AT_RECURSIVE, MOUNT_SETATTR = -100, 0x8000, 442
MNT_DETACH = 2
WORK = "/newleaf-work"  # a name under which nobody keeps his Python
WORK_SIZE, WORK_FILES = 16 << 20, 1024
DEVICES = ("null", "zero", "urandom")
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/gnu/store")
SHARED = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/usr/lib/locale")
LINKS = ("/lib", "/lib64", "/usr/lib64")
NOT_PYTHONS = ("site-packages", "dist-packages")  # packages of others, in the standard library's folder


def enter_tree(kernel: Kernel, folder: str) -> None:
    """Make the tree on an empty folder and move into it. Needs namespaces of one's own. Raises OSError."""
    if not read_text("/proc/self/uid_map").strip():
        raise OSError(1, "the user namespace has no users")
    paths = needed_paths()
    kernel.call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    _memory(kernel, folder, f"size=1m,nr_inodes={4 * WORK_FILES},mode=755", NOSUID)
    for path in paths:
        _bind(kernel, os.path.realpath(path), folder + path)
    for path in paths:
        for name in NOT_PYTHONS:
            if os.path.isdir(f"{path}/{name}"):
                _memory(kernel, f"{folder}{path}/{name}", "size=4k,nr_inodes=2,mode=755", NOSUID | NODEV)
    for path in LINKS:
        if os.path.islink(path) and not os.path.exists(folder + path):
            os.makedirs(os.path.dirname(folder + path), exist_ok=True)
            os.symlink(os.readlink(path), folder + path)
    os.mkdir(folder + WORK)
    os.mkdir(folder + "/dev")
    for name in DEVICES:
        _touch(f"{folder}/dev/{name}")
    seal(kernel, folder)
    for name in DEVICES:
        kernel.call("mount", f"/dev/{name}".encode(), f"{folder}/dev/{name}".encode(), None, MS_BIND, None)
    _memory(
        kernel, folder + WORK, f"size={WORK_SIZE},nr_inodes={WORK_FILES},mode=777", NOSUID | NODEV | NOEXEC
    )
    os.chdir(folder)
    kernel.number("pivot_root", {"x86_64": 155, "aarch64": 41}[os.uname().machine], b".", b".")
    try:
        kernel.call("umount2", b".", MNT_DETACH)
    except OSError as error:  # between two roots nothing is certain: no program runs
        raise RuntimeError(f"the old root cannot be detached: {error}") from None
    os.chdir(WORK)


def needed_paths() -> list[str]:
    """Python's standard library and the shared libraries that it loads or may load, outermost folders
    first."""
    wanted = {path for path in (*sys.path, *SHARED) if path.startswith("/") and os.path.exists(path)}
    maps = [line.split(maxsplit=5) for line in read_text("/proc/self/maps").splitlines() if ".so" in line]
    for folder in {
        os.path.dirname(fields[5]) for fields in maps if len(fields) == 6 and fields[5].startswith("/")
    }:
        if folder.startswith(tuple(f"{place}/" for place in SYSTEM_LIBRARIES)) or folder in SYSTEM_LIBRARIES:
            wanted.add(folder)
        elif folder not in wanted:  # such as an environment's own lib, which holds its packages too
            wanted |= {f"{folder}/{name}" for name in os.listdir(folder) if ".so" in name}
    paths: list[str] = []
    for path in sorted(wanted):
        if not any(path.startswith(f"{outer}/") for outer in paths):
            paths.append(path)
    return paths


def seal(kernel: Kernel, folder: str) -> None:
    """Everything below the folder is read-only from now on, and has no devices."""
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", READ_ONLY | NOSUID | NODEV, 0, 0, 0))
    try:
        kernel.number("mount_setattr", MOUNT_SETATTR, AT_FDCWD, folder.encode(), AT_RECURSIVE, attributes, 32)
    except OSError:  # before Linux 5.12: each mount by itself, with the flags that it has
        for line in read_text("/proc/self/mountinfo").splitlines():
            where = line.split()[4].encode().decode("unicode_escape")
            if where == folder or where.startswith(f"{folder}/"):
                flags = os.statvfs(where).f_flag
                flags = flags & KEPT | (MS_RELATIME if flags & 4096 else 0)
                kernel.call(
                    "mount",
                    None,
                    where.encode(),
                    None,
                    MS_REMOUNT | MS_BIND | READ_ONLY | NOSUID | NODEV | flags,
                    None,
                )


def _bind(kernel: Kernel, source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _touch(target)
    # With what is mounted below it: the kernel lets nobody look under another's mounts.
    kernel.call("mount", source.encode(), target.encode(), None, MS_BIND | MS_REC, None)


def _memory(kernel: Kernel, where: str, options: str, flags: int) -> None:
    kernel.call("mount", b"tmpfs", where.encode(), b"tmpfs", flags, options.encode())


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
