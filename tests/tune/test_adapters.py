"""Tuning adapters: the run, its folder, what stock peft makes of it, and the losses that stock peft has on
the same way."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from base_models import opinions, write_rows
from safetensors.torch import load_file
from torch import Tensor

import newleaf
from newleaf.adapters.adapter import attach, lay_out
from newleaf.adapters.init_adapter import new_adapter
from newleaf.adapters.lora_config import AdapterConfig
from newleaf.api import Model
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.families.llama import llama
from newleaf.model import GPT, GPTConfig
from newleaf.storage.adapter_folder import WEIGHTS, load_adapter, rules_of, save_adapter
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer
from newleaf.train.loop.optimizer import Optimizer
from newleaf.train.objective.optimizer_config import OptimizerConfig

PROSE = Path(json.__file__).read_text("utf-8")
SHAPES = {
    "llama": llama(2, 2, 1, 64, 128, vocab_size=300, context_length=64, init_std=0.1),
    "gpt2": GPTConfig(300, 64, 2, 2, 64, init_std=0.1),
}


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def base(folder: Path, family: str = "llama") -> Path:
    torch.manual_seed(0)
    Model(GPT(SHAPES[family]), train_tokenizer([PROSE], TokenizerConfig(), 300), family).save(folder)
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(PROSE, "utf-8")
    return path


def tune(model: Path, text: Path, out: Path, **options: Any) -> newleaf.Run:
    lora = {"rank": 4} | options.pop("lora", {})
    given: dict[str, Any] = {
        "steps": 6,
        "train": {"batch_size": 2, "precision": "fp32", "eval_windows": 4},
        "text": {"length": 32},
    }
    return newleaf.finetune(model, text, task="text", out=out, quiet=True, lora=lora, **given | options)


def logits(model: Any) -> Tensor:
    ids = torch.arange(40).view(2, 20) * 7 % 300
    with torch.no_grad():
        found = model(ids)
    return found if isinstance(found, Tensor) else found.logits


def test_a_run_leaves_an_adapter_that_newleaf_and_peft_open_alike(text: Path, tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    run = tune(
        folder, text, tmp_path / "run", lora={"targets": "all", "alpha": 8}, optimizer={"learning_rate": 0.01}
    )
    assert sorted(path.name for path in (run.path / "adapter").iterdir())[:2] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not (run.path / "model").exists()
    # A and B of rank 4 on q, k, v, out, gate, up and down of two layers.
    assert run.summary["trained_parameters"] == 2 * 4 * (
        (64 + 64) + 2 * (64 + 32) + (64 + 64) + 2 * (64 + 128) + (128 + 64)
    )
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(folder), run.path / "adapter"
    ).eval()
    tuned, plain = logits(run.model.network), logits(newleaf.load(folder).network)
    torch.testing.assert_close(tuned, logits(theirs), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(tuned, plain, atol=1e-3)
    assert (
        run.summary["val_bits_per_byte"]
        < next(line for line in run.metrics if line["step"] == 0)["val_bits_per_byte"]
    )
    assert torch.equal(logits(newleaf.load(run.path / "adapter").network), tuned)


@pytest.mark.parametrize("lora", [{}, {"dora": True, "dropout": 0.1}, {"weights": "int4"}])
def test_a_resumed_run_makes_the_same_adapter_bit_for_bit(
    lora: dict[str, Any], text: Path, tmp_path: Path
) -> None:
    folder = base(tmp_path / "base")
    whole = tune(
        folder,
        text,
        tmp_path / "whole",
        lora=lora,
        train={"batch_size": 2, "precision": "bf16", "eval_every": 3},
    )
    shutil.copytree(whole.path, tmp_path / "again")
    (tmp_path / "again" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "again" / "state" / "step-00000006")
    resumed = newleaf.resume(tmp_path / "again", quiet=True)
    assert resumed.summary["resumed_from_step"] == 3
    one, two = (load_file(run.path / "adapter" / WEIGHTS) for run in (whole, resumed))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", sorted(SHAPES))
def test_losses_are_pefts_on_the_same_data_and_weights(family: str, dora: bool, tmp_path: Path) -> None:
    """fp32, AdamW, 50 steps; 512 tokens a step, so that newleaf's compiled loops run."""
    folder = base(tmp_path / "base", family)
    model = newleaf.load(folder)
    config = AdapterConfig(rank=4, alpha=8, dora=dora)
    shape = model.network.config
    save_adapter(
        tmp_path / "start", new_adapter(model.network, config, rules_of(shape, family)), shape, family
    )
    attach(model.network, load_adapter(tmp_path / "start", model.network, family))
    lay_out(model.network)
    optimizer = Optimizer(
        model.network, OptimizerConfig("adamw", 0.01, beta2=0.999, weight_decay=0.0, clip=0.0)
    )
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder)
    # without GPT-2's dropouts
    theirs = peft.PeftModel.from_pretrained(stock, tmp_path / "start", is_trainable=True).eval()
    adam = torch.optim.AdamW(
        [weight for weight in theirs.parameters() if weight.requires_grad], lr=0.01, weight_decay=0.0
    )
    ids = torch.tensor(model.tokenizer.encode(PROSE))
    for step in range(50):
        rows = ids[torch.randint(0, len(ids) - 65, (8, 1)) + torch.arange(65)]
        loss = model.network.loss(rows[:, :-1], rows[:, 1:])
        loss.backward()
        optimizer.step(1.0)
        wanted = theirs(
            input_ids=rows[:, :-1], labels=rows[:, :-1], shift_labels=rows[:, 1:].contiguous()
        ).loss
        wanted.backward()
        adam.step()
        adam.zero_grad()
        assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=0.01 if step else 1e-5), step
        if not step:
            first = float(wanted.detach())
    assert float(wanted.detach()) < 0.9 * first


def test_over_a_gguf_file_the_base_is_written_too_so_that_peft_opens_both(text: Path, tmp_path: Path) -> None:
    newleaf.load(base(tmp_path / "folder")).save(tmp_path / "base.gguf", "Q8_0")
    run = tune(tmp_path / "base.gguf", text, tmp_path / "run")
    about = json.loads((run.path / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert Path(about["base_model_name_or_path"]) == run.path / "base"
    stock = transformers.AutoModelForCausalLM.from_pretrained(about["base_model_name_or_path"])
    theirs = peft.PeftModel.from_pretrained(stock, run.path / "adapter").eval()
    torch.testing.assert_close(logits(run.model.network), logits(theirs), atol=1e-5, rtol=1e-5)
    # the file itself is the same base
    over = newleaf.load(tmp_path / "base.gguf", weights="fp32", adapter=run.path)
    torch.testing.assert_close(logits(over.network), logits(theirs), atol=1e-5, rtol=1e-5)


def test_an_adapter_for_another_base_is_refused_by_fingerprint(text: Path, tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    run = tune(folder, text, tmp_path / "run")
    own = json.loads((run.path / "adapter" / "newleaf.json").read_text("utf-8"))["base"]["id"]
    torch.manual_seed(1)
    other = newleaf.load(folder)
    for weight in other.network.parameters():  # as much as a rate of 1e-3 moves weights of 0.1 in ten steps
        weight.data += 0.01 * torch.randn_like(weight)
    other.save(tmp_path / "other")
    with pytest.raises(
        InputError,
        match=rf"was trained on another base, of fingerprint {own}, and this one has [0-9a-f]{{12}}$",
    ):
        newleaf.load(tmp_path / "other", adapter=run.path)
    # the same weights in other number formats are the same base
    for weights in ("fp32", "bf16", "int8", "int4"):
        assert newleaf.load(folder, weights=weights, adapter=run.path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lora": {"rank": 0}}, r"lora\.rank: must be a whole number of at least 1, not 0"),
        ({"lora": {"targets": "q_prj"}}, r"lora\.targets: 'q_prj' names nothing to adapt"),
        ({"lora": {"targets": "head"}}, r"lora\.targets: 'head' names nothing to adapt"),
        ({"lora": {}, "base": {"fresh": True}}, r"base\.fresh: .* an adapter needs weights"),
        ({"lora": {"weights": "int3"}}, r"lora\.weights: 'int3' is not one of"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    options: dict[str, Any], said: str, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        tune(base(tmp_path / "base"), text, tmp_path / "run", **options)
    assert not (tmp_path / "run" / "adapter").exists()


def test_part_of_a_fused_tensor_is_no_target(text: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"stores blocks\.0\.attention\.k, blocks\.0\.attention\.v in one tensor .* name c_attn",
    ):
        tune(base(tmp_path / "base", "gpt2"), text, tmp_path / "run", lora={"targets": "attention.q"})


def test_the_commands_and_python_of_the_page_on_adapters_run(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text("utf-8")
    base(tmp_path / "BASE")
    shutil.copy(text, tmp_path / "notes.txt")
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "reviews.jsonl", opinions())
    commands = [
        shlex.split(line.split("  #")[0])
        for line in page.split("```")[1].splitlines()
        if line.startswith("newleaf ")
    ]
    assert [words[1] for words in commands] == ["finetune", "generate", "convert", "finetune", "classify"]
    for words in commands:
        length = ["--text.length", "32"] if "text" in words else []
        more = ["--steps", "2", "--quiet", *length] if words[1] == "finetune" else []
        assert main(words[1:] + more) == 0
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, {})
    assert torch.equal(logits(newleaf.load("merged").network), logits(newleaf.load("merged-too").network))
