"""Runs batches, several lines at a time, at low priority."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from starlette.types import ASGIApp

from newleaf.serve.api_errors import error_body
from newleaf.serve.batches.batch_input import INVALID_CUSTOM_ID, BatchLine, InvalidBatch
from newleaf.serve.batches.batch_store import CRASHED, CRASHED_TWICE, BatchJob, BatchStore
from newleaf.serve.batches.in_flight import MAX_CRASHES
from newleaf.serve.batches.internal_request import InternalResponse, internal_request
from newleaf.serve.batches.record_store import Object
from newleaf.serve.http.disk_full import is_disk_full
from newleaf.serve.http.logs import Logs
from newleaf.serve.http.rate_limit import RateLimiters
from newleaf.serve.http.request_record import RequestRecord
from newleaf.serve.models.loaded_model import WorkerThreads

DISK_FULL_RETRY_SECONDS = 30.0  # between retries
CONCURRENT_LINES = 8  # half of an engine's slots, which leaves the rest to other requests


class BatchWorker:
    """Runs batches in the order of their creation. Disk access goes through one thread."""

    def __init__(
        self,
        folder: Path,
        app: ASGIApp,
        rates: RateLimiters,
        logs: Logs,
        max_bytes: int = 4 << 20,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.store = BatchStore(folder, logs, max_bytes)
        self._app, self._rates, self._logs, self._sleep = app, rates, logs, sleep
        self._disk = WorkerThreads(1)
        self._wake = asyncio.Event()
        self._current: tuple[str, asyncio.Task[None]] | None = None

    async def prepare(self) -> None:
        """Remove what a killed server left half written."""
        await self._disk.run(self.store.sweep)

    def close(self) -> None:
        self._disk.close()
        self.store.release()

    async def add(self, batch: Object) -> None:
        await self._disk.run(lambda: self.store.record_store.put(batch))
        self._wake.set()

    async def cancel(self, id_: str, owner: str | None) -> Object | None:
        """Cancel a batch; None where it has ended. Raises ApiError where there is none."""
        batch = await self._disk.run(lambda: self.store.cancel(id_, owner))
        if batch is not None and self._current is not None and self._current[0] == id_:
            self._current[1].cancel()
        self._wake.set()
        return batch

    async def run(self) -> None:
        """Run until cancelled.

        A batch that cannot be written waits for the next start and blocks no other; a full disk is retried.
        """
        failed: set[str] = set()
        while True:
            self._wake.clear()
            batch = await self._disk.run(lambda: self.store.next(failed))
            if batch is None:
                await self._wake.wait()
                continue
            try:
                await self._work_on(batch)
            except Exception as error:
                self._logs.write("error", batch=batch["id"], problem=repr(error))
                if is_disk_full(error):  # which affects every batch
                    await self._sleep(DISK_FULL_RETRY_SECONDS)
                else:
                    failed.add(batch["id"])

    async def _work_on(self, batch: Object) -> None:
        """Run one batch to its end. Cancelling the batch cancels its task, not this one."""
        if batch["status"] != "cancelling" and "ending" not in batch:
            task = asyncio.create_task(self._answer(batch))
            self._current = batch["id"], task
            try:
                await asyncio.wait([task])
            finally:  # also where this coroutine is cancelled
                self._current = None
                task.cancel()
                await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                if is_disk_full(error):
                    raise error
                self._logs.write("error", batch=batch["id"], problem=repr(error))
                problem = {
                    "code": "server_error",
                    "line": None,
                    "message": "the server failed; its log has more",
                }
                await self._disk.run(lambda: self.store.end(batch, "failed", [problem]))
            batch = await self._disk.run(lambda: self.store.record_store.get(batch["id"], batch["owner"]))
        if "ending" in batch:
            await self._disk.run(lambda: self.store.publish(batch))
        elif batch["status"] == "cancelling":
            await self._disk.run(lambda: self.store.end(batch, "cancelled"))

    async def _answer(self, batch: Object) -> None:
        try:
            if not self._rates.is_known(batch["owner"]):
                text = "the key that made this batch is no longer accepted"
                raise InvalidBatch([{"code": "invalid_api_key", "line": None, "message": text}])
            job = await self._disk.run(lambda: self.store.open(batch))
        except InvalidBatch as bad:
            problems = bad.problems
            await self._disk.run(lambda: self.store.end(batch, "failed", problems))
            return
        left = [line for line in job.lines if line.key not in job.output.done]
        suspects = [line for line in left if job.in_flight_lines.crashes[line.number]]
        others = iter([line for line in left if not job.in_flight_lines.crashes[line.number]])
        try:
            await self._disk.run(lambda: self.store.count(job))
            for line in suspects:  # one at a time, to know which one crashes the server
                await self._answer_line(job, line)
            async with asyncio.TaskGroup() as group:
                for _ in range(CONCURRENT_LINES):
                    group.create_task(self._answer_some(job, others))
            # Lines whose task was cancelled from within.
            for line in [line for line in left if line.key not in job.output.done]:
                await self._answer_line(job, line)
        finally:
            await self._disk.run(job.close)
        await self._disk.run(lambda: self.store.end(batch, "completed"))

    async def _answer_some(self, job: BatchJob, left: Iterator[BatchLine]) -> None:
        for line in left:
            await self._answer_line(job, line)

    async def _answer_line(self, job: BatchJob, line: BatchLine) -> None:
        """Write one line's row of the output."""
        problem = (
            INVALID_CUSTOM_ID
            if line.problem
            else CRASHED
            if job.in_flight_lines.crashes[line.number] >= MAX_CRASHES
            else None
        )
        if problem is not None:
            message = line.problem or CRASHED_TWICE.format(what="request")
            await self._disk.run(lambda: job.output.refuse(line, problem, message))
            return
        record = RequestRecord(f"{job.batch['id']}-{secrets.token_hex(6)}", key=job.batch["owner"])
        answer = await self._request_with_retries(job, line, record)
        await self._disk.run(lambda: self.store.keep(job, line, answer, record.id))

    async def _request_with_retries(
        self, job: BatchJob, line: BatchLine, record: RequestRecord
    ) -> InternalResponse:
        """Wait for the key's rate limit, and retry while the queue is full."""
        rates = self._rates.for_key(job.batch["owner"])
        while late := rates.admit(low_priority=True):
            await self._sleep(late)
        while True:
            body = await self._disk.run(lambda: job.begin(line))
            if body.get("stream"):
                return InternalResponse(
                    400, error_body(400, "stream: batches do not stream", "stream", "invalid_value")
                )
            try:
                answer = await internal_request(self._app, job.batch["endpoint"], body, record)
            except Exception as error:
                self._logs.write("error", id=record.id, problem=repr(error))
                return InternalResponse(
                    500,
                    error_body(
                        500, f"the server failed; its log has more under the request's id, {record.id}"
                    ),
                )
            if answer.status != 429:
                return answer
            await self._disk.run(lambda: job.in_flight_lines.end(line.number))
            await self._sleep(answer.retry_after or 1.0)
