"""`newleaf runs`: every run that is there in one table, whatever state it is in, and its curves in one
picture."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import yaml
from handmade_runs import NETWORK, RUN_COLUMNS, append, write_run

from newleaf.cli.main import main
from newleaf.cli.runs import _table
from newleaf.model import GPT, GPTConfig
from newleaf.model.count import training_flops
from newleaf.train.runs import run_folder, run_history
from newleaf.train.runs.compare_runs import comparison_figure, smoothed
from newleaf.train.runs.run_history import read_curve, read_run


def old(path: Path) -> Path:
    """As if nothing had been written for an hour."""
    for name in ("run.yaml", "metrics.jsonl"):
        os.utime(path / name, (0, 0))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    top = tmp_path / "runs"
    write_run(top / "good", bits=1.5)
    write_run(top / "deep" / "better", steps=60, bits=1.2)
    old(write_run(top / "stopped", steps=20, bits=2.5, state="stopped"))
    write_run(top / "running", steps=30, bits=1.9, state="running")
    old(write_run(top / "killed", steps=30, bits=1.8, state="running"))
    return top


def table(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[list[list[str]], str]:
    assert main(["runs", *words]) == 0
    found = capsys.readouterr()
    return [line.split() for line in found.out.splitlines()], found.err


def test_the_table_says_of_each_run_what_its_folder_says_the_best_first(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, notes = table([str(runs)], capsys)
    assert rows[0] == RUN_COLUMNS
    assert [row[0] for row in rows[1:]] == ["deep/better", "good", "killed", "running", "stopped"]
    assert [row[-1] for row in rows[1:]] == ["finished", "finished", "stopped", "running", "stopped"]
    assert rows[1][1] == "book.txt"
    assert rows[1][-2] == "1.200"
    assert " 60 6 k 35 s " in " ".join(rows[1])  # steps, tokens, time
    assert notes == ""


def test_json_has_the_networks_own_parameters_and_flops(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(runs), "--json", "--sort", "name"]) == 0
    found = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    network = GPT(NETWORK)
    active = sum(p.numel() for name, p in network.named_parameters() if "position" not in name)
    per_token = 6 * active + 12 * 2 * 32 * 32  # 12·L·C·T
    good = found["good"]
    assert good["parameters"] == network.parameter_count()
    assert good["flops"] == per_token * 4000
    assert good["mfu"] == pytest.approx(per_token * 4000 / 20 / 1e9)
    assert (good["steps"], good["tokens"], good["seconds"], good["val_bits_per_byte"]) == (
        40,
        4000,
        25.0,
        1.5,
    )
    killed = found["killed"]
    assert (killed["steps"], killed["seconds"], killed["state"]) == (30, 15.0, "stopped")
    assert killed["val_bits_per_byte"] == pytest.approx(1.8 + 3 * math.exp(-3))


def test_a_resumed_run_is_running_beyond_its_old_summary(runs: Path) -> None:
    append(runs / "stopped", '{"step": 21, "loss": 5.0, "tokens": 2100, "seconds": 10.5}\n')
    found = read_run(runs / "stopped")
    assert (found.state, found.steps, found.tokens) == ("running", 21, 2100)


def test_sorting_puts_what_is_not_known_last(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (write_run(runs / "fresh", steps=3, state="running") / "summary.json").unlink(missing_ok=True)
    assert [row[0] for row in table([str(runs)], capsys)[0]][-1] == "fresh"
    assert [row[0] for row in table([str(runs), "--sort", "steps"], capsys)[0]][1] == "fresh"


def test_damaged_and_partial_runs_are_one_line_each_and_no_crash(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "good" / "summary.json").write_text('{"finished": tr')
    # cut short: not counted as damage, since it may be being written
    append(runs / "killed", '{"step": 31, "loss"')
    (runs / "deep" / "better" / "metrics.jsonl").unlink()
    (runs / "empty").mkdir()
    (runs / "empty" / "run.yaml").write_text("")
    (runs / "odd").mkdir()
    (runs / "odd" / "run.yaml").write_text("model: {n_layer: 2, vocab_size: x}\nsource: 3\n")
    (runs / "odd" / "metrics.jsonl").write_bytes(
        b'\xff\xfe\n[1]\n{"step": "a", "loss": NaN}\n{"step": 1, "val_bits_per_byte": null}\n'
    )
    (runs / "odd" / "summary.json").write_text(
        '{"finished": true, "steps": "many", "val_bits_per_byte": "low"}'
    )
    append(runs / "stopped", "garbage\n")
    rows, notes = table([str(runs)], capsys)
    rows = [row for row in rows if row]
    assert len(rows) == 8
    said = dict(line.removeprefix("* ").split(": ", 1) for line in notes.splitlines())
    assert set(said) == {"good", "deep/better", "empty", "odd", "stopped"}
    assert "summary.json cannot be read" in said["good"]
    assert said["deep/better"] == "metrics.jsonl is missing"
    assert "1 damaged line" in said["stopped"]
    assert "Traceback" not in notes
    assert main(["runs", str(runs), "--plot", "--out", str(runs / "all.png")]) == 0


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal_and_the_figure_that_counts_is_there(
    width: int, runs: Path
) -> None:
    import io

    from rich.console import Console

    out = io.StringIO()
    records = [read_run(path) for path in run_history.find_runs(runs)]
    Console(file=out, width=width).print(_table(records, width))
    lines = out.getvalue().splitlines()
    assert len(lines) == 6
    assert max(len(line.rstrip()) for line in lines) <= width
    assert all(word in out.getvalue() for word in ("1.200", "running", "better"))


def test_the_curves_are_those_of_the_metrics_against_each_axis(runs: Path) -> None:
    curve = read_curve(runs / "good")
    assert curve.train["steps"] == list(range(1, 41))
    assert curve.train["tokens"][-1] == 4000
    assert curve.train["seconds"][-1] == 20
    assert curve.train["flops"][-1] == training_flops(NETWORK) * 4000
    bits = [1.5 + 3 * math.exp(-step / 10) for step in range(1, 41)]
    assert curve.train["loss"] == pytest.approx(bits)  # nats per token, over ln 2 and three bytes a token
    assert curve.validation["steps"] == [10, 20, 30, 40]
    assert curve.validation["seconds"] == [5, 10, 15, 20]
    assert curve.validation["loss"] == pytest.approx(bits[9::10])


def test_smoothing_keeps_straight_lines_and_takes_noise_away() -> None:
    line = np.linspace(3.0, 1.0, 400)
    assert smoothed(line)[:390] == pytest.approx(line[:390])
    noise = np.random.default_rng(0).normal(size=400)
    assert smoothed(noise)[20:-20].std() < 0.35 * noise.std()  # 21 neighbours: 1 / sqrt(21) = 0.22
    assert len(smoothed([1.0])) == 1


def test_the_picture_has_a_panel_for_each_axis_and_a_line_for_each_run(runs: Path) -> None:
    curves = [read_curve(path) for path in run_history.find_runs(runs)]
    figure = comparison_figure(curves)
    assert [axes.get_xlabel() for axes in figure.axes] == ["steps", "tokens", "seconds of training", "FLOPs"]
    assert all(len(axes.get_lines()) == 2 * len(curves) for axes in figure.axes)
    low, high = figure.axes[0].get_ylim()
    for curve in curves:
        assert low < min(curve.validation["loss"]) <= curve.validation["loss"][1] < high
    assert len(figure.legends[0].get_texts()) == len(curves)
    assert [axes.get_xlabel() for axes in comparison_figure(curves, "tokens").axes] == ["tokens"]
    assert len(comparison_figure(curves * 3).legends[0].get_texts()) == 15


def test_plot_writes_a_picture_that_is_not_empty(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "both.png"
    assert (
        main(
            [
                "runs",
                "--plot",
                str(runs / "good"),
                str(runs / "deep" / "better"),
                "--out",
                str(out),
                "--x",
                "flops",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.strip() == str(out)
    image = matplotlib.image.imread(out)
    assert image.shape[1] == 1440
    assert len({tuple(pixel) for pixel in image[::7, ::7].reshape(-1, image.shape[2]).round(1)}) > 5


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["{tmp}/nowhere"], "no such folder"),
        (["{tmp}"], "holds no run"),
        (["--plot", "{tmp}"], "holds no run"),
        (["--x", "steps"], "is for --plot"),
        (["--plot", "{runs}/good", "--out", "a.jpeg"], ".png, .svg or .pdf"),
        (["--sort", "colour"], "--sort"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], named: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["runs", *(word.format(tmp=empty, runs=runs) for word in words)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1


def test_the_readers_file_names_are_the_writers_and_reading_needs_no_pytorch(runs: Path) -> None:
    assert (run_history.CONFIG, run_history.METRICS, run_history.SUMMARY) == (
        run_folder.CONFIG,
        run_folder.METRICS,
        run_folder.SUMMARY,
    )
    check = (
        f"import sys; from newleaf.cli.main import main; main(['runs', {str(runs)!r}]); print('torch' "
        f"in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_flops_of_a_windowed_network_count_only_what_is_seen() -> None:
    config = GPTConfig(100, 64, 2, 2, 32)
    assert training_flops(config) - training_flops(config.replace(windows=(0, 16))) == 12 * 32 * (64 - 16)


def with_text(path: Path, text: str, **more: object) -> Path:
    """The run as if it had learned another text."""
    values = yaml.safe_load((path / "run.yaml").read_text("utf-8"))
    values |= {"source": [f"/texts/{text}"], **more}
    values["record"]["fingerprints"] = {"text": text}
    (path / "run.yaml").write_text(yaml.safe_dump(values), "utf-8")
    return path


def test_runs_of_one_text_stand_together_whatever_their_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_text(write_run(tmp_path / "a", bits=1.9), "poems.txt")
    with_text(write_run(tmp_path / "b", bits=1.2), "code.py")
    with_text(write_run(tmp_path / "c", bits=1.4), "poems.txt")
    with_text(write_run(tmp_path / "d", bits=1.6), "code.py")
    rows, _ = table([str(tmp_path)], capsys)
    assert [row[0] if row else "" for row in rows[1:]] == ["b", "d", "", "c", "a"]
    rows, _ = table([str(tmp_path), "--sort", "name"], capsys)
    assert [row[0] for row in rows[1:]] == ["a", "b", "c", "d"]


def test_runs_that_hold_out_other_shares_of_a_text_stand_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fingerprint is of the text as it was parted."""
    for name, bits, text in (
        ("a", 1.9, "poems.txt"),
        ("b", 1.2, "code.py"),
        ("c", 1.4, "poems.txt"),
        ("d", 1.5, "code.py"),
    ):
        path = with_text(write_run(tmp_path / name, bits=bits), text)
        values = yaml.safe_load((path / "run.yaml").read_text("utf-8"))
        values["data"] = {"val_fraction": bits / 10}
        values["record"]["fingerprints"] = {"text": f"{text} {name}"}
        (path / "run.yaml").write_text(yaml.safe_dump(values), "utf-8")
    rows, _ = table([str(tmp_path)], capsys)
    assert [row[0] if row else "" for row in rows[1:]] == ["b", "d", "", "c", "a"]


def test_trials_of_a_sweep_are_shown_when_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "tuned")
    for number in (1, 2):
        write_run(tmp_path / "tuned-sweep" / f"round-1-rate-{number}")
    (tmp_path / "tuned-sweep" / ".sweep").touch()
    rows, notes = table([str(tmp_path)], capsys)
    assert [row[0] for row in rows[1:]] == ["tuned"]
    assert "2 trials of sweeps not shown; --trials lists them" in notes
    assert len(table([str(tmp_path), "--trials"], capsys)[0]) == 4
    assert len(table([str(tmp_path / "tuned-sweep")], capsys)[0]) == 3


def test_a_tuned_run_shows_the_score_that_chose_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_text(write_run(tmp_path / "reviews"), "reviews.csv", task="classify")
    summary = json.loads((path / "summary.json").read_text("utf-8"))
    scores = {"val_accuracy": 0.93, "val_loss": 0.2} | {
        name: value for name, value in summary.items() if name != "val_bits_per_byte"
    }
    (path / "summary.json").write_text(json.dumps(scores), "utf-8")
    rows, _ = table([str(tmp_path)], capsys)
    assert "score" in rows[0]
    assert " ".join(rows[1]).endswith("accuracy 0.930 finished")
    assert main(["runs", str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["task"], found["score"]) == ("classify", {"accuracy": 0.93})
