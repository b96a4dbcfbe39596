"""Files and batches by the stock openai client, across restarts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from server_process import Running, Start, until


def lines_of(count: int, tokens: int) -> bytes:
    """Requests with a seed each, so that every answer is known, and one that is wrong."""
    body = {"model": "endless", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens}
    rows: list[Any] = [
        {"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": {**body, "seed": n}}
        for n in range(count)
    ]
    rows.append(
        {
            "custom_id": "wrong",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**body, "temperature": -1},
        }
    )
    return "\n".join(map(json.dumps, rows)).encode()


def begin(client: openai.OpenAI, content: bytes) -> Any:
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )


def read(client: openai.OpenAI, file: str) -> list[Any]:
    return [json.loads(line) for line in client.files.content(file).text.splitlines()]


def test_a_batch_survives_being_killed_and_answers_each_request_once(
    start: Start, models: Path, tmp_path: Path
) -> None:
    count, tokens = 240, 200  # so many that it is killed before the last
    server = start(models / "endless", "--state", tmp_path / "state")
    batch = begin(server.client(), lines_of(count, tokens))
    until(lambda: server.client().batches.retrieve(batch.id).request_counts.completed > 0)
    server.process.kill()
    server.process.wait()
    (partial,) = (tmp_path / "state" / "batches").glob("*.answers")
    before = len(partial.read_text().splitlines())
    assert 0 < before < count
    with partial.open("a") as file:
        file.write('{"custom_id": "cut o')  # as a machine that lost its power leaves it
    again = start(models / "endless", "--state", tmp_path / "state")
    client = again.client()
    until(lambda: client.batches.retrieve(batch.id).status == "completed")
    done = client.batches.retrieve(batch.id)
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (
        count + 1,
        count,
        1,
    )
    assert done.metadata == {"a": "b"}
    answers = read(client, done.output_file_id)
    assert sorted(row["custom_id"] for row in answers) == sorted(f"r{n}" for n in range(count))
    (wrong,) = read(client, done.error_file_id)
    assert (wrong["custom_id"], wrong["response"]["status_code"]) == ("wrong", 400)
    assert wrong["response"]["body"]["error"]["param"] == "temperature"
    for row in answers[:: count // 6]:
        direct = client.chat.completions.create(
            model="endless",
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=tokens,
            seed=int(row["custom_id"][1:]),
        )
        assert (
            row["response"]["body"]["choices"][0]["message"]["content"] == direct.choices[0].message.content
        )
    assert [each.id for each in client.batches.list().data] == [batch.id]
    assert again.end() == 0


def test_a_batch_can_be_cancelled_and_keeps_what_was_answered(server: Running, client: openai.OpenAI) -> None:
    batch = begin(client, lines_of(300, 400))
    until(lambda: client.batches.retrieve(batch.id).request_counts.completed > 0)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    until(lambda: client.batches.retrieve(batch.id).status == "cancelled")
    found = client.batches.retrieve(batch.id)
    assert len(read(client, found.output_file_id)) == found.request_counts.completed < 300
    until(lambda: server.gauge("running", "endless") == 0)
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"{", 1),
        (b'{"custom_id": "a"}', 1),
        (lines_of(1, 1) + b"\n" + lines_of(1, 1), 3),
        (b"", None),
        (b"\xff\xfe", 1),
        (b"[" * 100_000, 1),
    ],
)
def test_a_file_that_is_wrong_fails_the_batch_and_names_the_line(
    client: openai.OpenAI, content: bytes, line: int | None
) -> None:
    batch = begin(client, content)
    until(lambda: client.batches.retrieve(batch.id).status == "failed")
    assert client.batches.retrieve(batch.id).errors.data[0].line == line


def test_files_are_listed_read_and_deleted(client: openai.OpenAI) -> None:
    file = client.files.create(file=("a.jsonl", b"{}\n"), purpose="batch")
    assert (file.bytes, file.filename) == (3, "a.jsonl")
    assert file.id in [each.id for each in client.files.list().data]
    assert client.files.content(file.id).read() == b"{}\n"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)
    with pytest.raises(openai.BadRequestError, match="input_file_id"):
        client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune")


# The command, whose process ends as native code ends it, in the middle of a request whose seed is 13.
MORTAL = """
import os, signal, sys
from newleaf.cli.main import main
from newleaf.generate.engine.engine import Engine
real = Engine.submit
def submit(self, prompt, config, *rest):
    if config.seed == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, prompt, config, *rest)
Engine.submit = submit
sys.exit(main())
"""


def test_a_request_that_ends_the_server_twice_is_an_error_and_the_others_are_answered(
    start: Start, models: Path, tmp_path: Path
) -> None:
    batch, count = None, 30
    for _ in range(2):
        server = start(models / "endless", "--state", tmp_path / "state", program=("-c", MORTAL))
        batch = batch or begin(server.client(), lines_of(count, 20))
        assert server.process.wait(60) == -9
    assert batch is not None
    last = start(models / "endless", "--state", tmp_path / "state", program=("-c", MORTAL))
    client = last.client()
    until(lambda: client.batches.retrieve(batch.id).status == "completed")
    done = client.batches.retrieve(batch.id)
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (
        count + 1,
        count - 1,
        2,
    )
    answered = [row["custom_id"] for row in read(client, done.output_file_id)]
    assert sorted(answered) == sorted(f"r{n}" for n in range(count) if n != 13)
    errors = {row["custom_id"]: row for row in read(client, done.error_file_id)}
    assert errors.keys() == {"r13", "wrong"}
    assert (errors["r13"]["response"], errors["r13"]["error"]["code"]) == (None, "server_crashed")
    assert last.end() == 0
