"""Adapter folders whose tensors and fields are not those of an adapter: one line each, where stock peft
refuses too or would not do what is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import newleaf
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

Tensors = dict[str, Tensor]
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")
TABLE = "base_model.model.model.embed_tokens.lora_embedding_"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and an adapter of it, as stock libraries write them."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["some text of a few words"], TokenizerConfig(), 258)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, bos_token_id=None, eos_token_id=tokenizer.eos_id,
    )  # fmt: skip
    stock = transformers.LlamaForCausalLM(config)
    stock.save_pretrained(folder / "base")
    tokenizer.save(folder / "base")
    lora = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(stock, lora).save_pretrained(folder / "adapter")
    return folder


@pytest.fixture(scope="module")
def base(root: Path) -> newleaf.Model:
    return newleaf.load(root / "base")


def changed(
    root: Path,
    folder: Path,
    fields: dict[str, Any] | None = None,
    tensors: Callable[[Tensors], Any] | None = None,
) -> Path:
    about = json.loads((root / "adapter" / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(about | (fields or {})))
    found = load_file(root / "adapter" / "adapter_model.safetensors")
    found = {
        name: each.contiguous() for name, each in ((tensors(found) if tensors else None) or found).items()
    }
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def exchanged(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda found: found | {name: change(found[name])}


def every(change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda found: {name: change(each) for name, each in found.items()}


WRONG_TENSORS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "a rank of nothing": (lambda t: {n: each[:0] if "lora_A" in n else each[:, :0] for n, each in t.items()},
    "are matrices"),
    "a number for A": (exchanged(A, lambda a: torch.tensor(1.0)), "are matrices"),
    "a vector for A": (exchanged(A, lambda a: a[0]), "are matrices"),
    "a stack for A": (exchanged(A, lambda a: a[None]), "are matrices"),
    "a number for B": (exchanged(B, lambda b: torch.tensor(1.0)), "are matrices"),
    "a vector for B": (exchanged(B, lambda b: b[0]), "are matrices"),
    "a B without rows": (exchanged(B, lambda b: b[:0]), "are matrices"),
    "whole numbers": (every(lambda each: each.to(torch.int8)), "of type int8"),
    "truth values": (every(lambda each: each > 0), "of type bool"),
    "complex numbers": (every(lambda each: each.to(torch.complex64)), "of type complex64"),
    "a NaN": (exchanged(A, lambda a: a * torch.nan), "holds NaN"),
    "infinity": (exchanged(B, lambda b: b + torch.inf), "holds infinity"),
    "an update of the table of rank nothing": (
        lambda t: t | {f"{TABLE}A": torch.ones(0, 258), f"{TABLE}B": torch.ones(16, 0)},
        "is no update of a table",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_tensors_that_are_no_update_are_named(
    case: str, base: newleaf.Model, root: Path, tmp_path: Path
) -> None:
    change, said = WRONG_TENSORS[case]
    with pytest.raises(newleaf.InputError, match=said):
        base.with_adapter(changed(root, tmp_path, tensors=change))


@pytest.mark.parametrize("fields", [{"r": 8}, {"r": 2.5}, {"rank_pattern": {"q_proj": 3}}])
def test_a_rank_that_the_tensors_do_not_have_is_refused_as_peft_does(
    fields: dict[str, Any], base: newleaf.Model, root: Path, tmp_path: Path
) -> None:
    folder = changed(root, tmp_path, fields)
    with pytest.raises((RuntimeError, TypeError)):
        peft.PeftModel.from_pretrained(transformers.LlamaForCausalLM.from_pretrained(root / "base"), folder)
    with pytest.raises(newleaf.InputError, match=r"says rank .* of .*q_proj, and its tensors have 2"):
        base.with_adapter(folder)


@pytest.mark.parametrize("name", ["use_rslora", "use_dora", "fan_in_fan_out"])
@pytest.mark.parametrize("value", ["false", "no", 2, [True]])
def test_a_flag_that_is_no_truth_value_is_not_taken_for_true(
    name: str, value: Any, base: newleaf.Model, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(newleaf.InputError, match=f"{name} = .*; it must be true or false"):
        base.with_adapter(changed(root, tmp_path, {name: value}))


@pytest.mark.parametrize("pattern", ["layer{}", ".*.*.*x{}"])
def test_patterns_without_end_are_refused(
    pattern: str, base: newleaf.Model, root: Path, tmp_path: Path
) -> None:
    patterns = {pattern.replace("{}", str(n)): 3 for n in range(5000)}
    with pytest.raises(newleaf.InputError, match=r"5,000 patterns .*newleaf reads at most"):
        base.with_adapter(changed(root, tmp_path, {"alpha_pattern": patterns}))


def test_an_adapter_kept_in_fp8_is_used(base: newleaf.Model, root: Path, tmp_path: Path) -> None:
    folder = changed(root, tmp_path, tensors=every(lambda each: each.to(torch.float8_e4m3fn)))
    base.with_adapter(folder).generate("some", max_tokens=2, temperature=0)
