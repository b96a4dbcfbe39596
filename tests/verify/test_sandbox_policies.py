"""Each policy of the sandbox alone, against programs that use ctypes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from newleaf.verify.sandbox import run_program
from newleaf.verify.sandbox.run import POLICIES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these policies are Linux's")

# Helpers for programs: system calls by number, and the errno of an operation.
PRELUDE = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *words) == -1 else 0
def refused(act):
    try: act()
    except OSError as error: return error.errno
    return 0
WRITE = os.O_WRONLY | os.O_NONBLOCK
def spared(act):
    assert refused(act), 'not refused'
"""
NATIVE_MACHINE = pytest.mark.skipif(
    os.uname().machine != "x86_64" if sys.platform == "linux" else True, reason="numbers of x86_64"
)


@functools.cache
def unavailable(policies: tuple[str, ...]) -> tuple[str, ...]:
    """Why some of these policies are unavailable here."""
    return run_program("pass", policies=policies).unavailable


def check(source: str, *policies: str, seconds: float = 5) -> None:
    """Run a program that must pass under these policies alone."""
    if reasons := unavailable(policies):
        pytest.skip("; ".join(reasons))
    found = run_program(PRELUDE + source, policies=policies, seconds=seconds)
    assert found.passed, found.reason


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder outside the sandbox: a file, a named pipe with a reader, a folder."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    tmp_path.chmod(0o777)
    for name in ("file", "pipe", "folder"):
        (tmp_path / name).chmod(0o777)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    yield tmp_path
    assert os.read(reader, 10) == b""
    os.close(reader)
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder", "pipe"]


TOUCH = """
place = {place!r}
acts = [
    lambda: os.open(place + '/file', WRITE), lambda: os.open(place + '/file', os.O_RDWR),
    lambda: os.truncate(place + '/file', 0), lambda: os.open(place + '/new', WRITE | os.O_CREAT),
    lambda: os.open(place + '/pipe', WRITE), lambda: os.open(place + '/pipe', os.O_RDWR),
    lambda: os.mkdir(place + '/made'), lambda: os.rmdir(place + '/folder'),
    lambda: os.remove(place + '/file'), lambda: os.rename(place + '/file', place + '/folder/file'),
    lambda: os.rename(place + '/file', 'mine'), lambda: os.mkfifo(place + '/other'),
    lambda: os.mknod(place + '/device', 0o20666, os.makedev(1, 3)),
    lambda: os.symlink('/', place + '/link'), lambda: os.link(place + '/file', place + '/second'),
    lambda: os.open('/dev/kmsg', WRITE), lambda: os.open('/dev/tty0', WRITE),
    lambda: os.open('/dev/loop0', WRITE), lambda: os.open('/etc/passwd', WRITE),
    lambda: os.open('/proc/sys/kernel/core_pattern', WRITE), lambda: os.open(os.__file__, WRITE),
]
open('own', 'w').write('x')
got = [number for number, act in enumerate(acts) if not refused(act)]
assert not got, got
"""


def test_landlock_alone_refuses_writes_outside_pipes_and_devices_included(
    outside: Path,
) -> None:
    check(TOUCH.format(place=str(outside)), "landlock")
    check("try: os.execv('/bin/true', ['true'])\nexcept PermissionError: pass", "landlock")


def test_the_root_file_system_alone_hides_everything_outside(outside: Path) -> None:
    check(TOUCH.format(place=str(outside)), "namespaces", "rootfs")
    hidden = [str(path) for path in (outside, Path.home() / ".bashrc", Path(__file__))]
    check(
        f"got = [path for path in {hidden!r} if os.path.exists(path)]\nassert not got, got",
        "namespaces",
        "rootfs",
    )
    check(
        "assert set(os.listdir('/dev')) == {'null', 'zero', 'urandom'}\n"
        "for name in ('/proc', '/sys', '/home', '/tmp', '/run', '/var', '/etc/passwd', '/bin'): assert not "
        "os.path.exists(name), name\n"
        "for folder, folders, files in os.walk('/'):\n"
        "    if folder in ('/', '/etc', '/root', '/usr'):\n"
        "        files = {name for name in files if not os.path.islink(folder + '/' + name)}\n"
        "        assert files <= {'ld.so.cache', 'localtime'}, (folder, files)\n"
        "    if folder.count('/') > 2: folders.clear()\n"
        "open('/dev/null', 'w').write('x'); assert open('/dev/zero', 'rb').read(2) == bytes(2)",
        "namespaces",
        "rootfs",
    )


def test_the_root_file_system_cannot_be_left_with_all_capabilities(outside: Path) -> None:
    """Chroot's classic escape, and unmounting: under the root file system there is nothing."""
    escape = (
        "os.mkdir('x')\nhome = os.open('.', os.O_RDONLY)\n{act}\nfor _ in range(20): "
        "os.chdir('..')\nrefused(lambda: os.chroot('.'))\n"
        f"assert not os.path.exists({str(outside)!r})"
    )
    up, down = "refused(lambda: os.chroot('x')); os.fchdir(home)", "libc.umount2(b'/', 2)"
    for act in (up, down, f"libc.umount2(b'/newleaf-work', 2); {down}"):
        check(escape.format(act=act), "namespaces", "rootfs")


def test_the_folder_of_a_root_file_system_is_small() -> None:
    check(
        "assert refused(lambda: open('big', 'wb').write(bytes(20 << 20))) == errno.ENOSPC",
        "namespaces",
        "rootfs",
    )
    check(
        "def many():\n    for n in range(3000): open(f'f{n}', 'w').close()\nassert refused(many) == "
        "errno.ENOSPC",
        "namespaces",
        "rootfs",
    )


def test_no_capability_is_left(outside: Path) -> None:
    source = (
        "held = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines() if ':' in "
        "line)\n"
        "assert {int(held[f'Cap{kind}'], 16) for kind in ('Inh', 'Prm', 'Eff', 'Amb')} == {0}, held\n"
        "assert held['NoNewPrivs'].strip() == '1'\n"
    )
    check(source, "capabilities")
    if os.geteuid() == 0:
        check(source + "assert int(held['CapBnd'], 16) == 0", "capabilities")
    # No capability comes back by another user, the locked bits or a new namespace.
    check("assert refused(lambda: os.setuid(0)) or os.getuid() == 0\n" + source, "capabilities")
    check("assert libc.prctl(28, 0, 0, 0, 0) == -1 and libc.prctl(47, 2, 21, 0, 0) == -1", "capabilities")


MOUNTING = """
attributes = ctypes.create_string_buffer((0).to_bytes(8, 'little') + (1).to_bytes(8, 'little') + bytes(16))
acts = {
    'mount_setattr': call(442, -100, b'/', 0, attributes, 32),
    'all mounts': call(442, -100, b'/', 0x8000, attributes, 32),
    'remount': call(165, None, b'/', None, 32 | 4096, None),
    'mount': call(165, b'tmpfs', b'.', b'tmpfs', 0, None),
    'mount proc': call(165, b'proc', b'.', b'proc', 0, None),
    'bind': call(165, b'/', b'.', None, 4096, None), 'umount2': call(166, b'/', 2),
    'umount2 of the folder': call(166, b'.', 2), 'pivot_root': call(155, b'.', b'.'),
    'chroot': call(161, b'.'), 'open_tree': call(428, -100, b'/', 1), 'fsopen': call(430, b'tmpfs', 0),
    'fspick': call(433, -100, b'/', 0), 'unshare mounts': call(272, 0x20000),
    'unshare users': call(272, 0x10000000), 'setns': call(308, 0, 0),
    'mknod': refused(lambda: os.mknod('d', 0o20666, os.makedev(1, 1))),
    'sethostname': call(170, b'x', 1), 'swapon': call(167, b'.', 0), 'handle': call(304, -1, None, 0),
    'reboot': call(169, 0, 0, 0, None), 'kexec': call(246, 0, 0, None, 0),
}
got = [name for name, error in acts.items() if not error]
assert not got, got
assert refused(lambda: os.open(os.__file__, WRITE)) and refused(lambda: os.open('/new', WRITE | os.O_CREAT))
"""


@NATIVE_MACHINE
def test_without_capabilities_nothing_is_mounted_or_remounted() -> None:
    check(MOUNTING, "namespaces", "rootfs", "capabilities")


NUMBERS_REFUSED = {
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "setns": 308, "unshare": 272,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "open_tree_attr": 467, "ptrace": 101, "bpf": 321, "keyctl": 250, "add_key": 248,
    "request_key": 249, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "userfaultfd": 323, "perf_event_open": 298, "process_vm_readv": 310, "process_vm_writev": 311,
    "process_madvise": 440, "kill": 62, "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
    "pidfd_open": 434, "pidfd_send_signal": 424, "pidfd_getfd": 438, "fork": 57, "vfork": 58, "execve":
    59, "execveat": 322, "memfd_create": 319, "memfd_secret": 447, "mknod": 133, "mknodat": 259, "socket":
    41, "socketpair": 53, "connect": 42, "bind": 49, "sendmsg": 46, "recvmsg": 47, "setsid": 112,
    "setpgid": 109, "setuid": 105, "setgid": 106, "setresuid": 117, "setgroups": 116, "capset": 126,
    "personality": 135, "seccomp": 317, "landlock_create_ruleset": 444, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "chmod": 90, "fchmod": 91, "fchmodat": 268, "chown": 92, "fchown": 93,
    "lchown": 94, "fchownat": 260, "link": 86, "linkat": 265, "utimensat": 280, "setxattr": 188, "shmget":
    29, "msgget": 68, "semget": 64, "mq_open": 240, "modify_ldt": 154, "iopl": 172, "ioperm": 173,
    "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load":
    320, "syslog": 103, "swapon": 167, "acct": 163, "quotactl": 179, "sethostname": 170, "settimeofday":
    164, "clock_settime": 227, "adjtimex": 159, "sched_setaffinity": 203, "sched_setscheduler": 144,
    "setpriority": 141, "ioprio_set": 251, "move_pages": 279, "mbind": 237, "fanotify_init": 300,
    "inotify_init1": 294, "splice": 275, "vmsplice": 278, "tee": 276, "kcmp": 312, "lookup_dcookie": 212,
    "uselib": 134, "unknown to come": 600,
}  # fmt: skip


@NATIVE_MACHINE
def test_the_seccomp_filter_alone_refuses_every_call_that_is_not_on_its_allow_list() -> None:
    check(
        f"numbers = {NUMBERS_REFUSED!r}\n"
        "got = [name for name, number in numbers.items() if call(number, *[-1] * 6) != errno.EPERM]\nassert "
        "not got, got\n"
        "assert [call(number, 0, 0) for number in (435, 437)] == [errno.ENOSYS] * 2\n"
        "assert call(0x40000000 + 39) == errno.EPERM",  # x32's getpid
        "seccomp",
    )


@NATIVE_MACHINE
def test_the_seccomp_filter_alone_checks_arguments() -> None:
    check(
        "acts = {\n"
        "    'die with nobody': call(157, 1, 0), 'dumpable': call(157, 4, 1), 'ptracer': call(157, "
        "0x59616d61, -1),\n"
        "    'subreaper': call(157, 36, 1),\n"
        "    'a process': call(56, 17, 0, 0, 0, 0), 'a namespace': call(56, 0x10000011, 0, 0, 0, 0),\n"
        "    'a thread in a namespace': call(56, 0x3D0F00 | 0x10000000, 0, 0, 0, 0),\n"
        "    'typing for the terminal': call(16, 0, 0x5412, b'x'), 'an owner of signals': call(72, 0, 8, "
        "1),\n"
        "    'a signal': call(72, 0, 10, 9), 'a signal to init': call(234, 1 if os.getpid() > 1 else 2, 1, "
        "0),\n"
        "    'the limits of others': call(302, os.getppid() or 2, 7, None, None),\n"
        "}\n"
        "got = [name for name, error in acts.items() if error != errno.EPERM]\nassert not got, got\n"
        "assert call(157, 15, b'name') == 0 and call(302, 0, 7, None, None) == 0 and call(72, 0, 1) == 0",
        "seccomp",
    )


def test_the_namespaces_alone_hide_other_processes_and_the_network() -> None:
    parent = os.getpid()
    check(
        "import signal, socket\nassert os.getpid() == 1 and os.getppid() == 0\n"
        f"assert refused(lambda: os.kill({parent}, 0)) == errno.ESRCH\n"
        f"assert refused(lambda: open('/proc/{parent}/mem', 'r+b')) in (errno.EACCES, errno.EPERM, "
        f"errno.ENOENT)\n"
        f"assert refused(lambda: os.readlink('/proc/{parent}/root')) in (errno.EACCES, errno.EPERM, "
        f"errno.ENOENT)\n"
        "assert refused(lambda: socket.create_connection(('1.1.1.1', 53), 2)) == errno.ENETUNREACH\n"
        "assert [name for _, name in socket.if_nameindex()] == ['lo']",
        "namespaces",
    )


def test_without_a_root_file_system_the_memory_of_other_processes_is_closed() -> None:
    """Without namespaces: newleaf's by Landlock, the test runner's since it is not dumpable."""
    check(
        f"assert refused(lambda: open('/proc/{os.getpid()}/mem', 'r+b'))\n"
        f"assert refused(lambda: open('/proc/{os.getpid()}/environ'))\n"
        "others = [name for name in os.listdir('/proc') if name.isdigit() and int(name) != os.getpid()]\n"
        "got = [name for name in others if not refused(lambda: open(f'/proc/{name}/mem', 'rb'))]\nassert "
        "not got, got",
        "capabilities",
        "landlock",
        "seccomp",
    )


def test_the_outcome_names_policies_in_force_and_why_others_are_unavailable() -> None:
    found = run_program("pass")
    assert set(found.policies) | {
        text.split(":")[0].removeprefix("no ") for text in found.unavailable
    } == set(POLICIES)
    found = run_program("pass", policies=("rootfs", "audit_hook"))
    assert found.policies == ("audit_hook",)
    assert found.unavailable == ("no rootfs: it needs namespaces",)


def test_python_works_under_all_policies() -> None:
    """The standard library's native modules load, and threads, files and time work."""
    found = run_program(
        "import bisect, bz2, collections, datetime, decimal, fractions, hashlib, heapq, itertools, json, "
        "lzma, math\n"
        "import os, random, re, sqlite3, statistics, string, struct, tempfile, threading, time, uuid, zlib, "
        "zoneinfo\n"
        "hashlib.new('sha256', b'x'); decimal.Decimal('1.1') + 1; re.match('a+', 'aa'); random.random(); "
        "uuid.uuid4()\n"
        "threads = [threading.Thread(target=sum, args=([1],)) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "with open('a', 'w') as file: file.write('x')\n"
        "os.rename('a', 'b'); assert open('b').read() == 'x'; os.remove('b')\n"
        "assert not os.isatty(0); datetime.datetime.now(); zlib.compress(b'x'); time.sleep(0.01)\n"
    )
    assert found.passed, found.reason


def test_older_kernels_get_the_same_policies_or_a_reason(
    monkeypatch: pytest.MonkeyPatch, outside: Path
) -> None:
    """Without mount_setattr each mount is made read-only; without pidfd the supervisor polls."""
    start = (
        "import os, sys; sys.path.insert(0, {{folder!r}}); from child import main, root_filesystem, seccomp; "
        "del sys.path[0]; {without}; main.main()"
    )
    before = "newleaf.verify.sandbox.processes.START"
    monkeypatch.setattr(
        before, start.format(without="root_filesystem.MOUNT_SETATTR = 600; del os.pidfd_open")
    )
    unavailable.cache_clear()
    check(TOUCH.format(place=str(outside)), "namespaces", "rootfs")
    check("assert refused(lambda: os.open(os.__file__, WRITE)) == errno.EROFS", "namespaces", "rootfs")
    monkeypatch.setattr(before, start.format(without="seccomp.AUDIT = {{}}"))
    found = run_program("pass")
    assert "seccomp" not in found.policies
    assert f"no seccomp: no list of system calls for {os.uname().machine}" in found.unavailable
    unavailable.cache_clear()


@pytest.mark.skipif(
    sys.platform == "linux" and os.geteuid() != 0, reason="only root has namespaces without a user namespace"
)
def test_without_a_user_namespace_the_machines_settings_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = Path("/proc/sys/user/max_user_namespaces")
    before = setting.read_text()
    start = (
        "import sys; sys.path.insert(0, {folder!r}); from child import main, supervisor; del sys.path[0]; "
    )
    monkeypatch.setattr(
        "newleaf.verify.sandbox.processes.START", start + "supervisor.CLONE_NEWUSER = 1; main.main()"
    )
    found = run_program("assert not __import__('os').path.exists('/proc')")
    assert setting.read_text() == before
    assert found.passed or "rootfs" not in found.policies, found.reason
