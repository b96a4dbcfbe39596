"""Data that lies beside the checkout; tests that need it are skipped where it does not."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data is not beside the checkout")
    return folder
