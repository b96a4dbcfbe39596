"""Batches without a model: what they leave on the disk at every step, and how they keep rates. The requests
are answered by a stand-in."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from newleaf.errors import InputError
from newleaf.serve.api_errors import add_exception_handlers, error_response, too_many_requests
from newleaf.serve.batches.batch_output import BatchOutput
from newleaf.serve.batches.batch_worker import CONCURRENT_LINES, BatchWorker
from newleaf.serve.batches.in_flight import InFlightLines
from newleaf.serve.batches.record_store import RecordStore
from newleaf.serve.http.api_keys import ApiKey
from newleaf.serve.http.logs import Logs
from newleaf.serve.http.middleware import RequestMiddleware
from newleaf.serve.http.rate_limit import RateLimiters
from newleaf.serve.http.request_metrics import Metrics
from newleaf.serve.http.server_settings import Limits, Settings

ENDPOINT = "/v1/completions"


class Killed(BaseException):
    """The server ended here: nothing that comes after has happened."""


class Mortal:
    """Ends at the nth change of files in `folder`; from then on, no change happens."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.left, self.seen = 0, 0
        sys.addaudithook(self._hook)

    def watch(self, folder: Path, left: int) -> None:
        self.folder, self.left, self.seen = folder, left, 0

    def _hook(self, event: str, values: tuple[Any, ...]) -> None:
        if self.folder is None or event not in ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir"):
            return
        if event == "open" and not (
            isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            return
        if isinstance(values[0], str | Path) and str(values[0]).startswith(str(self.folder)):
            self.seen += 1
            if self.seen > self.left:
                raise Killed


MORTAL = Mortal()


@pytest.fixture(autouse=True)
def _nobody_is_mortal_after() -> Iterator[None]:
    yield
    MORTAL.folder = None


class Server:
    """Answers every request with its prompt. `asked` are the prompts it was asked for, by all servers of a
    test."""

    def __init__(
        self, folder: Path, asked: list[str], *, limits: Limits | None = None, keys: Any = None
    ) -> None:
        self.time, self.asked, self.log = 0.0, asked, io.StringIO()
        self.rates = RateLimiters(limits or Limits(), keys, lambda: self.time)
        self.work = BatchWorker(folder, self._app, self.rates, Logs(self.log), sleep=self._sleep)  # type: ignore[arg-type]
        self.answer: Callable[[str], Any] = lambda prompt: None
        self.at_once = self.most = self.made = 0
        self.takes = 0.0  # seconds

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.time += seconds

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        prompt = json.loads((await receive())["body"])["prompt"]
        self.asked.append(prompt)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(self.takes)
        try:
            response = self.answer(prompt)
        finally:
            self.at_once -= 1
        if response is not None:
            await response(scope, receive, send)
            return
        self.rates.for_key(scope["state"]["record"].key).count_tokens(100)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"text": prompt}).encode()})

    def make(self, content: bytes, owner: str | None = None) -> str:
        """A batch of this file."""
        files, id_ = self.work.store.files, self.work.store.files.new_id()
        self.made += 1
        files.folder.mkdir(parents=True, exist_ok=True)
        files.content(id_).write_bytes(content)
        files.note(id_, "a.jsonl", "batch", owner)
        batch = {
            "id": self.work.store.record_store.new_id(),
            "owner": owner,
            "created_at": self.made,
            "endpoint": ENDPOINT,
            "input_file_id": id_,
        }
        batch |= {
            "status": "validating",
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "in_progress_at": None,
        }
        self.work.store.record_store.put(
            {**batch, "output_file_id": None, "error_file_id": None, "errors": None}
        )
        return str(batch["id"])

    async def until_over(self, *ids: str) -> None:
        """Work until these batches are over, or the server was killed."""
        await self.work.prepare()
        running = asyncio.create_task(self.work.run())
        owners = {each["id"]: each["owner"] for each in self.work.store.record_store.all()}
        for _ in range(100_000):
            await asyncio.sleep(0.001)
            if running.done() or all(self.status(id_, owners[id_]) in ("completed", "failed") for id_ in ids):
                break
        running.cancel()
        await asyncio.wait([running])
        self.work.close()

    def status(self, id_: str, owner: str | None = None) -> str:
        return str(self.work.store.record_store.get(id_, owner)["status"])

    def rows(self, id_: str, kind: str = "output", owner: str | None = None) -> list[Any]:
        file = self.work.store.record_store.get(id_, owner)[f"{kind}_file_id"]
        return (
            []
            if file is None
            else [json.loads(line) for line in self.work.store.files.content(file).read_text().splitlines()]
        )


def line(prompt: str, custom_id: str | None = None) -> str:
    return json.dumps(
        {"custom_id": custom_id or prompt, "method": "POST", "url": ENDPOINT, "body": {"prompt": prompt}}
    )


def lines(count: int) -> bytes:
    return "\n".join(line(f"r{number}") for number in range(count)).encode()


def test_a_server_killed_at_any_change_of_its_files_answers_every_line_once_and_keeps_every_answer(
    tmp_path: Path,
) -> None:
    count, deaths = 3, 0
    while True:
        folder = tmp_path / str(deaths)
        first = Server(folder, [])
        id_ = first.make(lines(count))
        MORTAL.watch(folder, deaths)
        with contextlib.suppress(Killed):
            asyncio.run(first.until_over(id_))
        survived, MORTAL.folder = MORTAL.seen <= deaths, None
        first.work.close()
        second = Server(folder, [])
        asyncio.run(second.until_over(id_))
        batch = second.work.store.record_store.get(id_, None)
        assert (batch["status"], batch["request_counts"]) == (
            "completed",
            {"total": count, "completed": count, "failed": 0},
        ), deaths
        assert sorted(row["custom_id"] for row in second.rows(id_)) == [
            f"r{number}" for number in range(count)
        ]
        assert len([each for each in second.work.store.files.all() if each["purpose"] == "batch_output"]) == 1
        if survived:
            assert first.status(id_) == "completed"
            assert second.asked == []
            break
        deaths += 1
    assert deaths > 10  # so many changes there were


def test_lines_in_flight_at_a_crash_are_tried_again_one_at_a_time(tmp_path: Path) -> None:
    server = Server(tmp_path, [])
    id_ = server.make(lines(30))
    in_flight_lines = InFlightLines(server.work.store.record_store.folder, id_)
    for number in (3, 4, 5):
        in_flight_lines.begin(number)
    most: list[int] = []
    server.takes = 0.05
    server.answer = lambda prompt: most.append(server.at_once)
    asyncio.run(server.until_over(id_))
    assert server.asked[:3] == ["r2", "r3", "r4"]
    assert most[:3] == [1, 1, 1]
    assert 1 < server.most <= CONCURRENT_LINES
    assert len(server.rows(id_)) == 30


def test_only_a_line_that_was_in_flight_at_two_crashes_is_given_up(tmp_path: Path) -> None:
    server = Server(tmp_path, [])
    id_ = server.make(lines(5))
    folder = server.work.store.record_store.folder
    for flying in ((1, 2, 3), (2,)):
        in_flight_lines = InFlightLines(folder, id_)
        for number in flying:
            in_flight_lines.begin(number)
    InFlightLines(folder, id_).close()  # a start that came to no work counts nothing
    InFlightLines(folder, id_).close()
    asyncio.run(server.until_over(id_))
    (given_up,) = server.rows(id_, "error")
    assert (given_up["custom_id"], given_up["response"], given_up["error"]["code"]) == (
        "r1",
        None,
        "server_crashed",
    )
    assert sorted(row["custom_id"] for row in server.rows(id_)) == ["r0", "r2", "r3", "r4"]
    assert "r1" not in server.asked
    assert server.work.store.record_store.get(id_, None)["request_counts"] == {
        "total": 5,
        "completed": 4,
        "failed": 1,
    }


def test_a_server_that_ends_on_purpose_blames_no_line(tmp_path: Path) -> None:
    async def end_while_answering() -> None:
        server = Server(tmp_path, [])
        running = asyncio.create_task(server.work.run())

        def end(prompt: str) -> None:
            if len(server.asked) > 4:
                running.cancel()
                asyncio.current_task().cancel()  # type: ignore[union-attr]

        server.answer = end
        await asyncio.wait([running])
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
        server.work.close()

    first = Server(tmp_path, [])
    id_ = first.make(lines(20))
    first.work.close()
    for _ in range(3):
        asyncio.run(end_while_answering())
    last = Server(tmp_path, [])
    assert not InFlightLines(last.work.store.record_store.folder, id_).crashes.total()
    asyncio.run(last.until_over(id_))
    assert len(last.rows(id_)) == 20


def test_notes_that_are_cut_off_or_damaged_say_nothing_and_keep_the_others(tmp_path: Path) -> None:
    path = tmp_path / "batch_1.flight"
    path.write_bytes(b"+7\n\xff\x00nonsense\n+8\n-8\n+9")
    in_flight_lines = InFlightLines(tmp_path, "batch_1")
    assert in_flight_lines.crashes == {7: 1, 8: 0}
    in_flight_lines.begin(9)
    assert InFlightLines(tmp_path, "batch_1").crashes == {7: 1, 8: 0, 9: 1}


def test_an_id_that_cannot_be_written_is_an_error_of_its_line_alone(tmp_path: Path) -> None:
    server = Server(tmp_path, [])
    content = lines(300) + b"\n" + line("last", "\udc00").encode()
    id_ = server.make(content)
    asyncio.run(server.until_over(id_))
    assert server.work.store.record_store.get(id_, None)["request_counts"] == {
        "total": 301,
        "completed": 300,
        "failed": 1,
    }
    (row,) = server.rows(id_, "error")
    assert row["error"]["code"] == "invalid_custom_id"
    assert "line 301" in row["error"]["message"]
    assert "\\udc00" in row["error"]["message"]


def test_what_goes_wrong_with_one_line_is_that_lines_error(tmp_path: Path) -> None:
    def fails(prompt: str) -> Any:
        if prompt == "r3":
            raise RuntimeError("no")

    server = Server(tmp_path, [])
    server.answer = fails
    id_ = server.make(lines(5))
    asyncio.run(server.until_over(id_))
    (row,) = server.rows(id_, "error")
    assert (row["custom_id"], row["response"]["status_code"]) == ("r3", 500)
    assert len(server.rows(id_)) == 4


@pytest.mark.parametrize("limits", [Limits(requests_per_minute=30), Limits(tokens_per_minute=3000)])
def test_lines_wait_for_the_rates_of_their_key(tmp_path: Path, limits: Limits) -> None:
    key = ApiKey("alice", "0" * 64)
    server = Server(tmp_path, [], limits=limits, keys=[key])
    times: list[float] = []
    server.answer = lambda prompt: times.append(server.time)
    id_ = server.make(lines(100), "alice")
    asyncio.run(server.until_over(id_))
    assert server.status(id_, "alice") == "completed"
    assert len(server.rows(id_, owner="alice")) == 100
    # Each line uses a request and 100 tokens, thirty a minute; half of the first minute's were there at once.
    assert times[-1] - times[0] >= (100 - 15 - CONCURRENT_LINES) * 2
    for start in times:
        assert sum(start <= each < start + 60 for each in times) <= 45 + CONCURRENT_LINES


def test_lines_leave_half_of_the_rates_to_requests_that_somebody_waits_for(tmp_path: Path) -> None:
    server = Server(tmp_path, [], limits=Limits(requests_per_minute=30))
    left: list[float] = []
    server.answer = lambda prompt: left.append(server.rates.for_key(None)._requests.wait(14))  # type: ignore[union-attr]
    id_ = server.make(lines(60))
    asyncio.run(server.until_over(id_))
    assert max(left) == 0


def test_a_full_queue_is_waited_for_as_long_as_it_says(tmp_path: Path) -> None:
    server = Server(tmp_path, [])
    server.answer = lambda prompt: error_response(too_many_requests("full", 30)) if server.time < 60 else None
    id_ = server.make(lines(1))
    asyncio.run(server.until_over(id_))
    assert server.time == 60
    assert len(server.rows(id_)) == 1


def test_batches_of_a_key_that_is_no_longer_let_in_are_not_answered(tmp_path: Path) -> None:
    server = Server(tmp_path, [], keys=[ApiKey("bob", "0" * 64)])
    id_ = server.make(lines(3), "alice")
    asyncio.run(server.until_over(id_))
    assert server.asked == []
    assert server.work.store.record_store.get(id_, "alice")["errors"]["data"][0]["code"] == "invalid_api_key"


DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"id": "batch',
    "a list": b"[]",
    "no fields": b"{}",
    "null": b"null",
    "no UTF-8": b"\xff\xfe{}",
    "deep": b"[" * 100_000,
    "a time that is text": b'{"id": "%s", "owner": null, "created_at": "now"}',
    "another's id": b'{"id": "batch_00000000000000000000000000000000", "owner": null, "created_at": 1}',
    "zeros": b"\x00" * 4096,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_named_in_the_log_and_holds_up_nothing(tmp_path: Path, damage: str) -> None:
    server = Server(tmp_path, [])
    for record_store in (server.work.store.record_store, server.work.store.files):
        bad = record_store.new_id()
        record_store.folder.mkdir(parents=True, exist_ok=True)
        (record_store.folder / f"{bad}.json").write_bytes(DAMAGE[damage].replace(b"%s", bad.encode()))
        with pytest.raises(Exception, match="damaged"):
            record_store.get(bad, None)
        assert record_store.page(None, None, 10)["data"] == []
        assert list(record_store.all()) == []
        assert server.log.getvalue().count(bad) == 1
    id_ = server.make(lines(2))
    asyncio.run(server.until_over(id_))
    assert len(server.rows(id_)) == 2


def test_what_is_no_file_among_the_records_is_left_alone(tmp_path: Path) -> None:
    server = Server(tmp_path, [])
    id_ = server.make(lines(2))
    (server.work.store.record_store.folder / f"{server.work.store.record_store.new_id()}.json").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(server.work.store.record_store.folder / f"{server.work.store.record_store.new_id()}.json")
    asyncio.run(server.until_over(id_))
    assert len(server.rows(id_)) == 2


def test_damaged_rows_of_a_batchs_output_are_answered_again(tmp_path: Path) -> None:
    first = Server(tmp_path, [])
    id_ = first.make(lines(4))
    row = {
        "id": "x",
        "custom_id": "r1",
        "response": {"status_code": 200, "request_id": "y", "body": {}},
        "error": None,
    }
    whole = json.dumps(row).encode() + b"\n"
    (first.work.store.record_store.folder / f"{id_}.answers").write_bytes(
        b"\x00" * 100 + b"\n[]\n" + whole + whole + b'{"custom_id": "r2"'
    )
    asyncio.run(first.until_over(id_))
    assert sorted(row["custom_id"] for row in first.rows(id_)) == ["r0", "r1", "r2", "r3"]
    assert sorted(first.asked) == ["r0", "r2", "r3"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_nobody_but_the_servers_user_may_read_what_it_keeps(tmp_path: Path) -> None:
    before = os.umask(0)
    modes: dict[str, int] = {}

    def look(prompt: str) -> None:
        for path in tmp_path.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a temporary file that has become another
                modes[str(path)] = path.stat().st_mode

    try:
        server = Server(tmp_path, [])
        server.work.store.files.folder.mkdir(parents=True)
        server.answer = look
        id_ = server.make(lines(3))
        input_ = server.work.store.files.content(
            server.work.store.record_store.get(id_, None)["input_file_id"]
        )
        input_.chmod(0o600)
        asyncio.run(server.until_over(id_))
        look("")
    finally:
        os.umask(before)
    assert any(name.endswith(".flight") for name in modes)
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


def test_two_servers_do_not_answer_the_same_batches(tmp_path: Path) -> None:
    first = Server(tmp_path, [])
    with pytest.raises(InputError, match=f"--state: .*{tmp_path}"):
        Server(tmp_path, [])
    first.work.close()
    Server(tmp_path, []).work.close()


def test_a_file_that_ends_two_servers_while_it_is_read_fails_its_batch(tmp_path: Path) -> None:
    server = Server(tmp_path, [])
    id_ = server.make(lines(2))
    for _ in range(2):
        InFlightLines(server.work.store.record_store.folder, id_).begin(0)
    asyncio.run(server.until_over(id_))
    assert server.work.store.record_store.get(id_, None)["errors"]["data"][0]["code"] == "server_crashed"


def test_a_batch_that_cannot_be_written_down_holds_up_no_other(tmp_path: Path) -> None:
    server = Server(tmp_path, [])
    bad, good = server.make(lines(1)), server.make(lines(2))
    (server.work.store.record_store.folder / f"{bad}.flight").mkdir()
    asyncio.run(server.until_over(good))
    assert len(server.rows(good)) == 2
    assert bad in server.log.getvalue()


class Full:
    """A disk that is full at times: what adds to the files of batches fails then, as the system says it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = False
        for owner, name in (
            (InFlightLines, "_write"),
            (InFlightLines, "end"),
            (BatchOutput, "_add"),
            (RecordStore, "put"),
        ):
            monkeypatch.setattr(owner, name, self._limited(getattr(owner, name)))

    def _limited(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def limited(*values: Any) -> Any:
            if self.now:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*values)

        return limited


def test_a_full_disk_is_waited_for_and_blames_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Full(monkeypatch)
    server = Server(tmp_path, [])
    tries = {"r3": 3, "r7": 2}
    sleep = server.work._sleep

    async def later(seconds: float) -> None:
        await sleep(seconds)
        disk.now = server.time % 90 > 0  # there is room again at every third try

    def answer(prompt: str) -> None:
        if tries.get(prompt):
            tries[prompt] -= 1
            disk.now = True

    server.work._sleep, server.answer = later, answer
    first, second = server.make(lines(10)), server.make(lines(2))
    asyncio.run(server.until_over(first, second))
    assert [server.status(id_) for id_ in (first, second)] == ["completed", "completed"]
    assert sorted(row["custom_id"] for row in server.rows(first)) == sorted(
        f"r{number}" for number in range(10)
    )
    assert len(server.rows(second)) == 2
    assert server.rows(first, "error") == server.rows(second, "error") == []
    assert server.time == 5 * 90


def test_a_request_that_a_full_disk_cannot_keep_is_told_so(tmp_path: Path) -> None:
    app, log = FastAPI(), io.StringIO()
    add_exception_handlers(app)

    @app.post("/keep")
    def keep() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    app.add_middleware(
        RequestMiddleware,
        settings=Settings(),
        rates=RateLimiters(Limits(), None),
        metrics=Metrics(),
        logs=Logs(log),
    )
    answer = TestClient(app, base_url="http://localhost").post("/keep")
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")
    assert "disk is full" in answer.json()["error"]["message"]
    assert os.strerror(errno.ENOSPC) in log.getvalue()
