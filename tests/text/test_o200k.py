"""gpt-oss's tokenizer from OpenAI's ranks: published ids, and tiktoken's rule on ranks of our own."""

from __future__ import annotations

import base64
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newleaf.errors import InputError
from newleaf.text.o200k import WORDS, from_ranks, read_ranks
from newleaf.text.tokenizer import Tokenizer

BYTES = [bytes([n]) for n in range(256)]
LONGER = [b"ab", b"bc", b" a", b"abc", b"bca", b" ab", b"aa", b"aaa", b"abcab", b"\xe6\x98", b"\xe6\x98\xa5"]
RANKS = BYTES + LONGER


def lowest_rank_first(word: bytes) -> list[int]:
    """tiktoken's rule, written out: join the leftmost two neighbours that make the token of the lowest rank,
    until none do."""
    rank = {token: n for n, token in enumerate(RANKS)}
    if word in rank:
        return [rank[word]]
    parts = [bytes([byte]) for byte in word]
    while True:
        found = [(rank[a + b], n) for n, (a, b) in enumerate(pairwise(parts)) if a + b in rank]
        if not found:
            return [rank[part] for part in parts]
        n = min(found)[1]
        parts[n : n + 2] = [parts[n] + parts[n + 1]]


@given(word=st.text("abc", min_size=1, max_size=20), space=st.booleans())
def test_ranks_join_as_in_tiktoken(word: str, space: bool) -> None:
    text = " " * space + word + "!春"
    tokenizer = Tokenizer(from_ranks(RANKS, ["<|end|>"]))
    wanted = [*lowest_rank_first((" " * space + word).encode()), ord("!"), RANKS.index("春".encode())]
    assert tokenizer.encode(text) == wanted
    assert tokenizer.decode(wanted) == text
    assert tokenizer.lossless


def test_words_are_cut_at_capitals_and_numbers_of_three_and_hold_their_endings() -> None:
    from tokenizers import Regex, pre_tokenizers

    cut = pre_tokenizers.Split(Regex(WORDS), "isolated")
    text = "HelloWorld it's IT'LL 12345 a/\n//  x\n\n\ty e\u0301t हिन्दी"
    wanted = [
        "Hello",
        "World",
        " it's",
        " IT'LL",
        " ",
        "123",
        "45",
        " a",
        "/\n//",
        " ",
        " x",
        "\n\n",
        "\ty",
        " e\u0301t",
        " हिन्दी",
    ]
    assert [piece for piece, _ in cut.pre_tokenize_str(text)] == wanted


def test_openais_ranks_in_a_folder_give_gpt_oss_its_ids(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "o200k_base.tiktoken").write_bytes(
        (shared / "tokenizer" / "o200k_base.tiktoken").read_bytes()
    )
    tokenizer = Tokenizer.load(tmp_path)
    # tiktoken 0.14, get_encoding("o200k_harmony").encode_ordinary
    assert tokenizer.encode("hello world") == [24912, 2375]
    assert tokenizer.encode("Hello, world! It's 12345 o'clock") == [
        13225,
        11,
        2375,
        0,
        7744,
        220,
        7633,
        2548,
        293,
        141801,
    ]
    # tiktoken_ext/openai_public.py, o200k_harmony
    special = {
        "<|startoftext|>": 199998,
        "<|endoftext|>": 199999,
        "<|return|>": 200002,
        "<|constrain|>": 200003,
        "<|channel|>": 200005,
        "<|start|>": 200006,
        "<|end|>": 200007,
        "<|message|>": 200008,
        "<|call|>": 200012,
        "<|endofprompt|>": 200018,
        "<|reserved_200000|>": 200000,
        "<|reserved_200011|>": 200011,
        "<|reserved_200017|>": 200017,
    }
    assert {name: tokenizer.backend.token_to_id(name) for name in special} == special
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (
        199998,
        200002,
        199999,
        200019,
    )
    assert 200006 not in tokenizer.encode("<|start|>user<|message|>")
    assert tokenizer.lossless


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"YQ== 0\nYg== 2\n", "line 2 is not a token in base64 and its rank, 1"),
        (b"YQ== 0\n!!! 1\n", "line 2 is not a token"),
        (b"YQ==\n", "line 1 is not a token"),
        (b" 0\n", "line 1 is not a token"),
        (b"YQ== 0\nYQ== 1\n", "line 2 has a token that an earlier line has"),
        (b"\xff\xfe\x00 0\n", "line 1 is not a token"),
        (b"", "holds 0 ranks"),
        (
            b"".join(base64.b64encode(t) + f" {n}\n".encode() for n, t in enumerate(RANKS)),
            "holds 267 ranks; newleaf knows how to cut text",
        ),
    ],
)
def test_ranks_that_are_damaged_or_of_another_vocabulary_are_refused_in_one_line(
    lines: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.tiktoken"
    path.write_bytes(lines)
    with pytest.raises(InputError, match=said) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ranks_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "x.tiktoken").write_bytes(
        b"".join(base64.b64encode(t) + f" {n}\n".encode() for n, t in enumerate(RANKS))
    )
    assert read_ranks(tmp_path / "x.tiktoken") == RANKS
