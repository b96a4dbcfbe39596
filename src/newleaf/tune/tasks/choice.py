"""A text and several continuations: each is scored, and the highest is the choice."""

from __future__ import annotations

from newleaf.tune.labels.config import GPT1, ROWS, LabelTaskConfig
from newleaf.tune.labels.course import open_labels
from newleaf.tune.task import Task

TASK = Task(LabelTaskConfig, open_labels("choice"), GPT1, ROWS)
