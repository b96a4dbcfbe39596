"""Claims about texts that are cut inside a character: what was written is a whole number of characters."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_continuations import KINDS, made, stock
from tiny_sentencepiece import sentencepiece
from tokenizers import decoders

from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.model import GPT, GPTConfig
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

CHARACTERS = st.text(st.sampled_from("ab the春晓🤖é\n"), max_size=20)


def decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    decoder = tokenizer.stream_decoder()
    return "".join(map(decoder.push, ids)) + decoder.finish()


@pytest.mark.parametrize("kind", ["bpe", "char", "byte", "sentencepiece"])
@settings(max_examples=80, deadline=None)
@given(text=CHARACTERS, cut=st.integers(0, 80))
def test_a_text_cut_anywhere_is_its_whole_characters(kind: str, text: str, cut: int) -> None:
    if kind == "sentencepiece":
        tokenizer = sentencepiece(["ab the"], 40, prefix=False)
    else:
        size = 260 if kind == "bpe" else None
        tokenizer = train_tokenizer(["ab the"], TokenizerConfig(kind=kind), size)  # type: ignore[arg-type]
    ids = tokenizer.encode(text, special_tokens=False)[:cut]
    written = b"".join(tokenizer.token_bytes(token) for token in ids)
    assert decoded(tokenizer, ids) == written.decode("utf-8", "ignore")  # all of it is valid but for its end
    assert tokenizer.decode_after([], ids) == written.decode("utf-8", "ignore")


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_text_is_what_stock_decoding_gives(kind: str) -> None:
    ids = made(kind).encode("the time 🤖 ok", special_tokens=False)
    assert decoded(made(kind), ids) == stock(kind).decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["byte", "char"])
def test_wrong_bytes_within_a_text_and_the_sign_itself_are_shown(kind: str) -> None:
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind=kind))  # type: ignore[arg-type]
    first = tokenizer.bytes_of_tokens.index
    wrong, begin, letter = first(b"\xff"), first(b"\xe6"), tokenizer.encode("a")[0]
    assert decoded(tokenizer, [letter, wrong, letter]) == "a\ufffda"
    assert decoded(tokenizer, [letter, wrong]) == "a\ufffd"
    assert decoded(tokenizer, [letter, wrong, begin]) == "a\ufffd"
    assert decoded(tokenizer, tokenizer.encode("a\ufffd")) == "a\ufffd"


def test_byte_level_decoding_with_more_steps_leaves_the_beginning_of_a_character_out() -> None:
    plain = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    plain.backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    tokenizer = Tokenizer(plain.backend)
    ids = tokenizer.encode("a春")
    assert decoded(tokenizer, ids[:3]) == "a"
    assert decoded(tokenizer, ids) == "a春"


def test_a_special_token_that_is_shown_behind_half_a_character_shows_the_half() -> None:
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    half = tokenizer.encode("春")[:2]
    decoder = tokenizer.stream_decoder({tokenizer.eos_id or 0: "<end>"})
    assert "".join(map(decoder.push, [*half, tokenizer.eos_id or 0])) + decoder.finish() == "\ufffd<end>"


@pytest.mark.parametrize("options", [{}, {"beams": 2}, {"n": 1, "best_of": 2}])
def test_what_is_written_up_to_max_tokens_ends_with_a_whole_character(options: dict[str, int]) -> None:
    """A network that writes the first byte of a character, and has no more tokens for the others."""
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    spelled = tokenizer.encode("春")
    torch.manual_seed(0)
    network = GPT(
        GPTConfig(vocab_size=tokenizer.vocab_size, context_length=16, n_layer=1, n_head=1, n_embd=16)
    ).eval()
    config = SamplingConfig(
        max_tokens=1, temperature=float("best_of" in options), seed=1, logit_bias={spelled[0]: 100.0}
    )
    pieces = list(Engine(network, tokenizer).write("a", dataclasses.replace(config, **options)))  # type: ignore[arg-type]
    assert "".join(piece.text for piece in pieces) == ""
    assert pieces[-1].end == "length"
