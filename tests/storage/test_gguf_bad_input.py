"""GGUF files that are damaged, that lie, or that hold what newleaf does not know: one line each, in bounded memory."""

from __future__ import annotations

import random
import struct
import textwrap
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import newleaf
from newleaf.api import Model
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.model import GPT, GPTConfig
from newleaf.storage.gguf_file import open_gguf
from newleaf.storage.gguf_read import gguf_facts, load_gguf
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

Metadata = dict[str, Any]
Tensors = dict[str, list[Any]]  # name: dimensions as the file has them, type, offset


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    tokenizer = train_tokenizer([Path(textwrap.__file__).read_text("utf-8")], TokenizerConfig(), 270)
    config = GPTConfig(
        vocab_size=272, context_length=16, n_layer=1, n_head=2, n_embd=32, n_inner=32, norm="rms_norm", positions="rotary",
        activation="silu", gated=True, attention_bias=False, attention_out_bias=False, feedforward_bias=False,
    )  # fmt: skip
    Model(GPT(config), tokenizer, "llama").save(path)
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def packed(value: Any) -> bytes:
    """A metadata value as the format lays it out, its type first."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        inner, items = (8, [text(v) for v in value]) if isinstance(value[0], str) else (5, [struct.pack("<i", v) for v in value])
        return struct.pack("<IIQ", 9, inner, len(value)) + b"".join(items)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    code, kind = {bool: ("?", 7), int: ("I", 4), float: ("f", 6)}[type(value)]
    return struct.pack("<I" + code, kind, value)


def assemble(metadata: Metadata, tensors: Tensors, data: bytes) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(text(key) + packed(value) for key, value in metadata.items())
    for name, (dims, kind, offset) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return head + bytes(-len(head) % 32) + data


@pytest.fixture
def change(good: Path, tmp_path: Path) -> Callable[[Callable[[Metadata, Tensors], Any]], Path]:
    """Writes the good file again, its metadata and tensors changed by a function."""

    def write(edit: Callable[[Metadata, Tensors], Any]) -> Path:
        file = open_gguf(good)
        start = min(stored.start for stored in file.tensors.values())
        tensors = {name: [list(stored.shape[::-1]), stored.kind, stored.start - start] for name, stored in file.tensors.items()}
        metadata = dict(file.metadata)
        edit(metadata, tensors)
        path = tmp_path / "changed.gguf"
        path.write_bytes(assemble(metadata, tensors, good.read_bytes()[start:]))
        return path

    return write


def refused(path: Path) -> str:
    """The one line that loading says, after checking that it took no memory worth the name and that `newleaf info` does not fall over."""
    tracemalloc.start()
    with pytest.raises(InputError) as error:
        load_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 400
    assert path.name in line
    with suppress(InputError):  # what only the tensors show, `newleaf info` does not look at
        gguf_facts(path)
    return line


def test_the_file_put_together_again_is_the_same(good: Path, change: Any) -> None:
    one, two = newleaf.load(good), newleaf.load(change(lambda metadata, tensors: None))
    assert all(torch.equal(tensor, two.network.state_dict()[name]) for name, tensor in one.network.state_dict().items())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a GGUF file"),
        (b"GGUF", "not a GGUF file"),
        (b"PK\3\4" + bytes(100), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0) + bytes(50), "version 1 is not known"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(50), "little-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(50), "claims 1,152,921,504,606,846,976 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63) + bytes(50), "claims 9,223,372,036,854,775,808 metadata values"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62) + bytes(50), "metadata key would take 4,611"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 99) + bytes(50), "metadata k has a value of type 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 2**40) + bytes(50), "claims 1,099,511,627,776"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 10**6) + bytes(50), "k would take 1,000,000 bytes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(50), "array of type 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2) + b"\xff\xfe" + bytes(50), "not UTF-8"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(50), "architecture is 'None'"),
    ],
)  # fmt: skip
def test_a_head_that_lies_is_refused_in_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    assert said in refused(tmp_path / "x.gguf")


EDITS: dict[str, tuple[Callable[[Metadata, Tensors], Any], str]] = {
    "an unknown architecture": (lambda m, t: m.update({"general.architecture": "rwkv"}), "'rwkv'; newleaf reads qwen3, llama, gpt2"),
    "an offset beyond the file": (lambda m, t: t["output_norm.weight"].__setitem__(2, 2**40), "output_norm.weight would end at byte 1,099"),
    "an offset that wraps": (lambda m, t: t["output_norm.weight"].__setitem__(2, 2**64 - 32), "its offsets lie"),
    "a shape whose product overflows": (lambda m, t: t["token_embd.weight"].__setitem__(0, [2**33, 2**33]), "token_embd.weight would end"),
    "a shape of nothing": (lambda m, t: t["token_embd.weight"].__setitem__(0, [32, 0]), "has shape (0, 32)"),
    "too many dimensions": (lambda m, t: t["token_embd.weight"].__setitem__(0, [1] * 9), "claims 9 dimensions"),
    "blocks that do not fill": (lambda m, t: t["output_norm.weight"].__setitem__(slice(0, 2), [[31], 8]), "blocks of 32 cannot fill"),
    "an unknown type": (lambda m, t: t["output_norm.weight"].__setitem__(1, 250), "is of type 250"),
    "whole numbers for weights": (lambda m, t: t["output_norm.weight"].__setitem__(1, 24), "output_norm.weight"),
    "an odd alignment": (lambda m, t: m.update({"general.alignment": 0}), "general.alignment is 0"),
    "a part of a file": (lambda m, t: m.update({"split.count": 3}), "it is one of 3 parts"),
    "a missing tensor": (lambda m, t: t.pop("blk.0.attn_k.weight"), "tensor blk.0.attn_k.weight is missing"),
    "a missing embedding": (lambda m, t: t.pop("token_embd.weight"), "tensor token_embd.weight is missing"),
    "a tensor of another shape": (lambda m, t: t["blk.0.attn_k.weight"].__setitem__(0, [32, 16]), "and the metadata want (32, 32)"),
    "a tensor nobody asked for": (lambda m, t: t.update({"rope_freqs.weight": [[8], 0, 0]}), "holds tensor rope_freqs.weight"),
    "a billion layers": (lambda m, t: m.update({"llama.block_count": 10**9}), "is missing, and the metadata claim 1,000,000,000 layers"),
    "huge widths": (lambda m, t: m.update({"llama.feed_forward_length": 2**31}), "and the metadata want (2147483648, 32)"),
    "a missing size": (lambda m, t: m.pop("llama.embedding_length"), "metadata llama.embedding_length is missing"),
    "a size in words": (lambda m, t: m.update({"llama.block_count": "one"}), "block_count is one"),
    "heads that do not divide": (lambda m, t: m.update({"llama.attention.head_count_kv": 3}), "n_kv_head"),
    "stretched rotary": (lambda m, t: m.update({"llama.rope.scaling.type": "yarn"}), "llama.rope.scaling.type = yarn is not honoured"),
    "half-turned heads": (lambda m, t: m.update({"llama.rope.dimension_count": 8}), "rope.dimension_count is 8"),
    "another kind of tokenizer": (lambda m, t: m.update({"tokenizer.ggml.model": "llama"}), "of the kind 'llama'"),
    "no tokenizer": (lambda m, t: m.pop("tokenizer.ggml.model"), "tokenizer.ggml.model is missing"),
    "an unknown way to cut text": (lambda m, t: m.update({"tokenizer.ggml.pre": "chameleon"}), "'chameleon'; newleaf knows qwen2"),
    "an end that is no token": (lambda m, t: m.update({"tokenizer.ggml.eos_token_id": 4000}), "eos_token_id is 4,000"),
    "merges of nothing": (lambda m, t: m.update({"tokenizer.ggml.merges": ["☃ ☃"]}), "the merge '☃ ☃'"),
    "too few kinds": (lambda m, t: m.update({"tokenizer.ggml.token_type": [1, 1]}), "one kind for each of 272 tokens"),
    "a token that stands twice": (lambda m, t: m["tokenizer.ggml.tokens"].__setitem__(7, "!"), "'!' stands twice"),
    "a tokenizer larger than the network": (
        lambda m, t: (m["tokenizer.ggml.tokens"].extend(["a☃", "b☃", "c☃"]), m["tokenizer.ggml.token_type"].extend([1] * 3)),
        "275 tokens and the network only 272",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_what_is_wrong_inside_is_named(case: str, change: Any) -> None:
    edit, said = EDITS[case]
    assert said in refused(change(edit))


def test_a_file_cut_short_anywhere_is_refused(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    last = max(stored.start + stored.size for stored in open_gguf(good).tensors.values())
    for length in (*range(0, 600, 7), *range(600, last, 997), last - 1):
        (tmp_path / "x.gguf").write_bytes(content[:length])
        with pytest.raises(InputError, match=r"x\.gguf"):
            load_gguf(tmp_path / "x.gguf")


def test_noise_in_the_head_never_ends_in_another_error(good: Path, tmp_path: Path) -> None:
    content, chance = good.read_bytes(), random.Random(5)
    head = min(stored.start for stored in open_gguf(good).tensors.values())
    outcomes = set()
    for n in range(400):
        noisy = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            noisy[chance.randrange(4, 700 if n % 2 else head)] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        (tmp_path / "x.gguf").write_bytes(noisy)
        try:
            load_gguf(tmp_path / "x.gguf")
            outcomes.add("opened")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"opened", "refused"}


def test_the_command_line_says_it_in_one_line_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing of the kind, and long enough")
    for command in (["info", str(tmp_path / "x.gguf")], ["generate", str(tmp_path / "x.gguf"), "a"], ["info", str(tmp_path / "no.gguf")]):
        assert main(command) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
