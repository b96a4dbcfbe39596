"""What a notebook shows while a run goes on: a bar, the figures, both curves and the last sample, by
IPython's own display alone."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from newleaf.text.terminal_text import printable
from newleaf.train.display.throughput import Throughput, format_duration

if TYPE_CHECKING:
    from newleaf.train.objective.training_step import Step

EVERY = 1.0  # seconds between two drawings
POINTS = 300  # of a curve
WIDTH, HEIGHT, EDGE = 340, 130, 18


class NotebookMonitor:
    """Draws in place through a display handle; what is said stands above, line by line.

    `clock` is seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.rate = clock, Throughput()
        self.handle: Any = None
        self.drawn = -EVERY
        self.status = ""
        self.progress: float | None = None
        self.left: float | None = None
        self.losses: list[tuple[float, float]] = []
        self.checks: list[tuple[float, float]] = []
        self.words = ""
        self.last_sample: tuple[int, str, str] | None = None

    def say(self, text: str) -> None:
        print(text)

    def stage(self, name: str, done: int, total: int | None) -> None:
        self.status, self.progress = name, min(1.0, done / total) if total else None
        self._draw()

    def machine(self, flops_per_token: float, matrix_speed: float) -> None:
        self.rate.machine(flops_per_token, matrix_speed)

    def step(self, step: Step, seconds_left: float | None) -> None:
        self.rate.add(step)
        if self.losses and step.number <= self.losses[-1][0]:  # another run begins
            self.losses, self.checks = [], []
        self.losses.append((step.number, step.loss))
        self.status, self.progress, self.left = (
            f"step {step.number:,}  loss {step.loss:.3f}",
            step.progress,
            seconds_left,
        )
        self._draw()

    def validation(self, step: int, value: float, words: str) -> None:
        self.checks.append((step, value))
        self.words = words
        self._draw()

    def sample(self, step: int, prompt: str, text: str) -> None:
        self.last_sample = (step, prompt, text)
        self._draw()

    def close(self) -> None:
        self.left = None
        if self.status:
            self._draw(last=True)

    def _draw(self, last: bool = False) -> None:
        now = self.clock()
        if now - self.drawn < EVERY and not last:
            return
        self.drawn = now
        from IPython.display import HTML, display

        page = HTML(self.html())  # type: ignore[no-untyped-call]
        if self.handle is None:
            self.handle = display(page, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self.handle.update(page)

    def html(self) -> str:
        """All of it, as it stands now."""
        value = f" value='{self.progress:.4f}'" if self.progress is not None else ""
        share = f" {100 * self.progress:.0f} % " if self.progress is not None else ""
        facts = [
            self.status,
            *self.rate.facts(),
            *([f"{format_duration(self.left)} left"] if self.left is not None else []),
        ]
        if self.checks:
            facts.append(f"validation {self.checks[-1][1]:.3f} {self.words}")
        parts = [f"<div><progress max='1'{value}></progress>{share} {html.escape('  ·  '.join(facts))}</div>"]
        parts += [curve("training loss", self.losses, "#9ab8a0")] if len(self.losses) > 1 else []
        parts += (
            [curve(f"validation, {self.words}", self.checks, "#1b6b3a", dots=True)]
            if len(self.checks) > 1
            else []
        )
        if self.last_sample is not None:
            number, prompt, text = self.last_sample
            shown = f"<b>{html.escape(printable(prompt))}</b>{html.escape(printable(text))}"
            style = "white-space:pre-wrap;max-height:12em;overflow:auto"
            parts.append(f"<div>written at step {number:,}</div><pre style='{style}'>{shown}</pre>")
        return "".join(parts)


def curve(title: str, points: Sequence[tuple[float, float]], colour: str, dots: bool = False) -> str:
    """Points as a small SVG picture, with the least and the most of both axes."""
    some = points[:: -(-len(points) // POINTS)]
    some = [*some, points[-1]] if some[-1] != points[-1] else list(some)
    (left, right), (low, high) = ((min(column), max(column)) for column in zip(*some, strict=True))
    wide, tall = right - left or 1.0, high - low or 1.0
    places = [
        (
            EDGE + (WIDTH - 2 * EDGE) * (x - left) / wide,
            HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (y - low) / tall,
        )
        for x, y in some
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = (
        "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.5' fill='{colour}'/>" for x, y in places)
        if dots
        else ""
    )
    text = "font-size='10' fill='currentColor' font-family='sans-serif'"
    return (
        f"<svg width='{WIDTH}' height='{HEIGHT}' role='img' aria-label='{html.escape(title)}'>"
        f"<text x='{WIDTH / 2}' y='11' text-anchor='middle' {text}>{html.escape(title)}</text>"
        f"<text x='2' y='{EDGE + 8}' {text}>{high:.3g}</text><text x='2' y='{HEIGHT - EDGE}' "
        f"{text}>{low:.3g}</text>"
        f"<text x='{EDGE}' y='{HEIGHT - 4}' {text}>{left:,.0f}</text>"
        f"<text x='{WIDTH - EDGE}' y='{HEIGHT - 4}' text-anchor='end' {text}>step {right:,.0f}</text>"
        f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='1.5'/>{marks}</svg>"
    )
