"""A text and several continuations: each is scored, and the highest is the choice."""

from __future__ import annotations

from newleaf.tune.labels.label_config import GPT1, ROWS, LabelTaskConfig
from newleaf.tune.labels.label_objective import open_labels
from newleaf.tune.tuning_task import Task

TASK = Task(LabelTaskConfig, open_labels("choice"), GPT1, ROWS)
