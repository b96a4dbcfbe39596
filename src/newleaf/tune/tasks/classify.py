"""One text, a label or several."""

from __future__ import annotations

from newleaf.tune.labels.config import GPT1, ROWS, LabelTaskConfig
from newleaf.tune.labels.course import open_labels
from newleaf.tune.task import Task

TASK = Task(LabelTaskConfig, open_labels("classify"), GPT1, ROWS)
