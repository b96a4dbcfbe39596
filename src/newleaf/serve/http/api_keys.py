"""API keys: created here, stored as hashes in a file, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from newleaf.errors import InputError
from newleaf.storage.atomic_write import write_text
from newleaf.storage.file_lock import file_lock


@dataclass(frozen=True)
class ApiKey:
    """A line of the file.

    `hash` is the key's SHA-256. Keys have 256 random bits, so no slower hash is needed.
    """

    name: str
    hash: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w.-]{1,64}", self.name):
            raise InputError(
                f"name: {self.name!r} is not a name of letters, digits, dots, hyphens and underscores"
            )
        if not isinstance(self.hash, str) or not re.fullmatch(r"[0-9a-f]{64}", self.hash):
            raise InputError("hash: must be 64 hexadecimal digits")
        for name in ("requests_per_minute", "tokens_per_minute"):
            rate = getattr(self, name)
            if rate is not None and (type(rate) is not int or rate < 1):
                raise InputError(f"{name}: must be a whole number from 1")


def read_keys(path: Path) -> list[ApiKey]:
    """The keys of a file of JSON lines. Raises InputError naming the line that is wrong."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    keys = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            keys.append(ApiKey(**json.loads(line)))
        except (ValueError, TypeError, RecursionError, InputError) as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    if len({key.name for key in keys}) < len(keys):
        raise InputError(f"{path}: two keys have the same name")
    return keys


def add_key(path: Path, name: str) -> str:
    """Create a key and add its hash to the file, one process at a time. Returns the key.

    The key itself is stored nowhere. Raises InputError when the name is taken, and for a file that cannot
    be written.
    """
    made = f"nl-{secrets.token_urlsafe(32)}"
    try:
        with file_lock(path.with_name(f".{path.name}.lock")):
            keys = read_keys(path) if path.exists() else []
            if any(key.name == name for key in keys):
                raise InputError(f"{path}: there is a key named {name} already")
            keys.append(ApiKey(name, hash_key(made)))
            rows = [
                {field: value for field, value in asdict(key).items() if value is not None} for key in keys
            ]
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows), private=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({(error.strerror or str(error)).lower()})") from None
    return made


def hash_key(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def find_key(keys: Sequence[ApiKey], given: str) -> ApiKey | None:
    """The key with this text. Every hash is compared, each in constant time."""
    sought, found = hash_key(given), None
    for key in keys:
        if hmac.compare_digest(key.hash, sought):
            found = key
    return found
