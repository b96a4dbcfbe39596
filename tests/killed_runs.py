"""Runs in processes of their own that can be killed at any point, and what must be equal afterwards.

The processes come from a fork server that has everything imported, so that a trial takes a fraction of a
second.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from newleaf.recipe import merge
from newleaf.train.display.monitor import SilentMonitor

OPTIONS: dict[str, Any] = {
    "steps": 24,
    "tokenizer": {"vocab_size": 300},
    "model": {
        "n_layer": 1, "n_embd": 32, "n_head": 1, "n_kv_head": 1, "head_dim": 32, "n_inner": 64,
        "context_length": 32,
        "residual_dropout": 0.1,
    },
    "train": {"batch_size": 4, "eval_every": 6, "eval_windows": 8, "sample": {"max_tokens": 3}},
}  # fmt: skip
# seconds for a trial, which takes one: only one that hangs takes so long, on a busy machine too
LONGEST = 600
TIMES = ("seconds", "train_seconds", "total_seconds", "tokens_per_second", "resumed_from_step")

Context = multiprocessing.get_context("forkserver") if hasattr(os, "fork") else None


def options(**more: Any) -> dict[str, Any]:
    """OPTIONS with others laid over them."""
    return merge(OPTIONS, more)


class RecordingMonitor(SilentMonitor):
    """A monitor that remembers the sentences."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def about(self, word: str) -> list[str]:
        return [text for text in self.said if word in text]


def server() -> Any:
    if Context is None:
        pytest.skip("needs fork")
    Context.set_forkserver_preload(
        [
            "newleaf.api",
            "newleaf.train.runs.loss_plot",
            "torch._dynamo",
            "matplotlib.backends.backend_agg",
            "pytest",
        ]
    )
    return Context


def start(
    source: Path, out: Path, options: dict[str, Any], before: Callable[..., None] | None = None, *args: Any
) -> BaseProcess:
    """A process that begins the run (of fine-tuning where the options name a task), or goes on with it where
    there is one; `before(*args)` is called in it first."""
    process = server().Process(target=_train, args=(source, out, options, dict(os.environ), before, args))
    process.start()
    return process  # type: ignore[no-any-return]


def _train(
    source: Path,
    out: Path,
    options: dict[str, Any],
    environment: dict[str, str],
    before: Callable[..., None] | None,
    args: tuple[Any, ...],
) -> None:
    os.environ |= environment
    import newleaf
    from newleaf.errors import Stopped

    if before is not None:
        before(*args)
    try:
        if (out / "run.yaml").exists():
            newleaf.resume(out, quiet=True)
        elif "task" in options:
            newleaf.finetune(
                options["model"],
                source,
                out=out,
                quiet=True,
                **{key: options[key] for key in options if key != "model"},
            )
        else:
            newleaf.pretrain(source, out=out, quiet=True, **options)
    except Stopped:
        pass


def finish(source: Path, out: Path, options: dict[str, Any]) -> None:
    process = start(source, out, options)
    process.join(LONGEST)
    assert process.exitcode == 0


def kill(process: BaseProcess, after: float = 0.0) -> bool:
    """Kill -9 after so many seconds; False when the run was faster."""
    process.join(after)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def kill_at(call: int) -> None:
    """In the process itself: kill -9 just before the n-th time it flushes, renames, truncates or removes
    something."""
    import shutil

    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return wrapped

    os.fsync = counted(os.fsync)  # type: ignore[assignment]
    shutil.rmtree = counted(shutil.rmtree)  # type: ignore[assignment]
    for name in ("rename", "replace", "unlink", "mkdir", "write_text"):
        setattr(Path, name, counted(getattr(Path, name)))


def outcome(run: Path) -> dict[str, Any]:
    """Everything a run leaves, times and speeds apart: metrics, summary, weights and optimizer state, to the
    bit."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    return {
        "metrics": [{name: value for name, value in line.items() if name not in TIMES} for line in lines],
        "summary": {name: value for name, value in summary.items() if name not in TIMES},
        "weights": [
            path.read_bytes()
            for name in ("model", "adapter")
            for path in sorted((run / name).glob("*.safetensors"))
        ],
        "state": (max((run / "state").glob("step-*")) / "optimizer.safetensors").read_bytes(),
        "files": sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.name != ".lock"),
    }


def wait_for(run: Path, step: int, process: BaseProcess) -> None:
    """Until metrics.jsonl has this step, or the process has ended."""
    metrics, end = run / "metrics.jsonl", time.monotonic() + LONGEST
    while process.is_alive() and not (metrics.exists() and f'"step": {step},' in metrics.read_text("utf-8")):
        assert time.monotonic() < end
        time.sleep(0.002)
