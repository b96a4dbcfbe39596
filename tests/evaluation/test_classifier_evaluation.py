"""Classifiers on labelled files: scikit-learn's figures, scipy's McNemar, and what does not go together
refused by name."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from small_tasks import LABELS, save_tiny_classifier, write_rows
from small_tasks import tiny_classifier as classifier

import newleaf
from newleaf.api import Model
from newleaf.api.evaluating import evaluation
from newleaf.cli.main import main
from newleaf.errors import InputError


@pytest.fixture
def rows(book: Path) -> list[dict[str, Any]]:
    words = book.read_text("utf-8").split()
    return [{"text": " ".join(words[7 * n : 7 * n + 7]), "label": LABELS[n * n % 3]} for n in range(60)]


def table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_labelled_file_is_scored_as_scikit_learn_scores_it(
    tiny_tokenizer: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    model = classifier(tiny_tokenizer)
    found = newleaf.evaluate(
        model, [str(table(tmp_path / "test.csv", rows))], quiet=True, out=tmp_path / "out"
    )["tasks"]["test"]
    truth, guess = [row["label"] for row in rows], model.classify([row["text"] for row in rows])
    assert found["n"] == 60
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess))
    assert found["macro_f1"] == pytest.approx(
        metrics.f1_score(truth, guess, labels=LABELS, average="macro", zero_division=0)
    )
    assert found["matthews"] == pytest.approx(metrics.matthews_corrcoef(truth, guess))
    assert found["confusion"] == metrics.confusion_matrix(truth, guess, labels=LABELS).tolist()
    assert found["accuracy_chance"] == pytest.approx(1 / 3)
    assert found["baselines"]["commonest label"]["accuracy"] == pytest.approx(
        max(map(truth.count, LABELS)) / 60, abs=1e-4
    )
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
    report = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "is \\ taken for" in report
    again = evaluation(model, [str(tmp_path / "test.csv")], quiet=True, out=tmp_path / "out").tasks[0]
    assert (again.asked, again.scores["accuracy"].value) == (0, found["accuracy"])


def test_two_classifiers_are_compared_by_mcnemar(
    tiny_tokenizer: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    stats = pytest.importorskip("scipy.stats")
    one, other = classifier(tiny_tokenizer), classifier(tiny_tokenizer, seed=2)
    path = write_rows(tmp_path / "test.jsonl", rows)
    difference = evaluation(one, [str(path)], against=other, quiet=True).differences["test"]["accuracy"]
    texts, truth = [row["text"] for row in rows], [row["label"] for row in rows]
    right = [
        [guess == real for guess, real in zip(each.classify(texts), truth, strict=True)]
        for each in (one, other)
    ]
    only = [sum(a and not b for a, b in zip(*pair, strict=True)) for pair in (right, right[::-1])]
    assert [difference.only_a, difference.only_b] == only
    assert difference.p == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0)


def test_labels_of_a_table_are_those_of_the_model_whatever_their_type(
    tiny_tokenizer: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    numbered = [{"body": row["text"], "kind": LABELS.index(row["label"])} for row in rows]
    model = classifier(tiny_tokenizer, (0, 1, 2))
    options: dict[str, Any] = {"data": {"text": "body", "label": "kind"}, "quiet": True}
    found = [
        newleaf.evaluate(model, [str(path)], **options)["tasks"]["a"]["accuracy"]
        for path in (
            table(tmp_path / "a.csv", numbered),
            table(tmp_path / "a.tsv", numbered, "\t"),
            write_rows(tmp_path / "a.jsonl", numbered),
        )
    ]
    assert len(set(found)) == 1
    stock = classifier(tiny_tokenizer, ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert newleaf.evaluate(stock, [str(tmp_path / "a.csv")], **options)["tasks"]["a"]["accuracy"] == found[0]


def test_rows_that_cannot_be_judged_are_left_out_by_name(
    tiny_tokenizer: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    bad = [{"text": "x", "label": "other"}, {"text": "", "label": "good"}, {"text": "no label"}]
    path = write_rows(tmp_path / "a.jsonl", [*rows[:5], *bad])
    found = evaluation(classifier(tiny_tokenizer), [str(path)], quiet=True).tasks[0]
    assert found.n == 5
    assert [line.partition(": ")[0] for line in found.left_out] == [
        f"{path}:{number}" for number in (6, 7, 8)
    ]
    assert "none of the model's ('bad', 'fine', 'good')" in found.left_out[0]


def test_several_labels_a_text_and_pairs_are_scored_too(
    tiny_tokenizer: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    several = classifier(tiny_tokenizer, several=True)
    path = write_rows(
        tmp_path / "several.jsonl", [{"text": row["text"], "label": [row["label"], "fine"]} for row in rows]
    )
    found = newleaf.evaluate(several, [str(path)], quiet=True)["tasks"]["several"]
    sets = [
        set(answer) if isinstance(answer, list) else {answer}
        for answer in several.classify([row["text"] for row in rows])
    ]
    assert found["accuracy"] == pytest.approx(
        sum(a == {row["label"], "fine"} for a, row in zip(sets, rows, strict=True)) / 60
    )
    pairs = write_rows(
        tmp_path / "pairs.jsonl",
        [{"premise": row["text"], "hypothesis": "a", "label": row["label"]} for row in rows],
    )
    assert (
        newleaf.evaluate(classifier(tiny_tokenizer, shape="pair"), [str(pairs)], quiet=True)["tasks"][
            "pairs"
        ]["n"]
        == 60
    )


def test_what_does_not_go_together_is_refused_by_name(
    tiny_tokenizer: Any,
    model: Model,
    rows: list[dict[str, Any]],
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, path = classifier(tiny_tokenizer), str(table(tmp_path / "test.csv", rows))
    with pytest.raises(InputError, match="hellaswag: asks a language model, and a classifier gives labels"):
        newleaf.evaluate(made, ["hellaswag"], data_dir, quiet=True)
    with pytest.raises(InputError, match=r"missing\.csv: no such file"):
        newleaf.evaluate(made, ["missing.csv"], quiet=True)
    with pytest.raises(InputError, match=r"has labels \(field 'label'\), and a language model gives none"):
        newleaf.evaluate(model, [path], quiet=True)
    with pytest.raises(InputError, match="shots: "):
        newleaf.evaluate(made, [path], shots=2, quiet=True)
    with pytest.raises(InputError, match=r"against: .* writes text"):
        newleaf.evaluate(made, [path], against=model, quiet=True)
    assert newleaf.evaluate(model, [path], data={"field": "text"}, quiet=True)["tasks"]["test"]["n"] == 60


def test_the_command_scores_a_run_of_tuning(
    tmp_path: Path, tiny_tokenizer: Any, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_classifier(classifier(tiny_tokenizer), tmp_path / "reviews")
    path = table(tmp_path / "test.csv", [{"body": row["text"], "label": row["label"]} for row in rows])
    assert main(["evaluate", str(tmp_path / "reviews"), str(path), "--data.text", "body", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"]["test"]["n"] == 60
    assert main(["evaluate", str(tmp_path / "reviews"), str(path), "--data.text=body"]) == 0
    out = capsys.readouterr().out
    assert "taken for" in out
    assert "commonest label" in out


def test_a_regression_is_scored_by_its_errors_and_pearsons_correlation(
    tiny_tokenizer: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    stats = pytest.importorskip("scipy.stats")
    model = classifier(tiny_tokenizer, ("LABEL_0",))
    assert model.labels is not None
    model.labels = dataclasses.replace(
        model.labels, head=dataclasses.replace(model.labels.head, regression=True)
    )
    scored = [{"text": row["text"], "label": 0.5 * number} for number, row in enumerate(rows)]
    found = newleaf.evaluate(model, [str(write_rows(tmp_path / "a.jsonl", scored))], quiet=True)["tasks"]["a"]
    guess, truth = model.classify([row["text"] for row in rows]), [row["label"] for row in scored]
    assert found["mean_absolute_error"] == pytest.approx(
        sum(abs(a - b) for a, b in zip(guess, truth, strict=True)) / 60
    )
    assert found["pearson"] == pytest.approx(stats.pearsonr(guess, truth).statistic)
