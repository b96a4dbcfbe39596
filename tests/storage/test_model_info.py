"""What `newleaf info` says, against networks that are really built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import newleaf
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.generate.backend.runner import cache_dtype
from newleaf.model import GPT, GPTConfig, KVCache
from newleaf.model.count import count_parameters
from newleaf.quant.packed import FORMATS
from newleaf.quant.packed_layers import packable
from newleaf.quant.quantize import quantize
from newleaf.storage.model_folder import save_folder
from newleaf.storage.model_info import memory_to_run
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer
from newleaf.train.runs.describe_run import facts

MIXTURE: dict[str, Any] = {
    "gated": True,
    "n_expert": 4,
    "n_expert_active": 2,
    "norm": "rms_norm",
    "positions": "rotary",
}


def saved(folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> GPT:
    network = GPT(GPTConfig(300, 32, 2, 2, 64, **changes)).to(dtype)
    save_folder(folder, network.config, network.state_dict(), train_tokenizer(["a"], TokenizerConfig(), 257))
    return network


@pytest.mark.parametrize(
    "changes", [{}, {"tie_embeddings": False, "n_kv_head": 1}, MIXTURE], ids=["gpt2", "untied", "mixture"]
)
def test_memory_is_that_of_the_network_and_its_cache(changes: dict[str, Any]) -> None:
    config = GPTConfig(320, 32, 2, 2, 64, **changes)
    network, found = GPT(config), memory_to_run(config)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        cache = KVCache(config, 1, dtype=dtype)
        weights = sum(weight.nbytes for weight in network.to(dtype).parameters())
        assert found[name] == weights + cache.keys.nbytes + cache.values.nbytes
    network, packs = network.float(), packable(network)
    # what the engine keeps beside packed weights: see the test below
    cache = KVCache(config, 1, dtype=torch.bfloat16)
    for name, form in FORMATS.items():
        held = [
            quantize(weight.detach(), form) if each in packs else weight
            for each, weight in network.named_parameters()
        ]
        assert found[name] == sum(weight.nbytes for weight in held) + cache.keys.nbytes + cache.values.nbytes


def test_the_cache_beside_packed_weights_is_the_one_that_memory_counts(tmp_path: Path) -> None:
    config = saved(tmp_path / "m").config
    for name in FORMATS:
        assert cache_dtype(newleaf.load(tmp_path / "m", weights=name).network) == torch.bfloat16
    assert cache_dtype(newleaf.load(tmp_path / "m").network) == torch.float32
    values = 2 * config.n_layer * config.n_kv_head * config.head_dim * config.context_length
    found = {bits: memory_to_run(config)[name] for name, bits in (("int8", 8), ("int4", 4))}
    packed = count_parameters(config).packable
    assert found[8] - found[4] == packed * (8 - 4) // 8 + packed * 2 // 64 - packed * 2 // 32
    assert found[8] == packed + packed * 2 // 64 + 4 * (count_parameters(config).total - packed) + 2 * values


def test_facts_are_those_of_the_stock_model(tmp_path: Path) -> None:
    saved(tmp_path / "m", torch.bfloat16)
    stock, found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m"), facts(tmp_path / "m")
    assert found["parameters"] == stock.num_parameters()
    assert (
        found["embedding_parameters"]
        == stock.transformer.wte.weight.numel() + stock.transformer.wpe.weight.numel()
    )
    assert (found["family"], found["context"], found["stored_as"]) == (
        "gpt2",
        stock.config.n_positions,
        str(stock.dtype)[6:],
    )
    assert found["tokenizer"] == {"kind": "byte", "vocab_size": 257}
    assert found["opens_in"] == "stock transformers, as GPT2LMHeadModel"
    saved(tmp_path / "mixture", **MIXTURE)
    found = facts(tmp_path / "mixture")
    assert found["active_parameters"] < found["parameters"]
    assert "4 experts, 2 a token" in found["shape"]


def test_the_licence_is_the_cards_or_the_configurations_or_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    saved(folder)
    assert facts(folder)["licence"] is None
    (folder / "LICENSE.md").write_text("…")
    assert facts(folder)["licence"] == "see LICENSE.md"
    for card, licence in (
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# M\n---\n", "apache-2.0"),
        ("---\r\nlicense: [mit, cc-by-4.0]\r\n---\r\n", "mit, cc-by-4.0"),
        ("---\nlicense: other\nlicense_name: llama3.2\n---\n", "other (llama3.2)"),
        ("---\nlicense: {broken\n---\n", "see LICENSE.md"),
        ("# No front matter\n---\nlicense: mit\n---\n", "see LICENSE.md"),
    ):
        (folder / "README.md").write_bytes(card.encode())
        assert facts(folder)["licence"] == licence, card


def test_a_folder_without_a_tokenizer_is_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "m" / name).unlink()
    assert main(["info", str(tmp_path / "m")]) == 0
    lines = {line[:22].strip(): line[22:].strip() for line in capsys.readouterr().out.splitlines()}
    assert lines["tokenizer"] == "none in this folder"
    assert lines["licence"] == "not said"
    assert lines["parameters"] == f"{GPT(GPTConfig(300, 32, 2, 2, 64)).parameter_count():,}"
    assert lines["memory to run"].startswith("fp32 518 kB, bf16 259 kB, int8 153 kB")


def test_an_adapter_is_described_with_its_base(tmp_path: Path) -> None:
    saved(tmp_path / "base")
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(
        stock,
        peft.LoraConfig(
            r=3, lora_alpha=6, target_modules=["c_attn", "c_fc"], task_type="CAUSAL_LM", fan_in_fan_out=True
        ),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    found = facts(tmp_path / "adapter")
    assert found["adapter_parameters"] == adapted.get_nb_trainable_parameters()[0]
    assert (found["method"], found["on"], found["gives"]) == ("LoRA, rank 3, alpha 6", "c_attn, c_fc", "text")
    assert found["base"] == str(tmp_path / "base")
    assert (
        found["parameters"]
        == transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").num_parameters()
    )
    assert found["opens_in"] == "stock peft, over the base"


def test_a_classifiers_adapter_says_its_labels_and_a_base_that_is_elsewhere_its_name(tmp_path: Path) -> None:
    saved(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text(
        "".join(f'{{"text": "{word} day", "label": "{word}"}}\n' for word in ("good", "bad") * 12)
    )
    options = ["--task", "classify", "--lora", "--steps", "2", "--out", str(tmp_path / "run")]
    assert main(["finetune", str(tmp_path / "base"), str(tmp_path / "rows.jsonl"), *options]) == 0
    found = facts(tmp_path / "run")
    assert (found["steps"], found["gives"], found["family"]) == (2, "classify: bad, good", "gpt2")
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    assert "family" not in facts(tmp_path / "run")
    assert main(["info", str(tmp_path / "run" / "adapter")]) == 0


def test_a_damaged_adapter_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    with pytest.raises(InputError, match="is missing"):
        facts(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no such thing")
    with pytest.raises(InputError, match="damaged"):
        facts(tmp_path)


def test_a_published_gguf_says_its_licence_and_plans(shared_data: Path) -> None:
    from newleaf.plan import plan

    file = shared_data.parent / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.exists():
        pytest.skip("needs the published file")
    found = facts(file)
    assert (found["family"], found["parameters"], found["licence"]) == ("llama", 134_515_008, "apache-2.0")
    assert plan(file).figures == plan("smollm2-135m").figures
