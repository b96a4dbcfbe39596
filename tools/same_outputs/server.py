"""`newleaf serve` in a process of its own, and what it answers, without what is a request's own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tools.same_outputs.digest import kept
from tools.same_outputs.workplace import Workplace, environment, newleaf

STARTING, ANSWERING, ENDING = 120, 120, 60  # seconds that each may take


@contextmanager
def served(work: Workplace, *words: object) -> Iterator[str]:
    """The address of a server on a free port, which ends with the block."""
    state = work.place("state")
    command = newleaf(
        "serve", *words, "--port", 0, "--threads", work.threads, "--log", "off", "--state", state
    )
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(work.threads)
    )
    late = threading.Timer(STARTING, process.kill)
    late.start()
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        found = re.search(r"http://[\d.:]+", process.stdout.readline())
        late.cancel()
        if found is None:
            process.kill()
            raise RuntimeError(f"newleaf serve did not start: {process.stderr.read()[-2000:]}")
        yield found[0]
        process.send_signal(signal.SIGTERM)
        process.wait(ENDING)
    finally:
        late.cancel()
        process.kill()
        process.communicate()


def answer(address: str, path: str, body: dict[str, Any]) -> Any:
    """The answer's JSON; of a stream its events, put together. An error is its status alone, since messages
    are for people."""
    content = json.dumps(body).encode()
    request = urllib.request.Request(address + path, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWERING) as response:
            whole = response.read().decode()
    except urllib.error.HTTPError as error:
        return {"status": error.code}
    return put_together(whole) if body.get("stream") else kept(json.loads(whole))


def put_together(stream: str) -> dict[str, Any]:
    """How a stream's text is cut into events depends on how many tokens a round gave, so texts are joined;
    what else there is (roles, ends, usage, calls, kinds of events) stays."""
    found: dict[str, Any] = {"texts": {}, "ends": [], "kinds": [], "other": []}
    for line in stream.splitlines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line.removeprefix("data: "))
        kind = event.get("type")
        if kind is not None:
            _take_response(found, kind, event)
        for choice in event.get("choices", ()):
            _take_choice(found, choice)
        if event.get("usage"):
            found["other"].append(kept(event["usage"]))
    return found


def _take_choice(found: dict[str, Any], choice: dict[str, Any]) -> None:
    delta, index = choice.get("delta", {}), str(choice["index"])
    text = choice.get("text") or delta.get("content") or ""
    found["texts"][index] = found["texts"].get(index, "") + text
    found["other"] += [
        kept({"index": index, name: delta[name]}) for name in ("reasoning", "tool_calls") if delta.get(name)
    ]
    if choice.get("finish_reason"):
        found["ends"].append([index, choice["finish_reason"]])


def _take_response(found: dict[str, Any], kind: str, event: dict[str, Any]) -> None:
    if kind.endswith(".delta"):
        found["texts"][kind] = found["texts"].get(kind, "") + event["delta"]
    if kind not in found["kinds"]:
        found["kinds"].append(kind)
    if kind in ("response.completed", "response.incomplete"):
        found["other"].append(kept(event["response"]))
