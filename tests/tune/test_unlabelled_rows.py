"""Files of texts to be labelled: the fields that tuning finds, and a line of output for each line or row."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from base_models import OPTIONS, make_base

import newleaf
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.storage.classifier_folder import Shape
from newleaf.tune.labels.fields import Wanted, find_fields
from newleaf.tune.labels.unlabelled_rows import read_questions

TEXTS = ["a fine story", "a dull story, grey", "we loved it", "cold and poor", "great", "grey"]
LABELS = ["good", "bad", "good", "bad", "good", "bad"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix in (".csv", ".tsv"):
            writer = csv.DictWriter(file, rows[0], delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
        elif path.suffix == ".json":
            json.dump(rows, file)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tuned on a column that only its name among others tells."""
    folder = tmp_path_factory.mktemp("run")
    rows = write(
        folder / "rows.csv",
        [{"id": n, "review": TEXTS[n % 6], "mood": "x", "label": LABELS[n % 6]} for n in range(24)],
    )
    return newleaf.finetune(
        make_base(folder / "base"), rows, task="classify", out=folder / "run", quiet=True, **OPTIONS
    ).path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl"])
@pytest.mark.parametrize("labelled", [True, False])
def test_classify_finds_the_texts_that_tuning_found(
    run: Path, suffix: str, labelled: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": str(n), "review": text} | ({"label": "?"} if labelled else {}) for n, text in enumerate(TEXTS)
    ]
    assert main(["classify", str(run), "--file", str(write(tmp_path / f"new{suffix}", rows)), "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in found] == TEXTS
    assert [row["label"] for row in found] == newleaf.load(run).classify(TEXTS)


@pytest.mark.parametrize("option", ["--data.text", "--data.field"])
def test_a_field_that_is_named_is_taken(
    run: Path, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.csv", [{"review": "no", "words": text} for text in TEXTS])
    assert main(["classify", str(run), "--file", str(path), option, "words", "--json"]) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == TEXTS
    assert main(["classify", str(run), "--file", str(path), option, "word"]) == 2
    assert "a.csv:2: has no field 'word' (it has: review, words)" in capsys.readouterr().err
    assert main(["classify", str(run), "a text", option, "words"]) == 2
    assert "goes with --file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_a_blank_text_is_a_blank_line_of_the_output(
    run: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["a fine story", "", "  ", "grey"]
    if name == "a.txt":
        (tmp_path / name).write_text("".join(text + "\n" for text in texts))
    else:
        write(tmp_path / name, [{"id": "1", "text": text} for text in texts])
    assert main(["classify", str(run), "--file", str(tmp_path / name)]) == 0
    assert [bool(line) for line in capsys.readouterr().out.splitlines()] == [True, False, False, True]


SHAPES: dict[Shape, list[list[str]]] = {
    "classify": [["text", "label"], ["id", "headline", "class"], ["words", "label"], ["question", "answer"],
    ["Text", "Sentiment"]],
    "pair": [["premise", "hypothesis", "label"], ["a", "b", "label"], ["question1", "question2", "id",
    "is_same", "label"]],
    "similarity": [["sentence1", "sentence2", "label"]],
    "choice": [["ctx", "endings", "label"], ["question", "choice1", "choice2", "choice3", "answer"]],
}  # fmt: skip


@pytest.mark.parametrize(("shape", "has"), [(shape, has) for shape, each in SHAPES.items() for has in each])
@pytest.mark.parametrize("labelled", [True, False])
def test_the_texts_of_rows_without_a_label_are_those_of_rows_with_one(
    shape: Shape, has: list[str], labelled: bool, tmp_path: Path
) -> None:
    fields = find_fields(shape, has, Wanted(), "a:1")
    row: dict[str, Any] = {name: f"the {name}" for name in has if labelled or name != fields.label}
    texts = [row[name] for name in fields.texts]
    if "endings" in row:
        row["endings"] = ["one", "two"]
    choices = [
        each
        for name in fields.choices
        for each in (row[name] if isinstance(row[name], list) else [row[name]])
    ]
    wanted = [*texts, *choices] if shape != "classify" else texts[0]
    assert read_questions(write(tmp_path / "a.jsonl", [row]), shape, Wanted()) == [wanted]


def test_two_columns_of_answers_are_the_two_texts(tmp_path: Path) -> None:
    """A column that looks like a label may be a text where the rows have none."""
    path = write(tmp_path / "a.csv", [{"question": "who?", "answer": "me"}])
    assert read_questions(path, "pair", Wanted()) == [["who?", "me"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "a,b\n1,2\n",
            r"a\.csv:2: which field holds the text is not clear \(it has: a, b\); say so with --data\.text",
        ),
        ("a.jsonl", '{"text": "x"}\n{"txt": "y"}\n', r"a\.jsonl:2: field 'text' is missing"),
        ("a.jsonl", '{"text": "x"}\n{"text": 3}\n', r"a\.jsonl:2: field 'text' is not a text but int"),
        ("a.jsonl", '{"texts": []}\n', r"a\.jsonl:1: field 'texts' must be a list of texts"),
        (
            "a.csv",
            "text,n\nx\n",
            r"a\.csv:2: has 1 field, and the first line names 2 columns: there is none for 'n'",
        ),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_questions(tmp_path / name, "classify", Wanted())
