"""What every test shares: a cache of its own, small texts, and the data beside the checkout where it is
there."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' models are too small for two
os.environ.pop("COLUMNS", None)  # pytest-xdist says 80, and tables would heed that

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("NEWLEAF_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """../shared/data; tests that need it are skipped without it."""
    if not (SHARED / "data").exists():
        pytest.skip("needs the shared data beside the checkout")
    return SHARED / "data"


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of about 60 kB with something to learn: the prose and code of Python's own argparse module."""
    import argparse

    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(Path(argparse.__file__).read_text("utf-8")[:60_000], "utf-8")
    return path
