"""Every built-in task, item for item, against lm-evaluation-harness's own task of that name and its
transformers back end, in fp32."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from newleaf.api import Model
from newleaf.api.evaluating import evaluation
from newleaf.evaluation.result import TaskResult

pytest.importorskip("lm_eval")
# Ours, theirs, and the shots.
CASES = [
    ("hellaswag", "hellaswag", 0, {"acc": "acc", "acc_norm": "acc_norm"}),
    ("arc_easy", "arc_easy", 0, {"acc": "acc", "acc_norm": "acc_norm"}),
    ("mmlu_anatomy", "mmlu_anatomy", 0, {"acc": "acc"}),
    ("mmlu_high_school_us_history", "mmlu_high_school_us_history", 5, {"acc": "acc"}),
    ("truthfulqa_mc1", "truthfulqa_mc1", 0, {"acc": "acc"}),
    ("lambada", "lambada_openai", 0, {"acc": "acc", "perplexity": "nats"}),
    ("sst2", "sst2", 0, {"acc": "acc"}),
]


@pytest.fixture(scope="module")
def theirs(model_folder: Path, hub_dir: Path) -> Any:
    """Runs a task of the harness with its own transformers back end on the local files; results and
    samples."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from newleaf.evaluation.harness import local_data, task_manager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    network = HFLM(pretrained=str(model_folder), dtype="float32", device="cpu", batch_size=4)

    def run(task: str, shots: int | None) -> Any:
        with local_data(hub_dir):
            return simple_evaluate(
                network, tasks=[task], num_fewshot=shots, bootstrap_iters=0, task_manager=task_manager()
            )

    return run


def ours(model: Model, task: str, shots: int | None, data_dir: Path, out: Path | None = None) -> TaskResult:
    return evaluation(model, [task], data_dir, shots=shots, quiet=True, out=out).tasks[0]


@pytest.mark.parametrize(("task", "theirs_name", "shots", "scores"), CASES)
def test_likelihood_tasks_give_the_harnesss_score_item_for_item(
    task: str,
    theirs_name: str,
    shots: int,
    scores: dict[str, str],
    model: Model,
    data_dir: Path,
    theirs: Any,
    tmp_path: Path,
) -> None:
    import json

    found = ours(model, task, shots, data_dir, tmp_path)
    wanted = theirs(theirs_name, shots)
    samples = sorted(wanted["samples"][theirs_name], key=lambda sample: sample["doc_id"])
    answers = [
        json.loads(line) for line in (tmp_path / "answers" / f"{task}.jsonl").read_text("utf-8").splitlines()
    ]
    assert len(samples) == len(answers) >= 6
    for sample, answer in zip(samples, answers, strict=True):
        assert [pair[0] for pair in sample["arguments"]] == [answer["prompt"]] * len(answer["choices"])
        assert [pair[1] for pair in sample["arguments"]] == answer["choices"]
        responses = sample["filtered_resps"]
        assert [float(response[0]) for response in responses] == pytest.approx(
            [each[0] for each in answer["answer"]], abs=2e-4
        )
        assert [str(response[1]) == "True" for response in responses] == [
            each[1] for each in answer["answer"]
        ]
    for name, mark in scores.items():
        if name != "perplexity":
            assert [marks[mark] for marks in found.marks] == [sample[name] for sample in samples]
        assert found.scores[name].value == pytest.approx(
            wanted["results"][theirs_name][f"{name},none"], rel=1e-5
        )
    # the test would see an answer that is wrong
    assert len({marks["acc"] for marks in found.marks}) == 2 or task == "lambada"


def test_gsm8k_writes_and_reads_answers_as_the_harness_does(
    model: Model, data_dir: Path, theirs: Any, tmp_path: Path
) -> None:
    import json

    found = ours(model, "gsm8k_cot", None, data_dir, tmp_path)
    wanted = theirs("gsm8k_cot", None)
    strict = [sample for sample in wanted["samples"]["gsm8k_cot"] if sample["filter"] == "strict-match"]
    flexible = [sample for sample in wanted["samples"]["gsm8k_cot"] if sample["filter"] == "flexible-extract"]
    answers = [
        json.loads(line)
        for line in (tmp_path / "answers" / "gsm8k_cot.jsonl").read_text("utf-8").splitlines()
    ]
    for theirs_one, answer in zip(strict, answers, strict=True):
        assert theirs_one["arguments"][0][0] == answer["prompt"]
        assert theirs_one["resps"][0][0] == answer["answer"][0]
    assert [marks["exact_match"] for marks in found.marks] == [sample["exact_match"] for sample in strict]
    assert [marks["flexible_match"] for marks in found.marks] == [
        sample["exact_match"] for sample in flexible
    ]


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 7.",
        "so The answer is 1,234.\n",
        "The answer is $5.",
        "I think 12 and then 7",
        "The answer is 7",
        "nothing",
        "-5 -5.",
        "3.0",
    ],
)
def test_answers_are_read_as_the_harnesss_filters_and_metric_read_them(text: str) -> None:
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    from newleaf.evaluation.task import Item
    from newleaf.evaluation.tasks.gsm8k import gsm8k

    for gold in ("7", "1,234", "5", "-5", "3"):
        mark = gsm8k().mark(Item("", "", gold), [text])
        options = {"regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"], "ignore_case": True}
        strict = RegexFilter(r"The answer is (\-?[0-9\.\,]+).").apply([[text]], [{}])[0][0]
        flexible = RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1).apply([[text]], [{}])[0][0]
        assert mark["exact_match"] == exact_match_hf_evaluate([strict], [gold], **options)["exact_match"]
        assert mark["flexible_match"] == exact_match_hf_evaluate([flexible], [gold], **options)["exact_match"]
