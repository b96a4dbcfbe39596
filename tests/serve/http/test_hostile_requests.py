"""What strangers send: each gets a 4xx in OpenAI's shape or a closed connection, and the next request is
served."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_clocks import HANGS
from server_process import Running, until

CHAT, TEXT, FILES = "/v1/chat/completions", "/v1/completions", "/v1/files"
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    options = (
        "--header-seconds",
        "1",
        "--body-seconds",
        "1.5",
        "--max-body",
        "300000",
        "--max-upload",
        "400000",
        "--stall-seconds",
        "2",
    )
    running = Running([models / "chatml", models / "endless", *options], tmp_path_factory.mktemp("home"))
    yield running
    assert running.end() == 0
    assert '"event": "error"' not in running.log


@pytest.fixture(autouse=True)
def _the_next_request_is_served(server: Running) -> Iterator[None]:
    yield
    assert server.post(TEXT, prompt="a", max_tokens=2).status_code == 200


def raw(server: Running, data: bytes, wait: float = 10) -> bytes:
    """What comes back for these bytes until the server closes."""
    with socket.create_connection(server.address, timeout=wait) as connection:
        try:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except (ConnectionResetError, BrokenPipeError):
            return b""


def is_refusal(answer: bytes) -> bool:
    """Nothing, or a 4xx with an error of OpenAI's shape."""
    if not answer:
        return True
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 4") and set(json.loads(body)["error"]) == {
        "message",
        "type",
        "param",
        "code",
    }


def post(path: str, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


DEEP = 100_000
BODIES: dict[str, bytes] = {
    "cut off": b'{"prompt": "a"',
    "empty": b"",
    "no object": b"[1, 2]",
    "null": b"null",
    "text": b"hello",
    "bad UTF-8": b'{"prompt": "\xff\xfe\xc3("}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "half a surrogate pair": rb'{"prompt": "\ud800"}',
    "half a pair as a name": rb'{"\udfff": 1}',
    "deep lists": b'{"prompt": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
    "not a number": b'{"prompt": "a", "temperature": NaN}',
    "infinity": b'{"prompt": "a", "temperature": Infinity}',
    "a giant number": b'{"prompt": "a", "max_tokens": ' + b"9" * 100_000 + b"}",
    "a giant exponent": b'{"prompt": "a", "temperature": 1e999999999}',
    "a large seed": b'{"prompt": "a", "seed": 99999999999999999999999}',
    "negative tokens": b'{"prompt": "a", "max_tokens": -5}',
    "half a token": b'{"prompt": "a", "max_tokens": 1.5}',
    "true as a number": b'{"prompt": "a", "max_tokens": true}',
    "ids that are not": b'{"prompt": [1, "a"]}',
    "a wrong bias": b'{"prompt": "a", "logit_bias": {"a": 1}}',
    "an id that is not": b'{"prompt": "a", "logit_bias": {"99999999999999999999": 1}}',
    "a stop that is no text": b'{"prompt": "a", "stop": [7]}',
    "too large": b'{"prompt": "' + b"a" * 400_000 + b'"}',
    "a BOM and nothing": b"\xef\xbb\xbf",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_wrong_is_refused(server: Running, name: str) -> None:
    answer = raw(server, post(TEXT, BODIES[name]))
    assert is_refusal(answer), answer[:300]
    assert answer or len(BODIES[name]) > 100_000


SAYS: list[tuple[str, bytes, str | None, str]] = [
    (CHAT, b"[]", None, "the body must be a JSON object, not a list"),
    (CHAT, b"null", None, "the body must be a JSON object, not null"),
    (TEXT, b"5", None, "the body must be a JSON object, not 5"),
    (TEXT, b'"x"', None, "the body must be a JSON object, not 'x'"),
    ("/v1/responses", b"true", None, "the body must be a JSON object, not true"),
    ("/v1/embeddings", b"[[1]]", None, "the body must be a JSON object, not a list"),
    ("/tokenize", b"1.5", None, "the body must be a JSON object, not 1.5"),
    ("/v1/batches", b"[]", None, "the body must be a JSON object, not a list"),
    (CHAT, b'{"messages": []}', "messages", "messages: must have at least 1 item, not 0"),
    (TEXT, b'{"prompt": []}', "prompt", "prompt: must have at least 1 item, not 0"),
    ("/v1/responses", b'{"input": []}', "input", "input: must have at least 1 item, not 0"),
    (TEXT, b'{"prompt": "a", "regex": "[^\\\\s\\\\S]"}', "regex", "regex: no text fits it"),
    (TEXT, b'{"prompt": "a", "grammar": "start: A\\nA: /a/ & /b/"}', "grammar", "grammar: no text fits it"),
    (
        TEXT,
        b'{"prompt": "a", "json_schema": {"enum": []}}',
        "json_schema",
        "json_schema, at #/enum: no text fits it: anyOf is empty",
    ),
    (
        TEXT,
        b'{"prompt": "a", "json_schema": {"not": {}}}',
        "json_schema",
        "json_schema, at #/not: no text fits it",
    ),
    (
        TEXT,
        b'{"prompt": "a", "seed": %s}' % (b"1" * 5000),
        None,
        "the body has a number of more than 4,300 digits",
    ),
    (
        TEXT,
        b'{"prompt": "a", "json_schema": {"const": %s}}' % (b"1" * 5000),
        None,
        "the body has a number of more than 4,300 digits",
    ),
]


@pytest.mark.parametrize(("path", "body", "param", "said"), SAYS)
def test_what_is_wrong_with_a_body_is_said_plainly(
    server: Running, path: str, body: bytes, param: str | None, said: str
) -> None:
    got = httpx.post(server.url + path, content=body, headers={"content-type": "application/json"})
    error = got.json()["error"]
    assert (got.status_code, error["param"], error["message"]) == (400, param, said)


def test_a_schema_may_hold_a_number_of_many_digits(server: Running) -> None:
    constant = 10**4200 + 1
    got = server.post(TEXT, prompt="a", json_schema={"const": constant}, max_tokens=4000, temperature=0)
    assert got.status_code == 200
    assert str(constant).startswith(got.json()["choices"][0]["text"])


def test_an_uploads_long_name_is_cut(server: Running) -> None:
    got = httpx.post(
        server.url + FILES, files={"file": ("a" * 3000 + ".jsonl", b"{}")}, data={"purpose": "batch"}
    )
    assert (got.status_code, got.json()["filename"]) == (200, "a" * 128)
    got = httpx.post(server.url + FILES, files={"file": ("a" * 50_000, b"{}")}, data={"purpose": "batch"})
    assert (got.status_code, got.json()["error"]["param"]) == (400, "file"), got.text
    assert "filename" in got.json()["error"]["message"]


def nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


WRITTEN: dict[str, dict[str, Any]] = {
    "a schema as deep as JSON may be": {"json_schema": nested(60)},
    "a schema of thousands of properties": {
        "json_schema": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(5000)}}
    },
    "a schema that is its own part": {"json_schema": {"$ref": "#"}},
    "a reference to the network": {"json_schema": {"$ref": "http://127.0.0.1:1/schema.json"}},
    "a reference to a file": {"json_schema": {"$ref": "file:///etc/passwd"}},
    "alternatives of alternatives": {
        "json_schema": {"allOf": [{"anyOf": [{"const": n * m} for n in range(30)]} for m in range(30)]}
    },
    "a schema's enormous count": {
        "json_schema": {"type": "array", "minItems": 10**9, "items": {"type": "string"}}
    },
    "a schema's pattern": {"json_schema": {"type": "string", "pattern": "(((a{50}){50}){50}){50}"}},
    "a regex that repeats repeats": {"regex": "((((a{99}){99}){99}){99}){99}"},
    "a regex of alternatives": {"regex": "(" + "|".join(f"{n:04}.*" for n in range(1200)) + ")*x{0,1000}"},
    "a regex that is a bomb elsewhere": {"regex": "(a+)+$"},
    "a regex that is wrong": {"regex": "(" * 500},
    "a grammar that is wrong": {"grammar": "start: " + "(" * 10_000},
    "a grammar that only refers to itself": {"grammar": "start: a\na: b\nb: a"},
    "many stops": {"stop": ["x" * 1000 + str(n) for n in range(64)]},
    "too many stops": {"stop": [str(n) for n in range(65)]},
    "every choice": {"choice": [str(n) for n in range(1000)]},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_schema_or_expression_is_written_or_refused_in_time(server: Running, name: str) -> None:
    got = server.post(TEXT, prompt="a", max_tokens=3, **WRITTEN[name])
    assert got.status_code in (200, 400), got.text[:300]
    assert got.status_code == 200 or got.json()["error"]["message"]
    assert server.post(TEXT, prompt="a", max_tokens=2).elapsed.total_seconds() < HANGS


TO_TEXT = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
HEADS: dict[str, bytes] = {
    "noise": bytes(range(256)) * 8,
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "no HTTP": b"HELLO\r\n\r\n",
    "HTTP/9.9": b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\n"
    + b"".join(b"x-%d: y\r\n" % n for n in range(20_000))
    + b"\r\n",
    "one large header": b"GET /health HTTP/1.1\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n",
    "headers without end": b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 200_000,
    "a large address": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a large name": b"GET /health HTTP/1.1\r\n" + b"x" * 500_000 + b": y\r\n\r\n",
    "a negative length": TO_TEXT + b"Content-Length: -1\r\n\r\n",
    "a length that is not": TO_TEXT + b"Content-Length: ten\r\n\r\n",
    "a giant length": TO_TEXT + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    "a length over the limit": TO_TEXT + b"Content-Length: 99999999\r\n\r\n",
    "two lengths": TO_TEXT + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a length and chunks": TO_TEXT + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": TO_TEXT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a giant chunk": TO_TEXT + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
    "a line within a header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: "
    b"a\rb\r\nConnection: close\r\n\r\n",
    "zero within a header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: a\x00b\r\n\r\n",
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_is_wrong_is_refused_or_closed(server: Running, name: str) -> None:
    answer = raw(server, HEADS[name])
    assert is_refusal(answer), answer[:300]


def test_chunks_over_the_limit_are_refused(server: Running) -> None:
    head = TO_TEXT + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(server, head + (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 40)
    assert is_refusal(answer), answer[:300]


def test_slow_heads_and_slow_bodies_are_ended(server: Running) -> None:
    for head, wanted in (
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"408"),
        (post(TEXT, b"{" * 100)[:-90], b"408"),
        (b"", b""),
    ):
        with socket.create_connection(server.address, timeout=30) as connection:
            connection.sendall(head)
            began, answer = time.monotonic(), b""
            connection.settimeout(0.2)
            while time.monotonic() - began < HANGS:
                try:
                    connection.sendall(b"x" if head else b"")  # a byte now and then does not help
                    part = connection.recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    break
                answer += part
                if not part:
                    break
            assert time.monotonic() - began < HANGS
            assert wanted in answer.split(b"\r\n")[0]


def test_half_closed_and_abandoned_connections_are_let_go(server: Running) -> None:
    body = json.dumps({"model": "endless", "prompt": "a", "max_tokens": 4000, "stream": True}).encode()
    for end in (socket.SHUT_WR, socket.SHUT_RDWR):
        connection = socket.create_connection(server.address, timeout=20)
        connection.sendall(post(TEXT, body))
        connection.shutdown(end)
        if end == socket.SHUT_WR:
            while connection.recv(65536):
                pass
        connection.close()
    until(lambda: server.gauge("running", "endless") == 0)


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/....//....//etc/passwd",
        "/..\\..\\etc\\passwd",
        "/%00",
        "/index.html%00.png",
        "/a" * 4000,
        "//etc/passwd",
        "/\xe4\xb8\xad",
        "/%ff%fe",
        "/v1/files/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/files/../../../etc/passwd/content",
        "/v1/files/file-00000000000000000000000000000000/content",
        "/v1/files/%00/content",
        "/v1/files/file-" + "a" * 5000,
        "/v1/batches/..%2fbatch_x",
        "/v1/batches/%0a",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/responses/%f0%9f",
    ],
)
def test_paths_lead_nowhere(server: Running, path: str) -> None:
    answer = raw(
        server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1")
    )
    assert is_refusal(answer), answer[:300]
    assert b"root:" not in answer


def test_other_methods_types_and_protocols_are_refused(server: Running) -> None:
    body = b'{"prompt": "a", "max_tokens": 1}'
    for method in ("GET", "PUT", "DELETE", "TRACE", "OPTIONS", "BREW"):
        assert is_refusal(raw(server, post(TEXT, body).replace(b"POST", method.encode(), 1)))
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = raw(server, post(TEXT, body, kind=kind))
        assert is_refusal(answer), answer
        assert answer
    upgrade = (
        b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: "
        b"websocket\r\n\r\n"
    )
    assert is_refusal(raw(server, upgrade))
    assert (
        "access-control-allow-origin"
        not in httpx.post(server.url + TEXT, json={"prompt": "a"}, headers={"origin": "http://evil"}).headers
    )


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST.:1", True),
        ("127.0.0.1:80", True),
        ("[::1]:8000", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("evil.example/localhost", False),
        ("[::2]", False),
        ("[", False),
        ("", False),
    ],
)
def test_a_local_server_is_asked_under_no_other_name(server: Running, host: str, known: bool) -> None:
    for path in ("/", "/health", "/v1/models"):
        answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200" if known else b"HTTP/1.1 403"), answer[:300]
        assert known or json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "host_not_allowed"
    two = f"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert is_refusal(raw(server, two.encode()))


def test_pages_of_other_sites_can_send_nothing(server: Running) -> None:
    # a form, which needs nobody's permission
    upload: Any = {"files": {"file": ("a.jsonl", b"{}\n")}, "data": {"purpose": "batch"}}
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": server.url.replace("127.0.0.1", "localhost")},
        {"origin": server.url, "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        for got in (
            httpx.post(server.url + FILES, headers=headers, **upload),
            httpx.post(
                server.url + TEXT,
                headers={**headers, "content-type": "text/plain"},
                content=b'{"prompt": "a"}',
            ),
            httpx.post(server.url + "/v1/batches/batch_0/cancel", headers=headers),
        ):
            assert (got.status_code, got.json()["error"]["code"]) == (403, "cross_origin")
    for headers in (
        {},
        {"origin": server.url},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ):
        assert httpx.post(server.url + FILES, headers=headers, **upload).status_code == 200


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data"),
        (
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            + b"a" * 500_000
            + b"\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
        ),
        (b"--x\r\n" + b"a: b\r\n" * 30_000, "multipart/form-data; boundary=x"),
        (
            b"".join(
                b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\nb\r\n' % n for n in range(5000)
            ),
            "multipart/form-data; boundary=x",
        ),
        (b"{}", "application/json"),
    ],
)
def test_uploads_that_are_wrong_are_refused(server: Running, body: bytes, kind: str) -> None:
    answer = raw(server, post(FILES, body, kind=kind))
    assert is_refusal(answer), answer[:300]


def test_a_files_name_leads_nowhere(server: Running) -> None:
    files = {"file": ("../../../../tmp/evil\r\nx: y\x00.jsonl", b"{}\n")}
    got = httpx.post(server.url + FILES, files=files, data={"purpose": "batch"}).json()
    assert "/" not in got["filename"]
    content = httpx.get(f"{server.url}{FILES}/{got['id']}/content")
    assert content.content == b"{}\n"
    assert "x" not in content.headers


def test_what_messages_hold_is_never_run(server: Running) -> None:
    for text in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    ):
        messages = [{"role": "user", "content": text}]
        ids = server.post("/tokenize", messages=messages).json()["tokens"]
        assert text in server.post("/detokenize", tokens=ids).json()["prompt"]
        assert server.post(CHAT, messages=messages, max_tokens=2).status_code == 200


def test_messages_with_wrong_parts_are_refused(server: Running) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[" * 9000}}
    for messages in (
        [{"role": "assistant"}],
        [{"role": "tool", "content": None}],
        [{"role": "user", "content": {"a": 1}}],
        [{"role": "user", "content": "a" * 200_000}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": ["user"], "content": "a"}],
        [1],
        "hello",
    ):
        got = server.post(CHAT, messages=messages, max_tokens=2)
        assert got.status_code == 400, (messages, got.text)
    assert server.post(
        CHAT, messages=[*HELLO, {"role": "assistant", "tool_calls": [call]}, *HELLO], max_tokens=2
    ).status_code in (200, 400)
    names = {"enable_thinking": [[]], "messages": []}
    assert server.post(CHAT, messages=HELLO, max_tokens=2, chat_template_kwargs=names).status_code == 400
    assert (
        server.post(CHAT, messages=HELLO, max_tokens=2, chat_template_kwargs={"x": "{{ 1 }}"}).status_code
        == 200
    )


def test_a_client_that_reads_nothing_is_let_go(server: Running) -> None:
    body = json.dumps(
        {
            "model": "endless",
            "prompt": "a",
            "max_tokens": 4000,
            "n": 8,
            "logprobs": 20,
            "stream": True,
            "user": "lazy",
        }
    ).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(server.address)
        connection.sendall(post(TEXT, body))
        until(lambda: '"user": "lazy"' in server.log)
    line = json.loads(next(line for line in server.log.splitlines() if '"user": "lazy"' in line))
    assert line["gone"]
    until(lambda: server.gauge("running", "endless") == 0)


def test_many_requests_down_one_connection_are_answered_in_order(server: Running) -> None:
    bodies = [json.dumps({"prompt": "a", "max_tokens": 1, "seed": n}).encode() for n in range(50)]
    data = b"".join(post(TEXT, body).replace(b"Connection: close\r\n", b"") for body in bodies[:-1]) + post(
        TEXT, bodies[-1]
    )
    assert raw(server, data, wait=30).count(b"HTTP/1.1 200") == 50


ASKED = b'{"prompt": "a", "max_tokens": 2}'
UPGRADES = {
    "Java's HTTP client": (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    ),
    "a socket": (
        "Connection: upgrade",
        "uPGRADE: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==",
        "Sec-WebSocket-Version: 13",
    ),
    "TLS": ("Connection: Upgrade", "Upgrade:TLS/1.3"),
}


def whole_answers(connection: socket.socket, count: int) -> list[bytes]:
    """The bodies of so many answers that come on a connection which stays open."""
    file, found = connection.makefile("rb"), []
    for _ in range(count):
        head = b"".join(iter(file.readline, b"\r\n"))
        assert head.startswith(b"HTTP/1.1 200"), head
        found.append(file.read(int(head.lower().partition(b"content-length:")[2].split()[0])))
    return found


@pytest.mark.parametrize("pieces", ["whole", "byte by byte", "line by line"])
@pytest.mark.parametrize("name", UPGRADES)
def test_another_protocol_that_is_offered_is_passed_over(server: Running, name: str, pieces: str) -> None:
    """RFC 9110, 7.8: a server may ignore Upgrade. The request counts, with its body, and the connection goes
    on as it was."""
    lines = [
        "POST /v1/completions HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(ASKED)}",
    ]
    request = "\r\n".join([*lines, *UPGRADES[name], "", ""]).encode() + ASKED
    parts = {
        "whole": [request],
        "byte by byte": [bytes([each]) for each in request],
        "line by line": request.splitlines(keepends=True),
    }
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for turn in range(2):
            for part in parts[pieces]:
                connection.sendall(part)
            (answer,) = whole_answers(connection, 1)
            assert json.loads(answer)["choices"], turn


@pytest.mark.parametrize("packed", ["gzip", "br", "deflate, gzip"])
def test_a_packed_body_is_refused_by_the_name_of_its_packing(server: Running, packed: str) -> None:
    answer = raw(server, post(TEXT, ASKED, f"Content-Encoding: {packed}"))
    assert answer.startswith(b"HTTP/1.1 415")
    assert packed.encode() in answer
    assert raw(server, post(TEXT, ASKED, "Content-Encoding: identity")).startswith(b"HTTP/1.1 200")


def test_a_length_with_thousands_of_zeros_is_a_length(server: Running) -> None:
    request = post(TEXT, ASKED).replace(b"Content-Length: ", b"Content-Length: " + b"0" * 5000)
    assert raw(server, request).startswith(b"HTTP/1.1 200")
