"""How far a run has come: the counters and best metrics that are saved, restored and rewound together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from newleaf.train.objective.objective import ValidationMetrics

# A field's key in a checkpoint's state.json, which every release reads.
KEYS = {
    "step": "step",
    "tokens": "tokens",
    "seconds": "train_seconds",
    "total_seconds": "total_seconds",
    "progress": "progress",
    "best": "best",
    "lowest": "lowest",
    "unsaved": "unwritten",
    "validations_without_gain": "checks_without_gain",
    "validation_pending": "check_pending",
}
ADDED_LATER = ("lowest", "unsaved")  # missing in the checkpoints of older releases


@dataclass
class RunState:
    """Everything of a run that changes while it trains, but for tensors and the parts' own counters."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # spent in training steps
    total_seconds: float = 0.0  # of the command, up to the last checkpoint of an earlier process
    progress: float = 0.0  # the share of the schedule that was done after the last step
    best: ValidationMetrics | None = None  # of the weights in the model's folder, with their "step"
    lowest: ValidationMetrics | None = None  # of the best validation; not `best` where train.keep is "last"
    unsaved: ValidationMetrics | None = None  # of weights that a full disk keeps in memory
    validations_without_gain: int = 0
    validation_pending: bool = False  # the last step's validation is not done yet

    def state_dict(self) -> dict[str, Any]:
        """The values for a checkpoint, as JSON has them."""
        return {key: getattr(self, name) for name, key in KEYS.items()}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take the values of a checkpoint. Raises KeyError for one that is missing."""
        for name, key in KEYS.items():
            setattr(self, name, values.get(key) if name in ADDED_LATER else values[key])
        self.lowest = self.lowest or self.unsaved or self.best

    def rewind(self, earlier: RunState) -> None:
        """Train again from an earlier step.

        Time that was spent stays spent, and the best model stays best.
        """
        self.step, self.tokens, self.progress = earlier.step, earlier.tokens, earlier.progress
