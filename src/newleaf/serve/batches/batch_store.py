"""Batches on the disk: records, files, answers, and notes from which a killed server resumes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from newleaf.errors import InputError
from newleaf.serve.batches import batch_output, in_flight
from newleaf.serve.batches.batch_input import BatchLine, InvalidBatch, body_of, open_lines, read_lines
from newleaf.serve.batches.batch_output import BatchOutput
from newleaf.serve.batches.file_routes import FileStore
from newleaf.serve.batches.in_flight import MAX_CRASHES, InFlightLines
from newleaf.serve.batches.internal_request import InternalResponse
from newleaf.serve.batches.record_store import Fields, Object, RecordStore
from newleaf.serve.http.disk_full import is_disk_full
from newleaf.serve.http.logs import Logs
from newleaf.storage.file_lock import open_lock_file, try_lock
from newleaf.storage.private_files import make_private_folder

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
# the states of batches that are not over
UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
FILE_LINE = 0  # the line number of the input file itself, in notes
FIELDS: Fields = {
    "endpoint": str,
    "input_file_id": str,
    "status": str,
    "request_counts": dict,
    "in_progress_at": (int, type(None)),
    "output_file_id": (str, type(None)),
    "error_file_id": (str, type(None)),
}
CRASHED = "server_crashed"
CRASHED_TWICE = "the server ended twice while it worked on this {what}, so it is not tried again"


@dataclass(frozen=True)
class BatchJob:
    """A batch in progress: its record, input, output, and the lines in flight."""

    batch: Object
    file: BinaryIO
    lines: list[BatchLine]
    output: BatchOutput
    in_flight_lines: InFlightLines

    def begin(self, line: BatchLine) -> dict[str, Any]:
        """The line's body, once the disk has a note that it is in flight."""
        self.in_flight_lines.begin(line.number)
        return body_of(self.file, line)

    def close(self) -> None:
        """Flush and close the files."""
        self.output.flush()
        self.output.close()
        self.in_flight_lines.close()
        self.file.close()


class BatchStore:
    """The batches in a folder. What changes them runs in one thread."""

    def __init__(self, folder: Path, logs: Logs, max_bytes: int) -> None:
        self._lock = _lock_folder(folder)
        self.files = FileStore(folder / "files", logs)
        self.record_store = RecordStore(folder / "batches", "batch_", "batch", FIELDS, logs)
        self._logs, self._most_bytes = logs, max_bytes
        self._opened: set[str] = set()  # by this server: lines in flight in their notes are no crash
        self._cancelled: set[str] = set()  # whose job may still write counts

    def release(self) -> None:
        """Release the folder's lock."""
        self._lock.close()

    def sweep(self) -> None:
        """Remove notes of finished batches, and contents without a file or batch."""
        records = list(self.record_store.all())
        self.files.sweep(
            {id_ for batch in records if "ending" in batch for id_ in batch["ending"]["files"].values()}
        )
        for batch in records:
            if batch["status"] not in UNFINISHED and "ending" not in batch:
                self._remove_notes(batch["id"])

    def next(self, excluded: Collection[str]) -> Object | None:
        """The oldest unfinished batch."""
        left = [
            each
            for each in self.record_store.all()
            if each["status"] in UNFINISHED and each["id"] not in excluded
        ]
        return left[-1] if left else None

    def cancel(self, id_: str, owner: str | None) -> Object | None:
        """The batch, marked as cancelling; None where it has ended. Raises ApiError where there is none."""
        batch = self.record_store.get(id_, owner)
        if batch["status"] not in UNFINISHED or "ending" in batch:
            return None
        if batch["status"] != "cancelling":
            batch |= {"status": "cancelling", "cancelling_at": int(time.time())}
            self.record_store.put(batch)
        self._cancelled.add(id_)
        return batch

    def open(self, batch: Object) -> BatchJob:
        """Start or resume a batch. Raises InvalidBatch."""
        in_flight_lines = InFlightLines(self.record_store.folder, batch["id"], batch["id"] in self._opened)
        self._opened.add(batch["id"])
        try:
            if in_flight_lines.crashes[FILE_LINE] >= MAX_CRASHES:
                raise InvalidBatch([_problem(CRASHED, CRASHED_TWICE.format(what="file"))])
            if batch["endpoint"] not in ENDPOINTS or not self.files.is_id(batch["input_file_id"]):
                raise InvalidBatch([_problem("missing_file", "the batch's record names no input file")])
            in_flight_lines.begin(FILE_LINE)
            file = open_lines(self.files.content(batch["input_file_id"]))
            lines = read_lines(file, batch["endpoint"], self._most_bytes)
            output = BatchOutput(self.record_store.folder, batch["id"])
            in_flight_lines.end(FILE_LINE)
        except OSError as error:
            with contextlib.suppress(OSError):  # the disk may still be full
                in_flight_lines.close()
            if is_disk_full(error):
                raise
            gone = isinstance(error, FileNotFoundError)
            message = (
                "the input file is gone" if gone else f"the input file cannot be read ({error.strerror})"
            )
            raise InvalidBatch([_problem("missing_file", message)]) from None
        except BaseException:
            in_flight_lines.close()
            raise
        batch |= {"status": "in_progress", "in_progress_at": batch["in_progress_at"] or int(time.time())}
        return BatchJob(batch, file, lines, output, in_flight_lines)

    def keep(self, job: BatchJob, line: BatchLine, answer: InternalResponse, request_id: str) -> None:
        """Store a line's response."""
        job.output.answer(line, answer, request_id)
        job.in_flight_lines.end(line.number)
        if job.output.due:
            self.count(job)

    def count(self, job: BatchJob) -> None:
        """Flush the answers, and update the record's counts."""
        job.output.flush()
        job.batch["request_counts"] = {
            "total": len(job.lines),
            "completed": job.output.good,
            "failed": job.output.bad,
        }
        if job.batch["id"] not in self._cancelled:
            self.record_store.put(job.batch)

    def end(self, batch: Object, status: str, problems: list[Object] | None = None) -> None:
        """End a batch. The ids of its output files are recorded first.

        So a server that is killed meanwhile resumes from there and answers nothing twice.
        """
        output = BatchOutput(self.record_store.folder, batch["id"])
        output.flush()
        output.close()
        count = {"output": output.good, "error": output.bad}
        total = max(batch["request_counts"].get("total", 0), sum(count.values()))
        batch["request_counts"] = {"total": total, "completed": output.good, "failed": output.bad}
        batch["ending"] = {
            "status": status,
            "files": {kind: self.files.new_id() for kind in batch_output.KINDS if count[kind]},
        }
        if status == "completed":
            batch |= {"status": "finalizing", "finalizing_at": int(time.time())}
        if problems is not None:
            batch["errors"] = {"object": "list", "data": problems}
        self.record_store.put(batch)
        self.publish(batch)

    def publish(self, batch: Object) -> None:
        """Turn the answers into files, and write the batch's last record. Idempotent."""
        ending = batch["ending"]
        over = {name: value for name, value in batch.items() if name != "ending"}
        for kind, id_ in ending["files"].items():
            path = batch_output.path_of(self.record_store.folder, batch["id"], kind)
            self.files.take(id_, path, f"{batch['id']}_{kind}.jsonl", "batch_output", batch["owner"])
            over[f"{kind}_file_id"] = id_
        status = ending["status"]
        self.record_store.put({**over, "status": status, f"{status}_at": int(time.time())})
        self._remove_notes(batch["id"])
        self._logs.write("batch", id=batch["id"], status=status, **batch["request_counts"])

    def _remove_notes(self, id_: str) -> None:
        for kind in batch_output.KINDS:
            batch_output.path_of(self.record_store.folder, id_, kind).unlink(missing_ok=True)
        in_flight.path_of(self.record_store.folder, id_).unlink(missing_ok=True)


def _lock_folder(folder: Path) -> IO[str]:
    """The folder's lock: two servers would answer each batch twice. Raises InputError if it is taken."""
    if not folder.exists():
        make_private_folder(folder)
    lock = open_lock_file(folder / ".lock")
    if not try_lock(lock):
        lock.close()
        raise InputError(
            f"--state: another server keeps its files and batches in {folder}; choose another folder"
        )
    return lock


def _problem(code: str, message: str) -> Object:
    return {"code": code, "line": None, "message": message}
