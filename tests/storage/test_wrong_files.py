"""Files of strangers, wrong in every way that can be drawn: each reader gives a result, or says in one line
what is wrong, in little memory and time."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import psutil
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import DEEP, wrong_bytes, wrong_json

import newleaf
from newleaf.storage.convert_model import convert
from newleaf.storage.model_info import model_info, read_network_config
from newleaf.text.chat_template import ChatTemplate
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
EVERY = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
]
EVERY += ["added_tokens.json", "model.safetensors", "chat_template.jinja"]
MOST_MEMORY, MOST_SECONDS = 400e6, 20.0  # of one file: bytes more than before, and seconds of the processor


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of every kind that newleaf reads, all of them good."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([Path(textwrap.__file__).read_text("utf-8")[:4000]], TokenizerConfig(), 270)
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    shape |= {"intermediate_size": 24, "max_position_embeddings": 32}
    stock = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**shape, bos_token_id=None, eos_token_id=tokenizer.eos_id)
    )
    stock.save_pretrained(root / "llama")
    tokenizer.save(root / "llama")
    stock.save_pretrained(root / "shards", max_shard_size="8KB")
    tokenizer.save(root / "shards")
    torch.save(stock.state_dict(), root / "pytorch_model.bin")
    labels = transformers.LlamaForSequenceClassification(
        transformers.LlamaConfig(
            **shape,
            num_labels=3,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.pad_id,
        )
    )
    labels.save_pretrained(root / "labels")
    tokenizer.save(root / "labels")
    newleaf.load(root / "llama").save(root / "good.gguf", type="Q8_0")
    adapted = peft.get_peft_model(
        stock, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    )
    adapted.save_pretrained(root / "adapter")
    (root / "word").mkdir()
    (root / "word" / "tokenizer.json").write_text(json.dumps(sentencepiece_like()))
    return root


def sentencepiece_like() -> dict[str, Any]:
    """A tokenizer.json with a step of many kinds in each of its parts."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": n,
                "content": pieces[n],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for n in range(3)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                {"type": "NFKC"},
                {"type": "Lowercase"},
                {"type": "Strip", "strip_left": False, "strip_right": True},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\d"}, "behavior": "Isolated", "invert": False},
                {"type": "Digits", "individual_digits": True},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {p: n for n, p in enumerate(pieces)},
            "merges": [["▁", "a"], ["a", "b"]],
        },
    }


def one_line_or_a_result(*reads: Callable[[], Any]) -> None:
    """Each may give anything or raise InputError, whose text is one line; in bounded memory and time of the
    processor."""
    process = psutil.Process()
    for read in reads:
        memory, started, said = process.memory_info().rss, time.process_time(), ""
        try:
            read()
        except newleaf.InputError as error:
            said = str(error)
        assert "\n" not in said
        assert len(said) < 1000
        assert process.memory_info().rss - memory < MOST_MEMORY
        assert time.process_time() - started < MOST_SECONDS


def opened(folder: Path) -> None:
    model = newleaf.load(folder)
    if model.labels is None:
        model.generate("some text", max_tokens=2, temperature=0)
    else:
        model.classify(["some text"])


def tokenized(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    for text in ("some text, 12 words\nand more", "", "a  b", "é\N{HUNDRED POINTS SYMBOL}<s>"):
        ids = tokenizer.encode(text)
        assert len(ids) < 100_000
        tokenizer.decode(ids)
        tokenizer.encode_batch([text, text])
    _ = (
        tokenizer.vocab_size,
        tokenizer.lossless,
        tokenizer.kind,
        tokenizer.fingerprint,
        tokenizer.bytes_of_tokens,
    )
    decoder = tokenizer.stream_decoder()
    for token in range(min(5, tokenizer.vocab_size)):
        decoder.push(token)
    if tokenizer.settings.get("chat_template"):
        ChatTemplate.of(tokenizer).source()


def copy(models: Path, name: str, folder: Path) -> Path:
    """A folder whose files are those of a good model, by name; what is exchanged is written over its link."""
    target = folder / name
    if not target.exists():
        target.mkdir()
        for file in (models / name).iterdir():
            (target / file.name).symlink_to(file)
    return target


def exchange(file: Path, data: bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(data)


@EXAMPLES
@given(
    data=st.data(), name=st.sampled_from(["config.json", "generation_config.json", "tokenizer_config.json"])
)
@pytest.mark.parametrize("model", ["llama", "labels"])
def test_small_files_of_a_folder(
    model: str, name: str, data: st.DataObject, models: Path, tmp_path: Path
) -> None:
    folder = copy(models, model, tmp_path)
    good = (
        (models / model / name).read_text()
        if (models / model / name).exists()
        else '{"eos_token_id": [1, 2], "temperature": 0.5}'
    )
    exchange(folder / name, data.draw(wrong_json(good)))
    one_line_or_a_result(
        lambda: opened(folder), lambda: model_info(folder), lambda: read_network_config(folder)
    )
    restore(folder / name, models / model / name)


def restore(file: Path, good: Path) -> None:
    file.unlink()
    if good.exists():
        file.symlink_to(good)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("number", range(len(DEEP)))
def test_bytes_that_are_no_json_or_too_deep(name: str, number: int, models: Path, tmp_path: Path) -> None:
    folder = copy(models, "llama", tmp_path)
    exchange(folder / name, DEEP[number])
    one_line_or_a_result(lambda: opened(folder), lambda: model_info(folder))


@EXAMPLES
@given(data=st.data())
def test_a_tokenizer_json(data: st.DataObject, models: Path, tmp_path: Path) -> None:
    (tmp_path / "word").mkdir(exist_ok=True)
    exchange(
        tmp_path / "word" / "tokenizer.json",
        data.draw(wrong_json((models / "word" / "tokenizer.json").read_text())),
    )
    one_line_or_a_result(lambda: tokenized(tmp_path / "word"))


@EXAMPLES
@given(data=st.data())
def test_the_files_beside_a_tokenizer_json(data: st.DataObject, models: Path, tmp_path: Path) -> None:
    folder = copy(models, "word", tmp_path)
    token = {
        "content": "<s>",
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
        "special": True,
    }
    good = {
        "tokenizer_config": {
            "bos_token": "<s>", "eos_token": token, "pad_token": None, "tokenizer_class": "LlamaTokenizer",
            "added_tokens_decoder": {"1": token, "400": token | {"content": "<x>"}}, "model_max_length": 100,
            "additional_special_tokens": ["</s>", "<y>"],
            "chat_template": [{"name": "default", "template": "a"}],
        },
        "special_tokens_map": {"bos_token": "</s>", "unk_token": token, "additional_special_tokens": [token]},
        "added_tokens": {"<z>": 300},
    }  # fmt: skip
    for name, value in good.items():
        exchange(
            folder / f"{name}.json",
            data.draw(st.one_of(wrong_json(json.dumps(value)), st.just(json.dumps(value).encode()))),
        )
    one_line_or_a_result(lambda: tokenized(folder))


@EXAMPLES
@given(data=st.data())
def test_an_index_of_shards(data: st.DataObject, models: Path, tmp_path: Path) -> None:
    folder, name = copy(models, "shards", tmp_path), "model.safetensors.index.json"
    exchange(folder / name, data.draw(wrong_json((models / "shards" / name).read_text())))
    one_line_or_a_result(lambda: opened(folder), lambda: model_info(folder))


@EXAMPLES
@given(data=st.data())
def test_the_head_of_safetensors(data: st.DataObject, models: Path, tmp_path: Path) -> None:
    folder = copy(models, "llama", tmp_path)
    good = (models / "llama" / "model.safetensors").read_bytes()
    size = int.from_bytes(good[:8], "little")
    if data.draw(st.booleans()):
        head = data.draw(wrong_json(good[8 : 8 + size].decode()))
        wrong = len(head).to_bytes(8, "little") + head + good[8 + size :]
    else:
        wrong = data.draw(wrong_bytes(good, 8 + size))
    exchange(folder / "model.safetensors", wrong)
    one_line_or_a_result(
        lambda: opened(folder),
        lambda: model_info(folder),
        lambda: convert(folder, tmp_path / "out", overwrite=True),
    )


@EXAMPLES
@given(data=st.data())
def test_the_bytes_of_a_bin(data: st.DataObject, models: Path, tmp_path: Path) -> None:
    folder = copy(models, "llama", tmp_path)
    (folder / "model.safetensors").unlink(missing_ok=True)
    good = (models / "pytorch_model.bin").read_bytes()
    exchange(folder / "pytorch_model.bin", data.draw(wrong_bytes(good, len(good))))
    one_line_or_a_result(lambda: opened(folder), lambda: model_info(folder))


@EXAMPLES
@given(data=st.data())
def test_the_head_of_a_gguf(data: st.DataObject, models: Path, tmp_path: Path) -> None:
    good = (models / "good.gguf").read_bytes()
    exchange(tmp_path / "x.gguf", data.draw(wrong_bytes(good, len(good) // 2)))
    one_line_or_a_result(lambda: opened(tmp_path / "x.gguf"), lambda: model_info(tmp_path / "x.gguf"))


@EXAMPLES
@given(data=st.data())
def test_an_adapter(data: st.DataObject, models: Path, tmp_path: Path) -> None:
    folder = copy(models, "adapter", tmp_path)
    if data.draw(st.booleans()):
        exchange(
            folder / "adapter_config.json",
            data.draw(wrong_json((models / "adapter" / "adapter_config.json").read_text())),
        )
    else:
        good = (models / "adapter" / "adapter_model.safetensors").read_bytes()
        size = int.from_bytes(good[:8], "little")
        head = data.draw(wrong_json(good[8 : 8 + size].decode()))
        exchange(
            folder / "adapter_model.safetensors", len(head).to_bytes(8, "little") + head + good[8 + size :]
        )
    base = newleaf.load(models / "llama")
    one_line_or_a_result(
        lambda: base.with_adapter(folder).generate("some", max_tokens=2, temperature=0),
        lambda: model_info(folder),
    )
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        restore(folder / name, models / "adapter" / name)


@EXAMPLES
@given(data=st.data())
def test_a_vocabulary_and_its_merges(data: st.DataObject, tmp_path: Path) -> None:
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4, "Ġa": 5}
    merges = b"#version: 0.2\na b\n\xc4\xa0 a\n"
    exchange(
        tmp_path / "vocab.json",
        data.draw(st.one_of(wrong_json(json.dumps(vocabulary)), st.just(json.dumps(vocabulary).encode()))),
    )
    exchange(tmp_path / "merges.txt", data.draw(st.one_of(wrong_bytes(merges, len(merges)), st.just(merges))))
    one_line_or_a_result(lambda: tokenized(tmp_path))


@EXAMPLES
@given(data=st.data())
def test_what_newleaf_notes_beside_an_adapter(data: st.DataObject, models: Path, tmp_path: Path) -> None:
    folder = copy(models, "adapter", tmp_path)
    labels = {
        "shape": "classify",
        "labels": ["a", "b"],
        "multi_label": False,
        "start": 1,
        "delimiter": None,
        "extract": 2,
        "length": 9,
    }
    noted = {"base": {"id": "0a", "packed": False, "samples": [0.5, 0.25]}, "classifier": labels}
    exchange(folder / "newleaf.json", data.draw(wrong_json(json.dumps(noted))))
    base = newleaf.load(models / "llama")
    one_line_or_a_result(lambda: base.with_adapter(folder), lambda: model_info(folder))


@EXAMPLES
@given(data=st.data())
def test_what_newleaf_notes_of_a_classifier(data: st.DataObject, models: Path, tmp_path: Path) -> None:
    folder = copy(models, "labels", tmp_path)
    labels = {
        "shape": "classify",
        "labels": ["a", "b", "c"],
        "multi_label": False,
        "start": 1,
        "delimiter": None,
        "extract": 2,
        "length": 9,
    }
    values = json.loads((models / "labels" / "config.json").read_text())
    wrong = json.loads(data.draw(wrong_json(json.dumps({"classifier": labels, "version": "1"}))))
    exchange(folder / "config.json", json.dumps(values | {"newleaf": wrong}).encode())
    one_line_or_a_result(lambda: opened(folder), lambda: model_info(folder))
