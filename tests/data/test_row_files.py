"""Claims about files of rows: evaluation, prompts, classification and tuning read the same files in the same
way."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.data.bad_documents import BadDocumentError
from newleaf.data.row_files import file_rows
from newleaf.errors import InputError
from newleaf.evaluation.task_rows import read_rows
from newleaf.generate.batch.prompt_file import read_prompts
from newleaf.tune.conversations.conversation_rows import read_rows as read_conversations
from newleaf.tune.labels.table import read_table

ROWS = [{"prompt": "你好", "n": "1"}, {"prompt": "two", "n": "2"}]
READERS: dict[str, Callable[[Path], list[Any]]] = {
    "evaluation": lambda path: [row.fields for row in read_rows(path)[0]],
    "prompts": lambda path: [prompt.fields for prompt in read_prompts(path)],
    "labels": lambda path: [row.values for row in read_table([str(path)])],
    "conversations": lambda path: [row.read() for row in read_conversations([str(path)])],
}


def as_table(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_byte_order_mark_an_encoding_and_a_line_end_change_no_row(
    tmp_path: Path, reader: str, encoding: str, ending: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + ending for row in ROWS).encode(encoding))
    assert READERS[reader](path) == ROWS


@pytest.mark.parametrize("reader", [name for name in READERS if name != "conversations"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl.gz"])
def test_every_reader_takes_every_kind_of_file(tmp_path: Path, reader: str, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    lines = "\n".join(json.dumps(row) for row in ROWS)
    content = {
        ".csv": as_table(ROWS),
        ".tsv": as_table(ROWS, "\t"),
        ".json": json.dumps(ROWS),
        ".jsonl.gz": lines,
    }[suffix]
    path.write_bytes(gzip.compress(content.encode()) if suffix.endswith("gz") else content.encode())
    assert READERS[reader](path) == ROWS


FIELD = st.text(st.characters(exclude_characters="\t\r\n\x00", exclude_categories=["Cs"]))
BAD = [
    '{"prompt": "\\ud800"}',
    '{"prompt": ' + "[" * 500 + "]" * 500 + "}",
    '{"prompt": ' + "[" * 100_000,
    '{"prompt"',
    "[1]",
    '{"a": {"\\udc00": 1}}',
]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_row_is_one_lines_problem(tmp_path: Path, bad: str) -> None:
    """Evaluation leaves it out and names it; who cannot go on without it names it too."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(ROWS[0]), bad, json.dumps(ROWS[1])]))
    rows, problems = read_rows(path)
    assert [row.fields for row in rows] == ROWS
    assert [problem.startswith(f"{path}:2: ") for problem in problems] == [True]
    for reader in ("prompts", "labels"):
        with pytest.raises(InputError, match=r"rows\.jsonl:2: "):
            READERS[reader](path)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.lists(
            st.text(st.characters(exclude_characters="\t\r\n\x00", exclude_categories=["Cs"])),
            min_size=2,
            max_size=2,
        ),
        min_size=1,
    )
)
def test_tabs_and_line_ends_alone_part_a_tsv(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    """IANA's text/tab-separated-values: a quote is a character like any other."""
    path = tmp_path_factory.mktemp("tsv") / "a.tsv"
    path.write_text("text\tlabel\n" + "".join("\t".join(row) + "\n" for row in rows), "utf-8", newline="")
    assert [[row.values["text"], row.values["label"]] for row in file_rows(path)] == rows


def test_a_csv_field_keeps_the_line_ends_between_its_quotes(tmp_path: Path) -> None:
    rows = [{"text": 'one\r\ntwo, "three"\n', "label": "x"}]
    (tmp_path / "a.csv").write_text(as_table(rows), "utf-8", newline="")
    assert [row.values for row in file_rows(tmp_path / "a.csv")] == rows


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=400),
    suffix=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz"]),
)
def test_any_bytes_give_rows_problems_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    path.write_bytes(data)
    problems: list[BadDocumentError] = []
    try:
        assert all(isinstance(row.values, dict) for row in file_rows(path, problems.append))
    except InputError as error:
        problems.append(BadDocumentError("", str(error)))
    assert all(str(problem).startswith(str(path)) for problem in problems)
