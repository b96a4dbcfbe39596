"""Claims about encodings: text in the encodings that texts come in is read, a guess is told with the option,
and no noise is learned."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.data.corpus import prepare_text
from newleaf.data.data_config import DataConfig
from newleaf.data.encodings import detect_encoding
from newleaf.errors import InputError
from newleaf.train.pretraining.prepare_pretraining import describe_skipped

SIMPLIFIED = "明月几时有？把酒问青天。不知天上宫阙，今夕是何年。我欲乘风归去，又恐琼楼玉宇，高处不胜寒。\n起舞弄清影，何似在人间。\n"
TRADITIONAL = "明月幾時有？把酒問青天。不知天上宮闕，今夕是何年。我欲乘風歸去，又恐瓊樓玉宇，高處不勝寒。\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"
FRENCH = "L'été dernier, nous avons mangé des crêpes à la crème près de la forêt. Ça va très bien, merci.\n"
GERMAN = "Über den Wolken müssen die Größen wohl grenzenlos sein. Straße, Äpfel, Öl.\n"
CODE = "price = 100  # 价格：一百元\nprint('你好，世界', price)\n"
TEXTS = [
    (SIMPLIFIED, "gb18030"),
    (SIMPLIFIED, "gbk"),
    (CODE, "gb18030"),
    ("# 你好\n", "gb18030"),
    (TRADITIONAL, "big5"),
    (JAPANESE, "shift_jis"),
    (JAPANESE, "euc_jp"),
    (SIMPLIFIED, "utf-16"),
    (FRENCH, "utf-16-le"),
    (CODE, "utf-16-be"),
    (FRENCH, "utf-32"),
    (FRENCH, "latin-1"),
    (GERMAN, "latin-1"),
    ("Un café, s'il vous plaît.\n", "latin-1"),
    (FRENCH, "utf-8"),
    (SIMPLIFIED, "utf-8-sig"),
]


def prepared(tmp_path: Path, data: bytes, **options: Any) -> Any:
    (tmp_path / "a.txt").write_bytes(data)
    return prepare_text(tmp_path / "a.txt", DataConfig(val_fraction=0.3, **options), tmp_path / "cache")


def text_of(corpus: Any) -> str:
    return "".join([*corpus.train.documents(), *corpus.validation.documents()])


@pytest.mark.parametrize(("text", "encoding"), TEXTS)
@pytest.mark.parametrize("times", [1, 40])
def test_text_is_read_in_the_encoding_it_has_and_measured_as_utf8(
    tmp_path: Path, text: str, encoding: str, times: int
) -> None:
    corpus = prepared(tmp_path, (text * times).encode(encoding))
    assert text_of(corpus) == text * times
    assert corpus.train.n_bytes + corpus.validation.n_bytes == len((text * times).encode())
    told = " ".join(describe_skipped(corpus.report))
    assert ("--data.encoding" in told) == (not encoding.startswith("utf-8"))


@pytest.mark.parametrize(("text", "encoding"), TEXTS)
def test_the_encoding_that_is_named_is_taken(tmp_path: Path, text: str, encoding: str) -> None:
    corpus = prepared(tmp_path, (text * 3).encode(encoding), encoding=encoding)
    assert text_of(corpus).lstrip("\ufeff") == text * 3
    assert describe_skipped(corpus.report) == []


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (b"ab\xff\xfdcd", {}, "not UTF-8 at byte 2; name its encoding with --data.encoding"),
        (
            b"It is \x93quoted\x94 so, he said \x96 and left\x85\n",
            {},
            "name its encoding with --data.encoding",
        ),
        (
            SIMPLIFIED.encode(),
            {"encoding": "ascii"},
            "not ascii at byte 0; name its encoding with --data.encoding",
        ),
        (
            (SIMPLIFIED * 9).encode("gb18030") + b"\xff\xff",
            {"encoding": "gb18030"},
            f"not gb18030 at byte {9 * len(SIMPLIFIED.encode('gb18030'))}",
        ),
        ((SIMPLIFIED * 9).encode()[:-2] + b"x", {}, "not UTF-8 at byte"),
        (b"a", {"encoding": "latin-99"}, "data.encoding: 'latin-99' is no text encoding"),
        (b"a", {"encoding": "hex"}, "data.encoding: 'hex' is no text encoding"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_option(
    tmp_path: Path, data: bytes, options: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, data, **options)
    assert said in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(text=st.text(min_size=1, max_size=200))
def test_utf8_is_never_taken_for_anything_else(text: str) -> None:
    if "\x00" not in text and not text.encode().startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        assert detect_encoding(text.encode()) == "utf-8"


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_give_an_encoding_or_none(data: bytes) -> None:
    found = detect_encoding(data)
    assert found is None or codecs.lookup(found)


def test_shared_poems_are_recognised_wherever_a_piece_of_them_begins(shared: Path) -> None:
    text = (shared / "text" / "songci_zh.txt").read_text("utf-8")
    for start in range(0, 400_000, 4_001):
        assert detect_encoding(text[start : start + 60].encode("gb18030")) == "gb18030", text[
            start : start + 60
        ]


@pytest.mark.parametrize("document", ["file", "line", "blank-line"])
def test_a_carriage_return_before_a_newline_is_part_of_the_line_end(tmp_path: Path, document: str) -> None:
    unix = "one\ntwo\n\nthree \r four\n" * 3
    found = [
        text_of(prepared(tmp_path, text.encode(encoding), document=document))
        for text in (unix, unix.replace("\n", "\r\n"))
        for encoding in ("utf-8", "utf-16")
    ]
    assert len(set(found)) == 1


def test_a_line_end_that_two_blocks_share_is_one(tmp_path: Path) -> None:
    block = 4 * 2**20
    text = "x" * (block - 1) + "\r\n" + "y" * 50 + "\r"
    assert text_of(prepared(tmp_path, text.encode())) == "x" * (block - 1) + "\n" + "y" * 50 + "\r"
