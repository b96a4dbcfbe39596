"""Claims about text that goes on with other text: decoding a continuation gives what stock decoding of both
together gives."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sentencepiece import sentencepiece
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

TEXT = (
    "What is the time? It is the best of times.\n    def f(x):\n        return x + 1\n春眠不觉晓，处处闻啼鸟。🤖 ok\n"
    * 8
)
KINDS = ("byte level", "sentencepiece", "sentencepiece without prefix", "metaspace", "wordpiece", "word ends")


@cache
def made(kind: str) -> Tokenizer:
    if kind == "byte level":
        return train_tokenizer([TEXT], TokenizerConfig(kind="bpe"), 300)
    if kind.startswith("sentencepiece"):
        return sentencepiece([TEXT], 120, prefix=kind == "sentencepiece")
    if kind == "metaspace":  # SentencePiece's unigram, as T5 and ALBERT have it
        backend = tokenizers.Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        backend.train_from_iterator(
            [TEXT], trainers.UnigramTrainer(vocab_size=120, show_progress=False, unk_token="<unk>")
        )
    elif kind == "wordpiece":
        backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(cleanup=False)
        backend.train_from_iterator(
            [TEXT], trainers.WordPieceTrainer(vocab_size=120, show_progress=False, special_tokens=["[UNK]"])
        )
    else:
        backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.BPEDecoder(suffix="</w>")
        trainer = trainers.BpeTrainer(
            vocab_size=120, show_progress=False, special_tokens=["<unk>"], end_of_word_suffix="</w>"
        )
        backend.train_from_iterator([TEXT], trainer)
    return Tokenizer(backend)


@cache
def stock(kind: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=made(kind).backend, clean_up_tokenization_spaces=False)


def stock_continuation(kind: str, before: list[int], after: list[int]) -> str:
    """What stock transformers' decoding of both adds to its decoding of the first."""
    decode = stock(kind).decode
    return decode([*before, *after], skip_special_tokens=True)[
        len(decode(before, skip_special_tokens=True)) :
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", ["What is", "What is the", "def f(x):\n", "春眠不觉晓", "ok 🤖"])
@pytest.mark.parametrize("after", [" the best", " 🤖 ok", "\n        return x", "time", "不觉"])
def test_a_continuation_decodes_as_it_does_behind_its_prompt(kind: str, before: str, after: str) -> None:
    tokenizer = made(kind)
    whole = tokenizer.encode(before + after, special_tokens=False)
    for cut in range(1, len(whole)):
        told = stock_continuation(kind, whole[:cut], whole[cut:])
        # a prompt that ends inside a character has no text of its own to compare
        if "�" not in stock(kind).decode(whole[:cut]):
            assert tokenizer.decode_after(whole[:cut], whole[cut:]) == told


@pytest.mark.parametrize("kind", ["byte level", "sentencepiece", "sentencepiece without prefix"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from("ab the 春🤖\n  é"), min_size=1, max_size=30), cut=st.integers(0, 60))
def test_what_a_prompt_begins_of_a_character_its_continuation_completes(
    kind: str, text: str, cut: int
) -> None:
    """Whatever token a text is cut at, the whole characters of both sides are the text."""
    tokenizer = made(kind)
    ids = tokenizer.encode(text, special_tokens=False)
    before, after = ids[: cut % (len(ids) + 1)], ids[cut % (len(ids) + 1) :]
    head = tokenizer.decode(before).rstrip("�")
    if before and tokenizer.decode(before).strip("�") == tokenizer.decode(before):
        assert head + tokenizer.decode_after(before, after) == tokenizer.decode(ids)
    else:
        assert tokenizer.decode(ids).endswith(tokenizer.decode_after(before, after))


def test_the_space_that_begins_a_continuation_stays() -> None:
    tokenizer = made("sentencepiece")
    ids = tokenizer.encode("What is the", special_tokens=False)
    prompt = tokenizer.encode("What is", special_tokens=False)
    assert ids[: len(prompt)] == prompt
    assert tokenizer.decode_after(prompt, ids[len(prompt) :]) == " the"
    assert tokenizer.decode_after([1], ids) == "What is the"  # a beginning-of-text token is no text


def test_a_first_token_of_bytes_alone_does_not_hide_what_stands_before(tmp_path: Path) -> None:
    tokenizer = made("sentencepiece")
    ids = tokenizer.encode("🤖🤖🤖🤖🤖 the", special_tokens=False)
    assert (
        tokenizer.decode_after(ids[:-1], ids[-1:]) == tokenizer.decode(ids)[len(tokenizer.decode(ids[:-1])) :]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_which_tokenizers_leave_the_first_space_out_is_what_stock_decoding_does(kind: str) -> None:
    ids = made(kind).encode("x the", special_tokens=False)
    last = next(n for n in range(len(ids)) if stock(kind).decode(ids[n:]).strip() == "the")
    gone = stock_continuation(kind, ids[:last], ids[last:]).startswith(" ") and not stock(kind).decode(
        ids[last:]
    ).startswith(" ")
    assert made(kind).drops_first_space == gone
