"""Answering batches: lines are read from a file, a few at a time, and what was answered is on the disk before it is counted."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from starlette.types import ASGIApp

from newleaf.serve.edge import Record
from newleaf.serve.errors import shape
from newleaf.serve.files import Files, Object, Shelf
from newleaf.serve.inside import Answer, request_inside
from newleaf.serve.logs import Logs

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
AT_ONCE = 8  # half of an engine's slots, so that others are answered meanwhile
MOST = 50_000  # requests of a batch, as OpenAI has it
EVERY = 1.0  # seconds: how often the disk is made to hold what is answered, and the count is brought up to date
PROBLEMS = 20  # that are told of


@dataclass(frozen=True)
class Line:
    """A request of a batch."""

    custom_id: str
    body: dict[str, Any]


class BadBatch(Exception):  # noqa: N818 - it becomes a batch's state, not an error of the program
    """What is wrong with a batch's file: {"code", "line", "message"} each."""

    def __init__(self, problems: list[Object]) -> None:
        super().__init__(problems)
        self.problems = problems


class Work:
    """Answers batches in the order they came, as long as `run` runs."""

    def __init__(self, folder: Path, app: ASGIApp, logs: Logs) -> None:
        self.files = Files(folder / "files")
        self.shelf = Shelf(folder / "batches", "batch_", "batch")
        self._app, self._logs = app, logs
        self._news = asyncio.Event()
        self._now: tuple[str, asyncio.Task[None]] | None = None
        self._cancelled: set[str] = set()  # whose work may still count an answer before it hears of it

    async def add(self, batch: Object) -> None:
        self.shelf.put(batch)
        self._news.set()

    def cancel(self, batch: Object) -> Object:
        """The batch, which ends soon, or at once where it has not begun."""
        batch |= {"status": "cancelling", "cancelling_at": int(time.time())}
        self.shelf.put(batch)
        self._cancelled.add(batch["id"])
        if self._now is not None and self._now[0] == batch["id"]:
            self._now[1].cancel()
        self._news.set()
        return batch

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._news.clear()
            left = [each for each in self.shelf.everything() if each["status"] in ("validating", "in_progress", "finalizing", "cancelling")]
            if not left:
                await self._news.wait()
                continue
            await self._work_on(left[-1])

    async def _work_on(self, batch: Object) -> None:
        """One batch to its end. A batch that is cancelled ends its task, and not ours."""
        if batch["status"] != "cancelling":
            task = asyncio.create_task(self._answer(batch))
            self._now = batch["id"], task
            try:
                await asyncio.wait([task])
            finally:  # also where it is we who are cancelled
                self._now = None
                task.cancel()
                await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                self._logs.write("error", batch=batch["id"], problem=repr(error))
                self._fail(batch, [{"code": "server_error", "line": None, "message": "the server failed; its log has more"}])
            batch = self.shelf.get(batch["id"], batch["owner"])
        if batch["status"] == "cancelling":
            self._finish(batch, "cancelled")

    def _fail(self, batch: Object, problems: list[Object]) -> None:
        batch |= {"status": "failed", "failed_at": int(time.time()), "errors": {"object": "list", "data": problems}}
        self.shelf.put(batch)

    async def _answer(self, batch: Object) -> None:
        try:
            lines = read_lines(self.files.content(batch["input_file_id"]), batch["endpoint"])
        except (BadBatch, OSError) as error:
            gone = {"code": "missing_file", "line": None, "message": "the input file is gone"}
            self._fail(batch, error.problems if isinstance(error, BadBatch) else [gone])
            return
        output = Output(self.shelf.folder, batch["id"])
        batch |= {"status": "in_progress", "in_progress_at": batch["in_progress_at"] or int(time.time())}
        left = iter([line for line in lines if line.custom_id not in output.done])
        with output:
            self._count(batch, output, len(lines))
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self._answer_some(batch, left, output, len(lines)))
            self._count(batch, output, len(lines))
        self._finish(batch, "completed")

    async def _answer_some(self, batch: Object, left: Iterator[Line], output: Output, total: int) -> None:
        for line in left:
            record = Record(f"{batch['id']}-{secrets.token_hex(6)}", key=batch["owner"])
            answer = await self._patiently(batch["endpoint"], line, record)
            output.add(line, answer, record.id)
            if output.due:
                self._count(batch, output, total)

    async def _patiently(self, endpoint: str, line: Line, record: Record) -> Answer:
        """Others' requests may fill the queue for a while."""
        if line.body.get("stream"):
            return Answer(400, shape(400, "stream: a batch's answers are whole", "stream", "invalid_value"))
        while True:
            answer = await request_inside(self._app, endpoint, line.body, record)
            if answer.status != 429:
                return answer
            await asyncio.sleep(1)

    def _count(self, batch: Object, output: Output, total: int) -> None:
        output.flush()
        batch["request_counts"] = {"total": total, "completed": output.good, "failed": output.bad}
        if batch["id"] not in self._cancelled:
            self.shelf.put(batch)

    def _finish(self, batch: Object, status: str) -> None:
        """Make files of what has been answered."""
        output = Output(self.shelf.folder, batch["id"])
        for name, path, count in (("output", output.answers, output.good), ("error", output.errors, output.bad)):
            if count and batch[f"{name}_file_id"] is None:
                found = self.files.add(path, f"{batch['id']}_{name}.jsonl", "batch_output", batch["owner"])
                batch[f"{name}_file_id"] = found["id"]
        counts = {**batch["request_counts"], "completed": output.good, "failed": output.bad}
        batch |= {"status": status, f"{status}_at": int(time.time()), "request_counts": counts}
        self.shelf.put(batch)
        output.remove()
        self._logs.write("batch", id=batch["id"], status=status, **batch["request_counts"])


class Output:
    """The answers of a batch so far, in two files that lines are added to. A line that the end of the server cut off is taken back."""

    def __init__(self, folder: Path, id_: str) -> None:
        self.answers, self.errors = folder / f"{id_}.answers", folder / f"{id_}.errors"
        good, bad = _written(self.answers), _written(self.errors)
        self.done = good | bad
        self.good, self.bad = len(good), len(bad)
        self._open: dict[Path, BinaryIO] = {}
        self._flushed = 0.0

    def __enter__(self) -> Output:
        self._open = {path: path.open("ab") for path in (self.answers, self.errors)}
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def add(self, line: Line, answer: Answer, request_id: str) -> None:
        good = answer.status == 200
        response = {"status_code": answer.status, "request_id": request_id, "body": answer.body}
        row = {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": line.custom_id, "response": response, "error": None}
        file = self._open[self.answers if good else self.errors]
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        file.flush()  # a process that is killed loses nothing
        self.good, self.bad = self.good + good, self.bad + (not good)

    @property
    def due(self) -> bool:
        """Whether it is time to `flush`."""
        return time.monotonic() - self._flushed > EVERY

    def flush(self) -> None:
        """Have the disk hold it all."""
        self._flushed = time.monotonic()
        for file in self._open.values():
            os.fsync(file.fileno())

    def remove(self) -> None:
        self.answers.unlink(missing_ok=True)
        self.errors.unlink(missing_ok=True)


def _written(path: Path) -> set[str]:
    """The custom ids of a file's lines, whose cut end is taken off."""
    if not path.exists():
        return set()
    found, whole = set(), 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            found.add(json.loads(line)["custom_id"])
            whole += len(line)
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    return found


def read_lines(path: Path, endpoint: str) -> list[Line]:
    """The requests of a batch's file. Raises BadBatch with what is wrong in which lines."""
    lines: list[Line] = []
    seen: set[str] = set()
    problems: list[Object] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            found = _line(raw, endpoint, seen)
            if isinstance(found, Line):
                lines.append(found)
                seen.add(found.custom_id)
            elif len(problems) < PROBLEMS:
                problems.append({"code": "invalid_request", "line": number, "message": found})
    if not lines and not problems:
        problems.append({"code": "empty_file", "line": None, "message": "the file holds no requests"})
    if len(lines) > MOST:
        problems.append({"code": "too_many_requests", "line": None, "message": f"{len(lines):,} requests are more than {MOST:,}"})
    if problems:
        raise BadBatch(problems)
    return lines


def _line(raw: bytes, endpoint: str, seen: set[str]) -> Line | str:
    """The request, or what is wrong with it."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return "this line is not valid JSON"
    if not isinstance(value, dict) or not isinstance(value.get("body"), dict):
        return "a line must be an object with custom_id, method, url and body"
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 512 or custom_id in seen:
        return "custom_id: must be text that no other line of the file has"
    if value.get("method") != "POST" or value.get("url") != endpoint:
        return f"method and url: must be POST and {endpoint}, as the batch says"
    return Line(custom_id, value["body"])
