"""newleaf: train, fine-tune, generate with, serve and evaluate GPTs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from newleaf.errors import InputError
from newleaf.version import VERSION as __version__

if TYPE_CHECKING:
    from newleaf import plan
    from newleaf.api import Model, Run, evaluate, finetune, load, pretrain, resume
    from newleaf.generate.options import SamplingConfig, SamplingOptions

__all__ = [
    "InputError",
    "Model",
    "Run",
    "SamplingConfig",
    "SamplingOptions",
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
    if name == "plan":  # a module: newleaf.plan.plan("gpt3-175b")
        return importlib.import_module("newleaf.plan")
    if name in ("SamplingConfig", "SamplingOptions"):
        return getattr(importlib.import_module("newleaf.generate.options"), name)
    if name in __all__:
        from newleaf import api

        return getattr(api, name)
    raise AttributeError(f"module 'newleaf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
