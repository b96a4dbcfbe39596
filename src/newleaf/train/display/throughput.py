"""Tokens per second, MFU and durations, as displays write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from newleaf.train.objective.training_step import Step


class Throughput:
    """Tokens per second over the last steps, and the share of the machine's matrix speed that they are."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int]] = []
        self.peak_tokens = 0.0  # tokens a second if matrix products were all that training is

    def machine(self, flops_per_token: float, matrix_speed: float) -> None:
        self.peak_tokens = matrix_speed / max(flops_per_token, 1.0)

    def add(self, step: Step) -> None:
        if self.points and (step.seconds < self.points[-1][0] or step.tokens < self.points[-1][1]):
            # another run, or one that went back to a checkpoint: what it did before is no part of its speed
            self.points = []
        self.points = [*self.points[-30:], (step.seconds, step.tokens)]

    def facts(self) -> list[str]:
        """`11,200 tokens/s` and `MFU 31 %` (model FLOPs utilisation; Chowdhery et al. 2022, appendix B), as
        far as they are known."""
        # a clock may be too coarse for a step
        if len(self.points) < 2 or self.points[-1][0] <= self.points[0][0]:
            return []
        (first, before), (last, after) = self.points[0], self.points[-1]
        speed = (after - before) / (last - first)
        return [
            f"{speed:,.0f} tokens/s",
            *([f"MFU {100 * speed / self.peak_tokens:.0f} %"] if self.peak_tokens else []),
        ]


def wrap_facts(facts: list[str], width: int) -> list[str]:
    """Facts in as few lines of at most `width` characters as they fit in; none is broken."""
    lines: list[str] = []
    for fact in facts:
        joined = f"{lines[-1]}  ·  {fact}" if lines else fact
        lines[-1:] = [joined] if len(joined) <= width or not lines else [lines[-1], fact]
    return lines


def format_duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 3:05, 1:02:10."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
