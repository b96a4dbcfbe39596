"""What a task is: its recipe, what its recipe has by default, and how it opens its objective.

And the tasks by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from newleaf.errors import InputError
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.objective.objective import Objective
from newleaf.tune.base_model import Base
from newleaf.tune.hyperparameters import TaskDefaults
from newleaf.tune.task_names import TASKS
from newleaf.tune.tune_config import TuneConfig

# What most fine-tuning wants: rates that are warmed up a little and let down to nothing. Which rates, the
# dial says.
USUAL: dict[str, Any] = {
    "train": {"schedule": {"warmup": 0.06, "decay": 0.94}, "eval_windows": 2000, "prompts": ()}
}


@dataclass(frozen=True)
class Task:
    """`open(config, base, monitor, ranks)` reads the data, checks it against the base, and returns the
    objective.

    `defaults` are laid under a recipe, `usual` is what the dial begins from; `epochs` is the length of a run
    whose recipe gives none.
    """

    config: type[TuneConfig]
    open: Callable[[Any, Base, Monitor, Ranks], Objective]
    defaults: Mapping[str, Any]
    usual: TaskDefaults
    epochs: float = 3.0


def task_named(name: str) -> Task:
    """The task. Raises InputError, offering the nearest, for a name that is none."""
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        raise InputError(
            f"task: there is none named {name}; "
            + (f"did you mean {near[0]}?" if near else f"{', '.join(TASKS)} are there")
        )
    found = getattr(import_module(f"newleaf.tune.tasks.{name}"), "TASK", None)
    if not isinstance(found, Task):
        raise InputError(f"task: {name} has no objective")
    return found
