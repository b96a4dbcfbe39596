"""Two texts in either order, a label: both orders are read, and what comes of them is added."""

from __future__ import annotations

from newleaf.tune.labels.config import GPT1, ROWS, LabelTaskConfig
from newleaf.tune.labels.course import open_labels
from newleaf.tune.task import Task

TASK = Task(LabelTaskConfig, open_labels("similarity"), GPT1, ROWS)
