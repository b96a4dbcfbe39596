"""Rendering templates within limits of time and memory, in a process that is started for it and ended when it
takes too long."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from newleaf.errors import InputError

SECONDS = 10.0
START_SECONDS = 60.0
PROGRAM = Path(__file__).with_name("template_process.py")


class TemplateSandbox:
    """Renders Jinja templates. One process, started at the first rendering; renderings take turns, so threads
    may share a sandbox.

    Output is limited to 2²⁴ characters everywhere, and memory to 1 GB where the system has such limits
    (Linux; Windows has none).
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """The text of a template. Raises InputError as `render_marked` does."""
        return self.render_marked(source, variables)[0]

    def render_marked(self, source: str, variables: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
        """The text of a template, and where in it `{% generation %}` blocks begin and end.

        Raises InputError, in one line, when the template is invalid (naming its line), refuses the messages
        (in its own words), fails, or goes beyond the limits.
        """
        request = json.dumps({"source": source, "variables": dict(variables), "seconds": self.seconds})
        with self._lock:
            line = self._ask(request)
        if line is None:
            raise InputError(
                f"the chat template was still running after {self.seconds:g} seconds, so it was stopped"
            )
        if not line:
            raise InputError("the chat template brought down the process that renders it")
        reply: dict[str, Any] = json.loads(line)
        if "text" not in reply:
            raise InputError(_sentence(reply))
        return str(reply["text"]), [(start, end) for start, end in reply["spans"]]

    def close(self) -> None:
        """End the process; the next rendering starts another."""
        if self._process is not None:
            self._finalizer()
            self._process = None

    def _ask(self, request: str) -> str | None:
        """The reply, None when there was none in time, or an empty one from a process that ended."""
        process = self._started()
        line = _reply(process, request, self.seconds)
        if not line:
            self.close()
        return line

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            # A session of its own keeps Ctrl-C away until the process can see to that itself; -P keeps our
            # folder off its path.
            command = [sys.executable, "-P", str(PROGRAM)]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8", start_new_session=True
            )
            self._finalizer = weakref.finalize(self, _end, self._process)
            if not _reply(self._process, None, START_SECONDS):
                self.close()
                raise InputError(
                    "the process that renders chat templates did not start; is jinja2 installed?"
                )
        return self._process


def _reply(process: subprocess.Popen[str], request: str | None, seconds: float) -> str | None:
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        if request is not None:
            process.stdin.write(request + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        line = ""
    except BaseException:  # Ctrl-C: a reply that nobody reads would be taken for the next one's
        process.kill()
        raise
    finally:
        timer.cancel()
    return None if late.is_set() and not line else line


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was still to be written has nowhere to go
                stream.close()


def _sentence(reply: Mapping[str, Any]) -> str:
    message = " ".join(str(reply["message"]).split())
    place = f", line {reply['line']}" if reply.get("line") else ""
    match reply["problem"]:
        case "refused":
            return f"the chat template does not take this conversation: {message}"
        case "syntax":
            return f"the chat template is not valid{place}: {message}"
        case "size" | "memory":
            return f"the chat template makes {message}, so it was stopped"
        case _:
            return f"the chat template fails{place}: {message}"
