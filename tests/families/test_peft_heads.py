"""Adapters on head and token embedding, as peft saves them: the base's weights copied, or trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from decoded_text import whole_text
from safetensors.torch import load_file, save_file

import newleaf
from newleaf.storage.adapter_folder import load_adapter, save_adapter
from newleaf.storage.convert_model import convert

IDS = torch.arange(40).view(2, 20) * 7 % 300
OPTIONS: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "head alone": {"target_modules": ["lm_head"], "use_rslora": True},
    "head with DoRA": {"target_modules": ["lm_head", "v_proj"], "use_dora": True},
    "head without its copy": {"target_modules": ["q_proj", "lm_head"], "save_embedding_layers": False},
    "table": {"target_modules": ["q_proj", "embed_tokens"]},
    "table and head": {"target_modules": ["embed_tokens", "lm_head"]},
    "head trained whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "both trained whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "a norm trained whole": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "a projection trained whole": {"target_modules": ["q_proj"], "modules_to_save": ["v_proj"]},
    "tied by peft": {"target_modules": ["q_proj", "lm_head"], "ensure_weight_tying": True},
}


@pytest.fixture(params=["llama", "llama-tied-bias"])
def base(request: pytest.FixtureRequest, make: Callable[[str, Path], Any], tmp_path: Path) -> Path:
    make(request.param, tmp_path / "base")
    return tmp_path / "base"


def adapted(base: Path, folder: Path, options: dict[str, Any]) -> torch.Tensor:
    """Stock peft writes an adapter of random values; the logits that it has when it opens it again."""
    torch.manual_seed(2)
    copied = options.get("save_embedding_layers", "auto")
    options = {name: value for name, value in options.items() if name != "save_embedding_layers"}
    config = peft.LoraConfig(**{"r": 3, "lora_alpha": 5, "task_type": "CAUSAL_LM"} | options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(torch.randn_like(weight), alpha=0.1)
        model.save_pretrained(folder, save_embedding_layers=copied)
        again = peft.PeftModel.from_pretrained(
            transformers.AutoModelForCausalLM.from_pretrained(base), folder
        )
        with torch.no_grad():
            logits: torch.Tensor = again.eval()(IDS).logits
    return logits


@pytest.mark.parametrize("case", OPTIONS)
def test_logits_merged_weights_and_text_are_those_of_stock_peft(
    case: str, base: Path, tmp_path: Path
) -> None:
    wanted = adapted(base, tmp_path / "adapter", OPTIONS[case])
    model = newleaf.load(base, adapter=tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(model.network(IDS), wanted, atol=2e-4, rtol=2e-4)
        assert not torch.allclose(newleaf.load(base).network(IDS), wanted, atol=1e-2)
    convert(base, tmp_path / "merged", adapter=tmp_path / "adapter")
    model.save(tmp_path / "saved")
    for folder in ("merged", "saved"):
        stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        with torch.no_grad():
            torch.testing.assert_close(stock(IDS).logits, wanted, atol=5e-4, rtol=5e-4)
    ids = model.tokenizer.encode("a small text")
    expected = stock.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :].tolist()
    assert model.generate("a small text", max_tokens=12, temperature=0) == whole_text(
        model.tokenizer, expected
    )


def test_a_copy_of_the_base_is_not_put_in_and_a_trained_one_is_served_by_itself(
    base: Path, tmp_path: Path
) -> None:
    adapted(base, tmp_path / "copied", OPTIONS["head"])
    adapted(base, tmp_path / "trained", OPTIONS["head trained whole"])
    model = newleaf.load(base)
    assert model.with_adapter(tmp_path / "copied").network.head.base.weight is not None
    assert model.with_adapter(tmp_path / "copied").replaced == ()
    engine = model.engine(adapters={"one": tmp_path / "copied"})
    engine.close()
    with pytest.raises(newleaf.InputError, match=r"adapter one: brings head\.weight whole"):
        model.engine(adapters={"one": tmp_path / "trained"})


@pytest.mark.parametrize("case", [case for case in OPTIONS if case != "tied by peft"])
def test_such_an_adapter_is_written_again_tensor_for_tensor(case: str, base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path / "adapter", OPTIONS[case])
    network = newleaf.load(base).network
    save_adapter(
        tmp_path / "again", load_adapter(tmp_path / "adapter", network, "llama"), network.config, "llama"
    )
    before, after = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "again")
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("case", ["head", "table", "both trained whole"])
def test_over_packed_weights_too(case: str, base: Path, tmp_path: Path) -> None:
    wanted = adapted(base, tmp_path / "adapter", OPTIONS[case])
    model = newleaf.load(base, weights="int8", adapter=tmp_path / "adapter")
    with torch.no_grad():
        assert (model.network(IDS) - wanted).abs().mean() < 0.1 * wanted.abs().mean()


def test_what_does_not_fit_is_another_base(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path / "adapter", OPTIONS["head"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.lm_head.base_layer.weight"
    save_file(tensors | {name: tensors[name][:-1].contiguous()}, file)
    with pytest.raises(newleaf.InputError, match=r"lm_head\.weight has shape"):
        newleaf.load(base, adapter=tmp_path / "adapter")
