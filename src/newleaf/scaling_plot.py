"""A scaling law as a picture: the runs, the law through them, its band, and the budgets it was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from newleaf.scaling import Forecast, Law

LINE, BAND, ASKED, INK = "#0072B2", "#0072B2", "#D55E00", "#333333"


def law_figure(law: Law, forecasts: Sequence[Forecast]) -> Figure:
    """Bits per byte against FLOPs."""
    figure = Figure(figsize=(8, 5), layout="constrained", facecolor="#ffffff")
    axes = figure.subplots()
    places = [point.flops for point in (*law.points, *law.left_out)] + [
        forecast.flops for forecast in forecasts
    ]
    line = np.geomspace(min(places) / 1.6, max(places) * 1.6, 160)
    bands = [law.band(float(flops)) for flops in line]
    if bands[0] is not None:
        low, high = np.array([band for band in bands if band is not None]).T
        axes.fill_between(
            line, low, high, color=BAND, alpha=0.13, linewidth=0, label="where the law lies, 90 %"
        )
    first = max(point.flops for point in law.points)
    values = np.array([law.loss(float(flops)) for flops in line])
    axes.plot(line[line <= first], values[line <= first], color=LINE, linewidth=1.8, label=law.formula())
    axes.plot(line[line >= first], values[line >= first], color=LINE, linewidth=1.8, linestyle=(0, (4, 2)))
    axes.scatter(
        [p.flops for p in law.points], [p.loss for p in law.points], color=INK, s=26, zorder=4, label="runs"
    )
    if law.left_out:
        axes.scatter(
            [p.flops for p in law.left_out],
            [p.loss for p in law.left_out],
            color="#999999",
            marker="x",
            label="left out",
        )
    for number, forecast in enumerate(sorted(forecasts, key=lambda forecast: forecast.flops)):
        low, high = forecast.low or forecast.loss, forecast.high or forecast.loss
        spread = np.array([[forecast.loss - low], [high - forecast.loss]])
        axes.errorbar(
            forecast.flops,
            forecast.loss,
            yerr=spread,
            color=ASKED,
            marker="D",
            markersize=5,
            capsize=3,
            zorder=5,
        )
        above = number % 2 == 0  # neighbours may stand close to each other
        said, place = f"{forecast.said}\n{forecast.loss:.3f}", (forecast.flops, high if above else low)
        axes.annotate(
            said,
            place,
            (0, 7 if above else -7),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=9,
            color=ASKED,
        )
    axes.set_xscale("log")
    axes.margins(y=0.12)
    axes.set_xlabel("FLOPs of training", color=INK)
    axes.set_ylabel("bits per byte of held-out text", color=INK)
    axes.grid(which="major", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors="#666666", labelsize=9, which="both", width=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.legend(frameon=False, loc="upper right", labelcolor=INK)
    return figure
