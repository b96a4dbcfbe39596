"""The log: a JSON object on a line for each request and each event of the server."""

from __future__ import annotations

import datetime
import json
import sys
import threading
from typing import Any, TextIO


class Logs:
    """Writes lines to `stream` (None: nowhere)."""

    def __init__(self, stream: TextIO | None = sys.stderr) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, event: str, **fields: Any) -> None:
        """Fields that are None are left out."""
        if self._stream is None:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        given = {name: value for name, value in fields.items() if value is not None}
        line = json.dumps({"time": now, "event": event, **given}, default=str)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()
