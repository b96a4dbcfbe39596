"""Two texts in either order, a label: both orders are read, and what comes of them is added."""

from __future__ import annotations

from newleaf.tune.labels.label_config import GPT1, ROWS, LabelTaskConfig
from newleaf.tune.labels.label_objective import open_labels
from newleaf.tune.tuning_task import Task

TASK = Task(LabelTaskConfig, open_labels("similarity"), GPT1, ROWS)
