"""loss.png names the best validation, beside the curves and not over them."""

from __future__ import annotations

from typing import Any

import pytest

from newleaf.train.runs.loss_plot import loss_figure

LINES: list[dict[str, Any]] = [
    *({"step": step, "loss": 5 - step / 100} for step in range(1, 201)),
    *(
        {"step": step, "val_loss": 2 * bits, "val_bits_per_byte": bits}
        for step, bits in ((50, 2.5), (100, 1.25), (150, 1.5), (200, 1.75))
    ),
]


def words_of(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize("accuracy", [False, True])
def test_the_picture_says_the_best_and_nothing_lies_over_the_curves(accuracy: bool) -> None:
    lines = [
        line | {"val_accuracy": line["step"] / 200} if accuracy and "val_loss" in line else line
        for line in LINES
    ]
    figure = loss_figure(lines, "a run")
    assert "validation, best 1.250 bits per byte at step 100" in words_of(figure)
    assert ("accuracy, best 1.000 at step 200" in words_of(figure)) == accuracy
    figure.canvas.draw()
    for axes in figure.axes:
        assert not axes.texts
        assert axes.get_legend() is None
        assert not figure.legends[0].get_window_extent().overlaps(axes.get_window_extent())


def test_a_run_without_a_validation_has_a_picture() -> None:
    assert words_of(loss_figure([{"step": 1, "loss": 2.0}], "a run")) == ["training", "validation"]
    assert "validation, best 0.500 at step 2" in words_of(
        loss_figure([{"step": 2, "val_loss": 0.5}], "a run")
    )


@pytest.mark.parametrize("name", ["a$b$", r"$\frac", "$x_", "so\udcff", "a\x1b[31mb"])
def test_a_run_of_any_name_has_a_picture(name: str) -> None:
    figure = loss_figure(LINES, f"{name}: 3 steps")
    figure.canvas.draw()
    assert figure.axes[0].get_title().endswith(": 3 steps")
