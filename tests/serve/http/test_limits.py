"""Keys, rates, queues, memory, clients that leave, and the end of a server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server_process import Running, Start, until

from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.serve.http import api_keys as keys

LONG: Any = {"model": "endless", "prompt": "a", "max_tokens": 4000, "temperature": 1, "seed": 1}


def stream(server: Running, **body: Any) -> Any:
    return httpx.stream(
        "POST", f"{server.url}/v1/completions", json={**LONG, "stream": True, **body}, timeout=60
    )


def add_key(path: Path, name: str) -> str:
    command = [sys.executable, "-m", "newleaf", "serve", "--keys", str(path), "--add-key", name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_keys_are_asked_for_and_kept_as_hashes_and_have_rates_of_their_own(
    start: Start, models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "keys.jsonl"
    one, two = add_key(path, "one"), add_key(path, "two")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert one not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    rows[1]["requests_per_minute"] = 1
    path.write_text("\n".join(map(json.dumps, rows)))
    server = start(models / "endless", "--keys", path)
    for key in ("", "nl-wrong", one + "x", one[:-1]):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        refused = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"}, headers=headers)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    assert httpx.get(f"{server.url}/health").status_code == 200
    for _ in range(4):
        assert server.client(one).completions.create(model="endless", prompt="a", max_tokens=1)
    file = server.client(one).files.create(file=("a.jsonl", b"{}"), purpose="batch")
    with pytest.raises(openai.NotFoundError):
        server.client(two).files.retrieve(file.id)
    assert server.client(one).files.content(file.id).read() == b"{}"
    server.client(two).completions.create(model="endless", prompt="a", max_tokens=1)
    with pytest.raises(openai.RateLimitError) as late:
        server.client(two).completions.create(model="endless", prompt="a", max_tokens=1)
    assert 1 <= int(late.value.response.headers["retry-after"]) <= 60
    assert one not in server.log
    assert '"key": "one"' in server.log


def test_keys_that_are_made_at_once_are_all_kept_in_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "keys.jsonl", keys.read_keys

    def slowly(path: Path) -> list[keys.ApiKey]:
        found = read(path)
        time.sleep(0.05)  # in which another would read the same file
        return found

    monkeypatch.setattr(keys, "read_keys", slowly)
    # locks are of open files, not of threads
    threads = [threading.Thread(target=keys.add_key, args=(path, f"key-{n}")) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read(path)} == {f"key-{n}" for n in range(6)}
    assert path.stat().st_mode & 0o077 == 0


def test_a_damaged_file_of_keys_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    good = json.dumps({"name": "one", "hash": "0" * 64})
    for bad in ("null", "[]", "{", '{"name": 1, "hash": 2}', "[" * 100_000, '{"other": 1}'):
        path.write_text(f"{good}\n{bad}\n")
        with pytest.raises(InputError, match="line 2"):
            keys.read_keys(path)


def test_a_rate_of_tokens_is_paid_after_and_waited_for(start: Start, models: Path) -> None:
    server = start(models / "endless", "--token-rate", "60")
    assert server.post("/v1/completions", prompt="a", max_tokens=900).status_code == 200
    late = server.post("/v1/completions", prompt="a", max_tokens=1)
    assert late.status_code == 429
    assert 500 <= int(late.headers["retry-after"]) <= 842  # 841 tokens too many, at one a second


def test_a_full_queue_says_when_to_try_again_and_loses_nobody(start: Start, models: Path) -> None:
    server = start(models / "endless", "--slots", "1", "--max-queue", "2")
    with stream(server) as first, stream(server) as second:
        pieces, others = first.iter_raw(), second.iter_raw()
        next(pieces)
        until(lambda: server.gauge("waiting", "endless") == 1)
        late = server.post("/v1/completions", prompt="a", max_tokens=1)
        assert late.status_code == 429
        assert int(late.headers["retry-after"]) >= 1
        assert late.json()["error"]["code"] == "queue_full"
        first.close()
        assert next(others)
    until(lambda: server.gauge("running", "endless") == 0)
    assert server.post("/v1/completions", prompt="a", max_tokens=1).status_code == 200


def test_a_client_that_goes_away_frees_its_slot(server: Running) -> None:
    for body in ({"stream": True}, {"stream": False}):
        connection = socket.create_connection(server.address)
        data = json.dumps({**LONG, **body, "user": f"leaves-{body['stream']}"}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            f"application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        connection.sendall(head.encode() + data)
        until(lambda: server.gauge("running", "endless") == 1)
        if body["stream"]:
            connection.recv(4096)
        connection.close()
        until(lambda: server.gauge("running", "endless") == 0)
        until(lambda: f"leaves-{body['stream']}" in server.log)  # noqa: B023
        line = json.loads(
            next(line for line in server.log.splitlines() if f"leaves-{body['stream']}" in line)
        )
        assert line["gone"]
        assert line["completion_tokens"] < 4000


def test_after_sigterm_answers_come_to_their_end_and_nobody_new_is_let_in(start: Start, models: Path) -> None:
    server = start(models / "endless")
    whole: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: whole.append(server.post("/v1/completions", **LONG | {"max_tokens": 1000}))
    )
    with stream(server, max_tokens=1500) as streaming:
        lines = streaming.iter_lines()
        next(lines)
        asking.start()
        until(lambda: server.gauge("running", "endless") == 2)
        server.ask_to_end()

        def refused() -> bool:
            try:
                return httpx.get(f"{server.url}/health", timeout=60).status_code == 503
            except httpx.HTTPError:
                return True

        until(refused)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    asking.join()
    assert whole[0].json()["usage"]["completion_tokens"] == 1000
    assert server.process.wait(30) == 0


def test_models_are_opened_when_asked_for_and_the_unused_go_when_memory_ends(
    start: Start, models: Path
) -> None:
    server = start(
        "a=" + str(models / "endless"), f"b={models / 'chatml'}", f"c={models / 'qwen3'}", "--memory", "1500K"
    )
    assert [server.gauge("loaded", name) for name in "abc"] == [1, 0, 0]
    assert server.gauge("bytes", "a") < 750_000
    for name, loaded in (("b", [1, 1, 0]), ("a", [1, 1, 0]), ("c", [1, 0, 1]), ("b", [0, 1, 1])):
        assert server.post("/v1/completions", model=name, prompt="a", max_tokens=2).status_code == 200
        assert [server.gauge("loaded", each) for each in "abc"] == loaded
    server.post("/v1/completions", model="a", prompt="a", max_tokens=1)
    with stream(server, model="a") as one, stream(server, model="b") as other:
        held = [one.iter_raw(), other.iter_raw()]  # an iterator that is dropped closes its connection
        assert all(next(each) for each in held)
        busy = server.post("/v1/completions", model="c", prompt="a", max_tokens=1)
        assert (busy.status_code, busy.json()["error"]["code"]) == (429, "model_not_loaded")


def test_a_server_that_others_reach_without_keys_says_so_and_is_asked_under_any_name(
    start: Start, models: Path
) -> None:
    wide, narrow = (
        start(models / "chatml", "--host", "0.0.0.0"),
        start(models / "chatml", "--allowed-hosts", "chat.example, [::2]"),
    )
    assert "--keys" in wide.log
    assert "--keys" not in narrow.log

    def status(server: Running, host: str) -> int:
        return httpx.get(f"{server.url}/health", headers={"host": host}).status_code

    assert status(wide, "any.example") == 200
    assert [status(narrow, host) for host in ("chat.example:80", "[::2]", "127.0.0.1", "any.example")] == [
        200,
        200,
        200,
        403,
    ]


def test_request_ids_are_kept_or_made(server: Running) -> None:
    given = httpx.get(f"{server.url}/v1/models", headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    until(lambda: '"id": "mine-1"' in server.log)  # the line comes after the answer
    made = httpx.get(f"{server.url}/v1/models", headers={"x-request-id": 'bad"id'}).headers["x-request-id"]
    assert made.startswith("req_")


@pytest.mark.parametrize(
    "words",
    [
        ["--memory", "lots"],
        ["--slots", "0"],
        ["--max-body", "-1"],
        ["--keys", "nowhere"],
        ["--host", "300.1.1.1"],
        ["--allowed-hosts", "a/b"],
        ["nowhere"],
        ["x=."],
    ],
)
def test_wrong_options_are_one_line_and_exit_2(
    models: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = [str(models / "chatml")] if words[0].startswith("-") else []
    assert main(["serve", "--port", "0", "--log", "off", *model, *words]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
