"""Scaling laws: known ones are found again, and their bands hold the truth as often as they say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from handmade_runs import NETWORK, write_run

import newleaf
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.model.count import training_flops
from newleaf.scaling import Law, Point, fit_law, points_of, student_t
from newleaf.scaling_plot import law_figure
from newleaf.train.runs.run_history import read_run

FLOPS = np.geomspace(1e12, 1e14, 6)


def law(floor: float, slope: float, *, noise: float = 0.0, flops: np.ndarray = FLOPS, seed: int = 0) -> Law:
    """Fitted to runs of L = floor + 1.5·(C / 1e12)^-slope, with relative noise."""
    luck = np.exp(noise * np.random.default_rng(seed).standard_normal(len(flops)))
    return fit_law(
        [Point(f"run{n}", c, true(floor, slope, c) * x, 10.0) for n, (c, x) in enumerate(zip(flops, luck))]
    )


def true(floor: float, slope: float, flops: float) -> float:
    return float(floor + 1.5 * (flops / 1e12) ** -slope)


@pytest.mark.parametrize(("floor", "slope"), [(1.0, 0.3), (0.6, 0.12), (1.69, 0.5), (0.0, 0.08), (0.3, 1.0)])
def test_a_law_without_noise_is_found_again(floor: float, slope: float) -> None:
    found = law(floor, slope)
    assert found.parameters == 3
    assert pytest.approx(floor, abs=2e-3) == found.E
    assert found.alpha == pytest.approx(slope, rel=2e-3)
    assert found.A * 1e12**-found.alpha == pytest.approx(1.5, rel=2e-3)
    for flops in (1e13, 1e16):
        assert found.loss(flops) == pytest.approx(true(floor, slope, flops), abs=2e-3)
        low, high = found.band(flops) or (0, 0)
        assert high - low < 0.01


@pytest.mark.parametrize(
    ("floor", "slope", "noise", "runs"), [(1.0, 0.3, 0.003, 5), (0.8, 0.15, 0.01, 7), (0.0, 0.1, 0.01, 6)]
)
def test_the_band_holds_the_truth_nine_times_in_ten_a_hundred_times_beyond_the_runs(
    floor: float, slope: float, noise: float, runs: int
) -> None:
    flops, trials, held = np.geomspace(1e12, 1e14, runs), 200, 0
    for seed in range(trials):
        low, high = law(floor, slope, noise=noise, flops=flops, seed=seed).band(1e16) or (0, 0)
        held += low <= true(floor, slope, 1e16) <= high
    assert 0.84 <= held / trials <= 0.96  # three standard errors around 0.9


def test_the_band_widens_with_distance_and_narrows_with_runs() -> None:
    few, many = (law(1.0, 0.3, noise=0.003, flops=np.geomspace(1e12, 1e14, runs), seed=3) for runs in (5, 20))
    widths = [
        [high - low for low, high in (found.band(flops) or (0, 0) for flops in (1e14, 1e15, 1e17))]
        for found in (few, many)
    ]
    assert widths[0] == sorted(widths[0])
    assert all(narrow < wide for wide, narrow in zip(*widths))


def test_with_too_few_runs_two_parameters_are_fitted_and_it_is_said() -> None:
    found = law(0.0, 0.2, flops=FLOPS[:3])
    assert (found.parameters, found.E) == (2, 0.0)
    assert found.alpha == pytest.approx(0.2, rel=1e-3)
    assert "3 runs are too few for three parameters, so E is taken as 0" in found.notes[0]
    assert found.band(1e16) is not None
    two = law(0.0, 0.2, flops=FLOPS[[0, 5]])
    assert two.band(1e16) is None
    assert any("no error band" in note for note in two.notes)
    assert two.forecast(1e16, "later").low is None


def test_a_diverged_run_is_left_out_by_name_and_honest_ones_are_not() -> None:
    points = [
        Point(f"run{n}", c, true(1.0, 0.3, c) * (1 + 0.001 * (-1) ** n))
        for n, c in enumerate(np.geomspace(1e12, 1e14, 8))
    ]
    spoiled = [*points[:5], Point("diverged", points[5].flops, 3.0), *points[6:]]
    found = fit_law(spoiled)
    assert [point.name for point in found.left_out] == ["diverged"]
    assert any("diverged lies far" in note for note in found.notes)
    assert found.loss(1e15) == pytest.approx(true(1.0, 0.3, 1e15), rel=0.01)
    honest = sum(
        bool(law(1.0, 0.3, noise=0.01, flops=np.geomspace(1e12, 1e14, 8), seed=seed).left_out)
        for seed in range(100)
    )
    assert honest <= 2


def test_students_t_is_that_of_the_tables() -> None:
    """Two-sided 90 and 99 %, from any table of the distribution."""
    for freedom, ninety, ninety_nine in (
        (1, 6.314, 63.657),
        (2, 2.920, 9.925),
        (3, 2.353, 5.841),
        (4, 2.132, 4.604),
        (10, 1.812, 3.169),
    ):
        assert student_t(freedom, 0.9) == pytest.approx(ninety, abs=6e-4)
        assert student_t(freedom, 0.99) == pytest.approx(ninety_nine, abs=6e-4)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(InputError, match="at least two finished runs, and there is one"):
        fit_law([Point("a", 1e12, 2.0)])
    with pytest.raises(InputError, match="same FLOPs"):
        fit_law([Point("a", 1e12, 2.0), Point("b", 1.01e12, 1.9)])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Five finished runs that lie on a law exactly, by the network's own FLOPs, and one that was stopped."""
    for steps in (10, 30, 100, 300, 900):
        flops = training_flops(NETWORK) * 100 * steps
        write_run(tmp_path / "runs" / f"r{steps}", steps, 1.0 + 2.0 * (flops / 1e8) ** -0.25)
    write_run(tmp_path / "runs" / "cut", 200, 3.0, state="stopped")
    return tmp_path / "runs"


def test_runs_become_points_of_their_own_flops(runs: Path) -> None:
    points, notes = points_of([read_run(path) for path in sorted(runs.iterdir())])
    assert {point.name: point.flops for point in points}["r100"] == training_flops(NETWORK) * 10_000
    assert len(points) == 5
    assert notes == ["cut is stopped, not finished, and is left out: the law is one of whole runs."]


def test_the_command_forecasts_budgets_at_the_runs_speed(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "law.png"
    words = ["plan", "--fit", str(runs), "--budget", "1h", "--flops", "1e15", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["E"] == pytest.approx(1.0, abs=0.01)
    assert found["alpha"] == pytest.approx(0.25, rel=0.01)
    speed = training_flops(NETWORK) * 90_000 / (900 / 2 + 5)
    by_name = {forecast["said"]: forecast for forecast in found["forecasts"]}
    assert by_name["1h"]["flops"] == pytest.approx(3600 * speed)
    assert by_name["1e+15 FLOPs"]["loss"] == pytest.approx(1.0 + 2.0 * 1e7**-0.25, abs=0.01)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert main(words[:3]) == 0
    shown = capsys.readouterr().out
    assert "L = 1.000 + " in shown
    assert "10 × r900" in shown
    assert "cut is stopped" in shown


def test_the_picture_shows_each_run_the_law_and_the_forecasts(runs: Path) -> None:
    points, _ = points_of([read_run(path) for path in sorted(runs.iterdir())])
    found = fit_law(points)
    axes = law_figure(found, [found.forecast(1e12, "a"), found.forecast(1e13, "b")]).axes[0]
    assert len(axes.collections[1].get_offsets()) == 5
    assert [text.get_text().split("\n")[0] for text in axes.texts] == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--fit", "nowhere"], "nowhere"),
        (["--fit", "{runs}/r10"], "at least two"),
        (["--fit", "{runs}", "--budget", "soon"], "--budget"),
        (["--fit", "{runs}", "--flops", "-1"], "--flops"),
        (["--fit", "{runs}", "--gpus", "2"], "gpus"),
        (["--fit", "{runs}", "--out", "law.txt"], "--out"),
        (["gpt2-124m", "--budget", "1h"], "is for --fit"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], named: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *(word.format(runs=runs) for word in words)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1


def test_real_runs_are_fitted_by_the_command_of_the_page(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for steps in (4, 12, 40):
        newleaf.pretrain(
            book, out=f"runs/fit/{steps}", steps=steps, quiet=True, tokenizer={"vocab_size": 300},
            model={"n_layer": 1, "n_embd": 32, "n_head": 1, "head_dim": 32, "n_inner": 32,
            "context_length": 32},
            train={"batch_size": 8, "sample": {"max_tokens": 1}, "eval_every": 100},
        )  # fmt: skip
    page = (Path(__file__).parents[1] / "docs" / "plan.md").read_text("utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("newleaf plan --fit")]
    capsys.readouterr()
    assert main([*line.split()[1:], "--json"]) == 0
    assert (tmp_path / "law.png").exists()
    found = json.loads(capsys.readouterr().out)
    assert [point["name"] for point in found["points"]] == ["4", "12", "40"]
    assert found["points"][2]["flops"] == pytest.approx(10 * found["points"][0]["flops"])
    assert found["alpha"] > 0
    assert [forecast["said"] for forecast in found["forecasts"]] == ["1e+15 FLOPs", "1h", "8h"]
    forecast = found["forecasts"][0]
    assert forecast["low"] < forecast["loss"] < forecast["high"]
    assert math.isfinite(forecast["loss"])
