"""Claims about tables: every reader of rows takes the same ones, as Python's csv reads them, and says the
same of what is wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from newleaf.data.bad_documents import Problems
from newleaf.data.data_config import DataConfig
from newleaf.data.documents import documents
from newleaf.data.sources import resolve_sources
from newleaf.errors import InputError
from newleaf.evaluation.perplexity import read_documents
from newleaf.evaluation.task_rows import read_rows
from newleaf.generate.batch.prompt_file import read_prompts
from newleaf.tune.conversations.conversation_rows import read_rows as read_conversations
from newleaf.tune.labels.fields import Wanted
from newleaf.tune.labels.table import read_table
from newleaf.tune.labels.unlabelled_rows import read_questions


def texts_to_learn(path: Path) -> list[str]:
    found = documents(resolve_sources([path]), DataConfig("prompt"), Problems())
    return ["".join(each.pieces) for each in found]


def texts_to_predict(path: Path) -> list[str]:
    from newleaf.evaluation.task import RowFields

    found, problems = read_documents(path, None, RowFields("prompt"))
    if problems:
        raise InputError(problems[0])
    return [text for _, text in found]


def rows_to_ask(path: Path) -> list[str]:
    rows, problems = read_rows(path)
    if problems:
        raise InputError(problems[0])
    return [row.fields["prompt"] for row in rows]


DOORS: dict[str, Callable[[Path], list[Any]]] = {
    "pretraining": texts_to_learn,
    "evaluation of text": texts_to_predict,
    "evaluation of rows": rows_to_ask,
    "prompts": lambda path: [prompt.text for prompt in read_prompts(path)],
    "labelled rows": lambda path: [row.values["prompt"] for row in read_table([str(path)])],
    "conversations": lambda path: [row.read()["prompt"] for row in read_conversations([str(path)])],
    "texts to label": lambda path: list(read_questions(path, "classify", Wanted("prompt"))),
}
GOOD = {
    "carriage returns alone": ".csv|n,prompt\r1,one\r2,two\r",
    "mixed line ends": ".csv|n,prompt\r\n1,one\r2,two\n3,three",
    "a carriage return in quotes": '.csv|n,prompt\n1,"one\rtwo"\n2,three\n',
    "empty lines": ".csv|\n\nn,prompt\n\n1,one\r\r\n2,two\n",
    "columns without a name": ".csv|,prompt,,\n1,one,,\n2,two,,\n",
    "one column without a name": ".csv|,prompt\n0,one\n1,two\n",
    "a mark before the quote": '.csv|\ufeff"prompt",n\none,1\n',
    "tabs": '.tsv|n\tprompt\n1\tone, "two"\n2\t\'three\n',
    "tabs and carriage returns": ".tsv|n\tprompt\r1\tone\r2\ttwo\r",
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", GOOD)
def test_every_door_reads_the_rows_that_pythons_csv_reads(door: str, kind: str, tmp_path: Path) -> None:
    suffix, _, text = GOOD[kind].partition("|")
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(text.encode())
    with path.open(encoding="utf-8-sig", newline="") as file:
        quotes = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if suffix == ".tsv" else {}
        header, *rows = [row for row in csv.reader(file, **quotes) if row]  # type: ignore[arg-type]
    assert DOORS[door](path) == [row[header.index("prompt")] for row in rows]


LONG = "holds a whole number of more than 4,300 digits"
WRONG = {
    "a name twice": (".csv|prompt,n,prompt\na,1,b\n", r":1: columns 1 and 3 have the same name, 'prompt'"),
    "another name twice": (".csv|prompt,n,n\na,1,2\n", r":1: columns 2 and 3 have the same name, 'n'"),
    "no names": (".csv|,\na,1\n", r":1: the first line names the columns, and it is empty"),
    "too few fields": (
        ".csv|prompt,n\na,1\nb\n",
        r":3: has 1 field, and the first line names 2 columns: there is none for 'n'",
    ),
    "too many fields": (
        ".csv|prompt,n\na,b,1\n",
        r":2: has 3 fields, and the first line names 2 columns: field 3, '1', is of no column",
    ),
    "too many in a row of lines": (
        '.csv|prompt,n\n"a\n\nb",1,2\n',
        r":2: has 3 fields, .*field 3, '2', is of no column",
    ),
    "too few after returns": (".csv|prompt,n\ra,1\rb\r", r":3: has 1 field, "),
    "an open quote": (
        '.csv|prompt,n\na,1\n"b,2\nc,3\n',
        r":3: not valid CSV \(a quote is opened and never closed\)",
    ),
    "letters behind a quote": ('.csv|prompt,n\n"a"b,1\n', r":2: not valid CSV \("),
    "too many tabs": (
        ".tsv|prompt\tn\na\t1\tx\n",
        r":2: has 3 fields, and the first line names 2 columns: field 3, 'x', is of no column",
    ),
    "a long number": ('.jsonl|{"prompt": "a"}\n{"prompt": "b", "n": ' + "9" * 5000 + "}\n", r":2: " + LONG),
    "a long number in a list": ('.json|[{"prompt": "a"},\n{"n": ' + "9" * 5000 + "}]", r" row 2: " + LONG),
    "a deep list": ('.json|[{"prompt": "a"}, ' + "[" * 100_000, r" row 2: nests more than 100 levels deep"),
    "a broken list": (
        '.json|[{"prompt": "a"},\n {"prompt" 1}]',
        r" row 2: not valid JSON \(Expecting ':' delimiter: line 2 column 12\)",
    ),
    "no list": ('.json|{"prompt": "a"}', r": must be a list of rows"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", WRONG)
def test_every_door_names_the_same_fault_with_its_line(door: str, kind: str, tmp_path: Path) -> None:
    content, message = WRONG[kind]
    suffix, _, text = content.partition("|")
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(text.encode())
    with pytest.raises(InputError, match=message) as caught:
        DOORS[door](path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        " [ ] ",
        '[{"a": 1e999}]',
        '[{"a": 1}, {"a": [2, {"b": "]"}]}\n]',
        '[{"a": "\\u4f60"},\r\n{"a": null}]',
    ],
)
def test_a_list_has_the_rows_that_pythons_json_finds(text: str, tmp_path: Path) -> None:
    from newleaf.data.row_files import file_rows

    path = tmp_path / "rows.json"
    path.write_text(text, newline="")
    assert [row.values for row in file_rows(path)] == json.loads(text)


@pytest.mark.parametrize(
    "text", ['[{"a": 1},]', '[{"a": 1} {"a": 2}]', '[{"a": 1}', '[{"a": 1}] x', "[", '[{"a": }]']
)
def test_a_list_that_pythons_json_refuses_is_refused(text: str, tmp_path: Path) -> None:
    from newleaf.data.row_files import file_rows

    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(ValueError):
        json.loads(text)
    with pytest.raises(InputError, match=r"rows\.json row \d: not valid JSON"):
        list(file_rows(path))


def test_folders_give_no_configurations_to_learn(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "a.txt").write_text("text")
    assert [str(source) for source in resolve_sources([tmp_path]).skipped_files] == [
        str(tmp_path / "package.json")
    ]
