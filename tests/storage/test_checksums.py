"""Weights whose bytes are not those that were written: every command that reads them names the file."""

from __future__ import annotations

import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from killing import OPTIONS
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import newleaf
from newleaf.cli.main import main
from newleaf.storage.files import write_tensors


@pytest.fixture(scope="module")
def run(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return newleaf.pretrain(book, out=tmp_path_factory.mktemp("runs") / "run", quiet=True, **OPTIONS).path


@pytest.fixture
def model(run: Path, tmp_path: Path) -> Path:
    """A copy of the run's model/ to damage."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in (run / "model").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def data_begins(file: Path) -> int:
    """The first byte of the tensors: behind eight bytes that say how long the JSON header is, and the header."""
    return 8 + int(struct.unpack("<Q", file.read_bytes()[:8])[0])


def flip(file: Path, bits: int = 20, begin: int | None = None) -> None:
    """Turn so many bits over, somewhere in the tensors."""
    data, chance = bytearray(file.read_bytes()), random.Random(5)
    for _ in range(bits):
        data[chance.randrange(data_begins(file) if begin is None else begin, len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)


def test_each_tensor_has_the_crc32_of_its_bytes_in_the_file(model: Path) -> None:
    """Read by the format's description alone: the header says where in the file each tensor lies."""
    file = model / "model.safetensors"
    data, begin = file.read_bytes(), data_begins(file)
    header = json.loads(data[8:begin])
    said = json.loads(header.pop("__metadata__")["newleaf.crc32"])
    assert set(said) == set(header)
    for name, about in header.items():
        start, end = about["data_offsets"]
        assert said[name] == f"float32:{zlib.crc32(data[begin + start : begin + end]):08x}"


def test_the_same_tensors_make_the_same_bytes(tmp_path: Path) -> None:
    """safetensors itself writes metadata in an order that changes from file to file."""
    for number in range(20):
        write_tensors(tmp_path / str(number), {"b": torch.arange(6).float(), "a": torch.ones(2, 3)})
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    assert torch.equal(load_file(tmp_path / "0")["b"], torch.arange(6).float())


@pytest.mark.parametrize("bits", [1, 20])
def test_flipped_bits_are_named_by_every_command_in_one_line(
    bits: int, model: Path, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(model / "model.safetensors", bits)
    text = tmp_path / "text.txt"
    text.write_text("A text to be evaluated on.")
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "good,yes\nbad,no\n" * 20)
    commands: list[list[Any]] = [
        ["generate", model, "def "],
        ["evaluate", model, text],
        ["convert", model, tmp_path / "copy"],
        ["convert", model, tmp_path / "copy.gguf"],
        ["finetune", model, book, "--task", "text", "--steps", "1", "--out", tmp_path / "tuned"],
        ["finetune", model, rows, "--task", "classify", "--steps", "1", "--out", tmp_path / "labels"],
        ["generate", model, "def ", "--weights", "int8"],
    ]
    for command in commands:
        assert main([str(word) for word in command]) == 2, command
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{model / 'model.safetensors'}: damaged" in error, command
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "copy.gguf").exists()
    with pytest.raises(newleaf.InputError, match=r"model.safetensors: damaged"):
        newleaf.load(model)


def test_a_damaged_table_of_checksums_is_damage_too(model: Path) -> None:
    file = model / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data.replace(b'newleaf.crc32":"{', b'newleaf.crc32":"['))
    with pytest.raises(newleaf.InputError, match=r"model.safetensors: damaged, its table of checksums"):
        newleaf.load(model)


def test_weights_written_again_by_stock_transformers_open(model: Path) -> None:
    stock = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        stock.model.embed_tokens.weight.mul_(0.5)
    stock.save_pretrained(model)
    assert newleaf.load(model).generate("a", max_tokens=1) is not None


def test_weights_converted_by_a_program_that_copies_the_metadata_open(model: Path) -> None:
    file = model / "model.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}, file, metadata=metadata)
    assert newleaf.load(model).generate("a", max_tokens=1) is not None


def test_a_damaged_classifier_and_a_damaged_adapter_are_named(run: Path, book: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "good,yes\nbad,no\n" * 20)
    labels = newleaf.finetune(run, rows, task="classify", steps=1, out=tmp_path / "labels", quiet=True).path
    flip(labels / "model" / "model.safetensors")
    with pytest.raises(newleaf.InputError, match=r"labels/model/model.safetensors: damaged"):
        newleaf.load(labels)
    adapter = newleaf.finetune(run, book, task="text", lora={}, steps=1, out=tmp_path / "adapter", quiet=True).path
    flip(adapter / "adapter" / "adapter_model.safetensors")
    with pytest.raises(newleaf.InputError, match=r"adapter_model.safetensors is damaged"):
        newleaf.load(adapter)
