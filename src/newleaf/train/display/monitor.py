"""What people see while a run goes on: a live display in a terminal or notebook, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from newleaf.text.terminal_text import printable
from newleaf.train.display.throughput import Throughput, format_duration, wrap_facts

if TYPE_CHECKING:
    from rich.console import RenderableType

    from newleaf.train.objective.training_step import Step


class Monitor(Protocol):
    """Hears what happens. Every method may be called at any time before `close`."""

    def say(self, text: str) -> None:
        """A sentence for people."""

    def stage(self, name: str, done: int, total: int | None) -> None:
        """Progress of something before training: `done` of `total` bytes or items (None: not known)."""

    def machine(self, flops_per_token: float, matrix_speed: float) -> None:
        """What training on a token takes, and the FLOP/s that this machine's matrix products reach."""

    def step(self, step: Step, seconds_left: float | None) -> None:
        """A training step is done."""

    def validation(self, step: int, value: float, words: str) -> None: ...

    def sample(self, step: int, prompt: str, text: str) -> None: ...

    def close(self) -> None: ...


class SilentMonitor:
    """Shows nothing."""

    def say(self, text: str) -> None: ...

    def stage(self, name: str, done: int, total: int | None) -> None: ...

    def machine(self, flops_per_token: float, matrix_speed: float) -> None: ...

    def step(self, step: Step, seconds_left: float | None) -> None: ...

    def validation(self, step: int, value: float, words: str) -> None: ...

    def sample(self, step: int, prompt: str, text: str) -> None: ...

    def close(self) -> None: ...


class LineMonitor:
    """Plain lines, for logs and pipes: one every few seconds, fewer as the run gets longer."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr
        self.next_line = 0.0
        self.rate = Throughput()
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def stage(self, name: str, done: int, total: int | None) -> None:
        if self._due() and total:
            self.say(f"{name}: {100 * done / total:.0f} %")

    def machine(self, flops_per_token: float, matrix_speed: float) -> None:
        self.rate.machine(flops_per_token, matrix_speed)

    def step(self, step: Step, seconds_left: float | None) -> None:
        self.rate.add(step)
        if self._due():
            facts = [
                f"step {step.number}",
                f"{100 * step.progress:3.0f} %",
                f"loss {step.loss:.3f}",
                *self.rate.facts(),
            ]
            self.say(
                "  ".join(
                    [*facts, f"{format_duration(seconds_left)} left"] if seconds_left is not None else facts
                )
            )

    def validation(self, step: int, value: float, words: str) -> None:
        self.say(f"step {step}  validation {value:.3f} {words}")

    def sample(self, step: int, prompt: str, text: str) -> None:
        self.say("  | " + printable(prompt + text).strip().replace("\n", "\n  | "))

    def close(self) -> None: ...

    def _due(self) -> bool:
        now = time.monotonic()
        if now < self.next_line:
            return False
        self.next_line = now + max(2.0, (now - self.begun) / 20)
        return True


class LiveMonitor:
    """A bar that moves, the loss, the last sample: drawn in place by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.console = Console(stderr=True)
        self.rate = Throughput()
        self.status = ""
        self.progress: float | None = None
        self.left: float | None = None
        self.validated: str | None = None
        self.last_sample: tuple[int, str, str] | None = None
        self.live = RichLive(
            console=self.console, refresh_per_second=4, transient=True, get_renderable=self._draw
        )
        self.live.start()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def stage(self, name: str, done: int, total: int | None) -> None:
        self.status = name
        self.progress = min(1.0, done / total) if total else None

    def machine(self, flops_per_token: float, matrix_speed: float) -> None:
        self.rate.machine(flops_per_token, matrix_speed)

    def step(self, step: Step, seconds_left: float | None) -> None:
        self.rate.add(step)
        self.progress, self.left = step.progress, seconds_left
        self.status = f"step {step.number}  loss {step.loss:.3f}"

    def validation(self, step: int, value: float, words: str) -> None:
        self.validated = f"validation {value:.3f} {words}"

    def sample(self, step: int, prompt: str, text: str) -> None:
        self.last_sample = (step, prompt, text)

    def close(self) -> None:
        self.live.stop()

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = self.console.width
        row = Table.grid(padding=(0, 1))
        for _ in range(3):
            row.add_column(no_wrap=True)
        room = width - len(self.status) - 8  # for the bar, beside the percentage and what is being done
        bar = ProgressBar(
            total=1.0,
            completed=self.progress or 0.0,
            width=max(4, min(30, room)),
            pulse=self.progress is None,
        )
        row.add_row(bar, f"{100 * self.progress:3.0f} %" if self.progress is not None else "", self.status)
        facts = self.rate.facts()
        if self.left is not None:
            facts.append(f"{format_duration(self.left)} left")
        if self.validated is not None:
            facts.append(self.validated)
        parts: list[RenderableType] = [row, *(Text(line, style="dim") for line in wrap_facts(facts, width))]
        if self.last_sample is not None:
            number, prompt, text = self.last_sample
            body = Text.assemble((printable(prompt), "bold"), printable(text.rstrip()))
            body.truncate(6 * max(20, self.console.width - 4), overflow="ellipsis")
            shown = Text("\n").join(body.split("\n")[:6])
            parts.append(
                Panel(shown, title=f"written at step {number}", title_align="left", border_style="dim")
            )
        return Group(*parts)


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


def pick_monitor() -> Monitor:
    """Live where it can be seen, lines elsewhere."""
    if in_notebook():
        from newleaf.train.display.notebook import NotebookMonitor

        return NotebookMonitor()
    return LiveMonitor() if sys.stderr.isatty() else LineMonitor()
