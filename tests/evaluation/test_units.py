"""What differences and intervals are taken over: windows of few texts, in blocks, and nothing where there are
too few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tasks import tiny_model, write_rows

from newleaf.api.evaluating import evaluation
from newleaf.evaluation.report_content import remarks
from newleaf.evaluation.statistics import compare, estimate


def correlated(generator: np.random.Generator, count: int, memory: float = 0.4) -> list[float]:
    """An autoregressive series of order one, as neighbouring windows of a text are alike."""
    found, last = [], 0.0
    for noise in generator.normal(0, 1, count).tolist():
        last = memory * last + noise
        found.append(last)
    return found


def test_a_difference_of_one_document_is_never_called_real_from_one_number(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("The quick brown fox. " * 8)
    one, other = tiny_model(tiny_tokenizer, 1, context=32), tiny_model(tiny_tokenizer, 2, context=32)
    found = evaluation(one, [str(tmp_path / "a.txt")], against=other, quiet=True)
    difference = found.differences["a"]["bits_per_byte"]
    assert difference.real is None
    assert any("too few to tell" in line for line in remarks(found))
    assert found.as_json()["differences"]["a"]["bits_per_byte"]["real"] is None


def test_a_long_document_is_compared_by_blocks_of_its_windows(
    tiny_tokenizer: Any, book: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(book.read_text("utf-8")[:12_000])
    one, other = tiny_model(tiny_tokenizer, 1, context=32), tiny_model(tiny_tokenizer, 2, context=32)
    found = evaluation(one, [str(tmp_path / "a.txt")], against=other, quiet=True)
    difference = found.differences["a"]["bits_per_byte"]
    assert difference.n > 50
    assert "blocks" in difference.test
    assert "windows" in difference.test
    same = evaluation(one, [str(tmp_path / "a.txt")], against=one, quiet=True).differences["a"][
        "bits_per_byte"
    ]
    assert (same.value, same.real) == (0.0, False)


def test_models_of_different_contexts_are_compared_on_the_same_stretches_of_text(
    tiny_tokenizer: Any, book: Path, tmp_path: Path
) -> None:
    rows = [{"text": book.read_text("utf-8")[start : start + 6000]} for start in (0, 7000, 14_000)]
    path = write_rows(tmp_path / "texts.jsonl", rows)
    one, other = tiny_model(tiny_tokenizer, 1, context=64), tiny_model(tiny_tokenizer, 2, context=24)
    found = evaluation(one, [str(path)], against=other, quiet=True)
    difference = found.differences["texts"]["bits_per_byte"]
    assert difference.n == sum(len(each) for each in found.tasks[0].parts)  # the wider windows
    whole = (
        found.tasks[0].scores["bits_per_byte"].value - found.against.tasks[0].scores["bits_per_byte"].value
    )  # type: ignore[union-attr]
    assert difference.value == pytest.approx(whole, abs=1e-9)


def test_series_that_do_not_differ_are_called_different_one_time_in_twenty_or_so() -> None:
    generator, wrong = np.random.default_rng(5), 0
    for _ in range(300):
        noise = correlated(generator, 120)
        wrong += bool(compare(noise, [0.0] * 120, resamples=300, block=5).real)
    assert wrong / 300 <= 0.12  # independent draws of single windows: about 0.2


def test_too_few_items_have_no_verdict_but_right_and_wrong_ones_have_an_exact_one() -> None:
    assert compare([1.5, 2.0, 3.1], [0.1, 0.2, 0.3]).real is None
    assert compare([1.0] * 8, [0.0] * 8).real is True  # McNemar: 2/256


def test_the_interval_of_a_text_is_over_blocks_too() -> None:
    series = correlated(np.random.default_rng(6), 400, 0.9)
    assert estimate(series, [1.0] * 400, block=20).stderr > 1.5 * estimate(series, [1.0] * 400).stderr
