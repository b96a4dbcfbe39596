"""A server in a process of its own, as a person starts it, on a port that the system gives."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai


class Running:
    """A server in a process of its own; `program` are Python's words for the command."""

    def __init__(self, words: list[Any], home: Path, program: Sequence[str] = ("-m", "newleaf")) -> None:
        home.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "XDG_DATA_HOME": str(home / "data"), "OMP_NUM_THREADS": "1"}
        self.log_path = home / f"log-{time.monotonic_ns()}"
        command = [sys.executable, *program, "serve", "--port", "0", *map(str, words)]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True
            )
        self.url = self._address()

    def _address(self) -> str:
        assert self.process.stdout is not None
        timer = threading.Timer(120, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        found = re.search(r"http://[\d.:]+", line)
        assert found, (line, self.log)
        return found[0]

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    @property
    def log(self) -> str:
        return self.log_path.read_text("utf-8")

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60)

    def gauge(self, name: str, model: str) -> float:
        """What /metrics says of a model."""
        text = httpx.get(f"{self.url}/metrics").text
        found = re.search(rf'^newleaf_model_{name}{{model="{re.escape(model)}"}} (\S+)$', text, re.MULTILINE)
        assert found, text
        return float(found[1])

    def ask_to_end(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        if self.process.poll() is None:
            self.ask_to_end()
        return self.process.wait(60)


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for it; what it takes depends on the machine, whether it happens does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


Start = Callable[..., Running]
