"""What commands print fits the columns there are; what a program reads is neither cut nor wrapped."""

from __future__ import annotations

from pathlib import Path

import pytest
from handmade_runs import RUN_COLUMNS, write_run

from newleaf.cli.main import build_parser, main

WIDTHS = (60, 80, 120, 200)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for number in range(3):
        write_run(tmp_path / "runs" / f"a-run-with-a-long-name-number-{number}", bits=1.5 + number)
    return tmp_path / "runs"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "words",
    [["runs", "RUNS"], ["plan", "gpt2-124m"], ["plan"], ["info", "RUNS/a-run-with-a-long-name-number-0"]],
)
def test_no_line_is_wider_than_columns_say(
    words: list[str],
    width: int,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([word.replace("RUNS", str(runs)) for word in words]) == 0
    lines = capsys.readouterr().out.splitlines()
    paths = [line for line in lines if str(runs) in line]  # a path is never cut
    assert len(lines) > 3
    assert max(len(line.rstrip()) for line in lines if line not in paths) <= width


def test_a_pipe_gets_whole_lines(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["runs", str(runs)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == RUN_COLUMNS
    assert len(rows) == 4
    assert main(["plan", "gpt2-124m"]) == 0
    assert (
        "6·N: 2 forward and 4 backward for each active weight (Kaplan et al. 2020)" in capsys.readouterr().out
    )
    assert main(["info", str(runs / "a-run-with-a-long-name-number-0")]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", build_parser()[1])
def test_help_fits_a_narrow_terminal(
    command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width
