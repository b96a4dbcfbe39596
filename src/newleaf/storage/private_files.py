"""Files and folders that only their user may read."""

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

PRIVATE_FILE_MODE = 0o600  # a file's mode where only its user may read it
PRIVATE_FOLDER_MODE = 0o700


def make_private_folder(folder: Path) -> None:
    """The folder, which only its user may look into, with those above it where they are missing."""
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER_MODE)
    if os.name == "posix":  # it may have been there with another mode
        with suppress(PermissionError):  # another user's, in which our files are private all the same
            folder.chmod(PRIVATE_FOLDER_MODE)


def open_private_file(path: Path) -> BinaryIO:
    """A file to add bytes to, which only its user may read."""
    flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, PRIVATE_FILE_MODE), "ab")
