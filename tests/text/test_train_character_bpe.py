"""Claims about byte-level BPE that begins with whole characters, and about which texts get it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from newleaf import pretrain
from newleaf.errors import InputError
from newleaf.recipe import recipe_of
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_character_bpe import has_many_characters, tokens_for_characters
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer
from newleaf.train.size_from_budget import Budget, choose_size

CHINESE = (
    "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。\n床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"
    * 20
    + "囧"
)
ENGLISH = "It was the best of times, it was the worst of times.\n" * 40


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([CHINESE], TokenizerConfig(characters=True), 512)


def test_every_frequent_character_is_at_most_one_token(tokenizer: Tokenizer) -> None:
    for character in set(CHINESE) - {"囧"}:
        assert len(tokenizer.encode(character)) == 1
    assert len(tokenizer.encode("囧")) > 1  # it stands there once
    # characters are merged behind
    assert tokenizer.encode("明月") != tokenizer.encode("明") + tokenizer.encode("月")
    assert tokenizer.vocab_size <= 512


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_every_text_decodes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.lossless
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_stock_transformers_opens_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    stock: Any = AutoTokenizer.from_pretrained(tmp_path)
    text = CHINESE[:200] + "囧 and 🤖"
    assert stock.encode(text) == tokenizer.encode(text)
    assert stock.decode(tokenizer.encode(text)) == text


def test_no_token_crosses_characters_in_the_middle_of_one(tokenizer: Tokenizer) -> None:
    """Of a valid text, each token is whole characters or lies within one."""
    for token in tokenizer.encode(CHINESE + "囧囧🤖🤖"):
        found = tokenizer.token_bytes(token)
        whole = found.decode("utf-8", "ignore").encode()
        assert found == whole or not whole


def test_characters_come_before_merges_of_them_and_words_of_another_script_have_their_share() -> None:
    text = CHINESE * 2 + ENGLISH
    tokenizer = train_tokenizer([text], TokenizerConfig(characters=True), 400)
    pieces = [piece.decode("utf-8", "ignore") for piece in tokenizer.bytes_of_tokens]
    assert all(len(tokenizer.encode(character)) == 1 for character in set(CHINESE))
    assert sum(piece.isascii() and len(piece) > 1 for piece in pieces) > 20  # words
    few = train_tokenizer([text], TokenizerConfig(characters=True), 340)
    assert not any(
        len(piece) > 1 and not piece.isascii()
        for piece in map(few.decode, ([n] for n in range(few.vocab_size)))
    )


def test_no_merge_is_learned_across_a_character_that_is_left_out() -> None:
    text = "a囧b " * 50 + "春" * 200
    tokenizer = train_tokenizer([text], TokenizerConfig(characters=True), 262)
    assert b"ab" not in tokenizer.bytes_of_tokens


@pytest.mark.parametrize(("kinds", "expected"), [(1000, 1557), (100, 443), (0, 256)])
def test_characters_want_so_many_tokens(kinds: int, expected: int) -> None:
    """99 % of the characters beyond ASCII, which are evenly common here, the bytes, and a quarter more."""
    text = "".join(chr(0x4E00 + n) for n in range(kinds)) * 20 + "abc" * 50
    assert tokens_for_characters([text[:100], text[100:]]) == pytest.approx(expected, abs=3)


def test_a_small_text_of_many_characters_has_a_vocabulary_that_holds_them() -> None:
    budget = Budget(steps=100)
    assert choose_size(450_000, budget).vocab_size == 1024
    assert choose_size(450_000, budget, characters=2_700).vocab_size == 2048
    assert (
        choose_size(5_000_000, budget, characters=2_700).vocab_size
        == choose_size(5_000_000, budget).vocab_size
        == 4096
    )
    assert "and its characters" in choose_size(450_000, budget, characters=2_700).reasons[1].text


def test_one_text_gives_one_tokenizer(tokenizer: Tokenizer) -> None:
    again = train_tokenizer([CHINESE], TokenizerConfig(characters=True), 512)
    assert again.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
    ("text", "expected"),
    [(CHINESE, True), (ENGLISH, False), ("ひらがなとカタカナ", True), ("안녕하세요 세계", True), ("Привет, мир", False), ("",
    False),
     ("abc" * 100 + "春" * 100, True), ("abc" * 100 + "春" * 99, False), ("🤖", True)],
)  # fmt: skip
def test_a_text_has_many_characters_when_half_of_its_bytes_are_of_long_ones(
    text: str, expected: bool
) -> None:
    assert has_many_characters([text[:3], text[3:]]) is expected


@pytest.mark.parametrize(("text", "expected"), [(CHINESE * 4, True), (ENGLISH * 4, False)])
def test_a_run_chooses_by_its_text_and_writes_it_down(text: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text, "utf-8")
    run = pretrain(
        tmp_path / "a.txt",
        steps=1,
        out=tmp_path / "run",
        size="1x16",
        tokenizer={"vocab_size": 400},
        threads=1,
    )
    assert run.config["tokenizer"]["characters"] is expected
    plain = json.loads(
        train_tokenizer([text[: int(len(text) * 0.9)]], TokenizerConfig(), 400).backend.to_str()
    )
    assert (json.loads(run.model.tokenizer.backend.to_str())["model"] == plain["model"]) is not expected


@pytest.mark.parametrize("kind", ["unigram", "char", "byte"])
def test_characters_with_another_kind_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.characters"):
        TokenizerConfig(kind=kind, characters=True)  # type: ignore[arg-type]


def test_a_run_of_before_keeps_the_tokenizer_that_it_had() -> None:
    """run.yaml of an older version says nothing of characters."""
    written = {
        "source": ["a.txt"],
        "tokenizer": {"kind": "bpe", "vocab_size": 400},
        "record": {"version": "0.1.0"},
    }
    assert recipe_of(written) == {
        "source": ["a.txt"],
        "tokenizer": {"kind": "bpe", "vocab_size": 400, "characters": False},
    }
    newer = written | {"tokenizer": {"kind": "bpe", "characters": True}}
    assert recipe_of(newer)["tokenizer"]["characters"] is True
    recipe = {"tokenizer": {"kind": "bpe"}}  # no run's: the text decides
    assert recipe_of(recipe) == recipe
