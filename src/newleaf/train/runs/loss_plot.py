"""A run's curve: training loss faint, validation strong with its best marked, learning rate beneath."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from newleaf.text.terminal_text import printable

TRAINING, VALIDATION, SCORE = "#9ab8a0", "#1b6b3a", "#b5651d"


def loss_figure(lines: list[dict[str, Any]], title: str) -> Figure:
    """The figure of these metrics.jsonl lines: the loss on the left.

    On the right bits per byte of the validation text, or the accuracy where labels are learned. The legend
    has the best of each and stands above the curves.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    checks = [line for line in lines if "val_loss" in line]
    # Where labels are learned, their term of the loss is what the validation's can be compared with.
    term = "label_loss" if any("label_loss" in line for line in lines) else "loss"
    steps = [line for line in lines if term in line]
    axes.plot(
        [s["step"] for s in steps], [s[term] for s in steps], color=TRAINING, linewidth=0.8, label="training"
    )
    in_bits = bool(checks) and "val_bits_per_byte" in checks[-1] and checks[-1]["val_loss"] > 0
    figured = "val_bits_per_byte" if in_bits else "val_loss"
    best = min(
        (check for check in checks if figured in check), key=lambda check: check[figured], default=None
    )
    axes.plot(
        [c["step"] for c in checks],
        [c["val_loss"] for c in checks],
        color=VALIDATION,
        marker="o",
        markersize=4,
        label=_legend_label(best),
    )
    axes.set(xlabel="step", ylabel="loss (nats per token)" if in_bits else "loss")
    # A folder may have any name: dollars are no formula here, and bytes that are no text have no letters.
    axes.set_title(printable(title.encode("utf-8", "replace").decode("utf-8")), parse_math=False)
    if in_bits:
        scale = checks[-1]["val_bits_per_byte"] / checks[-1]["val_loss"]
        other = axes.secondary_yaxis("right", functions=(lambda y: y * scale, lambda y: y / scale))
        other.set_ylabel("bits per byte")
    if best is not None:
        axes.plot(
            [best["step"]],
            [best["val_loss"]],
            color=VALIDATION,
            marker="D",
            markersize=7,
            fillstyle="none",
            linestyle="",
        )
    axes.grid(alpha=0.2)
    handles, labels = axes.get_legend_handles_labels()
    scored = [check for check in checks if "val_accuracy" in check]
    if scored:
        beside = axes.twinx()
        highest = max(scored, key=lambda check: check["val_accuracy"])
        (line,) = beside.plot(
            [c["step"] for c in scored],
            [c["val_accuracy"] for c in scored],
            color=SCORE,
            marker="s",
            markersize=3,
        )
        beside.set_ylabel("accuracy of the validation", color=SCORE)
        handles, labels = (
            [*handles, line],
            [*labels, f"accuracy, best {highest['val_accuracy']:.3f} at step {highest['step']:,}"],
        )
    figure.legend(
        handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize="small"
    )
    return figure


def _legend_label(best: dict[str, Any] | None) -> str:
    """The validation's name, with the best of it."""
    if best is None:
        return "validation"
    value = (
        f"{best['val_bits_per_byte']:.3f} bits per byte"
        if "val_bits_per_byte" in best
        else f"{best['val_loss']:.3f}"
    )
    return f"validation, best {value} at step {best['step']:,}"
