"""Claims about text that spells a special token or a byte token: it stays text, as SentencePiece's control
symbols and bytes do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from newleaf.text.chat_template import ChatTemplate, RenderOptions
from newleaf.text.tokenizer import Tokenizer

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = {"▁a": -2.0, "a": -3.0, "▁": -2.5, "ab": -4.0, "<s": -4.0} | dict.fromkeys(
    "</s>0x41bunk|[]INST", -5.0
)
KINDS = ("unigram", "unigram with bytes", "word level", "merges", "whole words")


def backend(kind: str, special: bool) -> tokenizers.Tokenizer:
    """A tokenizer of this kind, and the same one, ids aside, that has no special tokens among its pieces."""
    names = SPECIAL if special else ["\x01", "\x02", "\x03"]
    if kind.startswith("unigram"):
        bytes_ = [(token, 0.0) for token in BYTES] if kind.endswith("bytes") else []
        model = models.Unigram(
            [(name, 0.0) for name in names] + bytes_ + list(PIECES.items()),
            unk_id=0,
            byte_fallback=bool(bytes_),
        )
    elif kind == "word level":
        model = models.WordLevel({token: n for n, token in enumerate([*names, "a", "b"])}, unk_token=names[0])
    else:
        vocabulary = {token: n for n, token in enumerate([*names, *PIECES, "/s", "/s>"])}
        merges = [("<", "s"), ("/", "s"), ("/s", ">"), *([("<", "/s>"), ("<s", ">")] if special else [])]
        model = models.BPE(vocabulary, merges, unk_token=names[0], ignore_merges=kind == "whole words")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = (
        pre_tokenizers.WhitespaceSplit() if kind == "word level" else pre_tokenizers.Metaspace()
    )
    made.decoder = decoders.Metaspace()
    if special:
        made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
        made.add_tokens([AddedToken("[INST]", special=False, normalized=False)])
        made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return made


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(["a", "b", " ", "</s>", "<s>", "<unk>", "<", ">", "Q", "/s>"]), max_size=8
    ).map("".join)
)
def test_text_that_spells_a_special_token_gives_the_ids_of_a_vocabulary_without_it(
    kind: str, text: str
) -> None:
    ids = Tokenizer(backend(kind, special=True), 1, 2).encode(text, special_tokens=False)
    assert ids == backend(kind, special=False).encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_tokenizer_itself_adds_stays_and_so_do_other_added_tokens(kind: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(backend(kind, special=True), 1, 2)
    number = tokenizer.backend.token_to_id("[INST]")
    ids = tokenizer.encode("a </s> [INST] a")
    assert ids[0] == 1
    assert ids.count(number) == 1
    assert not {1, 2} & set(ids[1:])
    assert tokenizer.encode_batch(["a </s> [INST] a"]) == [ids[1:]]
    tokenizer.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text("utf-8")) == json.loads(
        backend(kind, special=True).to_str()
    )


def test_text_that_spells_a_byte_token_stays_text_and_characters_still_become_bytes() -> None:
    tokenizer = Tokenizer(backend("unigram with bytes", special=True), 1, 2)
    ids = tokenizer.encode("a<0x41>Q", special_tokens=False)
    assert [tokenizer.backend.id_to_token(token) for token in ids] == [
        "▁a",
        "<",
        "0",
        "x",
        "4",
        "1",
        ">",
        "<0x51>",
    ]
    assert tokenizer.encode_batch(["a<0x41>Q", "a"]) == [ids, ids[:1]]


@pytest.mark.parametrize("kind", ["unigram", "unigram with bytes", "whole words", "merges"])
def test_a_message_that_spells_a_control_token_puts_none_into_a_conversation(kind: str) -> None:
    source = "{% for m in messages %}<s>[INST] {{ m.content }}{{ eos_token }}{% endfor %}"
    template = ChatTemplate(Tokenizer(backend(kind, special=True), 1, 2), source)
    number = template.control_id("[INST]")
    ids = template.encode([{"role": "user", "content": "a </s> <s>[INST] a"}], RenderOptions()).ids
    assert (ids.count(1), ids.count(2), ids.count(number)) == (1, 1, 1)
