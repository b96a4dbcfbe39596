"""The answers of a batch so far, in two append-only files: a written line is answered, also after a crash."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from newleaf.serve.api_errors import encodable
from newleaf.serve.batches.batch_input import INVALID_CUSTOM_ID, BatchLine, line_key
from newleaf.serve.batches.internal_request import InternalResponse
from newleaf.storage.atomic_write import write_atomically
from newleaf.storage.private_files import make_private_folder, open_private_file

FLUSH_SECONDS = 1.0  # between two calls of fsync
KINDS = ("output", "error")
# Unicode line separators, at which str.splitlines of clients would split a line of JSON.
LINE_SEPARATORS = {ord(letter): f"\\u{ord(letter):04x}" for letter in "\x85\u2028\u2029"}


def path_of(folder: Path, id_: str, kind: str) -> Path:
    """The file of a batch's answers, or of its errors."""
    return folder / f"{id_}.{'answers' if kind == 'output' else 'errors'}"


class BatchOutput:
    """`done` has the keys of answered lines. Incomplete and damaged rows are removed."""

    def __init__(self, folder: Path, id_: str, clock: Callable[[], float] = time.monotonic) -> None:
        make_private_folder(folder)
        self._paths = {kind: path_of(folder, id_, kind) for kind in KINDS}
        found = {kind: _written(path) for kind, path in self._paths.items()}
        self.done = found["output"] | found["error"]
        self.good, self.bad = len(found["output"]), len(found["error"])
        self._files: dict[str, BinaryIO] = {
            kind: open_private_file(path) for kind, path in self._paths.items()
        }
        self._clock, self._flushed = clock, -FLUSH_SECONDS

    def answer(self, line: BatchLine, answer: InternalResponse, request_id: str) -> None:
        """Append a response, which may be an error."""
        response = {"status_code": answer.status, "request_id": request_id, "body": answer.body}
        self._add("output" if answer.status == 200 else "error", line, {"response": response, "error": None})

    def refuse(self, line: BatchLine, code: str, message: str) -> None:
        """Append an error for a request without a response."""
        error = {"code": code, "message": encodable(message), "line": line.number}
        self._add("error", line, {"response": None, "error": error})

    def _add(self, kind: str, line: BatchLine, what: dict[str, Any]) -> None:
        row = {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": line.custom_id, **what}
        file = self._files[kind]
        file.write(
            json.dumps(row, ensure_ascii=False).translate(LINE_SEPARATORS).encode("utf-8", "replace") + b"\n"
        )
        file.flush()  # so that a killed process loses nothing
        self.done.add(line.key)
        self.good, self.bad = self.good + (kind == "output"), self.bad + (kind == "error")

    @property
    def due(self) -> bool:
        """Whether it is time to `flush`."""
        return self._clock() - self._flushed >= FLUSH_SECONDS

    def flush(self) -> None:
        """fsync the files."""
        self._flushed = self._clock()
        for file in self._files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _written(path: Path) -> set[str]:
    """The keys of a file's rows. Incomplete and damaged ones are removed from it."""
    if not path.exists():
        return set()
    found: set[str] = set()
    damaged = False
    with path.open("rb") as file:
        for raw in file:
            key = _key(raw)
            damaged = damaged or key is None or key in found
            found |= {key} if key is not None else set()
    if damaged:
        _rewrite(path)
    return found


def _rewrite(path: Path) -> None:
    seen: set[str] = set()
    with (
        path.open("rb") as file,
        write_atomically(path, private=True) as temporary,
        temporary.open("wb") as out,
    ):
        for raw in file:
            key = _key(raw)
            if key is not None and key not in seen:
                seen.add(key)
                out.write(raw)


def _key(raw: bytes) -> str | None:
    """The key of a row's line; None for an incomplete row."""
    try:
        row = json.loads(raw) if raw.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str):
        return None
    error = row.get("error")
    if (
        isinstance(error, dict)
        and error.get("code") == INVALID_CUSTOM_ID
        and isinstance(error.get("line"), int)
    ):
        return line_key(error["line"])
    return str(row["custom_id"])
