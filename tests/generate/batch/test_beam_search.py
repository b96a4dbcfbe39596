"""Beam search and guidance write what stock transformers writes with the same weights."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from decoded_text import whole_text
from transformers import Qwen3Config, Qwen3ForCausalLM

import newleaf
from newleaf.api import Model
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

PROMPTS = ["the text ", "def f(x):", "a"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    folder = tmp_path_factory.mktemp("stock")
    tokenizer = train_tokenizer([Path(textwrap.__file__).read_text("utf-8")], TokenizerConfig(), 300)
    sizes = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    torch.manual_seed(7)
    stock = Qwen3ForCausalLM(
        Qwen3Config(vocab_size=300, intermediate_size=80, max_position_embeddings=64, **sizes, **ends)
    )
    with torch.no_grad():
        for weight in stock.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    stock.eval().save_pretrained(folder)
    tokenizer.save(folder)
    return stock, newleaf.load(folder)


def stock_texts(pair: tuple[Any, Model], ids: list[int], count: int, **options: Any) -> list[list[int]]:
    stock, model = pair
    end = model.tokenizer.eos_id
    found = stock.generate(
        torch.tensor([ids]),
        do_sample=False,
        max_new_tokens=12,
        num_return_sequences=count,
        pad_token_id=end,
        **options,
    )
    texts = [row[len(ids) :].tolist() for row in found]
    return [text[: text.index(end)] if end in text else text for text in texts]


@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize("beams", [2, 5])
def test_beams_are_those_of_stock_transformers(pair: tuple[Any, Model], beams: int, penalty: float) -> None:
    model = pair[1]
    end = model.tokenizer.eos_id
    assert end is not None
    for prompt in PROMPTS:
        # The end's bias is raised, so that texts of different lengths compete.
        ids = model.tokenizer.encode(prompt)
        wanted = stock_texts(
            pair, ids, beams, num_beams=beams, length_penalty=penalty, sequence_bias=[[[end], 4.0]]
        )
        found = model.complete(
            prompt, beams=beams, n=beams, length_penalty=penalty, max_tokens=12, logit_bias={end: 4.0}
        )
        assert len({len(text) for text in wanted}) > 1 or beams == 2
        assert [each.text for each in found] == [whole_text(model.tokenizer, ids) for ids in wanted]
        assert [each.rank for each in found] == sorted((each.rank for each in found), reverse=True)


def test_beams_with_penalties_are_those_of_stock_transformers(pair: tuple[Any, Model]) -> None:
    model = pair[1]
    ids = model.tokenizer.encode("the text ")
    wanted = stock_texts(pair, ids, 3, num_beams=3, repetition_penalty=1.3, no_repeat_ngram_size=2)
    found = model.complete(
        "the text ", beams=3, n=3, repetition_penalty=1.3, no_repeat_ngram_size=2, max_tokens=12
    )
    assert [each.text for each in found] == [whole_text(model.tokenizer, text) for text in wanted]


def test_many_beams_find_the_likeliest_text_of_all(pair: tuple[Any, Model]) -> None:
    """With as many beams as there are tokens, two steps are an exhaustive search."""
    model = pair[1]
    ids, size = model.tokenizer.encode("a b"), model.tokenizer.vocab_size
    with torch.no_grad():
        first = model.network(torch.tensor([ids]))[0, -1].log_softmax(-1)
        both = model.network(torch.tensor([[*ids, token] for token in range(size)]))[:, -1].log_softmax(-1)
    scores = first[:, None] + both
    end = model.tokenizer.eos_id
    assert end is not None
    scores[end], scores[:, end] = -torch.inf, -torch.inf
    best = int(scores.argmax())
    found = model.complete("a b", beams=size, max_tokens=2, banned_tokens=[end], length_penalty=0)[0]
    assert found.text == whole_text(model.tokenizer, [best // size, best % size])
    assert found.rank == pytest.approx(float(scores.max()), abs=1e-3)


def test_guidance_is_that_of_stock_transformers(pair: tuple[Any, Model]) -> None:
    model = pair[1]
    ids = model.tokenizer.encode("the text ")
    (wanted,) = stock_texts(pair, ids, 1, guidance_scale=2.5)
    assert model.generate("the text ", temperature=0, guidance_scale=2.5, max_tokens=12) == whole_text(
        model.tokenizer, wanted
    )
    negative = model.tokenizer.encode("another one")
    (wanted,) = stock_texts(pair, ids, 1, guidance_scale=1.7, negative_prompt_ids=torch.tensor([negative]))
    found = model.generate(
        "the text ", temperature=0, guidance_scale=1.7, negative_prompt="another one", max_tokens=12
    )
    assert found == whole_text(model.tokenizer, wanted)
    assert found != model.generate("the text ", temperature=0, max_tokens=12)


def test_beams_heed_stop_strings_and_go_on_past_the_context(pair: tuple[Any, Model]) -> None:
    model = pair[1]
    (whole,) = model.complete("the text ", beams=3, max_tokens=12)
    stop = whole.text[len(whole.text) // 2 :][:2]
    stopped = model.complete("the text ", beams=3, n=3, max_tokens=12, stop=stop, length_penalty=0)
    assert all(stop not in each.text for each in stopped)
    assert "stop" in {each.end for each in stopped}
    long = model.complete("the text ", beams=2, max_tokens=90, min_tokens=90)[0]
    assert long.end == "length"
    assert len(long.text) > 60
