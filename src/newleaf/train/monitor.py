"""What people see while a run goes on: a live display in a terminal or notebook, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from newleaf.text.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from newleaf.train.loop import Step


class Monitor(Protocol):
    """Hears what happens. Every method may be called at any time before `close`."""

    def say(self, text: str) -> None:
        """A sentence for people."""

    def stage(self, name: str, done: int, total: int | None) -> None:
        """Progress of something before training: `done` of `total` bytes or items (None: not known)."""

    def step(self, step: Step, seconds_left: float | None) -> None:
        """A training step is done."""

    def validation(self, step: int, bits_per_byte: float) -> None: ...

    def sample(self, step: int, prompt: str, text: str) -> None: ...

    def close(self) -> None: ...


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None: ...

    def stage(self, name: str, done: int, total: int | None) -> None: ...

    def step(self, step: Step, seconds_left: float | None) -> None: ...

    def validation(self, step: int, bits_per_byte: float) -> None: ...

    def sample(self, step: int, prompt: str, text: str) -> None: ...

    def close(self) -> None: ...


class Lines:
    """Plain lines, for logs and pipes: one every few seconds, fewer as the run gets longer."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr
        self.next_line = 0.0
        self.rate = Rate()
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def stage(self, name: str, done: int, total: int | None) -> None:
        if self._due() and total:
            self.say(f"{name}: {100 * done / total:.0f} %")

    def step(self, step: Step, seconds_left: float | None) -> None:
        self.rate.add(step)
        if self._due():
            left = f", {duration(seconds_left)} left" if seconds_left is not None else ""
            self.say(f"step {step.number}  {100 * step.progress:3.0f} %  loss {step.loss:.3f}  {self.rate.text()}{left}")

    def validation(self, step: int, bits_per_byte: float) -> None:
        self.say(f"step {step}  validation {bits_per_byte:.3f} bits per byte")

    def sample(self, step: int, prompt: str, text: str) -> None:
        self.say("  | " + printable(prompt + text).strip().replace("\n", "\n  | "))

    def close(self) -> None: ...

    def _due(self) -> bool:
        now = time.monotonic()
        if now < self.next_line:
            return False
        self.next_line = now + max(2.0, (now - self.begun) / 20)
        return True


class Rate:
    """Tokens per second over the last steps."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int]] = []

    def add(self, step: Step) -> None:
        self.points = [*self.points[-30:], (step.seconds, step.tokens)]

    def text(self) -> str:
        if len(self.points) < 2:
            return ""
        (first, before), (last, after) = self.points[0], self.points[-1]
        return f"{(after - before) / max(last - first, 1e-9):,.0f} tokens/s"


class Live:
    """A bar that moves, the loss, the last sample: drawn in place by rich, in a terminal or a notebook."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.console = Console(stderr=True)
        self.rate = Rate()
        self.status = ""
        self.progress: float | None = None
        self.left: float | None = None
        self.validated: float | None = None
        self.last_sample: tuple[int, str, str] | None = None
        self.live = RichLive(console=self.console, refresh_per_second=4, transient=True, get_renderable=self._draw)
        self.live.start()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def stage(self, name: str, done: int, total: int | None) -> None:
        self.status = name
        self.progress = min(1.0, done / total) if total else None

    def step(self, step: Step, seconds_left: float | None) -> None:
        self.rate.add(step)
        self.progress, self.left = step.progress, seconds_left
        self.status = f"step {step.number}  loss {step.loss:.3f}"

    def validation(self, step: int, bits_per_byte: float) -> None:
        self.validated = bits_per_byte

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

        wide = self.console.width >= 80
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=self.progress or 0.0, width=30 if wide else 12, pulse=self.progress is None)
        row.add_row(bar, f"{100 * self.progress:3.0f} %" if self.progress is not None else "", self.status)
        facts = [self.rate.text()] if wide else []
        if self.validated is not None:
            facts.append(f"validation {self.validated:.3f} bits per byte")
        if self.left is not None:
            facts.append(f"{duration(self.left)} left")
        parts: list[RenderableType] = [row, Text("  ·  ".join(fact for fact in facts if fact), style="dim")]
        if self.last_sample is not None:
            number, prompt, text = self.last_sample
            body = Text.assemble((printable(prompt), "bold"), printable(text.rstrip()))
            body.truncate(6 * max(20, self.console.width - 4), overflow="ellipsis")
            shown = Text("\n").join(body.split("\n")[:6])
            parts.append(Panel(shown, title=f"written at step {number}", title_align="left", border_style="dim"))
        return Group(*parts)


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 3:05, 1:02:10."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


def pick_monitor() -> Monitor:
    """Live where it can be seen, lines elsewhere."""
    return Live() if in_notebook() or sys.stderr.isatty() else Lines()
