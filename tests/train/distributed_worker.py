"""What torchrun starts in the tests: the runs that a JSON file lists, one after the other, some of them
stopped or killed on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import newleaf
from newleaf.train.distributed.process_group import init_process_group
from newleaf.train.loop.session import Session
from newleaf.train.objective.training_step import Step


def take(job: dict[str, Any]) -> None:
    """`out` with `options` from `source`, or a `copy` of a stopped run resumed.

    It is stopped after step `stop_at`; at the first start its last process is killed after `kill_at`; each
    step waits `slow` seconds.
    """
    if "copy" in job:
        together(lambda: shutil.copytree(job["copy"], job["out"]))
    asked, told = Session.stop_requested, Session.step

    def stop_requested(self: Session) -> bool:
        return asked(self) or self.state.step >= job.get("stop_at", 1 << 30)

    def step(self: Session, done: Step) -> None:
        told(self, done)
        time.sleep(job.get("slow", 0))
        last = os.environ.get("RANK") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
        if done.number == job.get("kill_at") and last and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)

    Session.stop_requested, Session.step = stop_requested, step  # type: ignore[method-assign]
    try:
        if "copy" in job:
            newleaf.resume(job["out"], quiet=True)
        else:
            newleaf.pretrain(job["source"], out=job["out"], quiet=True, **job["options"])
    finally:
        Session.stop_requested, Session.step = asked, told  # type: ignore[method-assign]


def together(work: Callable[[], object]) -> None:
    """Once, for all processes."""
    if os.environ.get("RANK", "0") == "0":
        work()
    if "RANK" in os.environ:
        import torch.distributed as dist

        dist.barrier()


def main() -> None:
    if "RANK" in os.environ:
        init_process_group("gloo")
    for job in json.loads(Path(sys.argv[1]).read_text("utf-8")):
        take(job)


if __name__ == "__main__":
    main()
