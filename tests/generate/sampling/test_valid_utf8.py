"""Claims about tokens that would make text which is not UTF-8: they are not sampled, and everything else is
as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from tiny_sentencepiece import sentencepiece

import newleaf
from newleaf.api import Model
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.sampler import SamplerRow, sample_tokens
from newleaf.model import GPT, GPTConfig
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer
from newleaf.text.utf8_validity import Utf8Validity

TEXT = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。the café\n" * 9
SIGN = "\ufffd"
KINDS = ("byte", "bpe", "characters", "char", "sentencepiece")


def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "sentencepiece":
        return sentencepiece([TEXT[:20]], 300, prefix=False)
    if kind == "characters":
        return train_tokenizer([TEXT], TokenizerConfig(characters=True), 290)
    return train_tokenizer([TEXT], TokenizerConfig(kind=kind), None if kind == "byte" else 280)  # type: ignore[arg-type]


def model_of(tokenizer: Tokenizer, **shape: Any) -> Model:
    """Random weights: it writes any token after any other."""
    torch.manual_seed(0)
    config = GPTConfig(
        tokenizer.vocab_size, 128, 1, 2, 16, **{"positions": "rotary", "tie_embeddings": False} | shape
    )
    return Model(GPT(config).eval(), tokenizer, "newleaf")


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_text_holds_no_replacement_character(kind: str) -> None:
    model = model_of(tokenizer_of(kind))
    options: dict[str, Any] = {"max_tokens": 100, "temperature": 1.0, "n": 4, "seed": 1}
    assert SIGN in "".join(model.generate("a", valid_utf8="off", **options))
    texts = model.generate("a", **options)
    assert SIGN not in "".join(texts)
    assert any(not text.isascii() for text in texts)  # bytes still make characters
    assert SIGN not in "".join(model.generate("a", top_k=20, **options))


def test_a_seed_gives_the_text_it_gave_up_to_the_first_wrong_byte() -> None:
    model = model_of(tokenizer_of("bpe"))
    before, now = (
        model.generate("a", max_tokens=60, temperature=1.0, seed=5, valid_utf8=how)
        for how in ("off", "sampled")
    )
    assert SIGN in before
    assert now.startswith(before[: before.index(SIGN)])


def test_valid_tokens_keep_the_ratio_of_their_probabilities() -> None:
    """Choosing anew is the distribution without the invalid ones: p / (1 − p of all invalid)."""
    utf8 = Utf8Validity([b"a", b"\x80", b"\xe4", b"b", b"\xff", b""])
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0, 1.5, 0.5]])
    config = SamplingConfig(temperature=1.0)
    count = 20_000
    rows = [SamplerRow(config, [0], 1, 7, stream, utf8=utf8) for stream in range(count)]
    found = torch.bincount(torch.tensor(sample_tokens(logits.expand(count, -1), rows)), minlength=6)
    valid = torch.tensor([True, False, True, True, False, True])
    expected = logits[0].double().masked_fill(~valid, float("-inf")).softmax(-1)
    assert found[~valid].sum() == 0
    assert chisquare(found[valid].numpy(), (count * expected[valid]).numpy()).pvalue > 0.001


def test_greedy_text_and_beams_are_stock_unless_asked_otherwise() -> None:
    model = model_of(tokenizer_of("byte"))
    bias = {0xE4: 50.0}  # a first byte, again and again
    assert set(model.generate("a", max_tokens=6, temperature=0, logit_bias=bias)) == {SIGN}
    always = model.generate("a", max_tokens=9, temperature=0, logit_bias=bias, valid_utf8="always")
    assert SIGN not in always
    assert len(always) == 3  # of three bytes each
    for how, expected in (("sampled", True), ("always", False)):
        assert (
            SIGN in model.generate("a", max_tokens=9, beams=2, logit_bias=bias, valid_utf8=how)
        ) is expected


def test_a_prompt_that_ends_inside_a_character_is_completed() -> None:
    tokenizer = tokenizer_of("byte")
    model, ids = model_of(tokenizer), tokenizer.encode("a春")[:2]
    with model.engine() as engine:
        for seed in range(20):
            request = engine.submit(ids, SamplingConfig(max_tokens=12, temperature=1.0, seed=seed))
            text = "".join(piece.text for piece in request)
            written = request.samples[0].row.ids
            assert SIGN not in text
            assert b"".join(map(tokenizer.token_bytes, written)).decode("utf-8", "ignore") == "a" + text


def test_the_end_of_text_is_not_drawn_inside_a_character() -> None:
    tokenizer = tokenizer_of("byte")
    end = tokenizer.eos_id
    assert end is not None
    logits = torch.full((1, tokenizer.vocab_size), -5.0)
    logits[0, end] = 5.0
    for begun, expected in ((b"", True), (b"\xe6", False)):
        rows = [
            SamplerRow(SamplingConfig(temperature=1.0), [0], 1, seed, utf8=tokenizer.utf8, partial=begun)
            for seed in range(50)
        ]
        assert (end in sample_tokens(logits.expand(50, -1), rows)) is expected


def test_where_no_valid_token_is_left_the_text_goes_on() -> None:
    tokenizer = tokenizer_of("byte")
    model = model_of(tokenizer)
    text = model.generate(
        "a", max_tokens=3, temperature=1.0, seed=1, forced_tokens={0: 0xE4, 1: 0xE4, 2: 0x61}
    )
    assert text == SIGN + SIGN + "a"


@pytest.mark.parametrize("kind", ["byte", "characters"])
def test_speculation_changes_no_text_that_was_chosen_anew(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    model, draft = model_of(tokenizer), model_of(tokenizer, init_std=0.03)
    config: dict[str, Any] = {"max_tokens": 80, "temperature": 1.2, "seed": 3}
    plain = model.generate("春眠春眠春眠", speculation="off", **config)
    assert SIGN not in plain
    assert model.generate("春眠春眠春眠", **config) == plain
    assert model.generate("春眠春眠春眠", draft=draft, **config) == plain


def test_the_command_takes_the_option_and_other_words_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_of(tokenizer_of("byte")).save(tmp_path / "m")
    arguments = [
        "generate",
        str(tmp_path / "m"),
        "a",
        "--max-tokens",
        "60",
        "--temperature",
        "1",
        "--seed",
        "1",
        "--json",
    ]
    texts = []
    for how in ([], ["--valid-utf8", "off"]):
        assert main([*arguments, *how]) == 0
        texts.append(json.loads(capsys.readouterr().out)["samples"][0]["text"])
    assert SIGN not in texts[0]
    assert SIGN in texts[1]
    with pytest.raises(InputError, match=r"valid_utf8: 'no' is not one of sampled, always, off"):
        newleaf.load(tmp_path / "m").generate("a", valid_utf8="no")
