"""Opening files in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def vocabulary_of() -> Iterator[Callable[[Path], Any]]:
    """Opens the tokenizer of a GGUF file in llama.cpp, without the weights."""
    peer = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python, which compiles llama.cpp")
    opened: list[Any] = []

    def open_file(path: Path) -> Any:
        opened.append(peer.Llama(str(path), vocab_only=True, verbose=False))
        return opened[-1]

    yield open_file
    for model in opened:
        model.close()
