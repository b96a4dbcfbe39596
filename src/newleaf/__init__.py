"""newleaf: the whole GPT line in one place. Train your own from a text file; open, and write with, the
others."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from newleaf.errors import InputError
from newleaf.version import VERSION as __version__

if TYPE_CHECKING:
    from newleaf import plan
    from newleaf.api import Model, Run, evaluate, finetune, load, pretrain, resume

__all__ = [
    "InputError",
    "Model",
    "Run",
    "__version__",
    "evaluate",
    "finetune",
    "load",
    "plan",
    "pretrain",
    "resume",
]


def __getattr__(name: str) -> Any:
    """PyTorch takes a second or two to import, so it waits for the first use."""
    if name == "plan":  # a room of its own: newleaf.plan.plan("gpt3-175b")
        return importlib.import_module("newleaf.plan")
    if name in __all__:
        from newleaf import api

        return getattr(api, name)
    raise AttributeError(f"module 'newleaf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
