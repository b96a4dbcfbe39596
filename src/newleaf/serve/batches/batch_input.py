"""The input file of a batch: validated once, and read line by line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from newleaf.serve.api_errors import encodable
from newleaf.serve.batches.record_store import Object

MAX_REQUESTS = 50_000  # as OpenAI has it
MAX_PROBLEMS = 20  # in a batch's errors
MAX_ID_CHARACTERS = 512
INVALID_CUSTOM_ID = "invalid_custom_id"  # error code of a line whose custom_id cannot be encoded


@dataclass(frozen=True)
class BatchLine:
    """A request of a batch: its line in the file (from 1) and position; `problem` is why it cannot run."""

    number: int
    custom_id: str
    start: int = 0  # bytes
    size: int = 0
    problem: str | None = None

    @property
    def key(self) -> str:
        """What identifies its answer: custom_id, or the line number where that cannot be encoded."""
        return self.custom_id if self.problem is None else line_key(self.number)


def line_key(number: int) -> str:
    """The key of a line whose custom_id cannot be encoded; it differs from every valid custom_id."""
    return f"\udfff{number}"


class InvalidBatch(Exception):  # noqa: N818 - it becomes a batch's status, not an error of the program
    """What is wrong with an input file: {"code", "line", "message"} each."""

    def __init__(self, problems: list[Object]) -> None:
        super().__init__(problems)
        self.problems = problems


def read_lines(file: BinaryIO, endpoint: str, max_bytes: int) -> list[BatchLine]:
    """The requests of a file, none larger than `max_bytes`. Raises InvalidBatch."""
    lines: list[BatchLine] = []
    seen: set[str] = set()
    problems: list[Object] = []
    count = start = 0
    for number, raw in enumerate(file, 1):
        begin, start = start, start + len(raw)
        if not raw.strip():
            continue
        count += 1
        found = _line(raw, endpoint, max_bytes) if count <= MAX_REQUESTS else None
        if isinstance(found, dict) and found["custom_id"] in seen:
            found = "custom_id: must be text that no other line of the file has"
        if isinstance(found, dict):
            lines.append(_checked(number, found["custom_id"], begin, len(raw)))
            seen.add(found["custom_id"])
        elif found is not None and len(problems) < MAX_PROBLEMS:
            problems.append({"code": "invalid_request", "line": number, "message": found})
    if not count:
        problems.append({"code": "empty_file", "line": None, "message": "the file holds no requests"})
    if count > MAX_REQUESTS:
        problems.append(
            {
                "code": "too_many_requests",
                "line": None,
                "message": f"{count:,} requests are more than {MAX_REQUESTS:,}",
            }
        )
    if problems:
        raise InvalidBatch(problems)
    return lines


def body_of(file: BinaryIO, line: BatchLine) -> dict[str, Any]:
    """The body of a validated request."""
    file.seek(line.start)
    body: dict[str, Any] = json.loads(file.read(line.size))["body"]
    return body


def open_lines(path: Path) -> BinaryIO:
    """The open file, which stays readable when it is deleted."""
    return path.open("rb")


def _checked(number: int, custom_id: str, start: int, size: int) -> BatchLine:
    """The line; its `problem` names a custom_id that cannot be encoded as UTF-8."""
    written = encodable(custom_id)
    if written == custom_id:
        return BatchLine(number, custom_id, start, size)
    problem = f"line {number}: custom_id {custom_id!r} holds half a surrogate pair, which is no character; "
    problem += "the request was not answered"
    return BatchLine(number, written, start, size, problem)


def _line(raw: bytes, endpoint: str, max_bytes: int) -> dict[str, Any] | str:
    """The line's object, or what is wrong with it."""
    if len(raw) > max_bytes:
        return f"this line has {len(raw):,} bytes, and requests may have {max_bytes:,}"
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return "this line is not valid JSON"
    if not isinstance(value, dict) or not isinstance(value.get("body"), dict):
        return "a line must be an object with custom_id, method, url and body"
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID_CHARACTERS:
        return f"custom_id: must be text of 1 to {MAX_ID_CHARACTERS} characters"
    if value.get("method") != "POST" or value.get("url") != endpoint:
        return f"method and url: must be POST and {endpoint}, as the batch says"
    return {"custom_id": custom_id}
