"""Small models and small sets of questions for the tests of evaluation; the harness's own tasks run on the
same rows in its Hub's form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_tasks import Sentences, tiny_model, write_rows

from newleaf.api import Model
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

SUBJECTS = ("anatomy", "high_school_us_history")


@pytest.fixture(scope="session")
def tiny_tokenizer(book: Path) -> Any:
    return train_tokenizer([book.read_text("utf-8")], TokenizerConfig(), 500)


@pytest.fixture(scope="session")
def model(tiny_tokenizer: Any) -> Model:
    return tiny_model(tiny_tokenizer)


@pytest.fixture(scope="session")
def model_folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen rows of each built-in task, in the form of ../shared/data/eval."""
    folder, say = tmp_path_factory.mktemp("eval"), Sentences(book.read_text("utf-8"), 3)
    draw = say.random
    hellaswag = [
        {
            "activity_label": say(1, 3),
            "ctx_a": say(5, 30),
            "ctx_b": draw.choice(["then", "", "the man"]),
            "endings": [say() for _ in range(4)],
            "label": draw.randrange(4),
        }
        for _ in range(12)
    ]
    write_rows(folder / "hellaswag.jsonl", hellaswag)
    arc = []
    for number in range(12):
        labels = ["A", "B", "C", "D"][: 3 + number % 2] if number % 3 else ["1", "2", "3", "4"]
        arc.append(
            {
                "question": say(),
                "choices": [say(1, 4) for _ in labels],
                "labels": labels,
                "answer": draw.choice(labels),
            }
        )
    write_rows(folder / "arc_easy.jsonl", arc)
    for file, count in (("mmlu_dev.jsonl", 5), ("mmlu_test.jsonl", 6)):
        rows = [
            {
                "subject": subject,
                "question": f" {say()}",
                "choices": [say(1, 4) for _ in range(4)],
                "answer": draw.randrange(4),
            }
            for subject in SUBJECTS
            for _ in range(count)
        ]
        write_rows(folder / file, rows)
    truthful = [
        {"question": say(), "choices": [say() for _ in range(2 + n % 4)], "expected_index": 0}
        for n in range(10)
    ]
    write_rows(folder / "truthfulqa_mc1.jsonl", truthful)
    write_rows(
        folder / "lambada.jsonl",
        [{"context": say(8, 40).strip(), "continuation": " " + draw.choice(say.words)} for _ in range(12)],
    )
    write_rows(folder / "sst2.jsonl", [{"text": say() + " ", "label": draw.randrange(2)} for _ in range(12)])
    gsm8k = [
        {"question": say(), "answer": f"{say()}\n#### {draw.choice(['7', '1,234', '-5'])}"} for _ in range(4)
    ]
    write_rows(folder / "gsm8k.jsonl", gsm8k)
    return folder


@pytest.fixture(scope="session")
def hub_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows as the harness finds them on the Hub."""
    folder = tmp_path_factory.mktemp("hub")

    def rows(name: str) -> Iterator[dict[str, Any]]:
        return (json.loads(line) for line in (data_dir / name).read_text("utf-8").splitlines())

    write_rows(
        folder / "Rowan/hellaswag/validation.jsonl",
        [row | {"label": str(row["label"])} for row in rows("hellaswag.jsonl")],
    )
    arc = [
        {
            "question": r["question"],
            "choices": {"text": r["choices"], "label": r["labels"]},
            "answerKey": r["answer"],
        }
        for r in rows("arc_easy.jsonl")
    ]
    write_rows(folder / "allenai/ai2_arc/ARC-Easy/test.jsonl", arc)
    for subject in SUBJECTS:
        for file, split in (("mmlu_dev.jsonl", "dev"), ("mmlu_test.jsonl", "test")):
            own = [row for row in rows(file) if row["subject"] == subject]
            write_rows(folder / "cais/mmlu" / subject / f"{split}.jsonl", own)
    truthful = [
        {"question": r["question"], "mc1_targets": {"choices": r["choices"], "labels": [1]}}
        for r in rows("truthfulqa_mc1.jsonl")
    ]
    write_rows(folder / "truthfulqa/truthful_qa/multiple_choice/validation.jsonl", truthful)
    write_rows(
        folder / "EleutherAI/lambada_openai/test.jsonl",
        [{"text": r["context"] + r["continuation"]} for r in rows("lambada.jsonl")],
    )
    write_rows(
        folder / "nyu-mll/glue/sst2/validation.jsonl",
        [{"sentence": r["text"], "label": r["label"]} for r in rows("sst2.jsonl")],
    )
    write_rows(folder / "openai/gsm8k/main/test.jsonl", list(rows("gsm8k.jsonl")))
    return folder
