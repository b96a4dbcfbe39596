"""A scaling law from a few short runs: loss against compute, fitted, and carried on to a larger budget with
an error band.

The law is L(C) = E + A·C^-α (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361; with the irreducible E,
Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556): L bits per byte of held-out text, C FLOPs of
training. For a given α it is linear in E and A, so the fit is a search over α alone. The band is the profile
likelihood's: all laws with E ≥ 0 whose squared relative errors exceed the best law's by no more than chance
would explain (Student's t with runs − parameters degrees of freedom). With few runs it is wide, as it should
be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from newleaf.errors import InputError
from newleaf.train.runs.run_history import RunRecord

FEWEST_FOR_THREE = 5  # runs; with fewer, E is taken as 0
LEVEL = 0.9  # of the band
ALPHAS = np.geomspace(0.005, 2.0, 1200)
OUTLIER = 0.001  # chance, over all runs, of calling an honest run an outlier

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """One run: FLOPs spent, bits per byte reached, seconds of the whole command."""

    name: str
    flops: float
    loss: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """What the law says of a budget. `low` and `high` bound the law's own value, not one run's luck; None
    where there is no band."""

    said: str
    flops: float
    loss: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Law:
    """L(C) = E + A·C^-α, the points it was fitted to, and what there is to say about it."""

    E: float
    A: float
    alpha: float
    points: tuple[Point, ...]
    left_out: tuple[Point, ...]
    parameters: int  # 3, or 2 where E is taken as 0
    error: float  # of a point, relative: standard deviation around the law
    flops_per_second: float  # of the largest run, everything included; 0 where no run says
    notes: tuple[str, ...]

    def loss(self, flops: float) -> float:
        """Bits per byte after so many FLOPs."""
        return float(self.E + self.A * flops**-self.alpha)

    def band(self, flops: float) -> tuple[float, float] | None:
        """Between which bits per byte the law lies after so many FLOPs, with 90 % confidence; None when there
        are no runs to spare."""
        fit = _Fit(self.points, self.parameters)
        if fit.spare < 1:
            return None
        squares = (self.error**2) * fit.spare
        low, high = fit.reach(flops, squares * (1 + student_t(fit.spare, LEVEL) ** 2 / fit.spare))
        return min(low, self.loss(flops)), max(high, self.loss(flops))

    def forecast(self, flops: float, said: str) -> Forecast:
        low, high = self.band(flops) or (None, None)
        return Forecast(said, flops, self.loss(flops), low, high)

    def formula(self) -> str:
        """The law as people write it, with A as the share that is left at a round number of FLOPs: A itself
        has no size one could feel."""
        power = round(sum(math.log10(point.flops) for point in self.points) / len(self.points))
        floor = f"{self.E:.3f} + " if self.parameters == 3 else ""
        return f"L = {floor}{self.A * (10.0**power) ** -self.alpha:.3f} · (C / 1e{power})^-{self.alpha:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        values = {
            name: getattr(self, name)
            for name in ("E", "A", "alpha", "parameters", "error", "flops_per_second")
        }
        return values | {
            "points": [point.__dict__ for point in self.points],
            "left_out": [point.__dict__ for point in self.left_out],
            "notes": list(self.notes),
        }


def points_of(records: Sequence[RunRecord]) -> tuple[list[Point], list[str]]:
    """The finished runs as points, and sentences about those that are none."""
    points, notes = [], []
    for record in records:
        if record.state != "finished":
            notes.append(
                f"{record.name} is {record.state}, not finished, and is left out: the law is one of whole "
                f"runs."
            )
        elif not record.flops or not record.val_bits_per_byte:
            notes.append(f"{record.name} does not say its FLOPs or its bits per byte, and is left out.")
        else:
            points.append(Point(record.name, record.flops, record.val_bits_per_byte, record.seconds or 0.0))
    used = {point.name for point in points}
    if len({record.fingerprint for record in records if record.name in used and record.fingerprint}) > 1:
        notes.append(
            "These runs do not share one text: their bits per byte can be compared only if they were "
            "validated on the same."
        )
    return points, notes


def fit_law(points: Sequence[Point], notes: Sequence[str] = ()) -> Law:
    """Fit the law to at least two runs of different compute; a run far from the law of all others is left
    out, and named.

    Raises InputError when there are too few.
    """
    kept, said, out = sorted(points, key=lambda point: point.flops), list(notes), []
    _check(kept)
    while (odd := _outlier(kept)) is not None:
        out.append(odd)
        kept = [point for point in kept if point is not odd]
        said.append(
            f"{odd.name} lies far from the law of the others ({odd.loss:.3f} bits per byte) and is left out."
        )
    parameters = 3 if len(kept) >= FEWEST_FOR_THREE else 2
    fit = _Fit(kept, parameters).refined()
    floor, scaled, alpha, squares = fit.best()
    if parameters == 2:
        said.append(
            f"{len(kept)} runs are too few for three parameters, so E is taken as 0 and two are fitted: "
            f"far ahead this promises too much, and so may the band; {FEWEST_FOR_THREE} runs fit all three."
        )
    if fit.spare < 1:
        said.append("Two runs fix two parameters, so there is no error band.")
    span = kept[-1].flops / kept[0].flops
    if span < 8:
        said.append(
            f"The largest run has only {span:.1f} times the FLOPs of the smallest; 10 times and more tell "
            f"the slope better."
        )
    rate = next((point.flops / point.seconds for point in reversed(kept) if point.seconds), 0.0)
    error = math.sqrt(squares / fit.spare) if fit.spare > 0 else 0.0
    return Law(
        floor,
        scaled * fit.middle**alpha,
        alpha,
        tuple(kept),
        tuple(out),
        parameters,
        error,
        rate,
        tuple(said),
    )


class _Fit:
    """Least squares of relative errors, for every α of a grid at once; compute is measured in `middle`, so
    that B = A·middle^-α."""

    def __init__(self, points: Sequence[Point], parameters: int, alphas: Floats = ALPHAS) -> None:
        flops, losses = np.array([p.flops for p in points]), np.array([p.loss for p in points])
        self.points, self.parameters, self.alphas = points, parameters, alphas
        self.spare = len(points) - parameters
        self.middle = float(np.exp(np.log(flops).mean()))
        # Errors of a loss are proportional to it, so each equation E + B·x = loss is divided by its loss.
        # Arrays are [α, point].
        self.power = (flops / self.middle) ** -alphas[:, None] / losses
        self.one = np.broadcast_to(1 / losses, self.power.shape)
        # Normal equations, one 2×2 system for each α.
        self.oo, self.op, self.pp = (
            (self.one**2).sum(1),
            (self.one * self.power).sum(1),
            (self.power**2).sum(1),
        )
        o, p = self.one.sum(1), self.power.sum(1)
        self.determinant = np.maximum(self.oo * self.pp - self.op**2, 1e-300)
        self.free_E, self.free_B = (
            (self.pp * o - self.op * p) / self.determinant,
            (self.oo * p - self.op * o) / self.determinant,
        )
        self.edge_B = p / self.pp  # where E = 0
        inside = (self.free_E >= 0) & (parameters == 3)
        self.E, self.B = np.where(inside, self.free_E, 0.0), np.where(inside, self.free_B, self.edge_B)
        self.squares = self._squares(self.E, self.B)

    def _squares(self, floor: Floats, scale: Floats) -> Floats:
        errors: Floats = ((floor[:, None] * self.one + scale[:, None] * self.power - 1) ** 2).sum(1)
        return errors

    def best(self) -> tuple[float, float, float, float]:
        """E, B, α and the sum of squares."""
        at = int(np.argmin(np.where(self.B > 0, self.squares, np.inf)))
        return float(self.E[at]), float(self.B[at]), float(self.alphas[at]), float(self.squares[at])

    def refined(self) -> _Fit:
        """The same on a fine grid around the best α."""
        return _Fit(self.points, self.parameters, self.best()[2] * np.geomspace(0.99, 1.01, 2001))

    def reach(self, flops: float, limit: float) -> tuple[float, float]:
        """The least and the most that any law with at most `limit` squares and E ≥ 0 gives at `flops`."""
        x = (flops / self.middle) ** -self.alphas
        lows, highs = [], []
        # On the edge E = 0 the laws of one α are an interval of B.
        alone = self.edge_B
        slack = limit - self._squares(np.zeros_like(alone), alone)
        there = slack >= 0
        wide = np.sqrt(np.maximum(slack, 0) / self.pp)
        lows.append((np.maximum(alone - wide, 0) * x)[there])
        highs.append(((alone + wide) * x)[there])
        if self.parameters == 3:
            # Inside, they are an ellipse of (E, B); the extremes of E + x·B count where they have E ≥ 0 (else
            # the edge has them).
            slack = limit - self._squares(self.free_E, self.free_B)
            variance = (self.pp - 2 * x * self.op + x**2 * self.oo) / self.determinant
            far = np.sqrt(np.maximum(slack, 0) / np.maximum(variance, 1e-300))
            for sign, found in ((-1, lows), (1, highs)):
                floor = self.free_E + sign * far * (self.pp - x * self.op) / self.determinant
                scale = self.free_B + sign * far * (x * self.oo - self.op) / self.determinant
                found.append((floor + x * scale)[(slack >= 0) & (floor >= 0) & (scale >= 0)])
        low, high = np.concatenate(lows), np.concatenate(highs)
        return float(low.min(initial=np.inf)), float(high.max(initial=-np.inf))


def _outlier(points: Sequence[Point]) -> Point | None:
    """The run that the law of all others would meet by chance less than once in a thousand such sets; needs
    three others to spare."""
    if len(points) < FEWEST_FOR_THREE + 1:
        return None
    spare = len(points) - 1 - 3
    total = _Fit(points, 3).best()[3]
    # What is left of the squares without each run. Against that, what it adds is F with 1 and `spare` degrees
    # of freedom, or t squared.
    rest = [_Fit([other for other in points if other is not point], 3).best()[3] for point in points]
    at = int(np.argmin(rest))
    limit = student_t(spare, 1 - OUTLIER / len(points))
    return points[at] if total > 1e-9 and rest[at] * (1 + limit**2 / spare) < total else None


def _check(points: Sequence[Point]) -> None:
    if len(points) < 2:
        raise InputError(
            f"fit: needs at least two finished runs, and there {'is one' if points else 'are none'}; five "
            f"or more are better"
        )
    if points[-1].flops < 1.2 * points[0].flops:
        raise InputError(
            "fit: all these runs spent the same FLOPs, so nothing says what more of them would bring; train "
            "some longer"
        )


def student_t(freedom: int, level: float) -> float:
    """The t that a Student's variable of this many degrees of freedom stays within ± of, with probability
    `level`.

    From the closed form of the distribution for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3
    and 26.7.4).
    """

    def within(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        cosine, term, total = math.cos(angle), 1.0, 0.0
        if freedom % 2:
            term = cosine
            for k in range(1, (freedom - 1) // 2 + 1):
                total += term
                term *= cosine**2 * 2 * k / (2 * k + 1)
            return 2 / math.pi * (angle + math.sin(angle) * total)
        for k in range(1, freedom // 2 + 1):
            total += term
            term *= cosine**2 * (2 * k - 1) / (2 * k)
        return math.sin(angle) * total

    low, high = 0.0, 1e7
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < level else (low, middle)
    return (low + high) / 2
