"""Servers for tests: the command itself, with tiny chat models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from chat_folders import make_chat_model
from server_process import Running, Start


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny chat models with random weights. `endless` hardly ever ends its turn."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("chatml", "qwen3", "llama3", "harmony", "mistral"):
        make_chat_model(folder / kind, kind)
    make_chat_model(
        folder / "endless",
        "chatml",
        bias={"<|im_end|>": -100.0, "<|endoftext|>": -100.0, "<|im_start|>": -100.0},
    )
    return folder


@pytest.fixture(scope="session")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One with all models, for tests that leave it as it was."""
    names = ("chatml", "qwen3", "llama3", "harmony", "mistral", "endless")
    running = Running([models / name for name in names], tmp_path_factory.mktemp("home"))
    yield running
    assert running.end() == 0, running.log


@pytest.fixture(scope="session")
def client(server: Running) -> openai.OpenAI:
    return server.client()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers that end with the test."""
    started: list[Running] = []

    def begin(*words: Any, program: Sequence[str] = ("-m", "newleaf")) -> Running:
        started.append(Running(list(words), tmp_path / "home", program))
        return started[-1]

    yield begin
    for running in started:
        running.process.kill()
        running.process.wait()
