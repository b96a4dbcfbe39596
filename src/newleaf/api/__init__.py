"""What `import newleaf` hands out: models that write, and runs that made them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from newleaf.api.evaluating import evaluate
    from newleaf.api.model import Model
    from newleaf.api.opening import load
    from newleaf.api.run import Run
    from newleaf.api.training import finetune, pretrain, resume

HOMES = {
    "Model": "model", "Run": "run", "evaluate": "evaluating", "finetune": "training", "load": "opening",
    "pretrain": "training", "resume": "training",
}  # fmt: skip

__all__ = ["Model", "Run", "evaluate", "finetune", "load", "pretrain", "resume"]


def __getattr__(name: str) -> Any:
    """Who trains need not wait for what evaluates: each is imported when it is first asked for."""
    if name in HOMES:
        return getattr(import_module(f"newleaf.api.{HOMES[name]}"), name)
    raise AttributeError(f"module 'newleaf.api' has no attribute {name!r}")
