"""Adapters against stock peft, for every family: what it wrote is read, and what newleaf writes it opens."""

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
from safetensors.torch import load_file
from torch import Tensor

import newleaf
from newleaf.adapters.adapter import Adapter, attach, parts_of
from newleaf.adapters.init_adapter import new_adapter
from newleaf.adapters.lora_config import AdapterConfig
from newleaf.api import Model
from newleaf.generate.backend import runner
from newleaf.generate.options import SamplingConfig
from newleaf.storage.adapter_folder import WEIGHTS, load_adapter, rules_of, save_adapter
from newleaf.storage.convert_model import convert

EXPERTS = {"target_parameters": ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]}
IDS = torch.arange(40).view(2, 20) * 7 % 300


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def written_by_peft(model: Any, folder: Path, **options: Any) -> Tensor:
    """A folder that stock peft wrote, every tensor in it random; returns its logits."""
    torch.manual_seed(1)
    config = peft.LoraConfig(
        **{"r": 3, "lora_alpha": 7, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options
    )
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.add_(torch.randn_like(weight), alpha=0.2)
        logits: Tensor = adapted.eval()(IDS).logits
    adapted.save_pretrained(folder)
    return logits


def logits_of(model: Model) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.network(IDS)
    return logits


def trained(model: Model, config: AdapterConfig, base: Path) -> Adapter:
    """A new adapter whose every tensor is random, on the model."""
    torch.manual_seed(2)
    adapter = new_adapter(model.network, config, rules_of(model.network.config, model.family), str(base))
    attach(model.network, adapter)
    with torch.no_grad():
        for weight in model.network.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.2)
    return Adapter(parts_of(model.network), adapter.about, adapter.base)


def assert_alike(logits: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(logits, wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)


def test_what_peft_wrote_gives_its_logits_and_is_written_again_tensor_for_tensor(
    stock: tuple[Any, Path], tmp_path: Path
) -> None:
    model, base = stock
    options = EXPERTS if model.config.model_type == "gpt_oss" else {"rank_pattern": {"c_fc": 5, "q_proj": 2}}
    wanted = written_by_peft(model, tmp_path / "theirs", **options)
    opened = newleaf.load(base, adapter=tmp_path / "theirs")
    assert_alike(logits_of(opened), wanted)
    config, about = (
        opened.network.config,
        load_adapter(tmp_path / "theirs", newleaf.load(base).network, opened.family).about,
    )
    save_adapter(tmp_path / "ours", Adapter(parts_of(opened.network), about), config, opened.family)
    theirs, ours = load_file(tmp_path / "theirs" / WEIGHTS), load_file(tmp_path / "ours" / WEIGHTS)
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        # GPT-3 in GPT-Neo's class folds √D into its queries, which rounds.
        torch.testing.assert_close(
            ours[name], tensor, rtol=1e-6 if opened.family == "gpt3" else 0, atol=0, msg=name
        )


def test_peft_opens_what_newleaf_wrote_with_the_same_logits(stock: tuple[Any, Path], tmp_path: Path) -> None:
    _, base = stock
    model = newleaf.load(base)
    targets = ("all", "experts") if model.network.config.n_expert else ("all",)
    adapter = trained(model, AdapterConfig(rank=4, alpha=6, targets=targets), base)
    save_adapter(tmp_path / "ours", adapter, model.network.config, model.family)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        wanted = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()(IDS).logits
    assert_alike(logits_of(model), wanted)
    assert not torch.allclose(logits_of(newleaf.load(base)), wanted, atol=1e-2)  # it does change something


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"use_rslora": True}, {"alpha_pattern": {"c_proj": 11, "dense": 3}}]
)
@pytest.mark.parametrize("case", ["gpt2", "gpt_neox", "gpt3", "llama-tied-bias"])
def test_forms_of_lora_give_pefts_logits(
    case: str, options: dict[str, Any], make: Callable[[str, Path], tuple[Any, Path]], tmp_path: Path
) -> None:
    model, base = make(case, tmp_path / "base")
    wanted = written_by_peft(model, tmp_path / "theirs", **options)
    assert_alike(logits_of(newleaf.load(base, adapter=tmp_path / "theirs")), wanted)


@pytest.mark.parametrize("case", ["gpt1", "gpt_neox", "gpt3", "qwen3"])
@pytest.mark.parametrize("dora", [True, False])
def test_peft_opens_new_adapters_of_both_forms(
    case: str, dora: bool, make: Callable[[str, Path], tuple[Any, Path]], tmp_path: Path
) -> None:
    _, base = make(case, tmp_path / "base")
    model = newleaf.load(base)
    adapter = trained(model, AdapterConfig(rank=2, dora=dora, rslora=True), base)
    save_adapter(tmp_path / "ours", adapter, model.network.config, model.family)
    opened = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "ours"
    ).eval()
    with torch.no_grad():
        assert_alike(logits_of(model), opened(IDS).logits)


@pytest.mark.parametrize("case", ["gpt2", "gpt_neox", "qwen3", "gpt_oss"])
def test_merged_weights_give_the_adapted_logits_in_stock_transformers(
    case: str, make: Callable[[str, Path], tuple[Any, Path]], tmp_path: Path
) -> None:
    model, base = make(case, tmp_path / "base")
    options = EXPERTS if case == "gpt_oss" else {"use_dora": True}
    wanted = written_by_peft(model, tmp_path / "theirs", **options)
    convert(base, tmp_path / "merged", merge=True, adapter=tmp_path / "theirs")
    with torch.no_grad():
        assert_alike(
            transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(IDS).logits, wanted
        )
    newleaf.load(base, adapter=tmp_path / "theirs").save(tmp_path / "saved")
    assert_alike(logits_of(newleaf.load(tmp_path / "saved")), wanted)


def test_an_adapter_on_experts_writes_pefts_texts_without_a_program_which_is_said_once(
    make: Callable[[str, Path], tuple[Any, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, base = make("gpt_oss", tmp_path / "base")
    plain, prompt = newleaf.load(base), "def wrap(text"
    ids = torch.tensor([plain.tokenizer.encode(prompt)])

    def greedy(stock: Any) -> str:
        return whole_text(
            plain.tokenizer,
            stock.generate(input_ids=ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist(),
        )

    without = greedy(model)
    written_by_peft(model, tmp_path / "theirs", **EXPERTS)
    wanted = greedy(
        peft.PeftModel.from_pretrained(
            transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "theirs"
        ).eval()
    )
    assert wanted not in ("", without)
    runner.say_once.cache_clear()
    config = SamplingConfig(max_tokens=8, temperature=0)
    with (
        caplog.at_level("WARNING", logger="newleaf"),
        plain.engine(slots=2, adapters={"theirs": tmp_path / "theirs"}) as engine,
    ):
        requests = [engine.submit(prompt, config, adapter=name) for name in ("theirs", None)]
        assert ["".join(piece.text for piece in request) for request in requests] == [wanted, without]
    assert (
        newleaf.load(base, adapter=tmp_path / "theirs").generate(prompt, max_tokens=8, temperature=0)
        == wanted
    )
    said = [record.message for record in caplog.records]
    assert said == ["writing with PyTorch, which takes several times as long: it has adapters on experts"]
