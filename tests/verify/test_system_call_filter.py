"""The seccomp filter, interpreted as the kernel does, for both machines, with the kernel headers' numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from newleaf.verify.sandbox.child.seccomp import filter_rules
from newleaf.verify.sandbox.child.system_calls import ALLOWED, AUDIT, CHECKED, MISSING, numbers

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"),),
}
MACHINES = pytest.mark.parametrize("machine", sorted(AUDIT))


def answer(machine: str, number: int, *arguments: int, audit: int | None = None, process: int = 7) -> int:
    """Classic BPF's load, jump-if-equal and return over struct seccomp_data (linux/seccomp.h)."""
    data = {0: number & 0xFFFFFFFF, 4: AUDIT[machine] if audit is None else audit}
    for index, argument in enumerate((*arguments, 0, 0, 0, 0, 0, 0)[:6]):
        data[16 + 8 * index] = argument & 0xFFFFFFFF
        data[20 + 8 * index] = argument >> 32 & 0xFFFFFFFF
    rules = filter_rules(machine, process)
    held, place = 0, 0
    while True:
        operation, yes, no, value = rules[place]
        assert 0 <= yes < 256
        assert 0 <= no < 256
        if operation == 0x06:
            return value
        if operation == 0x20:
            held = data[value]
            place += 1
        else:
            assert operation == 0x15
            place += 1 + (yes if held == value else no)


@MACHINES
def test_the_numbers_are_the_kernels(machine: str) -> None:
    header = next((path for path in HEADERS[machine] if path.exists()), None)
    if header is None:
        pytest.skip("no kernel headers here")
    text = header.read_text()
    found = {
        name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)$", text, re.MULTILINE)
    }
    found |= {
        name: int(number)
        for name, number in re.findall(r"#define __NR3264_(\w+)\s+(\d+)$", text, re.MULTILINE)
    }
    found.setdefault("newfstatat", found.get("fstatat", -1))
    for name, number in numbers(machine, {**ALLOWED, **CHECKED, **MISSING}).items():
        assert found.get(name, number if name == "fchmodat2" else -1) == number, name
    for name in ("open", "stat", "poll", "access", "mkdir"):  # aarch64 has only their newer forms
        assert (name in numbers(machine, ALLOWED)) == (machine == "x86_64")


@MACHINES
def test_all_numbers_that_are_not_listed_are_refused(machine: str) -> None:
    allowed, missing, checked = (
        numbers(machine, ALLOWED),
        numbers(machine, {**MISSING}),
        numbers(machine, {**CHECKED}),
    )
    for number in [*range(700), 0x40000000, 0x40000001, 0x4000003B, 0xFFFFFFFF]:
        if number in checked.values():
            continue
        expected = ALLOW if number in allowed.values() else ENOSYS if number in missing.values() else EPERM
        assert answer(machine, number) == expected, number
    other = next(each for each in AUDIT if each != machine)
    for number in range(700):
        # and so is each call of another machine's
        assert answer(machine, number, audit=AUDIT[other]) == EPERM
        assert answer(machine, number, audit=0x40000003) == EPERM


@MACHINES
def test_checked_calls_are_allowed_with_the_values_listed_and_no_other(machine: str) -> None:
    number = numbers(machine, {**CHECKED})
    good = {
        "clone": [(0x3D0F00,), (0x7D0F00,)],
        "prctl": [(15,), (16,)],
        "ioctl": [(0, 0x5401), (3, 0x5451)],
        "fcntl": [(0, 1), (5, 3), (5, 1030)],
        "tgkill": [(7, 9, 6)],
        "prlimit64": [(0, 7)],
    }
    bad = {
        "clone": [(0,), (17,), (0x3D0F00 | 0x10000000,), (0x3D0F00 & ~0x10000,), (0x20000,)],
        "prctl": [(1,), (4,), (22,), (38,), (28,), (47,), (36,), (0x59616D61,)],
        "ioctl": [(0, 0x5412), (0, 0x541C), (0, 0x5402)],
        "fcntl": [(0, 8), (0, 10), (0, 15), (0, 1024), (0, 1033)],
        "tgkill": [(1, 1, 9), (0, 0, 9), (0xFFFFFFFF, 0, 9), (8, 7, 9)],
        "prlimit64": [(1, 7), (7, 7), (0xFFFFFFFF, 7)],
    }
    assert set(good) == set(bad) == set(number)
    for name, values in good.items():
        assert [answer(machine, number[name], *each) for each in values] == [ALLOW] * len(values), name
    for name, values in bad.items():
        assert [answer(machine, number[name], *each) for each in values] == [EPERM] * len(values), name


def test_calls_that_create_processes_mounts_privileges_or_sockets_are_not_allowed() -> None:
    processes = {
        "fork",
        "vfork",
        "execve",
        "execveat",
        "clone3",
        "setsid",
        "ptrace",
        "kill",
        "tkill",
        "memfd_create",
    }
    processes |= {"pidfd_open", "pidfd_getfd", "pidfd_send_signal", "process_vm_readv", "process_vm_writev"}
    sockets = {"socket", "socketpair", "connect", "bind", "shmget", "mq_open"}
    mounts = {
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "unshare",
        "setns",
        "mount_setattr",
        "move_mount",
        "open_tree",
    }
    mounts |= {
        "fsopen",
        "fsconfig",
        "fsmount",
        "fspick",
        "mknod",
        "mknodat",
        "link",
        "linkat",
        "chmod",
        "chown",
    }
    rights = {
        "setuid",
        "setresuid",
        "capset",
        "personality",
        "seccomp",
        "init_module",
        "kexec_load",
        "reboot",
    }
    doors = {
        "bpf",
        "keyctl",
        "add_key",
        "io_uring_setup",
        "userfaultfd",
        "perf_event_open",
        "open_by_handle_at",
    }
    assert not {*ALLOWED, *CHECKED} & (processes | sockets | mounts | rights | doors)
