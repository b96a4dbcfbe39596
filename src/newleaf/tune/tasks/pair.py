"""Two texts in a given order, a label."""

from __future__ import annotations

from newleaf.tune.labels.config import GPT1, ROWS, LabelTaskConfig
from newleaf.tune.labels.course import open_labels
from newleaf.tune.task import Task

TASK = Task(LabelTaskConfig, open_labels("pair"), GPT1, ROWS)
