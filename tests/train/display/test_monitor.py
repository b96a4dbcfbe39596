"""What people see while a run goes on: the same facts in a wide terminal, a narrow one, and none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from fake_clocks import Clock, Machine

import newleaf
from newleaf.model import GPTConfig
from newleaf.model.count import training_flops
from newleaf.train.display.monitor import LineMonitor, LiveMonitor, SilentMonitor
from newleaf.train.display.notebook import NotebookMonitor
from newleaf.train.display.throughput import Throughput, wrap_facts
from newleaf.train.objective.training_step import Step


def steps(count: int = 5) -> list[Step]:
    """A thousand tokens every half a second: 2,000 a second."""
    return [Step(n, 3.25, 1.0, 1.0, 1000 * n, n / 2, n / 100) for n in range(1, count + 1)]


def test_plain_lines_say_speed_share_of_the_machine_and_time_left() -> None:
    out = io.StringIO()
    lines = LineMonitor(out)
    lines.machine(flops_per_token=1e6, matrix_speed=8e9)  # 8,000 tokens a second at most
    for step in steps():
        lines.next_line = 0.0
        lines.step(step, 95.0)
    assert out.getvalue().splitlines()[-1] == "step 5    5 %  loss 3.250  2,000 tokens/s  MFU 25 %  1:35 left"
    lines.sample(5, "Once", " upon\x1b[2J a\ntime")
    assert out.getvalue().splitlines()[-2:] == ["  | Once upon\N{REPLACEMENT CHARACTER}[2J a", "  | time"]


def test_without_a_measurement_there_is_no_share_and_after_one_step_no_speed() -> None:
    out = io.StringIO()
    lines = LineMonitor(out)
    lines.step(steps()[0], None)
    assert out.getvalue() == "step 1    1 %  loss 3.250\n"
    lines.next_line = 0.0
    lines.step(steps()[1], None)
    assert out.getvalue().splitlines()[-1].endswith("loss 3.250  2,000 tokens/s")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_live_display_shows_everything_within_the_terminals_width(width: int) -> None:
    from rich.console import Console

    live = LiveMonitor()
    live.live.stop()
    live.console = Console(file=io.StringIO(), width=width)
    live.machine(flops_per_token=1e6, matrix_speed=8e9)
    for step in steps(40):
        live.step(step, 3725.0)
    live.validation(40, 2.125, "bits per byte")
    live.sample(40, "Once", " upon a time there was 新叶 " * 30)
    out = io.StringIO()
    Console(file=out, width=width).print(live._draw())
    shown = out.getvalue()
    rows = shown.splitlines()
    for fact in (
        "40 %",
        "step 40  loss 3.250",
        "2,000 tokens/s",
        "MFU 25 %",
        "1:02:05 left",
        "2.125 bits per byte",
        "written at",
    ):
        assert sum(fact in row for row in rows) == 1, fact  # whole, on one line
    from rich.cells import cell_len

    assert max(cell_len(row.rstrip()) for row in rows) <= width
    assert len(rows) <= 14


def test_facts_are_packed_without_breaking_any() -> None:
    facts = ["11,200 tokens/s", "MFU 31 %", "1:20 left", "validation 2.125 bits per byte"]
    assert wrap_facts(facts, 200) == ["  ·  ".join(facts)]
    assert wrap_facts(facts, 40) == [
        "11,200 tokens/s  ·  MFU 31 %",
        "1:20 left",
        "validation 2.125 bits per byte",
    ]
    assert wrap_facts(facts, 5) == facts
    assert wrap_facts([], 40) == []


class Listener(SilentMonitor):
    """Remembers the samples, and what it was told of the machine."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, str]] = []
        self.told: tuple[float, float] | None = None

    def machine(self, flops_per_token: float, matrix_speed: float) -> None:
        self.told = (flops_per_token, matrix_speed)

    def sample(self, step: int, prompt: str, text: str) -> None:
        self.samples.append((step, text))


SMALL: dict[str, Any] = {
    "tokenizer": {"vocab_size": 300},
    "model": {"n_layer": 1, "n_embd": 32, "n_head": 1, "head_dim": 32, "n_inner": 32, "context_length": 32},
}


def test_a_run_tells_its_flops_and_the_measured_matrix_speed(book: Path, tmp_path: Path) -> None:
    heard = Listener()
    run = newleaf.pretrain(book, out=tmp_path / "r", steps=3, monitor=heard, **SMALL)
    assert heard.told is not None
    assert heard.told[0] == training_flops(GPTConfig.from_dict(run.config["model"]))
    assert 1e8 < heard.told[1] < 1e15
    assert run.config["record"]["matrix_flops"] == round(heard.told[1])


def test_samples_of_a_timed_run_cost_two_hundredths_of_it_and_the_last_has_half_of_that(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though they may be a thousand tokens long and the machine writes one in 5 ms, by a clock that is handed
    in."""
    machine = Machine(Clock())
    machine.install(monkeypatch)
    heard = Listener()
    train = {"sample": {"max_tokens": 1000, "min_tokens": 1000}, "batch_size": 4}
    run = machine.pretrain(book, tmp_path / "r", heard, time="30s", train=train, **SMALL)
    assert len(heard.samples) >= 2
    assert sum(machine.samples) <= 0.021 * 30
    assert machine.samples[-1] >= 0.4 * 0.02 * 30, "the last one is a few lines long"
    assert run.summary["total_seconds"] == pytest.approx(30, abs=0.6)


def test_no_speed_is_negative_or_endless_whatever_a_clock_does() -> None:
    """A sweep's next trial begins at token 0, and a coarse clock stands still for a step or two."""
    rate = Throughput()
    for step in (
        Step(1, 3.0, 1.0, 1.0, 50_000, 9.0, 0.9),
        Step(2, 3.0, 1.0, 1.0, 60_000, 9.5, 1.0),
        Step(1, 3.0, 1.0, 1.0, 1000, 0.5, 0.1),
    ):
        rate.add(step)
    assert rate.facts() == []
    rate.add(Step(2, 3.0, 1.0, 1.0, 2000, 1.0, 0.2))
    assert rate.facts() == ["2,000 tokens/s"]
    still = Throughput()
    for number in (1, 2, 3):
        still.add(Step(number, 3.0, 1.0, 1.0, 1000 * number, 0.0, 0.1))
    assert still.facts() == []


def test_the_notebooks_display_is_updated_and_has_both_curves() -> None:
    now = [0.0]
    shown = NotebookMonitor(clock=lambda: now[0])
    for step in steps(40):
        now[0] += 0.25
        shown.losses.append((step.number, step.loss))
        shown.rate.add(step)
    shown.progress, shown.status = 0.4, "step 40  loss 3.250"
    shown.checks, shown.words = [(10, 2.5), (20, 2.25)], "bits per byte"
    shown.last_sample = (20, "Once <", " upon & a time")
    page = shown.html()
    assert page.count("<svg") == 2
    assert "2,000 tokens/s" in page
    assert "validation 2.250 bits per byte" in page
    assert "Once &lt;</b> upon &amp; a time" in page
