"""Tokenizers in GGUF files: SentencePiece's, o200k, and the names of ways to cut text, against llama.cpp."""

from __future__ import annotations

import json
import random
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from rewritten_gguf import rewrite
from tiny_sentencepiece import sentencepiece
from tiny_shapes import LLAMA
from tokenizers import processors

import newleaf
from newleaf.api import Model
from newleaf.errors import InputError
from newleaf.model import GPT, GPTConfig
from newleaf.storage.gguf_byte_level import PRE_TOKENIZERS
from newleaf.storage.gguf_tokenizer import write_tokenizer
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

TEXT = Path(textwrap.__file__).read_text("utf-8")
SENTENCES = [
    "",
    " x",
    "  two  spaces\n\n\tand a tab \r\n",
    "<s>hi</s> <unk> <0x41>",
    "say <user> twice<user>",
    "naïve façade, 中文字符 ☃ \U0001f389\U0001f389; ½",
    TEXT[3000:5000],
]


def written(tokenizer: Tokenizer, path: Path, spare: int = 0) -> Path:
    """A tiny network with this tokenizer, as GGUF."""
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size + spare,
        context_length=16,
        n_layer=1,
        n_head=1,
        n_embd=8,
        **LLAMA,
    )
    Model(GPT(config), tokenizer, "llama").save(path)
    return path


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_from_gguf_gives_the_ids_of_llama_cpp(
    prefix: bool, tmp_path: Path, vocabulary_of: Callable[[Path], Any]
) -> None:
    original = sentencepiece([TEXT, *SENTENCES], 900, prefix)
    path = written(original, tmp_path / "x.gguf", spare=5)
    back, peer, chance = newleaf.load(path).tokenizer, vocabulary_of(path), random.Random(1)
    parts = [" ", "  ", "the", "in", "g", "\n", "é", "中", "☃", "def ", "'s", "12", "<user>"]
    for text in SENTENCES + ["".join(chance.choices(parts, k=40)) for _ in range(50)]:
        ids = peer.tokenize(text.encode(), add_bos=False)
        assert back.encode(text) == original.encode(text) == ids, text
        # llama.cpp's own reading sets a space before the text and after each token that is no piece of it.
        assert back.decode(ids) == original.decode(ids)
        if prefix is False:
            assert back.decode(ids, skip_special=False) == text
    assert (back.bos_id, back.eos_id, back.vocab_size) == (1, 2, original.vocab_size)
    assert back.settings == {"chat_template": "{{ messages }}"}
    assert not back.lossless


def test_where_a_file_of_sentencepiece_is_silent_it_means_what_llama_cpp_takes(
    tmp_path: Path, vocabulary_of: Callable[[Path], Any]
) -> None:
    silent = (
        "add_bos_token",
        "add_eos_token",
        "bos_token_id",
        "eos_token_id",
        "unknown_token_id",
        "add_space_prefix",
        "pre",
    )

    def silence(metadata: dict[str, Any], tensors: Any) -> None:
        for name in silent:
            del metadata[f"tokenizer.ggml.{name}"]

    rewrite(written(sentencepiece([TEXT], 600), tmp_path / "good.gguf"), tmp_path / "x.gguf", silence)
    tokenizer, peer = newleaf.load(tmp_path / "x.gguf").tokenizer, vocabulary_of(tmp_path / "x.gguf")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (peer.token_bos(), peer.token_eos()) == (1, 2)
    assert tokenizer.encode("def the") == peer.tokenize(b"def the", add_bos=True)
    assert tokenizer.encode("def the")[0] == 1


def test_a_loaded_sentencepiece_tokenizer_saves_to_what_transformers_opens(tmp_path: Path) -> None:
    import transformers

    tokenizer = newleaf.load(written(sentencepiece([TEXT], 600), tmp_path / "x.gguf")).tokenizer
    tokenizer.save(tmp_path / "folder")
    stock = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    for text in (SENTENCES[1], SENTENCES[2], SENTENCES[5]):
        ids = tokenizer.encode(text)
        assert stock(text)["input_ids"] == ids
        assert stock.decode(ids) == tokenizer.decode(ids) == text
        stream = tokenizer.stream_decoder()
        assert "".join([*(stream.push(n) for n in ids), stream.finish()]) == text


def changed(tokenizer: Tokenizer, change: Callable[[dict[str, Any]], Any]) -> Tokenizer:
    description = json.loads(tokenizer.backend.to_str())
    change(description)
    return Tokenizer(
        tokenizers.Tokenizer.from_str(json.dumps(description)), tokenizer.bos_id, tokenizer.eos_id
    )


def first_of_two_comes_last(description: dict[str, Any]) -> None:
    """One of two merges that make the same piece loses its place, which no score of the piece can tell."""
    merges = description["model"]["merges"]
    made = ["".join(merge) for merge in merges]
    merges.append(merges.pop(next(n for n, piece in enumerate(made) if made.count(piece) > 1)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (first_of_two_comes_last, "not those of a SentencePiece model's scores"),
        (lambda d: d["model"]["merges"].pop(40), "not those of a SentencePiece model's scores"),
        (lambda d: d.update(normalizer={"type": "NFKC"}), "llama.cpp cuts text otherwise"),
        (
            lambda d: d.update(pre_tokenizer={"type": "Digits", "individual_digits": True}),
            "llama.cpp cuts text otherwise",
        ),
        (lambda d: d["decoder"]["decoders"].pop(), "llama.cpp cuts text otherwise"),
    ],
)
def test_merges_that_no_scores_make_are_not_written_as_sentencepiece(
    change: Any, said: str, tmp_path: Path
) -> None:
    tokenizer = changed(sentencepiece([TEXT], 600), change)
    with pytest.raises(InputError, match=said):
        written(tokenizer, tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


def test_words_looked_up_whole_go_where_merges_lead_to_the_same_tokens(
    tmp_path: Path, vocabulary_of: Callable[[Path], Any]
) -> None:
    plain = train_tokenizer([TEXT], TokenizerConfig(), 400)
    whole = changed(plain, lambda d: d["model"].update(ignore_merges=True))
    path = written(whole, tmp_path / "x.gguf")
    assert newleaf.load(path).tokenizer.encode(TEXT[:3000]) == whole.encode(TEXT[:3000])
    assert vocabulary_of(path).tokenize(TEXT[:3000].encode(), add_bos=False) == whole.encode(TEXT[:3000])
    lost = changed(whole, lambda d: d["model"]["merges"].pop())
    with pytest.raises(InputError, match="has no name for this tokenizer's way to cut text"):
        written(lost, tmp_path / "y.gguf")


@pytest.mark.parametrize("name", [name for names in PRE_TOKENIZERS for name in names])
def test_llama_cpp_knows_every_name_for_cutting_text_that_newleaf_reads(
    name: str, tmp_path: Path, vocabulary_of: Callable[[Path], Any]
) -> None:
    good = written(train_tokenizer([TEXT], TokenizerConfig(), 300), tmp_path / "good.gguf")
    rewrite(
        good, tmp_path / "x.gguf", lambda metadata, tensors: metadata.update({"tokenizer.ggml.pre": name})
    )
    # it refuses an unknown one
    ours, peer = newleaf.load(tmp_path / "x.gguf").tokenizer, vocabulary_of(tmp_path / "x.gguf")
    for text in ("It'S 12345, isn't it?\n\n  x =\t1/\n/", TEXT[:500]):
        assert ours.encode(text, special_tokens=False) == peer.tokenize(text.encode(), add_bos=False)


@pytest.mark.slow
def test_o200k_goes_through_gguf_to_llama_cpp(
    shared_data: Path, tmp_path: Path, vocabulary_of: Callable[[Path], Any]
) -> None:
    """Combining marks apart, whose words llama.cpp cuts in an own way."""
    original = Tokenizer.load(shared_data / "tokenizer" / "o200k_base.tiktoken")
    path = written(original, tmp_path / "x.gguf", spare=201_088 - original.vocab_size)
    back, peer = newleaf.load(path).tokenizer, vocabulary_of(path)
    play = (shared_data / "text" / "tinyshakespeare.txt").read_text("utf-8")[:30_000]
    poems = (shared_data / "text" / "songci_zh.txt").read_text("utf-8")[:5000]
    for text in (play, poems, TEXT, "École ÉCOLE ПриветМир ΑΒΓ HelloWorld it's IT'S 12345 a/\n//"):
        assert back.encode(text) == original.encode(text) == peer.tokenize(text.encode(), add_bos=False)
    assert (back.bos_id, back.eos_id, back.pad_id) == (199_998, 200_002, 199_999)
    prompt = "<|start|>user<|message|>Hello<|end|><|start|>assistant"
    ids = peer.tokenize(prompt.encode(), add_bos=False, special=True)
    assert ids == [200_006, 1428, 200_008, 13_225, 200_007, 200_006, 173_781]


def test_what_a_tokenizer_adds_to_each_text_must_be_bos_and_eos(tmp_path: Path) -> None:
    tokenizer = sentencepiece([TEXT], 600)
    tokenizer.backend.post_processor = processors.TemplateProcessing(
        single="$A <user>", special_tokens=[("<user>", tokenizer.vocab_size - 1)]
    )
    with pytest.raises(InputError, match="what this tokenizer adds to each text"):
        written(tokenizer, tmp_path / "x.gguf")


CHINESE = "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。\n the café, 2 cups\n" * 20 + "囧"
LINES = [*SENTENCES, CHINESE[:60], "春囧 晓🤖晓  处\n\n", "　、。", "춘춘", " 春"]


def of_characters(kind: str, text: str = CHINESE) -> Tokenizer:
    config = TokenizerConfig(kind=kind, characters=True if kind == "bpe" else None)  # type: ignore[arg-type]
    return train_tokenizer([text], config, 400)


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_tokenizers_of_whole_characters_come_back_from_gguf(kind: str, tmp_path: Path) -> None:
    original = of_characters(kind)
    path = written(original, tmp_path / "x.gguf", spare=3)
    back = newleaf.load(path).tokenizer
    assert write_tokenizer(back, 400) == (write_tokenizer(original, 400)[0], None)
    for text in LINES:
        assert back.encode(text) == original.encode(text)
        assert back.decode(back.encode(text)) == text
    assert (back.bos_id, back.eos_id, back.vocab_size) == (
        original.bos_id,
        original.eos_id,
        original.vocab_size,
    )
    assert back.lossless is (kind == "bpe")


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_llama_cpp_cuts_text_into_the_same_characters(
    kind: str, tmp_path: Path, vocabulary_of: Callable[[Path], Any]
) -> None:
    original, chance = of_characters(kind), random.Random(1)
    peer = vocabulary_of(written(original, tmp_path / "x.gguf", spare=3))
    parts = [*CHINESE[:30], " ", "the", "囧", "🤖", "é", "\n", "<0x41>", "12"]
    for text in LINES + ["".join(chance.choices(parts, k=40)) for _ in range(50)]:
        assert peer.tokenize(text.encode(), add_bos=False) == original.encode(text), text
        if kind == "char" or text[:1] != " ":
            assert peer.detokenize(original.encode(text)).decode() == text


@pytest.mark.parametrize(("text", "why"), [("春眠不觉晓", "no token for a space"), ("春 ▁", "a token for ▁")])
def test_characters_that_llama_cpp_reads_otherwise_are_refused(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=rf"llama\.cpp reads a space as the character ▁, and this tokenizer has {why}"
    ):
        written(of_characters("char", text), tmp_path / "x.gguf")
