"""What stands beside a score: what guessing reaches, and a word where answers were cut; and rows read by the
fields that are named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from small_tasks import tiny_model, write_rows
from test_remote import Server

import newleaf
from newleaf.api import Model
from newleaf.api.evaluating import evaluation
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.evaluation.report import as_csv, markdown


def test_chance_levels_stand_beside_accuracies(
    model: Model, model_folder: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluation(
        model, ["hellaswag", "sst2", "mmlu", "truthfulqa_mc1", "arc_easy", "lambada"], data_dir, quiet=True
    )
    tasks = found.as_json()["tasks"]
    assert (
        tasks["hellaswag"]["acc_chance"],
        tasks["hellaswag"]["acc_norm_chance"],
        tasks["sst2"]["acc_chance"],
    ) == (0.25, 0.25, 0.5)
    for name in ("truthfulqa_mc1", "arc_easy"):  # rows with different numbers of choices
        rows = [json.loads(line) for line in (data_dir / f"{name}.jsonl").read_text("utf-8").splitlines()]
        assert tasks[name]["acc_chance"] == pytest.approx(
            sum(1 / len(row["choices"]) for row in rows) / len(rows)
        )
    assert all(group["acc_chance"] == 0.25 for group in tasks["mmlu"]["groups"].values())
    assert "acc_chance" not in tasks["lambada"]
    assert "| 95 % interval | chance |" in markdown(found)
    header, *lines = csv.reader(as_csv(found).splitlines())
    assert header[-1] == "chance"
    assert [line[-1] for line in lines if line[1] == "sst2"] == ["0.5"]
    assert main(["evaluate", str(model_folder), "sst2", "--data-dir", str(data_dir)]) == 0
    out = capsys.readouterr().out
    assert "chance" in out
    assert "50.0 %" in out


def test_answers_are_cut_to_the_context_with_a_word(tiny_tokenizer: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "asked.jsonl", [{"prompt": "parse the", "references": ["it"]}])
    found = evaluation(tiny_model(tiny_tokenizer, context=64), [str(path)], max_tokens=1000, quiet=True)
    assert found.tasks[0].n == 1
    assert any("tokens, not 1,000" in note for note in found.notes)


def test_an_address_is_asked_in_its_chat_when_that_is_wanted(model: Model, tmp_path: Path) -> None:
    server = Server(model)
    server.complete = lambda body: {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "the answer"}}]
    }  # type: ignore[method-assign]
    path = write_rows(tmp_path / "asked.jsonl", [{"prompt": "What is it?", "references": ["the answer"]}])
    try:
        found = newleaf.evaluate(server.address, [str(path)], chat=True, quiet=True)
    finally:
        server.http.shutdown()
        server.http.server_close()
    assert found["tasks"]["asked"]["exact_match"] == 1.0
    assert server.asked[0]["messages"] == [{"role": "user", "content": "What is it?"}]
    assert "prompt" not in server.asked[0]


def test_rows_of_text_are_read_by_the_field_that_is_named(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl", [{"body": "some words here", "n": 1}, {"body": "and some more", "n": 2}]
    )
    found = newleaf.evaluate(model, [str(path)], data={"field": "body"}, quiet=True)["tasks"]["rows"]
    plain = write_rows(tmp_path / "plain.jsonl", [{"text": "some words here"}, {"text": "and some more"}])
    assert (
        found["bits_per_byte"]
        == newleaf.evaluate(model, [str(plain)], quiet=True)["tasks"]["plain"]["bits_per_byte"]
    )
    with pytest.raises(InputError, match=r"data\.fields: there is no such option"):
        newleaf.evaluate(model, [str(path)], data={"fields": "body"}, quiet=True)
    text = tmp_path / "lines.txt"
    text.write_text("some words here\nand some more\n", "utf-8")
    assert (
        newleaf.evaluate(model, [str(text)], data={"document": "line"}, quiet=True)["tasks"]["lines"]["n"]
        == 2
    )
