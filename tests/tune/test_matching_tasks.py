"""A task that was asked of another task's data says which tasks that data fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from base_models import make_base
from chat_data import base_model

import newleaf
from newleaf.tune.matching_tasks import fitting_tasks
from newleaf.tune.task_names import TASKS

TALK = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]}
ROWS: list[tuple[dict[str, Any], list[str]]] = [
    (TALK, ["chat"]),
    ({"conversations": [{"from": "human", "value": "a"}]}, ["chat"]),
    ({"instruction": "a", "input": "b", "output": "c"}, ["chat"]),
    ({"question": "a", "answer": "b"}, ["chat"]),
    ({"prompt": "a", "completion": "b"}, ["chat"]),
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, ["preference"]),
    ({"chosen": [], "rejected": []}, ["preference"]),
    ({"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}, ["preference"]),
    ({"text": "a", "label": 1}, ["classify"]),
    ({"review": "a", "sentiment": "good"}, ["classify"]),
    ({"text": "a", "labels": ["b", "c"]}, ["classify"]),
    ({"premise": "a", "hypothesis": "b", "label": 0}, ["pair", "similarity"]),
    ({"sentence1": "a", "sentence2": "b", "label": 0}, ["pair", "similarity"]),
    ({"context": "a", "endings": ["b", "c"], "label": 0}, ["choice"]),
    ({"goal": "a", "sol1": "b", "sol2": "c", "label": 0}, ["choice"]),
    ({"text": "a long document"}, ["text"]),
    ({"a": 1}, []),
    ({}, []),
]


@pytest.mark.parametrize(("row", "tasks"), ROWS)
def test_the_fields_of_a_row_tell_its_tasks(row: dict[str, Any], tasks: list[str]) -> None:
    assert fitting_tasks(row) == tasks


WRONG = [
    (row, tasks, asked) for row, tasks in ROWS for asked in TASKS if tasks and asked not in (*tasks, "distil")
]


@pytest.mark.parametrize(
    ("row", "tasks", "asked"),
    [case for case in WRONG if case[0] in (TALK, ROWS[5][0], ROWS[8][0], ROWS[11][0])],
)
def test_each_wrong_task_says_which_are_right(
    row: dict[str, Any], tasks: list[str], asked: str, base: Path, tmp_path: Path
) -> None:
    if asked == "text" and "text" in row:
        pytest.skip("a labelled row's text is a text")
    if asked == "similarity" and "pair" in tasks:
        pytest.skip("the same rows")
    data = tmp_path / "rows.jsonl"
    data.write_text((json.dumps(row) + "\n") * 8, "utf-8")
    with pytest.raises(newleaf.InputError) as error:
        newleaf.finetune(
            base, data, task=asked, out=tmp_path / "run", steps=1, quiet=True, train={"threads": 1}
        )
    assert str(error.value).endswith(f"; this data fits --task {' or '.join(tasks)}")
    assert asked == "text" or "skip leaves" not in str(error.value)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_model(tmp_path_factory.mktemp("fitting") / "base", template=True)


def test_files_of_text_fit_text_and_no_task_gets_a_suggestion_too(base: Path, tmp_path: Path) -> None:
    book, table = tmp_path / "book.txt", tmp_path / "reviews.csv"
    book.write_text("a book of words\n" * 50, "utf-8")
    table.write_text("text,label\na fine day,good\na dull day,bad\n", "utf-8")
    options: dict[str, Any] = {"out": tmp_path / "run", "steps": 1, "quiet": True, "train": {"threads": 1}}
    for task in ("classify", "chat", "preference"):
        with pytest.raises(newleaf.InputError, match=r"; this data fits --task text$"):
            newleaf.finetune(base, book, task=task, **options)
    with pytest.raises(newleaf.InputError, match=r"; this data fits --task classify$"):
        newleaf.finetune(base, table, task="chat", **options)
    with pytest.raises(
        newleaf.InputError,
        match=r"task: missing; say what is to be learned, .*; this data fits --task classify$",
    ):
        newleaf.finetune(base, table, **options)


def test_an_error_about_something_else_suggests_nothing(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "a", "label": "b"}) + "\n", "utf-8")
    with pytest.raises(newleaf.InputError) as error:
        newleaf.finetune(
            make_base(tmp_path / "base"), rows, task="classify", out=tmp_path / "run", steps=1, quiet=True
        )
    assert "this data" not in str(error.value)
