"""A run's curve: training loss faint, validation strong, learning rate beneath."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure


def loss_figure(lines: list[dict[str, Any]], title: str) -> Figure:
    """The figure of these metrics.jsonl lines: the loss on the left; on the right bits per byte of the validation text, or
    the accuracy where labels are learned."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    checks = [line for line in lines if "val_loss" in line]
    # Where labels are learned, their term of the loss is what the validation's can be compared with.
    term = "label_loss" if any("label_loss" in line for line in lines) else "loss"
    steps = [line for line in lines if term in line]
    axes.plot([s["step"] for s in steps], [s[term] for s in steps], color="#9ab8a0", linewidth=0.8, label="training")
    axes.plot([c["step"] for c in checks], [c["val_loss"] for c in checks], color="#1b6b3a", marker="o", markersize=4, label="validation")
    in_bits = bool(checks) and "val_bits_per_byte" in checks[-1] and checks[-1]["val_loss"] > 0
    axes.set(xlabel="step", ylabel="loss (nats per token)" if in_bits else "loss", title=title)
    scored = [check for check in checks if "val_accuracy" in check]
    if scored:
        beside = axes.twinx()
        beside.plot([c["step"] for c in scored], [c["val_accuracy"] for c in scored], color="#b5651d", marker="s", markersize=3)
        beside.set_ylabel("accuracy of the validation", color="#b5651d")
    if in_bits:
        scale = checks[-1]["val_bits_per_byte"] / checks[-1]["val_loss"]
        other = axes.secondary_yaxis("right", functions=(lambda y: y * scale, lambda y: y / scale))
        other.set_ylabel("bits per byte")
        last = checks[-1]
        axes.annotate(
            f"{last['val_bits_per_byte']:.3f} bits per byte",
            (last["step"], last["val_loss"]),
            (0, -16),
            textcoords="offset points",
            ha="right",
        )
    axes.grid(alpha=0.2)
    axes.legend(loc="upper right", frameon=False)
    return figure
