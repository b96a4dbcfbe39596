"""Weights in every form that folders have had, read one tensor at a time; and what is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import newleaf
from newleaf.quant.mxfp4 import dequantize
from newleaf.storage.convert_model import convert
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stock GPT-2 with random weights, and a tokenizer."""
    tokenizer = train_tokenizer(["some text"], TokenizerConfig(), 257)
    config = transformers.GPT2Config(vocab_size=257, n_embd=32, n_layer=3, n_head=2, n_positions=32)
    transformers.GPT2LMHeadModel(config).eval().save_pretrained(tmp_path / "m")
    tokenizer.save(tmp_path / "m")
    return tmp_path / "m"


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return newleaf.load(folder).network(torch.arange(20)[None])


def as_bin(folder: Path, shards: int) -> None:
    """Replace the safetensors by pickled tensors, as folders had them before."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    places = {name: f"pytorch_model-{n % shards}.bin" for n, name in enumerate(tensors)}
    for file in set(places.values()):
        torch.save({name: tensors[name] for name in places if places[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("shards", [1, 3])
def test_old_bin_files_open_with_the_same_logits(folder: Path, shards: int) -> None:
    wanted = logits(folder)
    as_bin(folder, shards)
    assert torch.equal(logits(folder), wanted)


def test_sharded_safetensors_open_with_the_same_logits(folder: Path) -> None:
    wanted = logits(folder)
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert torch.equal(logits(folder), wanted)


def test_folders_of_the_bare_network_without_its_prefix_open(folder: Path) -> None:
    """openai-community/gpt2 names its tensors h.0.attn… and not transformer.h.0.attn…"""
    wanted = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()},
        folder / "model.safetensors",
    )
    assert torch.equal(logits(folder), wanted)


class Trap:
    def __reduce__(self) -> Any:
        return os.system, ("touch SPRUNG",)


def test_a_pickle_that_wants_to_run_code_is_refused_and_nothing_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(newleaf.InputError, match=r"pytorch_model\.bin: refused"):
        newleaf.load(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(newleaf.InputError, match=r"pytorch_model\.bin"):
        newleaf.load(folder)
    assert not (folder / "SPRUNG").exists()
    pickle.loads(pickle.dumps(Trap()))  # the trap itself works
    assert (folder / "SPRUNG").exists()


def test_a_missing_shard_and_a_path_that_climbs_out_are_named(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    (folder / "model.safetensors").unlink()
    for name, message in (
        ("model-2.safetensors", "shard model-2.safetensors is missing"),
        ("../secret", "points outside the folder"),
    ):
        index.write_text(json.dumps({"weight_map": {"transformer.wte.weight": name}}))
        with pytest.raises(newleaf.InputError, match=message):
            newleaf.load(folder)
    index.write_text("[]")
    with pytest.raises(newleaf.InputError, match="is not an index of shards"):
        newleaf.load(folder)


def test_a_tokenizer_that_does_not_fit_the_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    wider = train_tokenizer([Path(__file__).read_text("utf-8")], TokenizerConfig(), 300)
    assert wider.vocab_size == 300
    wider.save(folder)
    with pytest.raises(newleaf.InputError, match="the tokenizer has 300 tokens and the network only 257"):
        newleaf.load(folder)
    with pytest.raises(newleaf.InputError, match="the tokenizer has 300 tokens and the network only 257"):
        convert(folder, tmp_path / "x")


@pytest.mark.parametrize("name", ["/etc/passwd", "..", "a/../../secret", "inside/model.safetensors", ""])
def test_no_shard_outside_the_folder_is_opened(name: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"transformer.wte.weight": name}})
    )
    with pytest.raises(newleaf.InputError, match="points outside the folder"):
        newleaf.load(folder)


def test_a_truncated_shard_is_named_by_loading_and_converting(folder: Path, tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    last = sorted(folder.glob("model-*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-100])
    for opens in (newleaf.load, lambda path: convert(path, tmp_path / "x")):
        with pytest.raises(newleaf.InputError, match=rf"{last.name}: damaged"):
            opens(folder)


def test_a_folder_without_weights_says_so(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(newleaf.InputError, match=r"model\.safetensors is missing"):
        newleaf.load(folder)


def test_mxfp4_values_are_those_of_the_format() -> None:
    """Each of the sixteen codes at each of several exponents, written out from the standard's table."""
    codes = torch.arange(16, dtype=torch.uint8)
    blocks = (codes | (codes.flip(0) << 4)).view(1, 16)
    magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    for exponent in (120, 127, 131):
        got = dequantize(blocks, torch.tensor([exponent], dtype=torch.uint8), torch.float32)
        wanted = [
            s * m * 2.0 ** (exponent - 127) for s, row in ((1, magnitudes), (-1, magnitudes)) for m in row
        ]
        assert got[0::2].tolist() == wanted
        assert got[1::2].tolist() == wanted[::-1]


def test_a_gpt_oss_folder_with_mxfp4_experts_opens_packed_or_not_as_its_unpacked_twin(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    config = transformers.GptOssConfig(
        vocab_size=257,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        intermediate_size=32,
        num_local_experts=3,
        num_experts_per_tok=2,
        max_position_embeddings=32,
    )
    transformers.GptOssForCausalLM(config).save_pretrained(tmp_path / "m")
    train_tokenizer(["some text"], TokenizerConfig(), 257).save(tmp_path / "m")
    tensors, packed = load_file(tmp_path / "m" / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape
        packed[f"{name}_blocks"] = torch.randint(
            0, 256, (experts, rows, columns // 32, 16), dtype=torch.uint8
        )
        packed[f"{name}_scales"] = torch.randint(118, 124, (experts, rows, columns // 32), dtype=torch.uint8)
        tensors[name] = (
            convert_moe_packed_tensors(packed[f"{name}_blocks"], packed[f"{name}_scales"])
            .float()
            .contiguous()
        )
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    wanted = logits(tmp_path / "m")
    save_file(
        {name: t for name, t in tensors.items() if f"{name}_blocks" not in packed} | packed,
        tmp_path / "m" / "model.safetensors",
    )
    values = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(
        json.dumps(values | {"quantization_config": {"quant_method": "mxfp4"}})
    )
    with torch.no_grad():
        got = newleaf.load(tmp_path / "m", weights="fp32").network(torch.arange(20)[None])
        kept = newleaf.load(tmp_path / "m")
        still_packed = kept.network(torch.arange(20)[None])
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(still_packed, wanted, atol=1e-4, rtol=1e-4)
    experts = [part for name, part in kept.network.named_buffers() if name.endswith((".codes", ".scales"))]
    # 3 experts of 3 matrices, never unpacked
    assert sum(part.nbytes for part in experts) * 8 / (9 * 64 * 32) == 4.5
    kept.save(tmp_path / "again")
    torch.testing.assert_close(logits(tmp_path / "again"), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_weights_have_the_mode_of_every_other_file_of_theirs(folder: Path, tmp_path: Path) -> None:
    """safetensors alone writes files that nobody but their owner reads."""
    newleaf.load(folder).save(tmp_path / "saved")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "saved").iterdir()}
    assert set(modes.values()) == {modes["config.json"]}, modes
