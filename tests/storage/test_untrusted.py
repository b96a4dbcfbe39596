"""Strangers' files that want more than they are worth: pipes, numbers without end, steps that double a text,
pickles of other things."""

from __future__ import annotations

import json
import os
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import newleaf
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.machine import use_threads
from newleaf.storage.convert_model import convert
from newleaf.storage.model_info import model_info
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer
from newleaf.untrusted import parse_yaml, read_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = train_tokenizer(["some text"], TokenizerConfig(), 257)
    config = transformers.GPT2Config(
        vocab_size=257, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=256, eos_token_id=256
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "m")
    tokenizer.save(tmp_path / "m")
    return tmp_path / "m"


EVERY = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
]
EVERY += [
    "generation_config.json",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "chat_template.jinja",
]
EVERY += ["additional_chat_templates/tool_use.jinja"]


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def one_line(read: Callable[[], Any], *said: str) -> str:
    """What InputError says, after looking that it is one line and took little memory."""
    tracemalloc.start()
    with pytest.raises(InputError) as error:
        read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in said)
    return str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
@pytest.mark.parametrize("name", EVERY)
def test_what_is_no_regular_file_is_named_and_not_waited_for(
    kind: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / name).unlink(missing_ok=True)
    if name.startswith(("pytorch", "model.")):
        (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    monkeypatch.chdir((folder / name).parent)  # a socket's path must be short
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        socket.socket(socket.AF_UNIX).bind((folder / name).name)
    one_line(lambda: newleaf.load(folder), name.rpartition("/")[2])


def test_devices_and_pipes_as_adapters_ggufs_and_runs(folder: Path, tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    os.mkfifo(tmp_path / "x.gguf")
    one_line(lambda: newleaf.load(tmp_path / "x.gguf"), "x.gguf")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        adapter = tmp_path / name
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
        (adapter / name).unlink(missing_ok=True)
        os.mkfifo(adapter / name)
        one_line(lambda adapter=adapter: newleaf.load(folder, adapter=adapter), "adapter")
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "run.yaml")
    one_line(lambda: model_info(tmp_path / "run"), "run")


@pytest.mark.parametrize("layers", [2_147_483_648, 10**30, 20_000])
@pytest.mark.parametrize(
    "case", ["gpt2", "llama", "qwen3", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "openai-gpt"]
)
def test_layers_without_end_are_one_line_at_once(case: str, layers: int, tmp_path: Path) -> None:
    values = transformers.AutoConfig.for_model(case).to_dict()
    names = ("n_layer", "num_layers", "num_hidden_layers")
    name = next(name for name in names if name in values)
    (tmp_path / "config.json").write_text(
        json.dumps(values | {name: layers, "layer_types": None, "attention_layers": None})
    )
    one_line(lambda: model_info(tmp_path), name)
    assert main(["plan", str(tmp_path)]) == 2
    assert main(["info", str(tmp_path)]) == 2
    for types in ([[["local"], 2**40]], [[["local"] * 5, 24]], [[3]], 5):
        if case == "gpt_neo":
            (tmp_path / "config.json").write_text(
                json.dumps(values | {"attention_types": types, "attention_layers": None})
            )
            one_line(lambda: model_info(tmp_path))


def test_a_network_of_our_own_type_is_bounded_too(tmp_path: Path) -> None:
    config = {"vocab_size": 10, "context_length": 8, "n_layer": 2**31, "n_head": 1, "n_embd": 4}
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "newleaf", "newleaf": {"config": config}})
    )
    one_line(lambda: model_info(tmp_path), "n_layer")


def json_tokenizer(**parts: Any) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "x": 2}, "merges": []}
    return {
        "version": "1.0",
        "added_tokens": [],
        "model": model,
        "normalizer": None,
        "pre_tokenizer": None,
        "decoder": None,
    } | parts


TWICE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}

DEEPER = {"type": "Sequence", "pretokenizers": [BYTES] * 5}


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [TWICE] * 40}},
        {"normalizer": {"type": "Sequence", "normalizers": [TWICE | {"pattern": {"Regex": "a"}}] * 40}},
        {"normalizer": TWICE | {"content": "a" * 1000}},
        {"normalizer": TWICE | {"pattern": {"Regex": "()"}, "content": "a" * 1000}},
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Prepend", "prepend": "a" * 10_000}] * 9,
            }
        },
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 40}},
        {"decoder": {"type": "Sequence", "decoders": [TWICE] * 40}},
        {
            "normalizer": {"type": "Sequence", "normalizers": [TWICE] * 4},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 5},
        },
    ],
)
def test_steps_that_lengthen_a_text_without_end_are_refused(parts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(json_tokenizer(**parts)))
    one_line(lambda: Tokenizer.load(tmp_path), "times as long")


@pytest.mark.parametrize("pattern", ["(x+x+)+y", "(x|xx)+$y"])
def test_an_expression_that_searches_for_ever_is_one_line(pattern: str, tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(json_tokenizer(pre_tokenizer=split)))
    tokenizer = Tokenizer.load(tmp_path)
    one_line(lambda: tokenizer.encode("x" * 60), "cannot encode")
    one_line(lambda: tokenizer.encode_batch(["x" * 60, "a"]), "cannot encode")


def test_an_id_without_end_is_refused(tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 4_000_000_000}, "merges": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(json_tokenizer(model=model)))
    one_line(lambda: Tokenizer.load(tmp_path), "4,000,000,000")


@pytest.mark.parametrize(
    "value",
    [
        {7: torch.ones(3)},
        {"transformer.wte.weight": torch.ones(257, 16).to_sparse()},
        {"transformer.wte.weight": torch.ones(257, 16, dtype=torch.complex64)},
        {"transformer.wte.weight": torch.ones(1).expand(257, 10**9)},
        {"transformer.wte.weight": torch.ones(257, 16, dtype=torch.int64)},
        {"transformer.wte.weight": torch.ones(257, 16, device="meta")},
        {"transformer.wte.weight": torch.quantize_per_tensor(torch.ones(257, 16), 0.1, 0, torch.qint8)},
        {"transformer.wte.weight": "text"},
        [torch.ones(3)],
    ],
    ids=["int key", "sparse", "complex", "view", "integers", "meta", "quantised", "text", "list"],
)  # fmt: skip
def test_a_bin_of_other_things_is_one_line(value: Any, folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors | value if isinstance(value, dict) else value, folder / "pytorch_model.bin")
    one_line(lambda: newleaf.load(folder))
    one_line(lambda: convert(folder, tmp_path / "out"))


def test_a_bin_of_before_2020_opens(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        wanted = newleaf.load(folder).network(ids)
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
        assert torch.equal(newleaf.load(folder).network(ids), wanted)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn, torch.bool])
def test_safetensors_of_other_types_are_named(dtype: torch.dtype, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "transformer.h.0.mlp.c_fc.weight"
    save_file(tensors | {name: torch.ones(16, 64).to(dtype)}, folder / "model.safetensors", {"format": "pt"})
    one_line(lambda: newleaf.load(folder), name, str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("count", [0, -1, 100_000, 2**40])
def test_threads_without_end_are_refused(count: int, folder: Path) -> None:
    before = torch.get_num_threads()
    one_line(lambda: use_threads(count), "threads")
    one_line(lambda: newleaf.load(folder, threads=count), "threads")
    assert torch.get_num_threads() == before


def test_a_vocabulary_without_end_is_refused() -> None:
    one_line(lambda: TokenizerConfig(vocab_size=1_000_000_000), "tokenizer.vocab_size")
    one_line(lambda: train_tokenizer(["a"], TokenizerConfig(), 2**31), "tokenizer.vocab_size")


@pytest.mark.parametrize("width", [2**63 - 1, 2**63, 2**64 - 1, 2**32])
def test_a_gguf_of_widths_without_end_is_one_line(width: int, folder: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer([Path(__file__).read_text("utf-8")[:3000]], TokenizerConfig(), 300)
    model = newleaf.load(folder)
    from newleaf.api import Model
    from newleaf.model import GPT, GPTConfig

    network = GPT(GPTConfig(tokenizer.vocab_size, 16, 1, 2, 32))
    Model(network, tokenizer, model.family).save(tmp_path / "good.gguf")
    good = (tmp_path / "good.gguf").read_bytes()
    # context, width, feed-forward, vocabulary, as 4 and as 8 bytes
    for old in (16, 32, 128, tokenizer.vocab_size):
        for code in "IQ":
            wide = struct.pack(f"<{code}", width % 2 ** (32 if code == "I" else 64))
            at = good.find(struct.pack(f"<{code}", old))
            while 0 <= at < 40_000:
                (tmp_path / "x.gguf").write_bytes(good[:at] + wide + good[at + len(wide) :])
                for read in (
                    lambda: newleaf.load(tmp_path / "x.gguf"),
                    lambda: model_info(tmp_path / "x.gguf"),
                ):
                    try:
                        read()
                    except InputError as error:
                        said = str(error)
                        if "\n" in said:
                            raise
                at = good.find(struct.pack(f"<{code}", old), at + 1)


@pytest.mark.parametrize("template", ["", "{% if false %}x{% endif %}", "{{ '' }}", "   "])
def test_a_template_that_renders_nothing_is_one_line_or_starts_from_the_beginning_token(
    template: str, folder: Path
) -> None:
    (folder / "chat_template.jinja").write_text(template)
    model = newleaf.load(folder)
    said = ""
    try:
        model.chat([{"role": "user", "content": "hello"}], max_tokens=2, temperature=0)
    except InputError as error:
        said = str(error)
    assert "\n" not in said


def test_yaml_of_aliases_and_depth_is_bounded(tmp_path: Path) -> None:
    bomb = "a: &a [1]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)
    )
    assert len(parse_yaml(tmp_path, bomb)) == 25
    one_line(lambda: parse_yaml(tmp_path, "a: &a [*a]"), "levels deep")
    for text in ("[" * 5000 + "]" * 5000, "a: {" * 3000, "!!python/object:os.system x"):
        one_line(lambda text=text: parse_yaml(tmp_path, text))


def test_json_is_bounded_in_depth_and_size(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for text in (
        "[" * 100_000,
        "[" * 200 + "]" * 200,
        '{"a":' * 900 + "1" + "}" * 900,
        "1" * 5000,
        "{",
        "\ufeff{}",
    ):
        file.write_text(text)
        one_line(lambda: read_json(file), "x.json")
    file.write_text("[" * 90 + "]" * 90)
    assert read_json(file)
    with file.open("wb") as sparse:
        sparse.truncate(10**10)
    one_line(lambda: read_json(file), "10,000,000,000 bytes")
