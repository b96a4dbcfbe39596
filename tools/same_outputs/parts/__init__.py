"""The parts of the check, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools.same_outputs.parts import converting, evaluating, families, pretraining, serving, tuning, writing
from tools.same_outputs.workplace import Workplace

Part = Callable[[Workplace], dict[str, Any]]

PARTS: dict[str, Part] = {
    "families": families.outputs,
    "writing": writing.outputs,
    "converting": converting.outputs,
    "pretraining": pretraining.outputs,
    "tuning": tuning.outputs,
    "evaluating": evaluating.outputs,
    "serving": serving.outputs,
}
