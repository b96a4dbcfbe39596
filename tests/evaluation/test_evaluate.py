"""What `newleaf evaluate` and `newleaf.evaluate` do around the scores: resuming, comparing, reporting, and
saying what is wrong where."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from small_tasks import tiny_model, word_tokenizer, write_rows

import newleaf
from newleaf.api import Model
from newleaf.api.evaluating import evaluation
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.evaluation.local_model import LocalModel
from newleaf.evaluation.report_content import reference_rows, remarks


def test_the_result_is_the_one_of_the_design(model: Model, data_dir: Path) -> None:
    found = newleaf.evaluate(model, ["hellaswag", "sst2"], data_dir=data_dir, quiet=True)
    assert {"model", "tasks"} <= found.keys()
    assert found["tasks"]["hellaswag"]["n"] == 12
    assert {"acc", "acc_norm", "acc_stderr", "acc_low", "acc_high"} <= found["tasks"]["hellaswag"].keys()
    acc, error = found["tasks"]["sst2"]["acc"], found["tasks"]["sst2"]["acc_stderr"]
    assert error == pytest.approx(math.sqrt(acc * (1 - acc) / 11))
    json.dumps(found)


def test_mmlu_is_scored_by_subject_and_in_all(model: Model, data_dir: Path) -> None:
    found = newleaf.evaluate(model, ["mmlu", "mmlu_anatomy"], data_dir=data_dir, shots=2, quiet=True)["tasks"]
    groups = found["mmlu"]["groups"]
    assert {name: each["n"] for name, each in groups.items()} == {"anatomy": 6, "high_school_us_history": 6}
    assert groups["anatomy"]["acc"] == found["mmlu_anatomy"]["acc"]
    assert found["mmlu"]["acc"] == pytest.approx(sum(each["acc"] for each in groups.values()) / 2)


def test_an_interrupted_evaluation_goes_on_and_gives_the_same(
    model: Model, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluation(model, ["hellaswag"], data_dir, quiet=True).as_json()
    plain = LocalModel.score

    def broken(self: LocalModel, asks: Any) -> Any:
        for number, answer in enumerate(plain(self, asks)):
            if number == 5:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(LocalModel, "score", broken)
    with pytest.raises(KeyboardInterrupt):
        evaluation(model, ["hellaswag"], data_dir, out=tmp_path, quiet=True)
    answers = tmp_path / "answers" / "hellaswag.jsonl"
    assert len(answers.read_text("utf-8").splitlines()) == 5
    with answers.open("a", encoding="utf-8") as file:
        file.write('{"key": "cut o')  # as a kill leaves it
    monkeypatch.setattr(LocalModel, "score", plain)
    again = evaluation(model, ["hellaswag"], data_dir, out=tmp_path, quiet=True)
    assert again.tasks[0].asked == 7
    assert again.as_json()["tasks"]["hellaswag"]["acc_norm"] == whole["tasks"]["hellaswag"]["acc_norm"]
    rows = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
    assert [row["where"].rpartition(":")[2] for row in rows] == [str(number) for number in range(1, 13)]
    assert evaluation(model, ["hellaswag"], data_dir, out=tmp_path, quiet=True).tasks[0].asked == 0


def test_answers_of_another_model_or_setting_are_not_taken_over(
    model: Model, tiny_tokenizer: Any, data_dir: Path, tmp_path: Path
) -> None:
    evaluation(model, ["mmlu"], data_dir, out=tmp_path, quiet=True)
    other = tiny_model(tiny_tokenizer, seed=2)
    assert evaluation(other, ["mmlu"], data_dir, out=tmp_path, quiet=True).tasks[0].asked == 12
    assert evaluation(other, ["mmlu"], data_dir, shots=1, out=tmp_path, quiet=True).tasks[0].asked == 12


def test_two_models_are_compared_item_by_item(
    model: Model, tiny_tokenizer: Any, data_dir: Path, tmp_path: Path
) -> None:
    other = tiny_model(tiny_tokenizer, seed=2)
    found = evaluation(model, ["hellaswag", "lambada"], data_dir, against=other, out=tmp_path, quiet=True)
    assert found.against is not None
    one, two = found.tasks[0], found.against.tasks[0]
    difference = found.differences["hellaswag"]["acc"]
    assert difference.value == pytest.approx(one.scores["acc"].value - two.scores["acc"].value)
    assert difference.only_a == sum(a["acc"] > b["acc"] for a, b in zip(one.marks, two.marks, strict=True))
    logs = [math.log(each.tasks[1].scores["perplexity"].value) for each in (found, found.against)]
    assert found.differences["lambada"]["log perplexity"].value == pytest.approx(logs[0] - logs[1])
    same = evaluation(model, ["hellaswag"], data_dir, against=model, quiet=True)
    assert not same.differences["hellaswag"]["acc"].real
    assert any("may be chance" in line for line in remarks(same))
    written = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert written["differences"]["hellaswag"]["acc"]["real"] == difference.real
    assert (tmp_path / "against" / "answers" / "lambada.jsonl").exists()


def test_the_command_prints_a_table_and_writes_every_form_of_the_report(
    model_folder: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        main(
            [
                "evaluate",
                str(model_folder),
                "hellaswag",
                "lambada",
                "--data-dir",
                str(data_dir),
                "--limit",
                "9",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "hellaswag" in shown
    assert "acc_norm" in shown
    assert "GPT-J 6B" in shown  # the published figure of the same setting
    results = json.loads((out / "results.json").read_text("utf-8"))
    assert results["tasks"]["hellaswag"]["n"] == 9
    with (out / "results.csv").open(encoding="utf-8") as file:
        rows = {(row["task"], row["score"]): float(row["value"]) for row in csv.DictReader(file)}
    assert rows["hellaswag", "acc"] == results["tasks"]["hellaswag"]["acc"]
    assert "| hellaswag | 9 | acc |" in (out / "report.md").read_text("utf-8")
    assert (out / "results.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["evaluate", str(model_folder), "sst2", "--data-dir", str(data_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["sst2"]["n"] == 12


def test_speed_is_a_task(model: Model) -> None:
    found = newleaf.evaluate(model, ["speed"], quiet=True)["tasks"]["speed"]
    assert found["tokens_per_second"] > 0
    assert found["prompt_tokens_per_second"] > found["tokens_per_second"]
    assert found["setting"]["new_tokens"] == 128


def test_published_figures_stand_only_beside_the_same_setting(model: Model, data_dir: Path) -> None:
    assert reference_rows(evaluation(model, ["mmlu"], data_dir, shots=1, quiet=True)) == []
    found = evaluation(model, ["mmlu"], data_dir, shots=5, quiet=True)
    own, neox = reference_rows(found)
    assert own[:3] == (found.model, "mmlu, 5 shots", "acc")
    assert neox[:4] == ("GPT-NeoX 20B", "mmlu, 5 shots", "acc", "25.0 %")
    assert "huggingface.co/EleutherAI/gpt-neox-20b" in neox[4]


BAD = [
    (
        "hellaswag",
        {"ctx_a": "a", "ctx_b": "b", "endings": ["c", "d"], "label": 0},
        "has no field 'activity_label'",
    ),
    (
        "hellaswag",
        {"activity_label": "x", "ctx_a": "a", "ctx_b": "b", "endings": ["c", "d"], "label": 2},
        "0 to 1, not 2",
    ),
    (
        "arc_easy",
        {"question": "q", "choices": ["a", "b"], "labels": ["A", "B"], "answer": "E"},
        "one of the labels A, B, not 'E'",
    ),
    (
        "arc_easy",
        {"question": "q", "choices": ["a", "b"], "labels": ["A", "A"], "answer": "A"},
        "one of the labels",
    ),
    (
        "mmlu",
        {"subject": "s", "question": "q", "choices": ["a", "b", "c", "d"], "answer": [1, 2]},
        "2 correct answers",
    ),
    (
        "truthfulqa_mc1",
        {"question": "q", "choices": [], "expected_index": 0},
        "choices must be a list of texts",
    ),
    ("sst2", {"text": "", "label": 0}, "not empty"),
    ("lambada", {"context": "word", "continuation": ""}, "continuation must be text that is not empty"),
    ("gsm8k", {"question": "q", "answer": "no result"}, "has no result after ####"),
]


@pytest.mark.parametrize(
    ("task", "row", "said"), BAD, ids=[f"{task}-{number}" for number, (task, _, _) in enumerate(BAD)]
)
def test_a_row_that_cannot_be_asked_is_named_and_the_rest_is_scored(
    task: str, row: dict[str, Any], said: str, model: Model, data_dir: Path, tmp_path: Path
) -> None:
    file = {"mmlu": "mmlu_test.jsonl"}.get(task, f"{task}.jsonl")
    good = [json.loads(line) for line in (data_dir / file).read_text("utf-8").splitlines()]
    path = write_rows(tmp_path / file, [*good[:2], row, *good[2:3]])
    with path.open("a") as broken:
        broken.write("{not json\n")
    options = {"max_tokens": 4} if task == "gsm8k" else {}
    found = evaluation(
        model, ["gsm8k_cot" if task == "gsm8k" else task], tmp_path, quiet=True, **options
    ).tasks[0]
    assert found.n == 3
    (bad,) = [line for line in found.left_out if line.startswith(f"{path}:3:")]
    assert said in bad
    assert any(line.startswith(f"{path}:5: not valid JSON") for line in found.left_out)


def test_what_does_not_exist_is_named_with_the_nearest(
    model_folder: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in [
        (["hellaswagg"], "did you mean hellaswag?"),
        (["missing.txt"], "missing.txt: no such file"),
        (["hellaswag"], "--data-dir"),
        (["hellaswag", "--data-dir", str(tmp_path)], "hellaswag.jsonl is not there"),
        (["mmlu_astronomy", "--data-dir", str(data_dir)], "has no rows of astronomy"),
        (["humaneval"], "--allow-code-execution"),
        (["sst2", "--data-dir", str(data_dir), "--limit", "0"], "limit: must be at least 1"),
        (["lambada", "--data-dir", str(data_dir), "--shots", "2"], "asked without examples"),
        (["gsm8k_cot", "--data-dir", str(data_dir), "--shots", "9"], "has 8 examples"),
    ]:
        assert main(["evaluate", str(model_folder), *words]) == 2
        error = capsys.readouterr().err
        assert said in error, error
        assert len(error.strip().splitlines()) == 1
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="is empty"):
        newleaf.evaluate(str(model_folder), [str(tmp_path / "empty.jsonl")], quiet=True)


def test_what_a_tokenizer_cannot_encode_is_left_out_by_name(tmp_path: Path) -> None:
    rows = [
        {"question": "abc", "choices": ["abc", "def"], "labels": ["A", "B"], "answer": "A"},
        {"question": "abc", "choices": ["中", "def"], "labels": ["A", "B"], "answer": "A"},
    ]
    write_rows(tmp_path / "arc_easy.jsonl", rows)
    found = evaluation(tiny_model(word_tokenizer(), context=64), ["arc_easy"], tmp_path, quiet=True).tasks[0]
    assert found.n == 1
    (line,) = found.left_out
    assert line.startswith(f"{tmp_path / 'arc_easy.jsonl'}:2:")
    assert "中" in line


def test_contexts_that_do_not_fit_lose_their_beginning_and_the_report_says_so(
    tiny_tokenizer: Any, data_dir: Path
) -> None:
    short = tiny_model(tiny_tokenizer, context=48)
    found = evaluation(short, ["truthfulqa_mc1"], data_dir, quiet=True)
    assert found.tasks[0].n == 10
    assert "10 prompts did not fit the context of 48 and lost their beginning" in found.notes


def test_contamination_is_found_in_texts_and_in_token_shards(
    model: Model, data_dir: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (data_dir / "hellaswag.jsonl").read_text("utf-8").splitlines()]
    long = [number for number, row in enumerate(rows) if len(row["ctx_a"].split()) >= 16]
    seen = rows[long[0]]["ctx_a"].upper().replace(".", " !")
    (tmp_path / "train.txt").write_text(
        f"Something else first. {seen} And more. " + "The end comes last. " * 30, "utf-8"
    )
    found = newleaf.evaluate(
        model, ["hellaswag"], data_dir, contamination=[str(tmp_path / "train.txt")], quiet=True
    )
    about = found["tasks"]["hellaswag"]["contamination"]
    assert (about["contaminated"], about["where"]) == (1, [f"{data_dir / 'hellaswag.jsonl'}:{long[0] + 1}"])
    assert about["items"] >= len(long)
    assert "1 of" in found["notes"][0]

    from newleaf.data.corpus import prepare_text
    from newleaf.data.data_config import DataConfig
    from newleaf.data.token_shards import tokenize

    corpus = prepare_text([tmp_path / "train.txt"], DataConfig(), tmp_path / "cache")
    tokenize(corpus.train, model.tokenizer, tmp_path / "cache")
    (shard,) = (tmp_path / "cache" / "tokens").iterdir()
    again = newleaf.evaluate(model, ["hellaswag"], data_dir, contamination=[str(shard)], quiet=True)
    assert again["tasks"]["hellaswag"]["contamination"]["contaminated"] == 1
