"""What a request costs is bounded before work begins, and what nobody waits for ends. Counted, not timed."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from server_process import Running, Start, until

from newleaf.serve.api_errors import ApiError, error_body, validation_error
from newleaf.serve.http.server_settings import Limits
from newleaf.serve.openai.completion_input import submit_completion
from newleaf.serve.protocol.body_reader import BodyReader
from newleaf.serve.protocol.response_schemas import ResponseRequest
from newleaf.serve.protocol.schemas import ChatRequest, CompletionRequest, EmbeddingRequest

MANY = 20_000
USER = {"role": "user"}
BODIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ids, the last of them text": (CompletionRequest, {"prompt": [1] * MANY + ["a"]}),
    "texts, then ids": (CompletionRequest, {"prompt": ["a", *[1] * 1000]}),
    "lists of wrong things": (CompletionRequest, {"prompt": [["a"] * MANY] * 10}),
    "negative ids": (CompletionRequest, {"prompt": [-1] * MANY}),
    "stops": (CompletionRequest, {"prompt": "a", "stop": [1] * MANY}),
    "choices": (CompletionRequest, {"prompt": "a", "choice": [1] * MANY}),
    "biases": (CompletionRequest, {"prompt": "a", "logit_bias": {str(n): "x" for n in range(MANY)}}),
    "too many biases": (
        CompletionRequest,
        {"prompt": "a", "logit_bias": {str(n): 1.0 for n in range(200_000)}},
    ),
    "messages": (ChatRequest, {"messages": [1] * MANY}),
    "parts": (ChatRequest, {"messages": [{**USER, "content": [1] * MANY}]}),
    "parts without text": (ChatRequest, {"messages": [{**USER, "content": [{}] * MANY}]}),
    "tools": (ChatRequest, {"messages": [{**USER, "content": "a"}], "tools": [{}] * MANY}),
    "calls": (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": [{}] * MANY}]}),
    "items": (ResponseRequest, {"input": [{"type": "x"}] * MANY}),
    "items' parts": (ResponseRequest, {"input": [{"role": "user", "content": [{"a": 1}] * MANY}]}),
    "embedded": (EmbeddingRequest, {"input": [["a"] * MANY]}),
}


@pytest.mark.parametrize("name", BODIES)
def test_checking_a_body_stops_at_the_first_thing_that_is_wrong(name: str) -> None:
    kind, body = BODIES[name]
    try:
        kind.model_validate(body)
    except ValidationError as error:
        problems = error.errors()
        assert len(problems) < 100
        assert len(json.dumps(validation_error(problems).body)) < 1000
    reader = BodyReader(kind)
    with contextlib.suppress(ApiError):
        reader.read(body)
    problem = reader.problem()
    assert problem is None or len(json.dumps(problem.body)) < 1000
    assert len(reader.ignored) <= 100


def test_a_million_ids_are_checked_as_they_are() -> None:
    assert len(CompletionRequest.model_validate({"prompt": [1] * 1_000_000}).prompt) == 1_000_000


def test_messages_of_errors_hold_only_the_beginning_of_what_was_sent() -> None:
    assert len(error_body(400, "x" * 1_000_000)["error"]["message"]) < 2000
    values: list[Any] = ["a" * 10**6, list(range(10**6)), {"a" * 10**6: "b" * 10**6}, 10**4000]
    for value in values:
        problem = {
            "type": "string_type",
            "loc": ("body", "user" * 1000),
            "msg": "Input should be a valid string",
            "input": value,
        }
        assert len(json.dumps(validation_error([problem]).body)) < 2000


class Untouched:
    """A tokenizer that nobody may ask for ids or text."""

    max_token_bytes, vocab_size, bos_id = 10, 100, None


@pytest.mark.parametrize("prompt", ["a" * 3000, [1] * 300, ["a", "é" * 1500], [[1], [1] * 300]])
def test_a_prompt_that_is_longer_than_a_context_can_be_is_refused_before_it_is_encoded_or_decoded(
    prompt: Any,
) -> None:
    loaded_model: Any = SimpleNamespace(
        context=256, model=SimpleNamespace(tokenizer=Untouched(), defaults={})
    )
    server_context: Any = SimpleNamespace(limits=Limits())
    with pytest.raises(ApiError) as refused:
        submit_completion(server_context, loaded_model, CompletionRequest(prompt=prompt))
    assert (refused.value.status_code, refused.value.code) == (400, "context_length_exceeded")


HOSTILE: dict[str, tuple[str, dict[str, Any]]] = {
    "a million ids": ("/v1/completions", {"prompt": [1] * 1_000_000}),
    "four megabytes of text": ("/v1/completions", {"prompt": "The capital. " * 300_000}),
    "control tokens": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "<|im_end|>" * 20_000}]},
    ),
    "a long message": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "word " * 800_000}]},
    ),
    "ids to embed": ("/v1/embeddings", {"input": [[1] * 4000] * 100}),
    "items": (
        "/v1/responses",
        {"input": [{"type": "message", "role": "user", "content": "word " * 80}] * 9000},
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_too_long_is_refused(server: Running, name: str) -> None:
    path, body = HOSTILE[name]
    got = httpx.post(server.url + path, json={"model": "chatml", **body}, timeout=120)
    assert got.status_code == 400, got.text[:300]
    assert len(got.content) < 2000
    error = got.json()["error"]
    assert error["param"] in ("prompt", "messages", "input")


def test_health_is_answered_again_and_again_while_megabytes_are_encoded(server: Running) -> None:
    text = "The capital of France is Paris, they say; 1 + 2 = 3. " * 40_000
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            httpx.post, f"{server.url}/tokenize", json={"model": "chatml", "prompt": text}, timeout=300
        )
        answered = 0
        while not asked.done():
            assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
            answered += 1
    found = asked.result().json()
    assert found["count"] == len(found["tokens"]) > 1000
    assert answered > 20
    back = httpx.post(
        f"{server.url}/detokenize", json={"model": "chatml", "tokens": found["tokens"][:100_000]}, timeout=300
    )
    assert text.startswith(back.json()["prompt"])


LONG = {"model": "endless", "input": [[n % 90 for n in range(3900)] for _ in range(40)]}


def leave(server: Running, path: str, body: dict[str, Any], user: str) -> dict[str, Any]:
    """Ask for something that takes long, and go away; the request's line in the log."""
    data = json.dumps({**body, "user": user}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        f"{len(data)}\r\n\r\n"
    )
    with socket.create_connection(server.address) as connection:
        connection.sendall(head.encode() + data)
        until(lambda: server.gauge("waiting", "endless") >= 1)
    until(lambda: f'"user": "{user}"' in server.log)
    line: dict[str, Any] = json.loads(
        next(line for line in server.log.splitlines() if f'"user": "{user}"' in line)
    )
    return line


SCORED = {"model": "endless", "prompt": LONG["input"], "max_tokens": 1, "echo": True, "logprobs": 0}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/embeddings", LONG), ("/v1/completions", SCORED), ("/v1/completions", {**SCORED, "stream": True})],
    ids=["embeddings", "scores", "streamed scores"],
)
def test_work_for_a_client_that_left_stops(
    server: Running, path: str, body: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    assert leave(server, path, body, request.node.callspec.id.replace(" ", "-"))["gone"]
    until(lambda: server.gauge("waiting", "endless") == 0 == server.gauge("running", "endless"))


def test_a_text_that_is_asked_for_during_a_long_job_is_written_before_its_end(server: Running) -> None:
    over: list[str] = []

    def embed() -> None:
        assert httpx.post(f"{server.url}/v1/embeddings", json=LONG, timeout=300).status_code == 200
        over.append("embeddings")

    thread = threading.Thread(target=embed)
    thread.start()
    until(lambda: server.gauge("waiting", "endless") >= 1)
    assert server.post("/v1/completions", model="endless", prompt="a", max_tokens=5).status_code == 200
    over.append("text")
    thread.join()
    assert over == ["text", "embeddings"]


def test_more_tokens_than_are_read_for_one_request_are_refused(start: Start, models: Path) -> None:
    server = start(models / "endless", "--max-reading", "100")
    for path, body in (
        ("/v1/embeddings", {"input": [[1] * 60, [1] * 60]}),
        ("/v1/embeddings", {"input": ["The capital of France " * 40]}),
        ("/v1/completions", {"prompt": [[1] * 60, [1] * 60], "echo": True, "logprobs": 1, "max_tokens": 1}),
    ):
        got = server.post(path, **body)
        assert (got.status_code, "at most 100" in got.text) == (400, True), got.text
    assert server.post("/v1/completions", prompt=[[1] * 60, [1] * 60], max_tokens=1).status_code == 200


def test_a_forwarded_address_is_believed_of_named_proxies_only(start: Start, models: Path) -> None:
    for proxies, client in ((), "127.0.0.1"), (("10.0.0.0/8, 127.0.0.1",), "203.0.113.9"):
        server = start(models / "chatml", *(("--trusted-proxies", *proxies) if proxies else ()))
        headers = {"x-forwarded-for": "203.0.113.9", "x-request-id": "forwarded"}
        httpx.get(f"{server.url}/v1/models", headers=headers)
        until(lambda: "forwarded" in server.log)  # noqa: B023
        line = json.loads(next(line for line in server.log.splitlines() if "forwarded" in line))
        assert line["client"] == client, proxies


def test_template_variables_make_no_control_tokens(server: Running) -> None:
    base = {"model": "chatml", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    for name in ("bos_token", "eos_token", "messages", "tools", "add_generation_prompt"):
        got = server.post("/v1/chat/completions", **base, chat_template_kwargs={name: "<|im_end|>"})
        assert (got.status_code, got.json()["error"]["param"]) == (400, "chat_template_kwargs"), got.text
        assert name in got.json()["error"]["message"]
