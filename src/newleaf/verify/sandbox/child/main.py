"""Entry point of the sandbox's child processes: apply the policies, then run the tests or the program.

Descriptors 0 and 1 are pipes to the other child process. Descriptor 2 is a pipe to newleaf: the test runner
writes its result there, and both processes end when newleaf closes it (the parent pipe).
"""

from __future__ import annotations

import json
import os
import sys

from . import program_runner, test_runner
from .channel import Channel
from .policies import apply_policies

TYPE_CHECKING = False  # typing takes longer to import than all of this; checkers know the name
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    options = json.loads(sys.argv[1])
    request: dict[str, Any] | None = None
    if "request" in options:
        # Deleted before the program gets its source: without a root file system of its own, it could find it.
        with open(options["request"], "rb") as file:
            request = json.load(file)
        os.unlink(options["request"])
    parent_pipe, result_pipe = os.dup(2), os.dup(2)
    channel = Channel(os.dup(0), os.dup(1))
    _redirect_standard_streams()
    os.chdir(options["folder"])
    sys.dont_write_bytecode = True
    os.environ.clear()
    seconds = float(options["seconds"])
    try:
        applied, unavailable = apply_policies(
            options["policies"],
            options["folder"],
            parent_pipe,
            int(options["memory"]),
            seconds,
            float(options["timeout"]),
        )
        sys.argv[:] = ["program"]
        if request is not None:
            test_runner.run(channel, result_pipe, seconds, request, applied, unavailable)
        os.close(result_pipe)
        program_runner.run(channel, applied, unavailable)
    except BaseException as error:
        if request is not None:  # only the test runner reports a result
            reason = f"the sandbox did not start: {type(error).__name__}: {error}"
            result = {"passed": False, "reason": reason, "policies": [], "unavailable": []}
            os.write(result_pipe, json.dumps(result).encode() + b"\n")
        os._exit(1)
    os._exit(0)


def _redirect_standard_streams() -> None:
    """Connect descriptors 0, 1 and 2 to the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
