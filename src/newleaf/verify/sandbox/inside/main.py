"""Where the sandbox's processes begin: put up the walls, then be the judge or the program.

Descriptors 0 and 1 lead to the other of the two, 2 to newleaf: the judge says its verdict there, and for both
it is the life line.
"""

from __future__ import annotations

import json
import os
import sys

from . import judge, program
from .channel import Channel
from .walls import raise_walls

TYPE_CHECKING = False  # typing takes longer to import than all of this; checkers know the name
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    options = json.loads(sys.argv[1])
    request: dict[str, Any] | None = None
    if "request" in options:
        # Taken away before the program gets its source: without a tree of its own, it could look for it.
        with open(options["request"], "rb") as file:
            request = json.load(file)
        os.unlink(options["request"])
    life = os.dup(2)
    out = os.dup(2)
    channel = Channel(os.dup(0), os.dup(1))
    _put_away_standard_streams()
    os.chdir(options["folder"])
    sys.dont_write_bytecode = True
    os.environ.clear()
    try:
        walls, missing = raise_walls(
            options["walls"],
            options["folder"],
            life,
            int(options["memory"]),
            float(options["seconds"]),
            float(options["patience"]),
        )
        sys.argv[:] = ["program"]
        if request is not None:
            judge.run(channel, out, float(options["seconds"]), request, walls, missing)
        os.close(out)
        program.run(channel, walls, missing)
    except BaseException as error:
        if request is not None:  # nobody else is listened to
            reason = f"the sandbox did not start: {type(error).__name__}: {error}"
            os.write(
                out,
                json.dumps({"passed": False, "reason": reason, "walls": [], "missing": []}).encode() + b"\n",
            )
        os._exit(1)
    os._exit(0)


def _put_away_standard_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
