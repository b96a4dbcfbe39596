"""Several runs' curves in one picture: training smoothed and faint, validation strong, against steps, tokens,
seconds and FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from newleaf.errors import InputError
from newleaf.train.runs.run_history import Curve

AXES = {"steps": "steps", "tokens": "tokens", "seconds": "seconds of training", "flops": "FLOPs"}
# Told apart by most colour-blind readers (Okabe and Ito 2008), without its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#444444")
INK, PAPER = "#333333", "#ffffff"
SMOOTHED = 40  # a training curve is averaged over this part of the run to each side: n / 40 steps
MAX_POINTS = 800  # of a drawn line
TRANSIENT = 0.05  # of the steps at a run's beginning do not decide how high the picture reaches


def comparison_figure(curves: Sequence[Curve], x: str | None = None) -> Figure:
    """The curves against `x` (steps, tokens, seconds or flops), or in four small panels.

    Raises InputError if there is nothing to draw.
    """
    if x is not None and x not in AXES:
        raise InputError(f"x: {x!r} is not one of {', '.join(AXES)}")
    drawn = [curve for curve in curves if _points(curve)]
    if not drawn:
        raise InputError("none of these runs has a loss to draw yet")
    columns = 1 if len(drawn) < 4 else 2
    rows = -(-len(drawn) // columns)
    height = (4.6 if x else 7.2) + 0.24 * rows
    room = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=(9, height), layout=room, facecolor=PAPER)
    panels = [figure.subplots()] if x else list(figure.subplots(2, 2, sharey=True).flat)
    colours = _colours(len(drawn))
    for axes, axis in zip(panels, [x] if x else AXES, strict=True):
        for curve, colour in zip(drawn, colours, strict=True):
            _draw(axes, curve, axis, colour)
        _format_axes(axes, drawn, axis)
    low, high = _range(drawn)
    panels[0].set_ylim(low, high)
    for axes in panels[:: 1 if x else 2]:
        axes.set_ylabel("bits per byte", color=INK)
    keys = [Line2D([], [], color=colour, linewidth=2, marker="o", markersize=4) for colour in colours]
    figure.legend(
        keys,
        [_legend_label(curve) for curve in drawn],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    figure.suptitle(
        "Validation (dots) and training (faint, smoothed)", fontsize=11, color=INK, x=0.01, ha="left"
    )
    return figure


def smoothed(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The mean over up to a fortieth of all values to each side; same length.

    At the beginning, where losses fall fast, both sides are equally long; at the end, where they do not, the
    left one stays.
    """
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    at = np.arange(len(values))
    left = np.minimum(at, max(1, len(values) // SMOOTHED))
    right = np.minimum(left, len(values) - 1 - at)
    mean: np.ndarray[Any, np.dtype[np.float64]] = (sums[at + right + 1] - sums[at - left]) / (
        left + right + 1
    )
    return mean


def _draw(axes: Axes, curve: Curve, axis: str, colour: str) -> None:
    train, validation = curve.train, curve.validation
    if train["loss"]:
        keep = np.unique(np.geomspace(1, len(train["loss"]), MAX_POINTS).astype(int)) - 1
        axes.plot(
            np.asarray(train[axis])[keep],
            smoothed(train["loss"])[keep],
            color=colour,
            alpha=0.35,
            linewidth=1.1,
            zorder=2,
        )
    few = len(validation["loss"]) <= 40
    axes.plot(
        validation[axis],
        validation["loss"],
        color=colour,
        linewidth=1.9,
        marker="o" if few else None,
        markersize=3.6,
        zorder=3,
    )


def _format_axes(axes: Axes, curves: Sequence[Curve], axis: str) -> None:
    places = np.array(
        [value for curve in curves for half in (curve.train, curve.validation) for value in half[axis]]
    )
    places = places[np.isfinite(places) & (places > 0)]
    if places.size:
        ends = [
            max(value for half in (curve.train, curve.validation) for value in half[axis] or [0.0])
            for curve in curves
        ]
        first = max(places.min(), min(end for end in ends if end > 0) * 0.02)
        axes.set_xscale("log")
        axes.set_xlim(first, places.max() * 1.08)
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if places.max() / first < 300 else (1.0,))
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(
            FuncFormatter(
                lambda value, _: format_short(value) if axis != "flops" else f"{value:.0e}".replace("e+", "e")
            )
        )
    axes.set_xlabel(AXES[axis], color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.tick_params(colors="#666666", labelsize=8.5, length=3, which="both", width=0.6)
    axes.grid(which="major", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")


def _range(curves: Sequence[Curve]) -> tuple[float, float]:
    """What is worth seeing: all validations but a run's first twentieth, and the training losses after it."""
    values = []
    for curve in curves:
        for half in (curve.train, curve.validation):
            end = max([*curve.train["steps"], *curve.validation["steps"]])
            late = (
                smoothed(half["loss"])[np.asarray(half["steps"]) >= TRANSIENT * end]
                if half["loss"]
                else np.array([])
            )
            values.extend(late.tolist())
    low, high = min(values), max(values)
    room = 0.05 * (high - low or abs(high) or 1.0)
    return low - room, high + room


def _points(curve: Curve) -> int:
    return sum(len(half.get("loss", ())) for half in (curve.train, curve.validation))


def _colours(count: int) -> list[str]:
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps["turbo"](np.linspace(0.05, 0.95, count))]


def _legend_label(curve: Curve) -> str:
    record = curve.record
    facts = [record.name if len(record.name) <= 34 else "…" + record.name[-33:]]
    if record.val_bits_per_byte is not None:
        facts.append(f"{record.val_bits_per_byte:.3f}")
    if record.parameters is not None:
        facts.append(f"{format_short(record.parameters)} parameters")
    return "  ·  ".join(facts + ([record.state] if record.state != "finished" else []))


def format_short(value: float) -> str:
    """A number as people say it: 950, 12 k, 1.5 M, 30 B."""
    for letter, size in ((" B", 1e9), (" M", 1e6), (" k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
