"""Stock sequence classifiers, whichever way they say what their logits are: values as transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import newleaf
from newleaf.cli.main import main
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

TEXTS = ["a good day", "rather bad", "so so, all in all"]


def stock_classifier(folder: Path, **fields: Any) -> Any:
    """A folder as transformers saves it, and the model; `...` as a field's value takes it out of
    config.json."""
    tokenizer = train_tokenizer(["some text"], TokenizerConfig(), 257)
    torch.manual_seed(3)
    given = {name: value for name, value in fields.items() if value is not ...}
    config = transformers.GPT2Config(
        vocab_size=257,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=32,
        pad_token_id=tokenizer.pad_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_id,
        **given,
    )
    model = transformers.GPT2ForSequenceClassification(config).eval()
    with torch.no_grad():
        model.score.weight.mul_(40)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in values.items() if fields.get(name) is not ...})
    )
    return model


def stock_scores(folder: Path, function: str | None = None) -> list[dict[str, float]]:
    pipeline = transformers.pipeline(
        "text-classification", str(folder), top_k=None, function_to_apply=function
    )
    return [{each["label"]: each["score"] for each in found} for found in pipeline(TEXTS)]


@pytest.mark.parametrize(
    "fields",
    [
        {"num_labels": 2, "id2label": ..., "label2id": ...},
        {"num_labels": 2},
        {"num_labels": 3},
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        {"id2label": {1: "good", 0: "bad"}, "label2id": {"bad": 5}},
        {"id2label": {0: "only"}, "problem_type": "multi_label_classification"},
    ],
)
def test_labels_have_the_probabilities_of_the_stock_pipeline(fields: dict[str, Any], tmp_path: Path) -> None:
    stock_classifier(tmp_path / "m", **fields)
    wanted = stock_scores(tmp_path / "m")
    for folder in (tmp_path / "m", tmp_path / "again"):
        model = newleaf.load(folder)
        for found, scores in zip(model.classify_with_probabilities(TEXTS), wanted, strict=True):
            assert found.probabilities == pytest.approx(scores, abs=1e-5)
            if fields.get("problem_type") == "multi_label_classification":
                assert found.answer == [label for label in found.probabilities if scores[label] > 0.5]
            else:
                assert found.answer == max(scores, key=scores.__getitem__)
        model.save(tmp_path / "again")
    for again, scores in zip(stock_scores(tmp_path / "again"), wanted, strict=True):
        assert again == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_labels": 1},
        {"num_labels": 1, "problem_type": "regression"},
        {"num_labels": 2, "problem_type": "regression"},
    ],
)
def test_a_regression_answers_with_its_numbers(
    fields: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = stock_classifier(tmp_path / "m", **fields)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    with torch.no_grad():
        wanted = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in TEXTS]
    for folder in (tmp_path / "m", tmp_path / "again"):
        ours = newleaf.load(folder)
        found = [answer if isinstance(answer, list) else [answer] for answer in ours.classify(TEXTS)]
        for values, right in zip(found, wanted, strict=True):
            assert values == pytest.approx(right, abs=1e-5)
        ours.save(tmp_path / "again")
    capsys.readouterr()
    assert main(["classify", str(tmp_path / "m"), *TEXTS, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(row) for row in rows] == [{"text", "value"}] * 3
    assert rows[0]["value"] == pytest.approx(wanted[0] if len(wanted[0]) > 1 else wanted[0][0], abs=1e-5)
    assert main(["classify", str(tmp_path / "m"), TEXTS[0]]) == 0
    assert "LABEL" not in capsys.readouterr().out


def test_a_text_without_a_token_is_no_question(tmp_path: Path) -> None:
    stock_classifier(tmp_path / "m", num_labels=3)
    with pytest.raises(newleaf.InputError, match="text 2 is empty"):
        newleaf.load(tmp_path / "m").classify(["a", ""])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id2label": ..., "num_labels": 2**40}, "num_labels"),
        ({"id2label": {"0": "a", "7": "b"}}, "labels"),
        ({"id2label": {"0": "a", "x": "b"}}, "labels"),
        ({"problem_type": "guessing"}, "guessing"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "another shape"),
    ],
)
def test_a_classifier_that_does_not_say_what_it_means_is_one_line(
    fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    stock_classifier(tmp_path / "m", num_labels=2)
    values = json.loads((tmp_path / "m" / "config.json").read_text()) | fields
    (tmp_path / "m" / "config.json").write_text(
        json.dumps({name: value for name, value in values.items() if value is not ...})
    )
    with pytest.raises(newleaf.InputError, match=said):
        newleaf.load(tmp_path / "m")
