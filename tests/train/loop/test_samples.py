"""Samples of a timed run can be read, or are left out with a word; by a clock that only the writing
advances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_clocks import Clock, Machine
from killed_runs import RecordingMonitor

from newleaf.train.distributed.process_group import Ranks
from newleaf.train.loop.samples import MAX_LAST_SHARE, MIN_READABLE_CHARACTERS, SHARE, Samples
from newleaf.train.objective.objective import SampledText
from newleaf.train.objective.schedule import ClockSchedule, ScheduleShape


@dataclass
class Writer:
    """Writes texts of `length` characters, each of which takes `pace` seconds."""

    clock: Clock
    pace: float
    length: int = 200
    prompts: Sequence[str] = ("a", "b")
    checks: list[int] = field(default_factory=list)

    def prompts_at(self, check: int) -> Sequence[str]:
        self.checks.append(check)
        return self.prompts

    def sample(self, prompt: str, seconds: float) -> SampledText:
        text, begin = "", self.clock()
        while len(text) < self.length:
            self.clock.advance(self.pace)
            text += "x"
            if self.clock() - begin > seconds:
                return SampledText(text, cut=True)
        return SampledText(text)


def samples(
    pace: float, seconds: float = 60, length: int = 200
) -> tuple[Samples, Clock, RecordingMonitor, Writer]:
    clock, heard = Clock(), RecordingMonitor()
    writer = Writer(clock, pace, length)
    anything: Any = writer
    return (
        Samples(anything, Ranks(clock), ClockSchedule(seconds, ScheduleShape(), 0.0, clock), heard),
        clock,
        heard,
        writer,
    )


@pytest.mark.parametrize("pace", [0.0001, 0.002, 0.01, 0.02, 0.03, 0.2, 2.0])
def test_a_sample_can_be_read_or_is_left_out_with_a_word(pace: float) -> None:
    taker, clock, heard, _ = samples(pace)
    begin, count = clock(), 0
    for step in range(0, 100, 10):
        found = taker.take(step)
        assert all(len(text) >= MIN_READABLE_CHARACTERS for _, text in found)
        assert found or step or heard.about("Step 0: no sample is shown, since a readable one takes about")
        count += len(found)
        clock.now = begin + 6 * (step // 10 + 1)
    last = taker.take(100)
    assert all(len(text) >= MIN_READABLE_CHARACTERS for _, text in last)
    assert bool(last) == (2 * MIN_READABLE_CHARACTERS * pace <= max(SHARE / 2, MAX_LAST_SHARE) * 60)
    assert bool(last) != bool(heard.about("Step 100: no sample is shown"))
    assert len(heard.said) <= 2


def test_time_for_the_last_samples_is_kept_by_how_long_a_readable_text_takes() -> None:
    """0.03 s a character: two texts of 32 take 1.9 s, more than the usual hundredth of a minute; at 0.2 s
    they would take 13 s."""
    taker, *_ = samples(0.03)
    assert taker.reserve() == pytest.approx(0.6)
    taker.take(0)
    assert taker.reserve() == pytest.approx(2 * 32 * 0.03, rel=0.2)
    slow, *_ = samples(0.2)
    slow.take(0)
    assert slow.reserve() == MAX_LAST_SHARE * 60


def test_a_short_answer_that_is_whole_is_shown() -> None:
    taker, clock, heard, _ = samples(0.01, length=4)
    assert taker.take(0) == [("a", "xxxx"), ("b", "xxxx")]
    clock.advance(60)
    assert taker.take(9) == [("a", "xxxx"), ("b", "xxxx")]
    assert not heard.said


def test_without_a_clock_samples_take_as_long_as_they_take_and_the_checks_are_counted() -> None:
    clock = Clock()
    writer: Any = Writer(clock, 50.0)
    taker = Samples(writer, Ranks(clock), None, RecordingMonitor())
    assert [len(text) for _, text in taker.take(0) + taker.take(5)] == [200] * 4
    assert writer.checks == [0, 1]
    taker.count(
        [{"step": 0, "sample": "x"}, {"step": 5, "sample": "x"}, {"step": 5, "sample": "y"}, {"step": 6}]
    )
    taker.take(8)
    assert writer.checks == [0, 1, 2]


@pytest.mark.parametrize("piece", [0.001, 0.4, 5.0])
def test_a_timed_run_shows_no_sample_of_a_token_or_two(
    piece: float, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where a token takes so long, from pretraining's own evaluator."""
    clock, heard = Clock(), RecordingMonitor()
    Machine(clock, piece=piece).install(monkeypatch)
    train = {"sample": {"max_tokens": 60, "min_tokens": 60}, "batch_size": 4}
    size = {
        "n_layer": 1,
        "n_embd": 32,
        "n_head": 1,
        "n_kv_head": 1,
        "head_dim": 32,
        "n_inner": 64,
        "context_length": 32,
    }
    begin = clock()
    run = Machine(clock).pretrain(
        book, tmp_path / "run", heard, time="30s", model=size, tokenizer={"vocab_size": 300}, train=train
    )
    assert clock() - begin <= 30.5 + 2 * piece
    texts = [line["sample"] for line in run.metrics if "sample" in line]
    assert all(len(text) >= MIN_READABLE_CHARACTERS for text in texts)
    assert bool(texts) == (piece < 0.1) != bool(heard.about("no sample is shown"))


def test_a_classifier_shows_other_held_out_rows_each_time_until_all_were_shown() -> None:
    from newleaf.tune.labels.label_evaluator import HeldOutRows, LabelEvaluator
    from newleaf.tune.labels.label_rows import Example

    rows = [Example(f"rows.jsonl:{n}", (f"text {n}",), ("good" if n < 15 else "bad",)) for n in range(30)]
    anything: Any = SimpleNamespace()
    shown = LabelEvaluator(
        anything, anything, 0, HeldOutRows([anything] * 30, rows), None, {}, anything
    ).prompts_at
    found = [text for check in range(10) for text in shown(check)]
    assert sorted(found) == sorted(f"text {n}" for n in range(30))
    assert shown(10) == shown(0)
    assert not all(int(text.split()[1]) < 15 for check in range(2) for text in shown(check)), (
        "a sorted file shows both labels"
    )
    few = LabelEvaluator(
        anything, anything, 0, HeldOutRows([anything] * 2, rows[:2]), None, {}, anything
    ).prompts_at
    assert set(few(0)) == set(few(1)) == {"text 0", "text 1"}
