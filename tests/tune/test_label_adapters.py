"""Classifiers tuned as adapters: what stock peft makes of them, and newleaf of what stock peft wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from base_models import OPTIONS, make_base, opinions, tokenizer, write_rows
from safetensors.torch import load_file, save_file
from torch import Tensor

import newleaf
from newleaf.cli.main import main
from newleaf.errors import InputError

TEXTS = ["a fine story , 7", "grey and dull , and so long that it never ends"]


def tune(base: Path, tmp_path: Path, **more: Any) -> newleaf.Run:
    rows = write_rows(tmp_path / "rows.jsonl", opinions())
    options = OPTIONS | {"lora": {"rank": 4}, "optimizer": {"learning_rate": 0.01}} | more
    return newleaf.finetune(base, rows, task="classify", out=tmp_path / "run", quiet=True, **options)


def stock(base: Path, adapter: Path, texts: list[str]) -> Tensor:
    """Probabilities [N, 2] from stock transformers and peft, with the tokenizer that lies beside the
    adapter."""
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    words = transformers.AutoTokenizer.from_pretrained(adapter)
    plain.config.pad_token_id = words.pad_token_id
    with torch.no_grad():
        logits = (
            peft.PeftModel.from_pretrained(plain, adapter)
            .eval()(**words(texts, return_tensors="pt", padding=True))
            .logits
        )
    return logits.softmax(-1)


def chances(model: newleaf.Model, texts: list[str]) -> Tensor:
    return torch.tensor(
        [list(found.probabilities.values()) for found in model.classify_with_probabilities(texts)]
    )


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_peft_opens_a_classifiers_adapter_over_its_base_with_the_same_logits(
    shape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_base(tmp_path / "base", shape, initializer_range=0.1)
    run = tune(base, tmp_path, steps=40)
    assert not (run.path / "model").exists()
    mine, theirs = chances(run.model, TEXTS), stock(base, run.path / "adapter", TEXTS)
    torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=0)
    assert float((mine[0] - mine[1]).abs().max()) > 0.2  # they are told apart, so that equal means something
    capsys.readouterr()
    assert main(["classify", str(run.path / "adapter"), *TEXTS]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == run.model.classify(TEXTS)
    # Line k of what is printed is about line k of the file, whatever separators the texts hold.
    (tmp_path / "texts.txt").write_text(f"{TEXTS[0]}\n\n{TEXTS[1]}\u2028and\n \n{TEXTS[1]}\n", "utf-8")
    assert main(["classify", "--file", str(tmp_path / "texts.txt"), str(run.path)]) == 0
    first, *rest = [line.split("\t")[0] for line in capsys.readouterr().out.split("\n")]
    assert [first, rest[0], rest[2], *rest[3:]] == [
        run.model.classify(TEXTS)[0],
        "",
        "",
        run.model.classify(TEXTS)[1],
        "",
    ]
    over = newleaf.load(base, adapter=run.path)
    assert torch.equal(chances(over, TEXTS), mine)


def test_merged_and_saved_the_adapter_is_the_familys_classifier(tmp_path: Path) -> None:
    run = tune(make_base(tmp_path / "base", "llama"), tmp_path)
    assert main(["convert", str(run.path), str(tmp_path / "merged"), "--merge"]) == 0
    run.model.save(tmp_path / "saved")
    for folder in (tmp_path / "merged", tmp_path / "saved"):
        torch.testing.assert_close(
            chances(newleaf.load(folder), TEXTS), chances(run.model, TEXTS), atol=1e-6, rtol=0
        )
        pipe = transformers.pipeline("text-classification", model=str(folder))
        assert [found["label"] for found in pipe(TEXTS)] == run.model.classify(TEXTS)


def test_what_peft_wrote_gives_labels_by_the_names_that_transformers_has(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "gpt2")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    wrapped = peft.get_peft_model(
        plain, peft.LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["c_attn"], fan_in_fan_out=True)
    )
    torch.manual_seed(1)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    wrapped.save_pretrained(tmp_path / "adapter")
    model = newleaf.load(base, adapter=tmp_path / "adapter")
    with torch.no_grad():
        wanted = wrapped.eval()(torch.tensor([model.tokenizer.encode(TEXTS[0])])).logits.softmax(-1)
    found = model.classify_with_probabilities(TEXTS[:1])[0]
    assert list(found.probabilities) == ["LABEL_0", "LABEL_1"]
    torch.testing.assert_close(torch.tensor([list(found.probabilities.values())]), wanted, atol=2e-6, rtol=0)


def test_a_classifiers_adapter_adds_no_tokens_and_ends_texts_by_one_that_is_no_padding(
    tmp_path: Path,
) -> None:
    words = tokenizer()
    rows = write_rows(
        tmp_path / "pairs.jsonl",
        ({"premise": row["text"], "hypothesis": "so", "label": row["label"]} for row in opinions()),
    )
    base = make_base(tmp_path / "base", "gpt2")
    run = newleaf.finetune(
        base,
        rows,
        task="pair",
        out=tmp_path / "run",
        quiet=True,
        **OPTIONS | {"lora": {"rank": 2}, "steps": 2},
    )
    assert run.model.labels is not None
    head = run.model.labels.head
    assert run.model.tokenizer.vocab_size == words.vocab_size
    assert head.extract == head.delimiter == words.encode("\n")[-1]
    theirs = transformers.AutoTokenizer.from_pretrained(run.path / "adapter")
    wanted = [head.start, *words.encode("one"), head.delimiter, *words.encode("two"), head.extract]
    assert theirs("one", "two").input_ids == wanted
    assert theirs.pad_token_id != head.extract


def test_a_classifiers_adapter_writes_nothing_and_is_refused_where_texts_are_written(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "gpt2")
    run = tune(base, tmp_path, steps=2)
    with pytest.raises(InputError, match="tuned to give labels and writes nothing"):
        newleaf.load(base).engine(adapters={"judge": run.path})
    file = run.path / "adapter" / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.pooler.weight": torch.ones(2, 2)}, file)
    with pytest.raises(
        InputError,
        match=r"the adapter holds base_model\.model\.pooler\.weight, and this network has no such layer",
    ):
        newleaf.load(run.path)


def test_an_adapter_is_no_model_to_tune_and_is_told_what_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tune(make_base(tmp_path / "base", "gpt2"), tmp_path, steps=2)
    for model in (run.path, run.path / "adapter"):
        assert (
            main(
                [
                    "finetune",
                    str(model),
                    str(tmp_path / "rows.jsonl"),
                    "--task",
                    "classify",
                    "--out",
                    str(tmp_path / "again"),
                ]
            )
            == 2
        )
        assert "is an adapter; newleaf convert" in capsys.readouterr().err
