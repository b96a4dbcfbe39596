"""Answering batches, a few lines at a time, beside the requests that somebody waits for."""

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

DISK_FULL_RETRY_SECONDS = 30.0  # between tries where the disk is full
CONCURRENT_LINES = 8  # half of an engine's slots, so that others are answered meanwhile


class BatchWorker:
    """Answers batches in the order they came, as long as `run` runs. What touches the disk goes through one
    thread, in order."""

    def __init__(
        self,
        folder: Path,
        app: ASGIApp,
        rates: RateLimiters,
        logs: Logs,
        most_bytes: int = 4 << 20,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.store = BatchStore(folder, logs, most_bytes)
        self._app, self._rates, self._logs, self._sleep = app, rates, logs, sleep
        self._disk = WorkerThreads(1)
        self._news = asyncio.Event()
        self._now: tuple[str, asyncio.Task[None]] | None = None

    async def prepare(self) -> None:
        """Before anybody else uses the folder: remove what a killed server left half written."""
        await self._disk.run(self.store.sweep)

    def close(self) -> None:
        self._disk.close()
        self.store.release()

    async def add(self, batch: Object) -> None:
        await self._disk.run(lambda: self.store.record_store.put(batch))
        self._news.set()

    async def cancel(self, id_: str, owner: str | None) -> Object | None:
        """The batch, which ends soon, or at once where it has not begun; None where it is over. Raises
        ApiError where there is none."""
        batch = await self._disk.run(lambda: self.store.cancel(id_, owner))
        if batch is not None and self._now is not None and self._now[0] == id_:
            self._now[1].cancel()
        self._news.set()
        return batch

    async def run(self) -> None:
        """Until it is cancelled. A batch that cannot be written down waits for the next start and holds up no
        other; a full disk is waited for."""
        stuck: set[str] = set()
        while True:
            self._news.clear()
            batch = await self._disk.run(lambda: self.store.next(stuck))
            if batch is None:
                await self._news.wait()
                continue
            try:
                await self._work_on(batch)
            except Exception as error:
                self._logs.write("error", batch=batch["id"], problem=repr(error))
                if is_disk_full(error):  # for every batch
                    await self._sleep(DISK_FULL_RETRY_SECONDS)
                else:
                    stuck.add(batch["id"])

    async def _work_on(self, batch: Object) -> None:
        """One batch to its end. A batch that is cancelled ends its task, and not ours."""
        if batch["status"] != "cancelling" and "ending" not in batch:
            task = asyncio.create_task(self._answer(batch))
            self._now = batch["id"], task
            try:
                await asyncio.wait([task])
            finally:  # also where it is we who are cancelled
                self._now = None
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
                text = "the key that made this batch is no longer let in"
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
            for line in suspects:  # alone, so that no other is taken for what ends the server
                await self._answer_line(job, line)
            async with asyncio.TaskGroup() as group:
                for _ in range(CONCURRENT_LINES):
                    group.create_task(self._answer_some(job, others))
            # whose task was ended from within
            for line in [line for line in left if line.key not in job.output.done]:
                await self._answer_line(job, line)
        finally:
            await self._disk.run(job.close)
        await self._disk.run(lambda: self.store.end(batch, "completed"))

    async def _answer_some(self, job: BatchJob, left: Iterator[BatchLine]) -> None:
        for line in left:
            await self._answer_line(job, line)

    async def _answer_line(self, job: BatchJob, line: BatchLine) -> None:
        """One line to its row in the output."""
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
        answer = await self._patiently(job, line, record)
        await self._disk.run(lambda: self.store.keep(job, line, answer, record.id))

    async def _patiently(self, job: BatchJob, line: BatchLine, record: RequestRecord) -> InternalResponse:
        """The key's rates are kept by waiting; and others' requests may fill the queue for a while."""
        rates = self._rates.for_key(job.batch["owner"])
        while late := rates.admit(low_priority=True):
            await self._sleep(late)
        while True:
            body = await self._disk.run(lambda: job.begin(line))
            if body.get("stream"):
                return InternalResponse(
                    400, error_body(400, "stream: a batch's answers are whole", "stream", "invalid_value")
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
