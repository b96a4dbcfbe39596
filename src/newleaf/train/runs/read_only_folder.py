"""A run's folder as the processes that do not write it have it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from newleaf.train.runs.metrics_file import MetricsFile
from newleaf.train.runs.run_folder import RunFolder


class ReadOnlyMetricsFile(MetricsFile):
    """metrics.jsonl can be read, and is written by another process."""

    def start(self) -> None: ...

    def append(self, values: dict[str, Any]) -> None: ...

    def rewind(self, size: int | None, step: int, crc32: int | None = None) -> None: ...


class ReadOnlyRunFolder(RunFolder):
    """Everything may be asked of it, and what would be written is left to the first process."""

    def __init__(self, path: Any) -> None:
        super().__init__(path)
        self.metrics = ReadOnlyMetricsFile(self.metrics.path)

    def check_free(self, overwrite: bool) -> None: ...

    def begin(self, config: dict[str, Any]) -> None: ...

    def extend(self, config: dict[str, Any]) -> None: ...

    def sweep(self) -> None: ...

    def set_best_aside(self) -> None: ...

    def restore_best(self) -> None: ...

    def write_summary(self, summary: dict[str, Any]) -> None: ...

    def write_plot(self, title: str, clock: Callable[[], float] = time.monotonic) -> float:
        return 0.0
