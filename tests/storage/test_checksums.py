"""Weights whose bytes are not those that were written: every command that reads them names the file."""

from __future__ import annotations

import json
import random
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from gguf import GGUFReader, GGUFWriter
from killed_runs import OPTIONS
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import newleaf
from newleaf.cli.main import main
from newleaf.storage.safetensors_file import write_safetensors
from newleaf.text.tokenizer import Tokenizer


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
    """The first byte of the tensors: behind eight bytes that say how long the JSON header is, and the
    header."""
    return 8 + int(struct.unpack("<Q", file.read_bytes()[:8])[0])


def flip(file: Path, bits: int = 20, begin: int | None = None) -> None:
    """Turn so many bits over, somewhere in the tensors."""
    data, chance = bytearray(file.read_bytes()), random.Random(5)
    for _ in range(bits):
        data[chance.randrange(data_begins(file) if begin is None else begin, len(data))] ^= (
            1 << chance.randrange(8)
        )
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
        write_safetensors(tmp_path / str(number), {"b": torch.arange(6).float(), "a": torch.ones(2, 3)})
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
    save_file(
        {name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}, file, metadata=metadata
    )
    assert newleaf.load(model).generate("a", max_tokens=1) is not None


def test_a_damaged_classifier_and_a_damaged_adapter_are_named(run: Path, book: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "good,yes\nbad,no\n" * 20)
    labels = newleaf.finetune(run, rows, task="classify", steps=1, out=tmp_path / "labels", quiet=True).path
    flip(labels / "model" / "model.safetensors")
    with pytest.raises(newleaf.InputError, match=r"labels/model/model.safetensors: damaged"):
        newleaf.load(labels)
    adapter = newleaf.finetune(
        run, book, task="text", lora={}, steps=1, out=tmp_path / "adapter", quiet=True
    ).path
    flip(adapter / "adapter" / "adapter_model.safetensors")
    with pytest.raises(newleaf.InputError, match=r"adapter_model.safetensors is damaged"):
        newleaf.load(adapter)


# --- GGUF files and tokenizers


@pytest.fixture(scope="module")
def whole_gguf(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    newleaf.load(run).save(path, type="Q8_0")
    return path


@pytest.fixture
def gguf(whole_gguf: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copy(whole_gguf, tmp_path / "model.gguf"))


def tensors_begin(file: Path) -> int:
    """Where the stock reader finds the first tensor."""
    return min(int(tensor.data_offset) for tensor in GGUFReader(file).tensors)


def flip_bit(file: Path, at: int, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


def a_token(tokenizer: Tokenizer) -> bytes:
    """The longest one of letters alone."""
    names = [name for name in tokenizer.backend.get_vocab() if name.isascii() and name.isalpha()]
    return max(names, key=lambda name: (len(name), name)).encode()


def flip_rule(file: Path) -> None:
    """Another letter in the expression by which a tokenizer.json cuts words, so that the file is still a
    tokenizer."""
    flip_bit(file, file.read_bytes().index(b"|'ll|") + 2)


def every_command(model: Path, tmp_path: Path, book: Path) -> list[list[Any]]:
    text, rows = tmp_path / "text.txt", tmp_path / "rows.csv"
    text.write_text("A text to be evaluated on.")
    rows.write_text("text,label\n" + "good,yes\nbad,no\n" * 20)
    return [
        ["generate", model, "def "],
        ["generate", model, "def ", "--weights", "int4"],
        ["evaluate", model, text],
        ["convert", model, tmp_path / "copy"],
        ["convert", model, tmp_path / "copy.gguf", "--type", "F16"],
        ["finetune", model, book, "--task", "text", "--steps", "1", "--out", tmp_path / "tuned"],
        ["finetune", model, rows, "--task", "classify", "--steps", "1", "--out", tmp_path / "labels"],
    ]


def said_in_one_line(command: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(word) for word in command]) == 2, command
    return capsys.readouterr().err.splitlines()[-1]


def test_each_tensor_of_a_gguf_has_the_crc32_of_the_bytes_that_the_stock_reader_finds(
    whole_gguf: Path,
) -> None:
    reader = GGUFReader(whole_gguf)
    said = json.loads(reader.fields["newleaf.crc32"].contents())
    assert list(said) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        assert said[tensor.name] == f"{tensor.tensor_type.name}:{zlib.crc32(tensor.data.tobytes()):08x}"
    assert {value.split(":")[0] for value in said.values()} == {"F32", "Q8_0"}


def test_a_flipped_bit_in_a_tensor_of_a_gguf_is_named_by_every_command(
    gguf: Path, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "blk.0.ffn_up.weight"
    flip_bit(
        gguf, next(int(tensor.data_offset) for tensor in GGUFReader(gguf).tensors if tensor.name == name) + 7
    )
    for command in every_command(gguf, tmp_path, book):
        assert f"{gguf}: damaged, {name} does not have the checksum" in said_in_one_line(command, capsys), (
            command
        )
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "copy.gguf").exists()


def test_a_bit_flipped_anywhere_in_the_head_of_a_gguf_is_named_or_harmless(
    gguf: Path, whole_gguf: Path
) -> None:
    """Tokens, merges, shapes, numbers of the network: what opens all the same is what was written."""
    good, wanted, chance = gguf.read_bytes(), newleaf.load(whole_gguf), random.Random(3)
    named = 0
    for at in chance.sample(range(8, tensors_begin(whole_gguf)), 60):
        flip_bit(gguf, at, chance.randrange(8))
        try:
            found = newleaf.load(gguf)
        except newleaf.InputError as error:
            named += "not have the checksum" in str(error)
        else:
            assert found.network.config == wanted.network.config
            assert found.tokenizer.fingerprint == wanted.tokenizer.fingerprint
        gguf.write_bytes(good)
    assert named > 20


def test_info_names_a_damaged_head_too(run: Path, gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = a_token(Tokenizer.load(run / "model"))
    flip_bit(gguf, gguf.read_bytes().index(struct.pack("<Q", len(token)) + token) + 9)
    assert f"{gguf}: damaged, its metadata do not have the checksum" in said_in_one_line(
        ["info", gguf], capsys
    )


def rewritten(source: Path, target: Path, **more: str) -> Path:
    """By the stock reader and writer, as gguf_new_metadata.py does it: all metadata copied, and some
    added."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, arch=str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for key, value in more.items():
        writer.add_string(key, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_a_gguf_that_another_program_has_written_again_opens(whole_gguf: Path, tmp_path: Path) -> None:
    wanted = newleaf.load(whole_gguf).generate("def ", max_tokens=4, temperature=0)
    for number, more in enumerate(
        ({}, {"tokenizer.chat_template": "{{ messages[0].content }}"}, {"general.name": "mine"})
    ):
        found = newleaf.load(rewritten(whole_gguf, tmp_path / f"{number}.gguf", **more))
        assert found.generate("def ", max_tokens=4, temperature=0) == wanted


def test_a_gguf_in_another_number_format_with_the_metadata_of_before_opens(
    run: Path, whole_gguf: Path, tmp_path: Path
) -> None:
    """As llama-quantize does it: the table of checksums is of other bytes."""
    reader, other = GGUFReader(whole_gguf), tmp_path / "half.gguf"
    newleaf.load(run).save(other, type="F16")
    half = {tensor.name: tensor for tensor in GGUFReader(other).tensors}
    writer = GGUFWriter(tmp_path / "copied.gguf", arch=str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(
                key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None
            )
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, half[tensor.name].data, raw_dtype=half[tensor.name].tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert newleaf.load(tmp_path / "copied.gguf").generate("a", max_tokens=1) is not None


def test_a_flipped_bit_in_tokenizer_json_is_named_by_every_command(
    model: Path, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = model / "tokenizer.json"
    flip_rule(file)
    tokenizers.Tokenizer.from_file(str(file))
    for command in every_command(model, tmp_path, book):
        assert f"{file}: damaged" in said_in_one_line(command, capsys), command


def test_a_classifiers_tokenizer_has_a_checksum_too(run: Path, book: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "good,yes\nbad,no\n" * 20)
    labels = newleaf.finetune(run, rows, task="classify", steps=1, out=tmp_path / "labels", quiet=True).path
    flip_rule(labels / "model" / "tokenizer.json")
    with pytest.raises(newleaf.InputError, match=r"tokenizer.json: damaged"):
        newleaf.load(labels)


def test_stock_transformers_opens_the_tokenizer_and_what_it_writes_opens_here(
    model: Path, tmp_path: Path
) -> None:
    said = json.loads((model / "tokenizer_config.json").read_text())["newleaf_crc32"]
    data = (model / "tokenizer.json").read_bytes()
    assert said == f"{len(data)}:{zlib.crc32(data):08x}"
    stock, ours = transformers.AutoTokenizer.from_pretrained(model), newleaf.load(model).tokenizer
    assert stock("def the thing")["input_ids"] == ours.encode("def the thing")
    stock.add_tokens(["<extra>"])
    stock.save_pretrained(model)
    assert Tokenizer.load(model).encode("def the thing") == ours.encode("def the thing")


def test_a_tokenizer_that_was_changed_by_another_program_opens(model: Path) -> None:
    file = model / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    assert newleaf.load(model).generate("a", max_tokens=1) is not None
