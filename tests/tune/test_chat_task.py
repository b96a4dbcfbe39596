"""`newleaf finetune --task chat`, from a base model and rows to a model that chats, here and in stock
transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_data import FAST, WORDS, base_model, talks, write_rows

import newleaf
from newleaf.errors import InputError
from newleaf.storage.model_folder import load_folder

transformers = pytest.importorskip("transformers")


def chat(model: Path, source: Path, out: Path, **options: Any) -> newleaf.Run:
    train = FAST | {"eval_every": 40} | options.pop("train", {})
    return newleaf.finetune(model, source, task="chat", out=out, quiet=True, train=train, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> newleaf.Run:
    folder = tmp_path_factory.mktemp("chat")
    data = {"validation": (str(talks(folder / "held.jsonl", 8)),)}
    return chat(
        base_model(folder / "base"), talks(folder / "talks.jsonl"), folder / "run", steps=160, data=data,
        chat={"measure": "exact", "max_tokens": 8}, optimizer={"learning_rate": 3e-3},
    )  # fmt: skip


def test_a_base_model_learns_to_answer_and_the_figures_say_so(run: newleaf.Run) -> None:
    before = next(line for line in run.metrics if line["step"] == 0 and "val_loss" in line)
    assert before["val_exact"] == 0
    assert run.summary["val_exact"] == 100
    assert run.summary["val_loss"] < 0.1 < before["val_loss"]
    model = run.model
    for word, said in WORDS.items():
        assert (
            model.reply([{"role": "user", "content": f"say {word}"}], temperature=0, max_tokens=9).content
            == said
        )
    lines = [json.loads(line) for line in (run.path / "answers.jsonl").read_text("utf-8").splitlines()]
    assert [line["answer"] for line in lines] == [line["references"][0] for line in lines]


def test_stock_transformers_opens_it_and_chats_alike(run: newleaf.Run) -> None:
    folder = run.path / "model"
    peer, tokenizer = (
        transformers.AutoModelForCausalLM.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    messages = [{"role": "user", "content": "say three"}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = peer.generate(**ids, max_new_tokens=9, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(written, skip_special_tokens=True) == "drei"
    assert written[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")  # it ends its turn by itself
    torch.testing.assert_close(
        run.model.network(ids["input_ids"]), peer(ids["input_ids"]).logits, rtol=1e-4, atol=1e-4
    )


def test_rows_of_new_tokens_begin_as_the_mean_of_all_others(tmp_path: Path) -> None:
    from newleaf.tune.new_tokens import NOISE, add_rows

    for tied in (True, False):
        network = load_folder(base_model(tmp_path / f"base{tied}", tie_embeddings=tied)).network
        known = network.config.vocab_size
        before, hidden = network.head.weight.detach().clone(), torch.randn(4, network.config.n_embd)
        grown = add_rows(network, [known, known + 1], known, seed=1)
        for matrix in (grown.embedding.token.weight, grown.head.weight):
            away = (matrix[known:] - matrix[:known].mean(0)) / matrix[:known].std(0)
            assert 0 < away.abs().max() < 5 * NOISE
        assert torch.equal(grown.head.weight[:known], before)
        assert (grown.head.weight is grown.embedding.token.weight) == tied
        assert grown(torch.tensor([[1, known]])).shape[-1] == grown.config.vocab_size == known + 2
        # With the mean, what a text costs rises by no more than two tokens as likely as the middling ones can
        # make it (Hewitt 2021).
        lost = torch.logsumexp(grown.head(hidden), -1) - torch.logsumexp(grown.head(hidden)[:, :known], -1)
        assert lost.max() < 3 / known


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """From a folder in GPT-2's layout, whose matrices are stored transposed."""
    base, data = base_model(tmp_path / "base"), talks(tmp_path / "talks.jsonl")
    whole = chat(base, data, tmp_path / "whole", steps=6, train={"eval_every": 3})
    part = tmp_path / "part"
    shutil.copytree(whole.path, part)
    (part / "summary.json").unlink()
    shutil.rmtree(max((part / "state").glob("step-*")))
    resumed = newleaf.resume(part, quiet=True)
    assert resumed.summary["resumed_from_step"] == 3
    for name, weight in whole.model.network.state_dict().items():
        assert torch.equal(weight, resumed.model.network.state_dict()[name]), name


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (
            [{"messages": [{"role": "robot", "content": "x"}]}],
            {},
            r"rows\.jsonl:1: messages\[0\]\.role: 'robot' is not one of",
        ),
        (
            [{"messages": [{"role": "user", "content": ""}]}],
            {},
            r"rows\.jsonl:1: messages\[0\]\.content: is empty",
        ),
        (
            [{"prompt": "x", "response": "y" * 999}],
            {},
            r"rows\.jsonl:1: even its first answer ends beyond 128 tokens",
        ),
        (
            [{"prompt": "x", "response": "y" * 999}],
            {},
            r"a longer context, which pretrain makes with --model\.context_length 256",
        ),
        (
            [{"prompt": "x", "response": "y" * 999}],
            {"chat": {"length": 64}},
            r"raise chat\.length, up to the model's context of 128",
        ),
        (
            [{"prompt": "x", "response": "y"}],
            {"chat": {"length": 999}},
            r"chat\.length: 999 is beyond the model's context of 128",
        ),
        (
            [{"prompt": "x", "response": "y"}],
            {"chat": {"new_template": False}},
            "has no chat template; give one with --chat.template",
        ),
        (
            [{"messages": [{"role": "user", "content": "x"}]}],
            {},
            r":1: without an answer to learn from, as are all conversations here",
        ),
        ([{"body": "x"}], {}, r"rows\.jsonl:1: no conversation; it has the fields body"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, rows: list[Any], options: dict[str, Any], said: str
) -> None:
    base, data = base_model(tmp_path / "base"), write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError, match=said) as caught:
        chat(base, data, tmp_path / "run", steps=1, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_template_that_cannot_be_proved_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.jinja").write_text(
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "utf-8"
    )
    with pytest.raises(
        InputError, match=r"talks\.jsonl:1: messages\[1\]: a template without generation markers"
    ):
        chat(
            base_model(tmp_path / "base"),
            talks(tmp_path / "talks.jsonl"),
            tmp_path / "run",
            chat={"template": str(tmp_path / "bad.jinja")},
        )
