"""Conversion from form to form: the same numbers, read a tensor at a time, and nothing half written."""

from __future__ import annotations

import json
import sys
import textwrap
import weakref
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import newleaf
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.families import gpt3
from newleaf.model import GPT, GPTConfig
from newleaf.storage import safetensors_shards
from newleaf.storage.convert_model import convert, open_source
from newleaf.storage.model_folder import save_folder
from newleaf.storage.safetensors_shards import StateDictExport
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

IDS = torch.arange(30)[None]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock Llama with random weights and defaults of its own, and a tokenizer."""
    folder = tmp_path_factory.mktemp("stock") / "m"
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=310,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=64,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    model.generation_config.update(do_sample=True, temperature=0.6, eos_token_id=[256, 7])
    model.save_pretrained(folder)
    train_tokenizer([Path(textwrap.__file__).read_text("utf-8")], TokenizerConfig(), 300).save(folder)
    return folder


def own(folder: Path, config: GPTConfig) -> GPT:
    network = GPT(config).eval()
    save_folder(folder, config, network.state_dict(), train_tokenizer(["a"], TokenizerConfig(), 257))
    return network


def stock_logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(IDS).logits


def test_a_folder_becomes_a_gguf_and_a_folder_again_with_the_same_tensors(
    stock: Path, tmp_path: Path
) -> None:
    assert convert(stock, tmp_path / "x.gguf") is None
    newleaf.load(stock).save(tmp_path / "opened.gguf")
    assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "opened.gguf").read_bytes()
    assert convert(tmp_path / "x.gguf", tmp_path / "back") is None
    before, after = load_file(stock / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(stock_logits(tmp_path / "back"), stock_logits(stock))


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_each_number_format_is_that_of_the_tensors_rounded_once(
    name: str, dtype: torch.dtype, stock: Path, tmp_path: Path
) -> None:
    convert(stock, tmp_path / "m", dtype=name)
    before, after = load_file(stock / "model.safetensors"), load_file(tmp_path / "m" / "model.safetensors")
    assert all(torch.equal(before[each].to(dtype), after[each]) for each in before)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == str(dtype).removeprefix(
        "torch."
    )


def test_generation_defaults_come_along(stock: Path, tmp_path: Path) -> None:
    convert(stock, tmp_path / "m")
    found = transformers.GenerationConfig.from_pretrained(tmp_path / "m")
    assert (found.temperature, found.eos_token_id) == (0.6, [256, 7])


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16", "BF16"])
def test_a_gguf_has_the_type_that_was_asked_for(kind: str, stock: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    convert(stock, tmp_path / "x.gguf", type=kind)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert kinds["blk.0.ffn_up.weight"] == kind


def test_a_type_is_kept_where_none_is_asked_for(stock: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    convert(stock, tmp_path / "bf16", dtype="bf16")
    convert(tmp_path / "bf16", tmp_path / "again")
    convert(tmp_path / "bf16", tmp_path / "x.gguf")
    assert {tensor.dtype for tensor in load_file(tmp_path / "again" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert kinds["blk.0.ffn_up.weight"] == "BF16"


def test_runs_and_networks_of_newleafs_own_type_convert(tmp_path: Path) -> None:
    network = own(tmp_path / "run" / "model", GPTConfig(300, 64, 2, 2, 32, block="post_norm"))
    (tmp_path / "run" / "run.yaml").write_text("{}")
    assert "opens in newleaf only" in (convert(tmp_path / "run", tmp_path / "m") or "")
    with torch.no_grad():
        assert torch.equal(newleaf.load(tmp_path / "m").network(IDS), network(IDS))


def test_sinusoids_stay_sinusoids(tmp_path: Path) -> None:
    network = own(tmp_path / "a", GPTConfig(300, 64, 1, 2, 32, positions="sinusoidal"))
    assert convert(tmp_path / "a", tmp_path / "b") is None
    with torch.no_grad():
        assert torch.equal(newleaf.load(tmp_path / "b").network(IDS), network(IDS))
        torch.testing.assert_close(stock_logits(tmp_path / "b"), network(IDS), atol=1e-5, rtol=1e-5)


def test_no_more_than_a_shard_is_held(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, made, peak = 100_000, [], []
    make = StateDictExport.make

    def watched(self: StateDictExport, rule: safetensors_shards.Rule) -> torch.Tensor:
        tensor = make(self, rule)
        made.append((weakref.ref(tensor), tensor.nbytes))
        peak.append(sum(size for ref, size in made if ref() is not None))
        return tensor

    monkeypatch.setattr(safetensors_shards, "MAX_SHARD_SIZE", limit)
    monkeypatch.setattr(StateDictExport, "make", watched)
    convert(stock, tmp_path / "m")
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 4
    assert max(peak) <= limit
    monkeypatch.undo()
    assert torch.equal(stock_logits(tmp_path / "m"), stock_logits(stock))
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(size for _, size in made)
    source = open_source(stock)
    for name in source.weights:
        assert source.weights[name].shape
        assert sum(tensor.nbytes for tensor in source.weights.last.values()) <= 310 * 64 * 4  # type: ignore[attr-defined]


def test_progress_counts_every_tensor(stock: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(stock, tmp_path / "m", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(load_file(stock / "model.safetensors"))


def test_what_does_not_go_is_refused_in_a_sentence_and_leaves_nothing(stock: Path, tmp_path: Path) -> None:
    own(tmp_path / "gpt3", gpt3.gpt3(2, 36, 3, vocab_size=300, context_length=64, windows=(0, 5)))
    own(tmp_path / "big", GPTConfig(300, 64, 1, 2, 32))
    weights = load_file(tmp_path / "big" / "model.safetensors")
    save_file(
        weights | {"transformer.wte.weight": weights["transformer.wte.weight"] * 1e9},
        tmp_path / "big" / "model.safetensors",
    )
    own(tmp_path / "cut", GPTConfig(300, 64, 1, 2, 32))
    kept = {name: weight for name, weight in weights.items() if "mlp.c_fc.weight" not in name}
    save_file(kept, tmp_path / "cut" / "model.safetensors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    out, file = tmp_path / "out", tmp_path / "out.gguf"
    for arguments, options, said in (
        ((stock, file), {"dtype": "bf16"}, "dtype: bf16 is for folders"),
        ((stock, out), {"type": "Q8_0"}, "type: Q8_0 is for GGUF files"),
        ((stock, out), {"dtype": "fp8"}, "dtype: 'fp8' is not one of fp32, bf16, fp16"),
        ((stock, file), {"type": "Q3"}, "type: 'Q3' is not one of"),
        ((stock, stock), {"overwrite": True}, "is the model that is to be converted"),
        ((stock, tmp_path / "full"), {"overwrite": True}, "exists and is not a model folder"),
        ((stock, tmp_path / "big"), {}, "big: exists; --overwrite replaces it"),
        ((tmp_path / "gpt3", out), {"dtype": "bf16"}, "its folders are fp32"),
        ((tmp_path / "big", out), {"dtype": "fp16"}, "beyond fp16's range"),
        ((tmp_path / "cut", out), {}, "the weights lack transformer.h.0.mlp.c_fc.weight"),
        ((tmp_path / "nowhere", out), {}, "no such file or folder"),
    ):
        with pytest.raises(InputError, match=said):
            convert(*arguments, **options)  # type: ignore[arg-type]
    assert not out.exists()
    assert not file.exists()
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_command_writes_says_so_and_replaces_only_when_told(
    stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["convert", str(stock), str(tmp_path / "m"), "--dtype", "bf16"]
    assert main(words) == 0
    assert f"{tmp_path / 'm'} is written" in capsys.readouterr().out
    assert main(words) == 2
    assert capsys.readouterr().err == f"newleaf: {tmp_path / 'm'}: exists; --overwrite replaces it\n"
    assert main([*words[:3], "--overwrite"]) == 0
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "float32"
    assert main(["convert", str(tmp_path / "m"), str(tmp_path / "x.gguf"), "--type", "q8_0"]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "x.gguf"), "--json"]) == 0
    assert "Q8_0" in json.loads(capsys.readouterr().out)["stored_as"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files there")
@pytest.mark.parametrize("name", ["x.gguf", "folder"])
@pytest.mark.parametrize("most", [0, 1000, 20_000, 70_000])
def test_a_file_that_the_disk_does_not_take_whole_is_one_line_and_leaves_nothing(
    name: str, most: int, stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    (tmp_path / "out").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        code = main(["convert", str(stock), str(tmp_path / "out" / name)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []
