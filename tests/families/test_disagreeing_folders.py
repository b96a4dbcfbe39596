"""Folders whose files contradict each other are read as stock transformers reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from decoded_text import whole_text
from safetensors.torch import load_file, save_file

import newleaf

Make = Callable[[str, Path], Any]
IDS = torch.arange(60).view(2, 30) * 5 % 290


def edit(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file; `...` takes one out."""
    values = json.loads(file.read_text()) if file.exists() else {}
    values = {name: value for name, value in (values | changes).items() if value is not ...}
    file.write_text(json.dumps(values))


def same_logits(folder: Path) -> None:
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(newleaf.load(folder).network(IDS), stock(IDS).logits, atol=1e-4, rtol=1e-4)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("llama", {"rope_theta": 77.0}),  # beside rope_parameters, which say 10000
        ("llama", {"rope_parameters": ..., "rope_theta": 77.0}),
        ("llama", {"rope_parameters": None, "rope_theta": 77.0, "rope_scaling": {"rope_type": "default"}}),
        ("llama", {"rope_scaling": {"rope_type": "default", "rope_theta": 99.0}, "rope_theta": 77.0}),
        ("llama", {"rope_scaling": {"type": "default"}, "rope_theta": 77.0}),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 1.0}, "rope_parameters": ...,
                   "rope_theta": 77.0}),
        ("llama", {"rope_scaling": {"rope_type": "default", "factor": 8.0, "low_freq_factor": 1.0}}),
        ("llama", {"rope_scaling": YARN}),  # beside plain rope_parameters
        ("llama", {"rope_scaling": YARN | {"type": "linear"}, "rope_theta": 300.0, "rope_parameters": ...}),
        ("llama", {"rope_scaling": YARN, "original_max_position_embeddings": 8}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 44.0}, "rope_scaling": None,
                   "rope_theta": 55.0}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 44.0,
                                       "partial_rotary_factor": 0.5}}),
        ("llama", {"sliding_window": 4, "use_sliding_window": True, "num_local_experts": 8,
                   "attn_logit_softcapping": 3.0}),
        ("qwen3", {"rope_theta": 77.0, "rope_parameters": ...}),
        ("qwen3", {"rope_theta": 77.0, "rope_parameters": {"rope_type": "default", "rope_theta": 55.0}}),
        ("qwen3-windows", {"layer_types": ["sliding_attention", "full_attention", "full_attention"],
                           "max_window_layers": 2}),
        ("qwen3-windows", {"layer_types": ..., "max_window_layers": 2}),
        ("qwen3-windows", {"layer_types": ..., "sliding_window": None}),
        ("qwen3-windows", {"layer_types": ..., "use_sliding_window": False}),
        ("gpt_neox", {"rotary_emb_base": 55.0, "rotary_pct": 0.5}),
        ("gpt_neox", {"rotary_emb_base": 55.0, "rotary_pct": 0.5, "rope_parameters": ...}),
        ("gpt_neox", {"rope_theta": 55.0, "partial_rotary_factor": 1.0, "rope_parameters": ...}),
        ("gpt_neox", {"rope_scaling": {"type": "default", "rope_theta": 60.0}}),
        ("gpt_oss", {"rope_theta": 77.0}),
        ("gpt_oss", {"rope_scaling": {"rope_type": "default"}, "rope_theta": 77.0}),
        ("gpt_oss", {"num_local_experts": 99, "num_experts": 6}),
        ("gpt_oss", {"experts_per_token": 5}),
        ("gpt2", {"n_ctx": 7}),
        ("gpt2", {"n_positions": 32, "max_position_embeddings": 64, "n_embd": 8, "hidden_size": 40}),
        ("gpt2", {"n_head": 2, "num_attention_heads": 5, "n_layer": 7, "num_hidden_layers": 2}),
        ("gpt1", {"n_head": 4, "num_attention_heads": 3, "n_ctx": 3}),
        ("gptj", {"n_head": 4, "num_attention_heads": 3}),
        ("gpt_neo", {"num_heads": 5, "num_attention_heads": 3}),
        ("gpt_neo", {"attention_layers": ["local", "local", "global", "global"]}),
        ("gpt_neo", {"attention_layers": ["global"] * 4, "attention_types": [[["local"], 4]]}),
        ("gpt2", {"architectures": ["LlamaForCausalLM"]}),
        ("llama", {"architectures": ["SomebodysLlamaForCausalLM"],
                   "auto_map": {"AutoModelForCausalLM": "modeling_x.SomebodysLlama"}}),
        ("llama", {"architectures": ["LlamaModel"]}),
    ],
)  # fmt: skip
def test_fields_that_disagree_make_the_network_that_stock_transformers_makes(
    case: str, changes: dict[str, Any], make: Make, tmp_path: Path
) -> None:
    _, folder = make(case, tmp_path / "m")
    edit(folder / "config.json", **changes)
    same_logits(folder)
    newleaf.load(folder).save(tmp_path / "again")
    same_logits(tmp_path / "again")


def test_a_single_weights_file_goes_before_an_index_of_shards(make: Make, tmp_path: Path) -> None:
    _, folder = make("gpt2", tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor * 0.9 for name, tensor in tensors.items()}, folder / "model-00001-of-00001.safetensors"
    )
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.save({name: tensor * 0.8 for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
    save_file({name: tensor * 0.7 for name, tensor in tensors.items()}, folder / "model.fp16.safetensors")
    same_logits(folder)
    (folder / "model.safetensors").unlink()
    same_logits(folder)
    (folder / "model.safetensors.index.json").unlink()
    same_logits(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_in_the_weights_of_a_tied_network_is_what_stock_transformers_makes_of_it(
    tied: bool, make: Make, tmp_path: Path
) -> None:
    _, folder = make("gpt2-untied", tmp_path / "m")
    edit(folder / "config.json", tie_word_embeddings=tied)
    same_logits(folder)


ENDS = [
    ({"eos_token_id": [5, 6]}, ...),
    ({"eos_token_id": 5}, {"eos_token_id": 6}),
    ({"eos_token_id": [5, 6]}, {"eos_token_id": [7]}),
    ({"eos_token_id": [5, 6], "temperature": 0.5, "top_k": 3, "repetition_penalty": 1.5, "max_length": 30},
     ...),
    ({"eos_token_id": 5, "temperature": 0.5}, {"top_p": 0.5, "eos_token_id": 8}),
    ({"eos_token_id": 5, "pad_token_id": 3}, {"eos_token_id": 5, "pad_token_id": 4, "bos_token_id": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("config", "generation"), ENDS)
def test_generation_settings_are_those_that_stock_transformers_reads(
    config: dict[str, Any], generation: Any, make: Make, tmp_path: Path
) -> None:
    _, folder = make("gpt2", tmp_path / "m")
    edit(folder / "config.json", bos_token_id=..., eos_token_id=..., pad_token_id=...)
    edit(folder / "config.json", **config)
    (folder / "generation_config.json").unlink()
    if generation is not ...:
        edit(folder / "generation_config.json", **generation)
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder).generation_config
    for path in (folder, tmp_path / "again"):
        model = newleaf.load(path)
        ends = stock.eos_token_id if isinstance(stock.eos_token_id, list) else [stock.eos_token_id]
        assert model.end_ids == set(ends)
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "repetition_penalty",
            "pad_token_id",
            "bos_token_id",
            "max_length",
        ):
            said = getattr(stock, name)
            assert said is None or model.defaults[name] == said
        model.save(tmp_path / "again")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
        assert again.generation_config.eos_token_id == stock.eos_token_id
        assert again.config.eos_token_id == stock.eos_token_id


def test_a_list_of_eos_tokens_in_config_json_alone_stops_where_stock_generate_stops(
    make: Make, tmp_path: Path
) -> None:
    _, folder = make("gpt2", tmp_path / "m")
    prompt = newleaf.load(folder).tokenizer.encode("a small text")
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder)
    stock.generation_config.eos_token_id = None
    free = stock.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0].tolist()[
        len(prompt) :
    ]
    (folder / "generation_config.json").unlink()
    edit(folder / "config.json", eos_token_id=[free[7], free[4]])
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder)
    stopped = stock.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0].tolist()[
        len(prompt) :
    ]
    model = newleaf.load(folder)
    assert model.generate("a small text", max_tokens=20, temperature=0) == whole_text(
        model.tokenizer, stopped[:-1]
    )
    assert len(stopped) < 20


def test_what_newleaf_writes_says_each_thing_once(stock: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = stock
    edit(folder / "generation_config.json", eos_token_id=[7, 9], pad_token_id=3)
    edit(folder / "tokenizer_config.json", chat_template="{{ messages[0].content }}")
    newleaf.load(folder).save(tmp_path / "out")
    out = tmp_path / "out"
    files = sorted(path.name for path in out.iterdir())
    assert files == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    config, generation = (
        json.loads((out / name).read_text()) for name in ("config.json", "generation_config.json")
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert config[name] == generation.get(name)
    assert {str(tensor.dtype)[6:] for tensor in load_file(out / "model.safetensors").values()} == {
        config["dtype"]
    }
    assert "torch_dtype" not in config
    rope = config.get("rope_parameters", {})
    for name, other in (
        ("rope_theta", "rope_theta"),
        ("rotary_emb_base", "rope_theta"),
        ("rotary_pct", "partial_rotary_factor"),
    ):
        assert name not in config or config[name] == rope[other]
    again = transformers.AutoTokenizer.from_pretrained(out)
    ours = newleaf.load(out).tokenizer
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (
        ours.bos_id,
        ours.eos_id,
        ours.pad_id,
    )
    assert len(again) == ours.vocab_size
