"""What memory a process takes, and the most it has taken, by Linux' own counts. Imports nothing large."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY = 0.02  # seconds between looks
SHARE_EVERY = 25  # looks: the system walks through all pages for it
STATUS = {"own": "RssAnon", "all": "VmRSS"}


class Watch:
    """Bytes at their most so far: `own`, which no file stands behind; `all` that is resident; `share`, the
    proportional set size, in which a page that several processes map counts in parts."""

    def __init__(self) -> None:
        self.most = {"own": 0, "all": 0, "share": 0}
        self.done = False

    def look(self, share: bool = True) -> dict[str, int]:
        found = {name: _kilobytes("/proc/self/status", field) for name, field in STATUS.items()}
        if share:
            found["share"] = _kilobytes("/proc/self/smaps_rollup", "Pss")
        self.most |= {name: max(self.most[name], 1024 * size) for name, size in found.items()}
        return dict(self.most)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Looks now and again, from a thread of its own."""

        def watch() -> None:
            number = 0
            while not self.done:
                self.look(share=number % SHARE_EVERY == 0)
                number += 1
                time.sleep(EVERY)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.done = True
            thread.join()


def _kilobytes(file: str, field: str) -> int:
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1])
