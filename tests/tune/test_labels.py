"""Classifiers: what stock transformers makes of them, GPT-1's inputs and losses, resuming, labels of every
type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from base_models import BAD, GOOD, OPTIONS, SHAPES, make_base, opinions, tokenizer, write_rows

import newleaf
from newleaf.recipe import merge


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "gpt2")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", opinions())


LEARNING: dict[str, Any] = {
    "steps": 40,
    "optimizer": {"kind": "muon", "learning_rate": 2e-3},
    "train": {"batch_size": 8, "eval_every": 10},
}


def tune(model: Path, rows: Path, out: Path, task: str = "classify", **more: Any) -> newleaf.Run:
    return newleaf.finetune(model, rows, task=task, out=out, quiet=True, **merge(OPTIONS, more))


@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_stock_pipeline_gives_the_same_labels_and_probabilities(
    shape: str, rows: Path, tmp_path: Path
) -> None:
    """Texts of several lengths in one padded batch; every family that has a class for it."""
    run = tune(make_base(tmp_path / "base", shape), rows, tmp_path / "run", steps=3)
    texts = [*GOOD, *BAD[:2], "the film was long , and the end came late . " * 2]
    ours = run.model.classify_with_probabilities(texts)
    pipe = transformers.pipeline(
        "text-classification", model=str(run.path / "model"), top_k=None, device="cpu"
    )
    for mine, stock in zip(ours, pipe(texts, batch_size=3), strict=True):
        assert stock[0]["label"] == mine.answer
        assert {row["label"]: row["score"] for row in stock} == pytest.approx(mine.probabilities, abs=2e-5)
    assert type(pipe.model).__name__.endswith("ForSequenceClassification")


def test_a_network_without_a_stock_class_says_so_and_opens_in_newleaf(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    from newleaf.model import GPT, GPTConfig
    from newleaf.storage.model_folder import save_folder
    from newleaf.train.display.monitor import SilentMonitor

    words = tokenizer()
    config = GPTConfig(words.vocab_size, 32, 1, 2, 16, block="post_norm")
    save_folder(tmp_path / "odd", config, GPT(config).state_dict(), words)
    said: list[str] = []

    class RecordingMonitor(SilentMonitor):
        def say(self, text: str) -> None:
            said.append(text)

    run = newleaf.finetune(
        tmp_path / "odd", rows, task="classify", out=tmp_path / "run", monitor=RecordingMonitor(), **OPTIONS
    )
    assert any("stock transformers has no such network" in text for text in said)
    assert set(run.model.classify(["a fine story", "poor"])) <= {"good", "bad"}


def test_it_learns_and_reports_more_than_the_commonest_label(base: Path, rows: Path, tmp_path: Path) -> None:
    run = tune(base, rows, tmp_path / "run", **merge(LEARNING, {"label": {"baselines": True}}))
    assert run.summary["val_accuracy"] == 1.0
    assert run.summary["baselines"]["commonest label"]["accuracy"] < 1.0
    assert run.model.classify(["great and warm", "cold and poor"]) == ["good", "bad"]
    report = json.loads((run.path / "report.json").read_text())
    assert sum(map(sum, report["confusion"])) == report["n"] == 4
    assert (run.path / "confusion.png").stat().st_size > 1000
    before = next(line for line in run.metrics if line["step"] == 0 and "val_accuracy" in line)
    assert before["val_accuracy"] < 1.0


def test_a_batch_is_all_rows_where_they_are_fewer(base: Path, tmp_path: Path) -> None:
    run = tune(
        base,
        write_rows(tmp_path / "rows.jsonl", opinions(8)),
        tmp_path / "run",
        **merge(OPTIONS, {"train": {"batch_size": 32}}),
    )
    assert run.config["train"]["batch_size"] == run.config["record"]["train_rows"] == 7
    assert run.summary["steps"] == OPTIONS["steps"]


@pytest.mark.parametrize("task", ["classify", "pair", "similarity", "choice"])
def test_texts_stand_between_start_delimiter_and_extract_as_in_gpt1(task: str) -> None:
    """Figure 1 of Radford et al. 2018: one sequence, two texts in one, both orders, one for each
    continuation."""
    from newleaf.tune.labels.label_tokens import Encoder, with_label_tokens

    words, head = with_label_tokens(tokenizer(), task, ("x", "y") if task != "choice" else (), False, 40)  # type: ignore[arg-type]
    a, b, c = ("a fine story", " we loved it", " grey and dull")
    ids = {text: words.encode(text, special_tokens=False) for text in (a, b, c)}
    start, between, end = [head.start], [head.delimiter], [head.extract]
    wanted = {
        "classify": [start + ids[a] + end],
        "pair": [start + ids[a] + between + ids[b] + end],
        "similarity": [start + ids[a] + between + ids[b] + end, start + ids[b] + between + ids[a] + end],
        "choice": [start + ids[a] + between + ids[b] + end, start + ids[a] + between + ids[c] + end],
    }[task]
    texts = {"classify": [a], "choice": [a, b, c]}.get(task, [a, b])
    (found,) = Encoder(words, head, 40).encode([texts])
    assert list(found.sequences) == wanted
    assert not found.cut
    (short,) = Encoder(words, head, 7).encode([texts])
    assert all(len(sequence) <= 7 and sequence[-1] == head.extract for sequence in short.sequences)
    assert short.cut == any(len(sequence) > 7 for sequence in found.sequences)


def test_the_loss_is_the_stock_classifiers_and_half_the_stock_language_models(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    """At the first step of a run, from the ids of its own batch: HF's two classes on the weights of step
    0."""
    from newleaf.train.display.monitor import SilentMonitor
    from newleaf.train.distributed.process_group import Ranks
    from newleaf.tune.start_finetuning import open_objective, read_config

    values = merge(OPTIONS, {"task": "classify", "model": str(base), "source": [str(rows)]})
    values["train"] = values["train"] | {"steps": values.pop("steps")}
    objective: Any = open_objective(read_config(values), SilentMonitor(), Ranks())
    network = objective.build().eval()
    batch = objective.batches((0, 1)).batch(0)
    part = batch.part(0, batch.rows, torch.device("cpu"))
    labels, language = (
        found.item() / count
        for found, count in zip(objective.losses(network, part), batch.counts, strict=True)
    )
    objective.save(tmp_path / "model", network, network.state_dict())
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    real = (
        part.targets.new_zeros(part.ids.shape)
        .scatter_(1, part.lengths[:, None] - 1, 1)
        .flip(1)
        .cumsum(1)
        .flip(1)
    )
    assert labels == pytest.approx(
        stock(part.ids, attention_mask=real, labels=part.answers).loss.item(), rel=1e-4
    )
    writer = transformers.GPT2LMHeadModel(stock.config)
    writer.transformer.load_state_dict(stock.transformer.state_dict())
    targets = part.ids.masked_fill(real == 0, -100)
    assert language == pytest.approx(
        writer.eval()(part.ids, attention_mask=real, labels=targets).loss.item(), rel=1e-4
    )
    assert [(term.name, term.weight) for term in objective.terms] == [
        ("label_loss", 1.0),
        ("language_loss", 0.5),
    ]


def test_similarity_does_not_depend_on_the_order_and_choice_follows_it(base: Path, tmp_path: Path) -> None:
    pairs = [
        {"sentence1": GOOD[n % 4], "sentence2": (GOOD, BAD)[n % 2][(n + 1) % 4], "label": n % 2 == 0}
        for n in range(24)
    ]
    alike = tune(
        base, write_rows(tmp_path / "pairs.jsonl", pairs), tmp_path / "alike", task="similarity"
    ).model
    forth, back = alike.classify_with_probabilities([(GOOD[0], BAD[1]), (BAD[1], GOOD[0])])
    assert forth.probabilities == pytest.approx(back.probabilities, abs=1e-6)
    assert set(forth.probabilities) == {True, False}
    asked = [
        {
            "ctx": "we saw it :",
            "endings": [GOOD[n % 4], BAD[n % 4], BAD[(n + 1) % 4]][: 3 - n % 2],
            "label": 0,
        }
        for n in range(24)
    ]
    chooser = tune(
        base, write_rows(tmp_path / "choices.jsonl", asked), tmp_path / "chooser", task="choice"
    ).model
    one, other = chooser.classify_with_probabilities(
        [("we saw it :", GOOD[0], BAD[0], BAD[1]), ("we saw it :", BAD[1], GOOD[0], BAD[0])]
    )
    assert [one.probabilities[place] for place in (2, 0, 1)] == pytest.approx(
        list(other.probabilities.values()), abs=1e-5
    )
    assert chooser.classify([("we saw it :", GOOD[0], BAD[0])])[0] in (0, 1)


@pytest.mark.parametrize("labels", [(0, 1), (True, False), ("ja", "nein"), (["a"], ["a", "b"], ["b"], [])])
def test_labels_come_back_in_the_datas_type(labels: tuple[Any, ...], base: Path, tmp_path: Path) -> None:
    rows = [row | {"label": labels[number % len(labels)]} for number, row in enumerate(opinions())]
    model = tune(base, write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run", steps=2).model
    (found,) = model.classify(["a fine story"])
    assert type(found) is type(labels[0])
    if isinstance(found, list):
        assert set(found) <= {"a", "b"}
        assert sum(model.classify_with_probabilities(["x"])[0].probabilities.values()) != pytest.approx(1)
    else:
        assert found in labels


def test_tables_give_the_same_examples_as_json_lines(tmp_path: Path) -> None:
    from newleaf.tune.labels.label_rows import LabelledConfig, read_examples

    rows = opinions(12)
    write_rows(tmp_path / "r.jsonl", rows)
    for name, cut in (("r.csv", ","), ("r.tsv", "\t")):
        quote = '"' if cut == "," else ""
        lines = [f"label{cut}text", *(f"{row['label']}{cut}{quote}{row['text']}{quote}" for row in rows)]
        (tmp_path / name).write_text("\n".join(lines), "utf-8")
    found = [
        read_examples("classify", [str(tmp_path / name)], LabelledConfig(), 1)
        for name in ("r.jsonl", "r.csv", "r.tsv")
    ]
    assert found[0].fingerprint == found[1].fingerprint == found[2].fingerprint
    assert found[0].labels == ("bad", "good")


def test_balanced_class_weights_are_scikit_learns_and_portions_add_up(base: Path, tmp_path: Path) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    from newleaf.train.display.monitor import SilentMonitor
    from newleaf.train.distributed.process_group import Ranks
    from newleaf.tune.start_finetuning import open_objective, read_config

    rows = write_rows(
        tmp_path / "rows.jsonl", [row | {"label": int(n % 5 == 0)} for n, row in enumerate(opinions())]
    )
    values = merge(
        OPTIONS,
        {
            "task": "classify",
            "model": str(base),
            "source": [str(rows)],
            "label": {"class_weights": "balanced"},
        },
    )
    values["train"] = values["train"] | {"steps": values.pop("steps")}
    objective: Any = open_objective(read_config(values), SilentMonitor(), Ranks())
    answers = [row.answer for row in objective.rows]
    weights = {row.answer: row.weight for row in objective.rows}
    assert [weights[0], weights[1]] == pytest.approx(
        list(compute_class_weight("balanced", classes=np.array([0, 1]), y=answers))
    )
    one = tune(
        base, rows, tmp_path / "one", label={"class_weights": "balanced"}, train={"micro_batch_size": 4}
    )
    many = tune(
        base, rows, tmp_path / "many", label={"class_weights": "balanced"}, train={"micro_batch_size": 1}
    )
    for name in ("loss", "grad_norm", "label_loss", "language_loss"):
        first, second = ([line[name] for line in run.metrics if name in line] for run in (one, many))
        assert len(first) == 6
        assert first == pytest.approx(second, rel=1e-3)


def test_a_stopped_run_resumes_bit_for_bit(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newleaf.train.loop.session import Session

    options: dict[str, Any] = {"base": {"dropout": 0.1}, "train": {"precision": "bf16"}}
    whole = tune(base, rows, tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= 4)
        tune(base, rows, tmp_path / "run", **options)
    run = newleaf.resume(tmp_path / "run", quiet=True)
    assert run.summary["resumed_from_step"] == 4
    assert (run.path / "model/model.safetensors").read_bytes() == (
        whole.path / "model/model.safetensors"
    ).read_bytes()
    kept = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in each.metrics] for each in (whole, run)
    ]
    assert kept[0] == kept[1]


def test_a_runs_recipe_names_its_files_from_the_root_and_its_report_is_on_the_test_rows(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "test.jsonl", opinions(10))
    write_rows(tmp_path / "held.jsonl", opinions(6))
    run = tune(base, rows, Path("run"), steps=1, data={"validation": "held.jsonl", "test": "test.jsonl"})
    assert run.config["data"]["validation"] == [str(tmp_path / "held.jsonl")]
    assert run.config["data"]["test"] == [str(tmp_path / "test.jsonl")]
    report = json.loads((run.path / "report.json").read_text())
    assert (report["rows"], report["n"]) == ("test", 10)
    right = sum(
        answer == row["label"]
        for answer, row in zip(run.model.classify([row["text"] for row in opinions(10)]), opinions(10))
    )
    assert report["accuracy"] == pytest.approx(right / 10)


def test_patience_ends_a_run_on_the_tasks_own_measure_and_the_best_checkpoint_is_kept(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    run = tune(base, rows, tmp_path / "run", **merge(LEARNING, {"steps": 60, "train": {"patience": 2}}))
    scores = {
        line["step"]: line["val_accuracy"]
        for line in run.metrics
        if "val_accuracy" in line and line["step"] > 0
    }
    assert run.summary["stopped_early"]
    assert run.summary["val_accuracy"] == max(scores.values()) == scores[run.summary["best_step"]]


@pytest.mark.slow
def test_a_sweep_tries_six_rates_halves_them_and_trains_with_the_best(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    run = tune(base, rows, tmp_path / "run", steps=16, label={"measure": "loss"}, sweep=True)
    found = json.loads((run.path / "sweep.json").read_text())
    tried = [(trial["round"], trial["factor"]) for trial in found["trials"]]
    assert [sum(number == each for number, _ in tried) for each in (1, 2, 3)] == [6, 3, 2]
    for number in (1, 2):
        scores = {trial["factor"]: trial["score"] for trial in found["trials"] if trial["round"] == number}
        best = sorted(scores, key=scores.__getitem__)[: len([1 for each, _ in tried if each == number + 1])]
        assert sorted(best) == [factor for each, factor in tried if each == number + 1]
    last = min((trial for trial in found["trials"] if trial["round"] == 3), key=lambda trial: trial["score"])
    assert run.config["optimizer"]["learning_rate"] == found["chosen"] == last["learning_rate"]
    assert run.summary["steps"] == 16


def test_a_classifier_is_tuned_further_from_its_own_head_and_refuses_other_labels(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    first = tune(base, rows, tmp_path / "first", **LEARNING)
    again = tune(first.path, rows, tmp_path / "again", steps=2)
    before = next(line for line in again.metrics if line["step"] == 0 and "val_accuracy" in line)
    assert before["val_accuracy"] == first.summary["val_accuracy"] == 1.0
    other = write_rows(
        tmp_path / "other.jsonl",
        [row | {"label": "new" if row["label"] == "bad" else "good"} for row in opinions()],
    )
    with pytest.raises(
        newleaf.InputError, match=r"other.jsonl:\d+: label 'new' is not one of .* which knows 'bad', 'good'"
    ):
        tune(first.path, other, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_classifier_is_no_base_for_tasks_that_write(base: Path, rows: Path, tmp_path: Path) -> None:
    judge = tune(base, rows, tmp_path / "judge", steps=1)
    with pytest.raises(
        newleaf.InputError,
        match="gives labels and has no language model's head; --task text begins from a language model",
    ):
        newleaf.finetune(judge.path, rows, task="text", out=tmp_path / "text", steps=1, quiet=True)


ROW = {"text": "a fine story", "label": "good"}


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        ([ROW, ROW | {"label": None}], {}, r"rows.jsonl:2: has no label \(field 'label'\)"),
        ([ROW, {"text": "x"}], {}, r"rows.jsonl:2: has no label"),
        ([ROW] * 5, {}, r"rows.jsonl:1: every row has the label 'good'; there is nothing to tell apart"),
        ([ROW, ROW | {"label": 1}], {}, r"rows.jsonl:2: label 1 is of type int, and those before it of str"),
        ([ROW, ROW | {"text": " "}], {}, r"rows.jsonl:2: field 'text' is empty"),
        ([ROW, ROW | {"label": 0.5}], {},
        r"rows.jsonl:2: a label is a " r"text, a whole number " r"or true or false, not 0.5"),
        ([{"a": "x", "b": "y", "label": 1}], {},
        r"rows.jsonl:1: which field " r"holds the " r"text is not clear " r"\(it has: a, b.*--data.text"),
        ([ROW], {"data": {"label": "class"}},
        r"rows.jsonl:1: has no field " r"'class' \(it has: text, " r"label\), which data.label " r"names"),
        (opinions(8), {"label": {"length": 4, "too_long": "refuse"}},
        r"rows.jsonl:\d: does not fit 4 " r"tokens"),
        (opinions(8), {"label": {"length": 99}},
        r"label.length: 99 is beyond " r"the model's " r"context of 48 tokens"),
        (opinions(8), {"label": {"measure": "micro_f1"}}, r"label.measure: micro_f1 is not measured here"),
        (opinions(8), {"train": {"parallel": "fsdp"}}, r"train.parallel: fsdp"),
        (opinions(8), {"train": {"prompts": ["x"]}},
        r"train.prompts, train.sample: " r"a " r"classifier writes nothing"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_file_line_and_reason_before_anything_is_written(
    lines: list[dict[str, Any]], options: dict[str, Any], said: str, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(newleaf.InputError, match=said):
        tune(base, write_rows(tmp_path / "rows.jsonl", lines), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_stock_classifiers_folder_gives_the_stock_labels(base: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, pad_token_id=0
    )
    model.save_pretrained(tmp_path / "stock")
    tokenizer().save(tmp_path / "stock")
    texts = ["a fine story", "poor"]
    pipe = transformers.pipeline(
        "text-classification", model=str(tmp_path / "stock"), top_k=None, device="cpu"
    )
    for mine, stock in zip(
        newleaf.load(tmp_path / "stock").classify_with_probabilities(texts), pipe(texts), strict=True
    ):
        assert mine.probabilities == pytest.approx({row["label"]: row["score"] for row in stock}, abs=2e-5)


def test_a_language_model_gives_no_labels_and_a_classifier_writes_nothing(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(newleaf.InputError, match="newleaf finetune --task classify"):
        newleaf.load(base).classify(["x"])
    model = tune(base, rows, tmp_path / "run", steps=1).model
    with pytest.raises(newleaf.InputError, match="newleaf classify"):
        model.generate("x")
    with pytest.raises(newleaf.InputError, match="takes one text, not 2"):
        model.classify([("a", "b")])
