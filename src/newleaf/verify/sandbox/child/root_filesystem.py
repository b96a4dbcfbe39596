"""A root file system of the worker's own, in memory, entered with pivot_root.

It has what Python needs, mounted read-only, a small folder to write in, and three devices; no /proc and no
home. The old root is detached, so that there is no path back.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from .system import Kernel, read_text

NOSUID, NODEV, NOEXEC, READ_ONLY = 2, 4, 8, 1
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 32, 4096, 1 << 14, 1 << 18, 1 << 21
STATVFS_FLAGS = 2 | 4 | 8 | 1024 | 2048  # that mean the same to mount
AT_FDCWD, AT_RECURSIVE, MOUNT_SETATTR = -100, 0x8000, 442
MNT_DETACH = 2
WORK = "/newleaf-work"  # a path under which no Python is installed
MAX_WORK_BYTES, MAX_WORK_FILES = 16 << 20, 1024
DEVICES = ("null", "zero", "urandom")
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/gnu/store")
SHARED = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/usr/lib/locale")
LINKS = ("/lib", "/lib64", "/usr/lib64")
THIRD_PARTY = ("site-packages", "dist-packages")  # in the standard library's folder


def enter(kernel: Kernel, folder: str) -> None:
    """Build the root file system on an empty folder and enter it. Needs namespaces. Raises OSError."""
    if not read_text("/proc/self/uid_map").strip():
        raise OSError(1, "the user namespace has no users")
    paths = needed_paths()
    kernel.call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    _mount_tmpfs(kernel, folder, f"size=1m,nr_inodes={4 * MAX_WORK_FILES},mode=755", NOSUID)
    for path in paths:
        _bind(kernel, os.path.realpath(path), folder + path)
    for path in paths:
        for name in THIRD_PARTY:
            if os.path.isdir(f"{path}/{name}"):
                hidden = f"{folder}{path}/{name}"
                _mount_tmpfs(kernel, hidden, "size=4k,nr_inodes=2,mode=755", NOSUID | NODEV)
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
    options = f"size={MAX_WORK_BYTES},nr_inodes={MAX_WORK_FILES},mode=777"
    _mount_tmpfs(kernel, folder + WORK, options, NOSUID | NODEV | NOEXEC)
    os.chdir(folder)
    kernel.syscall("pivot_root", {"x86_64": 155, "aarch64": 41}[os.uname().machine], b".", b".")
    try:
        kernel.call("umount2", b".", MNT_DETACH)
    except OSError as error:  # with both roots reachable, no program may run
        raise RuntimeError(f"the old root cannot be detached: {error}") from None
    os.chdir(WORK)


def needed_paths() -> list[str]:
    """Paths of the standard library and of shared libraries that it may load, outermost folders first."""
    wanted = {path for path in (*sys.path, *SHARED) if path.startswith("/") and os.path.exists(path)}
    maps = [line.split(maxsplit=5) for line in read_text("/proc/self/maps").splitlines() if ".so" in line]
    for folder in {
        os.path.dirname(fields[5]) for fields in maps if len(fields) == 6 and fields[5].startswith("/")
    }:
        if folder.startswith(tuple(f"{place}/" for place in SYSTEM_LIBRARIES)) or folder in SYSTEM_LIBRARIES:
            wanted.add(folder)
        elif folder not in wanted:  # such as a virtual environment's lib, which holds packages too
            wanted |= {f"{folder}/{name}" for name in os.listdir(folder) if ".so" in name}
    paths: list[str] = []
    for path in sorted(wanted):
        if not any(path.startswith(f"{outer}/") for outer in paths):
            paths.append(path)
    return paths


def seal(kernel: Kernel, folder: str) -> None:
    """Make all mounts below the folder read-only and without devices."""
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", READ_ONLY | NOSUID | NODEV, 0, 0, 0))
    try:
        kernel.syscall(
            "mount_setattr", MOUNT_SETATTR, AT_FDCWD, folder.encode(), AT_RECURSIVE, attributes, 32
        )
    except OSError:  # before Linux 5.12: each mount by itself, with the flags that it has
        for line in read_text("/proc/self/mountinfo").splitlines():
            where = line.split()[4].encode().decode("unicode_escape")
            if where == folder or where.startswith(f"{folder}/"):
                flags = os.statvfs(where).f_flag
                flags = flags & STATVFS_FLAGS | (MS_RELATIME if flags & 4096 else 0)
                flags |= MS_REMOUNT | MS_BIND | READ_ONLY | NOSUID | NODEV
                kernel.call("mount", None, where.encode(), None, flags, None)


def _bind(kernel: Kernel, source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _touch(target)
    # Recursively: the kernel refuses to uncover what lies under mounts of another namespace.
    kernel.call("mount", source.encode(), target.encode(), None, MS_BIND | MS_REC, None)


def _mount_tmpfs(kernel: Kernel, where: str, options: str, flags: int) -> None:
    kernel.call("mount", b"tmpfs", where.encode(), b"tmpfs", flags, options.encode())


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
