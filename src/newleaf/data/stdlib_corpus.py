"""A text that every machine has: the source of this interpreter's own standard library, without its tests."""

import hashlib
import sysconfig
from pathlib import Path

from newleaf.errors import InputError

# Tests; code that is tables or prose more than code; packages that come and go between Python versions.
EXCLUDED_NAMES = {
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "encodings",
    "pydoc_data",
    "turtledemo",
    "lib2to3",
    "distutils",
}
EXCLUDED_NAMES |= {"site-packages", "dist-packages", "__pycache__", "__phello__"}
HELD_OUT_ONE_IN = 12  # one file in twelve is held out


def standard_library_files() -> tuple[list[Path], list[Path]]:
    """The files to train on and those held out, each sorted: about a twelfth, chosen by a hash of the name,
    so that machines with the same Python agree. Raises InputError where the library is not there as files, as
    in a frozen program."""
    root = Path(sysconfig.get_paths()["stdlib"])
    train: list[Path] = []
    held_out: list[Path] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if (
            not EXCLUDED_NAMES.intersection(name.parts)
            and not name.name.startswith("test_")
            and _is_text(path)
        ):
            digest = hashlib.blake2b(name.as_posix().encode(), digest_size=8).digest()
            (held_out if int.from_bytes(digest, "little") % HELD_OUT_ONE_IN == 0 else train).append(path)
    if not train or not held_out:
        raise InputError(
            f"{root}: holds no source of Python's standard library; give a text of your own to newleaf "
            f"pretrain"
        )
    return train, held_out


def _is_text(path: Path) -> bool:
    try:
        data = path.read_bytes()
        return bool(data) and b"\0" not in data and bool(data.decode("utf-8"))
    except (OSError, UnicodeDecodeError):
        return False
