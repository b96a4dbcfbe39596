"""Tokenizer folders whose files disagree about special tokens, or name ones that are not there yet: as stock
transformers takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import newleaf
from newleaf.generate.options import SamplingConfig
from newleaf.text.chat_template import ChatTemplate
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

TYPED = {"__type": "AddedToken"}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = train_tokenizer(["some text of some words"], TokenizerConfig(), 270)
    tokenizer.backend.add_special_tokens(["<s>", "</s>", "<pad>", "<|im_end|>"])
    tokenizer.backend.add_tokens(["<tool>"])
    tokenizer.save(tmp_path)
    return tmp_path


def write(folder: Path, **files: Any) -> None:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def added(content: str, special: bool = True, **flags: bool) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
        "special": special,
    } | flags


END = added("<end>") | TYPED
CASES = [
    {"tokenizer_config": FAST | {"eos_token": "</s>"}, "special_tokens_map": {"eos_token": "<|im_end|>"}},
    {
        "tokenizer_config": FAST | {"eos_token": "</s>", "added_tokens_decoder": {}},
        "special_tokens_map": {"eos_token": "<|im_end|>"},
    },
    {
        "tokenizer_config": FAST | {"eos_token": None, "bos_token": "<s>"},
        "special_tokens_map": {"bos_token": added("</s>")},
    },
    {"tokenizer_config": FAST, "special_tokens_map": {"pad_token": "<pad>", "unk_token": "<tool>"}},
    {"tokenizer_config": FAST | {"pad_token": "[PAD]", "eos_token": "</s>"}},
    {
        "tokenizer_config": FAST
        | {"eos_token": END, "pad_token": END, "additional_special_tokens": ["<x>", "<y>"]}
    },
    {
        "tokenizer_config": FAST
        | {"added_tokens_decoder": {"290": added("<new>"), "300": added("<plain>", False)}}
    },
    {"tokenizer_config": FAST | {"eos_token": "</s>"}, "added_tokens": {"<old>": 275, "<older>": 276}},
    {"tokenizer_config": FAST | {"eos_token": "text", "bos_token": "<s>"}},  # a word of the vocabulary
    {
        "tokenizer_config": FAST
        | {"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
    },
    {"tokenizer_config": {"tokenizer_class": "GPT2TokenizerFast"}},
    {"tokenizer_config": {"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"}},
    {"tokenizer_config": {"tokenizer_class": "Qwen2TokenizerFast"}},
    {
        "tokenizer_config": {"tokenizer_class": "GPT2TokenizerFast"},
        "special_tokens_map": {"bos_token": "<s>", "pad_token": "<pad>"},
    },
]


@pytest.mark.parametrize("files", CASES)
def test_special_tokens_and_ids_are_those_of_stock_transformers(
    files: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    write(folder, **files)
    stock = transformers.AutoTokenizer.from_pretrained(folder)
    for path in (folder, tmp_path / "again"):
        ours = Tokenizer.load(path)
        assert (ours.bos_id, ours.eos_id, ours.pad_id) == (
            stock.bos_token_id,
            stock.eos_token_id,
            stock.pad_token_id,
        )
        assert ours.vocab_size == len(stock)
        special = {
            token.content for token in ours.backend.get_added_tokens_decoder().values() if token.special
        }
        assert special == {token.content for token in stock.added_tokens_decoder.values() if token.special}
        text = "some <old> words <plain> <tool>"
        assert ours.encode(text) == stock(text, split_special_tokens=True).input_ids
        ours.save(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (
        stock.bos_token_id,
        stock.eos_token_id,
        stock.pad_token_id,
    )


TEMPLATES = [
    ({"chat_template": "old {{ messages[0].content }}"}, {}),
    ({"chat_template": "old"}, {"chat_template.jinja": "new {{ messages[0].content }}"}),
    ({"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}, {}),
    (
        {"chat_template": [{"name": "default", "template": "a"}]},
        {"chat_template.jinja": "c\r\n{{ messages[0].content }}"},
    ),
    ({"chat_template": "old"}, {"chat_template.jinja": "c", "additional_chat_templates/tool_use.jinja": "d"}),
    (
        {"chat_template": "old"},
        {"additional_chat_templates/default.jinja": "e", "additional_chat_templates/tool_use.jinja": "d"},
    ),
]


@pytest.mark.parametrize(("config", "files"), TEMPLATES)
def test_the_chat_template_is_the_one_that_stock_transformers_takes(
    config: dict[str, Any], files: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    write(folder, tokenizer_config=FAST | {"eos_token": "</s>"} | config)
    (folder / "additional_chat_templates").mkdir()
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    messages = [{"role": "user", "content": "hello"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    stock = transformers.AutoTokenizer.from_pretrained(folder)
    for path in (folder, tmp_path / "again"):
        ours = ChatTemplate.of(tokenizer := Tokenizer.load(path))
        assert ours.render(messages) == stock.apply_chat_template(messages, tokenize=False)
        if isinstance(stock.chat_template, dict):
            assert ours.source(tools) == stock.get_chat_template(tools=tools)
        tokenizer.save(tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("tokenizer_config", {"bos_token": 7}, "bos_token must be a token's text, not 7"),
        ("tokenizer_config", {"eos_token": ["a"]}, "eos_token must be"),
        ("special_tokens_map", {"pad_token": {"content": 3}}, "special_tokens_map.json: pad_token must be"),
        ("tokenizer_config", {"added_tokens_decoder": [1]}, "added_tokens_decoder must be an object"),
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "a"}}}, "which is no token"),
        ("added_tokens", {"a": "b"}, "must hold a number"),
        ("tokenizer_config", [], "must hold a JSON object"),
    ],
)
def test_what_is_no_token_is_named(name: str, value: Any, said: str, folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    write(folder, **{name: value})
    with pytest.raises(newleaf.InputError, match=said):
        Tokenizer.load(folder)


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """A Llama with a row for each token, whose tokenizer has been given <pad> since."""
    tokenizer = train_tokenizer(["some text of some words"], TokenizerConfig(), 270)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )
    torch.manual_seed(5)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "m")
    tokenizer.save(tmp_path / "m")
    values = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    write(
        tmp_path / "m",
        tokenizer_config=values | {"pad_token": "<pad>", "chat_template": "{{ messages[0].content }}<pad>"},
    )
    return tmp_path / "m"


def test_a_tokenizer_with_an_added_token_beyond_the_network_opens_writes_and_is_kept(
    padded: Path, tmp_path: Path
) -> None:
    stock, theirs = (
        transformers.AutoModelForCausalLM.from_pretrained(padded),
        transformers.AutoTokenizer.from_pretrained(padded),
    )
    rows = stock.config.vocab_size
    assert theirs.pad_token_id == rows
    model = newleaf.load(padded)
    prompt = theirs("some text", return_tensors="pt")
    wanted = stock.generate(**prompt, max_new_tokens=12, do_sample=False, eos_token_id=None)[
        0, prompt.input_ids.shape[1] :
    ]
    assert model.generate("some text", max_tokens=12, temperature=0) == theirs.decode(
        wanted, skip_special_tokens=True
    )
    assert model.tokenizer.vocab_size == rows
    written = model.complete("some", n=4, max_tokens=40, seed=1, logprobs=0)
    assert max(score.id for text in written for score in text.tokens) < rows
    model.save(tmp_path / "again")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "again").pad_token_id == rows
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    newleaf.load(tmp_path / "again").generate("some", max_tokens=2)


def test_a_prompt_with_a_token_that_the_network_has_no_row_for_is_refused_by_name(padded: Path) -> None:
    model = newleaf.load(padded)
    rows = model.network.config.vocab_size
    with pytest.raises(
        newleaf.InputError, match=rf"token '<pad>' \(id {rows}\), and the network has only {rows} rows"
    ):
        model.chat([{"role": "user", "content": "hello"}], max_tokens=3)
    with pytest.raises(newleaf.InputError, match=f"below {rows}"), model.engine() as engine:
        engine.submit([1, rows], SamplingConfig())


def test_tokens_of_ordinary_text_beyond_the_network_are_refused(padded: Path) -> None:
    train_tokenizer(["other words, and many more of them " * 3], TokenizerConfig(), 280).save(padded)
    with pytest.raises(newleaf.InputError, match=r"the tokenizer has 2\d\d tokens and the network only"):
        newleaf.load(padded)
