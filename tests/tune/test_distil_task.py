"""`newleaf finetune --task distil`: a student comes to say what its teacher would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_data import FAST, base_model, talks

import newleaf
from newleaf.errors import InputError
from newleaf.tune.losses.log_probs import kl_divergence, top_k_kl_divergence


def distil(student: Path, source: Path, out: Path, teacher: Path, **options: Any) -> newleaf.Run:
    train = FAST | {"eval_every": 30} | options.pop("train", {})
    own = {"teacher": str(teacher)} | options.pop("distil", {})
    return newleaf.finetune(
        student, source, task="distil", out=out, quiet=True, train=train, distil=own, **options
    )


def test_the_divergence_is_kullback_and_leiblers() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(5, 40, dtype=torch.float64), torch.randn(5, 40, dtype=torch.float64)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    wanted = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(-1)
    torch.testing.assert_close(kl_divergence(teacher, student, 2.0).double(), wanted, rtol=1e-5, atol=1e-6)
    top = p.log().topk(8)
    some = top_k_kl_divergence(top.values, top.indices, student, 2.0)
    together = [
        torch.cat((x.gather(-1, top.indices), 1 - x.gather(-1, top.indices).sum(-1, keepdim=True)), -1)
        for x in (p, q)
    ]
    torch.testing.assert_close(
        some.double(), (together[0] * (together[0] / together[1]).log()).sum(-1), rtol=1e-4, atol=1e-5
    )
    assert bool((some < wanted).all())
    torch.testing.assert_close(kl_divergence(teacher, teacher, 1.0), torch.zeros(5), atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_model(tmp_path_factory.mktemp("teacher") / "teacher", template=True, n_embd=32, init_std=0.3)


@pytest.mark.parametrize("top_k", [0, 20])
def test_the_loss_at_the_start_is_the_kl_of_the_two_models_and_falls(
    tmp_path: Path, teacher: Path, top_k: int
) -> None:
    from newleaf.text.chat_template import ChatTemplate
    from newleaf.tune.conversations.assistant_mask import Answers
    from newleaf.tune.conversations.conversation_formats import to_conversation

    # the student takes the teacher's template
    student, data = base_model(tmp_path / "student"), talks(tmp_path / "talks.jsonl")
    held_out = talks(tmp_path / "held.jsonl", 5)
    run = distil(
        student, data, tmp_path / "run", teacher, steps=60, optimizer={"learning_rate": 3e-3},
        data={"validation": str(held_out)}, distil={"top_k": top_k, "temperature": 2.0, "share": 0.75},
    )  # fmt: skip
    models = [newleaf.load(path) for path in (teacher, student)]
    answers, sums, losses, count = Answers(ChatTemplate.of(models[0].tokenizer)), 0.0, 0.0, 0
    for line in held_out.read_text("utf-8").splitlines():
        (example,) = answers.examples(to_conversation(json.loads(line), "f"))
        ids = torch.from_numpy(example.ids.astype("int64"))
        p, q = ((model.network(ids[None, :-1])[0] / 2).log_softmax(-1) for model in models)
        log_q = models[1].network(ids[None, :-1])[0].log_softmax(-1)
        for place in range(1, len(ids)):
            if example.learned[place]:
                sums += float((p[place - 1].exp() * (p[place - 1] - q[place - 1])).sum())
                losses -= float(log_q[place - 1, ids[place]])
                count += 1
    before = next(line for line in run.metrics if line["step"] == 0 and "val_loss" in line)
    assert before["val_next_token"] == pytest.approx(losses / count, rel=1e-4)
    if not top_k:
        assert before["val_kl"] == pytest.approx(sums / count, rel=1e-4)
        assert before["val_loss"] == pytest.approx(0.75 * 4 * sums / count + 0.25 * losses / count, rel=1e-4)
    assert 0 < before["val_kl"] <= sums / count * 1.0001
    assert run.summary["val_kl"] < 0.7 * before["val_kl"]


def test_documents_teach_too(tmp_path: Path, teacher: Path, book: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text(book.read_text("utf-8")[:20_000], "utf-8")
    run = distil(
        base_model(tmp_path / "student"), text, tmp_path / "run", teacher, steps=30,
        optimizer={"learning_rate": 3e-3}, distil={"on": "text"}, text={"length": 64},
    )  # fmt: skip
    before = next(line for line in run.metrics if line["step"] == 0 and "val_loss" in line)
    assert run.summary["val_kl"] < before["val_kl"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distil": {"teacher": None}}, "distil.teacher: missing"),
        ({"distil": {"on": "text", "top_k": 4}}, "distil.top_k: is for conversations"),
        ({"distil": {"share": 0}}, "distil.share: must be above 0"),
    ],
)
def test_recipes_that_cannot_be_are_refused(
    tmp_path: Path, teacher: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        distil(
            base_model(tmp_path / "student"),
            talks(tmp_path / "talks.jsonl"),
            tmp_path / "run",
            teacher,
            steps=1,
            **options,
        )


def test_a_teacher_with_another_tokenizer_is_refused_by_name(tmp_path: Path, teacher: Path) -> None:
    from chat_folders import make_chat_model

    student = make_chat_model(tmp_path / "llama", "llama3")
    with pytest.raises(InputError, match=r"distil\.teacher: .*teacher has another tokenizer than .*llama"):
        distil(student, talks(tmp_path / "talks.jsonl"), tmp_path / "run", teacher, steps=1)
