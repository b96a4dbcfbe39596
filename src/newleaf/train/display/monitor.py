"""What people see while a run goes on: a live display in a terminal or notebook, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from newleaf.text.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from newleaf.train.loop.loop import Step


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


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None: ...

    def stage(self, name: str, done: int, total: int | None) -> None: ...

    def machine(self, flops_per_token: float, matrix_speed: float) -> None: ...

    def step(self, step: Step, seconds_left: float | None) -> None: ...

    def validation(self, step: int, value: float, words: str) -> None: ...

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

    def machine(self, flops_per_token: float, matrix_speed: float) -> None:
        self.rate.machine(flops_per_token, matrix_speed)

    def step(self, step: Step, seconds_left: float | None) -> None:
        self.rate.add(step)
        if self._due():
            facts = [f"step {step.number}", f"{100 * step.progress:3.0f} %", f"loss {step.loss:.3f}", *self.rate.facts()]
            self.say("  ".join([*facts, f"{duration(seconds_left)} left"] if seconds_left is not None else facts))

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


class Rate:
    """Tokens per second over the last steps, and the share of the machine's matrix speed that they are."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int]] = []
        self.peak_tokens = 0.0  # tokens a second if matrix products were all that training is

    def machine(self, flops_per_token: float, matrix_speed: float) -> None:
        self.peak_tokens = matrix_speed / max(flops_per_token, 1.0)

    def add(self, step: Step) -> None:
        if self.points and (step.seconds < self.points[-1][0] or step.tokens < self.points[-1][1]):
            self.points = []  # another run, or one that went back to a checkpoint: what it did before is no part of its speed
        self.points = [*self.points[-30:], (step.seconds, step.tokens)]

    def facts(self) -> list[str]:
        """`11,200 tokens/s` and `MFU 31 %` (model FLOPs utilisation; Chowdhery et al. 2022, appendix B), as far as they are known."""
        if len(self.points) < 2 or self.points[-1][0] <= self.points[0][0]:  # a clock may be too coarse for a step
            return []
        (first, before), (last, after) = self.points[0], self.points[-1]
        speed = (after - before) / (last - first)
        return [f"{speed:,.0f} tokens/s", *([f"MFU {100 * speed / self.peak_tokens:.0f} %"] if self.peak_tokens else [])]


class Live:
    """A bar that moves, the loss, the last sample: drawn in place by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.console = Console(stderr=True)
        self.rate = Rate()
        self.status = ""
        self.progress: float | None = None
        self.left: float | None = None
        self.validated: str | None = None
        self.last_sample: tuple[int, str, str] | None = None
        self.live = RichLive(console=self.console, refresh_per_second=4, transient=True, get_renderable=self._draw)
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
        bar = ProgressBar(total=1.0, completed=self.progress or 0.0, width=max(4, min(30, room)), pulse=self.progress is None)
        row.add_row(bar, f"{100 * self.progress:3.0f} %" if self.progress is not None else "", self.status)
        facts = self.rate.facts()
        if self.left is not None:
            facts.append(f"{duration(self.left)} left")
        if self.validated is not None:
            facts.append(self.validated)
        parts: list[RenderableType] = [row, *(Text(line, style="dim") for line in packed(facts, width))]
        if self.last_sample is not None:
            number, prompt, text = self.last_sample
            body = Text.assemble((printable(prompt), "bold"), printable(text.rstrip()))
            body.truncate(6 * max(20, self.console.width - 4), overflow="ellipsis")
            shown = Text("\n").join(body.split("\n")[:6])
            parts.append(Panel(shown, title=f"written at step {number}", title_align="left", border_style="dim"))
        return Group(*parts)


def packed(facts: list[str], width: int) -> list[str]:
    """Facts in as few lines of at most `width` characters as they fit in; none is broken."""
    lines: list[str] = []
    for fact in facts:
        joined = f"{lines[-1]}  ·  {fact}" if lines else fact
        lines[-1:] = [joined] if len(joined) <= width or not lines else [lines[-1], fact]
    return lines


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
    if in_notebook():
        from newleaf.train.display.notebook import Notebook

        return Notebook()
    return Live() if sys.stderr.isatty() else Lines()
