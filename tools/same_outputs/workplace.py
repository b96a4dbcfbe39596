"""Where a check works: a temporary folder, a number of threads, models made once, and the newleaf command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT = 600  # seconds that one command may take


@dataclass(frozen=True)
class Workplace:
    """`folder` is temporary; `threads` is what every model and command is given."""

    folder: Path
    threads: int
    made: dict[str, Path] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """The file or folder of this name, made when it is first asked for."""
        if name not in self.made:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
            self.made[name] = path
        return self.made[name]

    def place(self, name: str) -> Path:
        """A path in the folder that nothing stands at."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def command(self, *words: object) -> str:
        """What `newleaf WORDS` prints. Raises RuntimeError, with its last lines, when it fails."""
        done = subprocess.run(
            newleaf(*words),
            capture_output=True,
            text=True,
            env=environment(self.threads),
            timeout=TIMEOUT,
            cwd=self.folder,
        )
        if done.returncode:
            raise RuntimeError(
                f"newleaf {' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr[-2000:]}"
            )
        return done.stdout

    def json(self, *words: object) -> Any:
        """The same, read as JSON."""
        return json.loads(self.command(*words))


def newleaf(*words: object) -> list[str]:
    """The command, of the package that this Python imports."""
    return [sys.executable, "-m", "newleaf", *map(str, words)]


def environment(threads: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
