"""Strangers' text meets limits that follow from the tokenizer, and takes one pass."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest
import tokenizers
from chat_folders import byte_level, make_folder, sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from newleaf.errors import InputError
from newleaf.text.chat_template import ChatTemplate, RenderOptions
from newleaf.text.control_tokens import Mask, Patterns, _hide_whole, _pattern
from newleaf.text.tokenizer import Tokenizer

TOKENS = ["<|im_end|>", "<|im", "end|>", "ab", "ba", "aba", "|"]


def one_by_one(text: str, pattern: re.Pattern[str], mask: Mask) -> str:
    """The rule itself: as long as there is a token, hide the first character of the first."""
    while match := pattern.search(text):
        text = mask.hide(text, match.start())
    return text


@given(
    st.lists(st.sampled_from([*TOKENS, "a", "b", " ", "<", "x"]), max_size=12),
    st.lists(st.booleans(), min_size=7, max_size=7),
)
def test_tokens_are_hidden_as_if_one_by_one(parts: list[str], alone: list[bool]) -> None:
    tokens = [AddedToken(token, single_word=single) for token, single in zip(TOKENS, alone, strict=True)]
    text, patterns = "".join(parts), _pattern(tokens)
    mask = Mask([text])
    hidden, expected = _hide_whole(text, patterns, mask), one_by_one(text, patterns.whole, Mask([text]))
    if not any(alone):  # those that must be words of their own may come and go while others are hidden
        assert [a == b for a, b in zip(hidden, text, strict=True)] == [
            a == b for a, b in zip(expected, text, strict=True)
        ]
    assert patterns.whole.search(hidden) is None
    assert mask.restore(hidden) == text


def test_a_text_full_of_control_tokens_is_passed_over_once() -> None:
    class Counting:
        def __init__(self, pattern: re.Pattern[str]) -> None:
            self.pattern, self.calls = pattern, 0

        def search(self, text: str) -> re.Match[str] | None:
            self.calls += 1
            return self.pattern.search(text)

    text = "<|im_end|>" * 20_000
    patterns = _pattern([AddedToken("<|im_end|>")])
    counting, mask = Counting(patterns.whole), Mask([text])
    hidden = _hide_whole(text, Patterns(counting, patterns.starts), mask)  # type: ignore[arg-type]
    assert counting.calls == 2
    assert mask.restore(hidden) == text
    assert hidden.count("<") == 0


def test_private_characters_of_the_text_are_left_to_it() -> None:
    text = "\ue000\ue001\U000f0000 <|im_end|>"
    mask = Mask([text])
    hidden = _hide_whole(text, _pattern([AddedToken("<|im_end|>")]), mask)
    assert hidden.startswith("\ue000\ue001\U000f0000 \ue002|im_end|>")
    assert mask.restore(hidden) == text


NAMED = {
    "bos_token": "<|im_end|>",
    "eos_token": "<|im_end|>",
    "messages": [],
    "tools": [],
    "add_generation_prompt": False,
    "raise_exception": "x",
    "unk_token": "x",
    "continue_final_message": True,
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_the_callers_to_choose_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"template variables: {name} "):
        RenderOptions(variables={name: NAMED[name]})


SOURCE = (
    "{{ one }}{{ many[0].a }}{% for name, value in many[1].items() %}{{ name }}{{ value }}{% endfor "
    "%}{{ head }}{{ tail }}<|im_end|>"
)


def test_what_variables_hold_is_text_however_deep_it_lies(tmp_path: Path) -> None:
    token = "<|im_end|>"
    template = ChatTemplate(Tokenizer.load(make_folder(tmp_path / "folder", "chatml", SOURCE)), SOURCE)
    values = {"one": token, "many": [{"a": token}, {token: token}], "head": "<|im_", "tail": "end|>"}
    found = template.encode([{"role": "user", "content": "x"}], RenderOptions(variables=values))
    assert found.text == token * 6
    assert found.ids.count(template.control_id(token)) == 1  # the template's own


def kinds() -> dict[str, tokenizers.Tokenizer]:
    composing, lower = byte_level(), byte_level()
    composing.normalizer = normalizers.NFC()
    lower.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    return {
        "bytes": byte_level(),
        "sentencepiece": sentencepiece(),
        "NFC": composing,
        "NFKC and lower case": lower,
    }


KINDS = kinds()


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.one_of(st.text(max_size=60), st.text("가\u1100\u1161\u11a8𝐀K\u0301\u0345a ▁", max_size=60)))
def test_no_token_stands_for_more_bytes_than_the_bound(kind: str, text: str) -> None:
    tokenizer = Tokenizer(KINDS[kind])
    most = tokenizer.max_token_bytes
    assert most is not None
    assert len(text.encode()) <= most * len(tokenizer.encode(text))


def test_tokenizers_that_leave_parts_of_texts_out_have_no_such_bound() -> None:
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    stripping, greedy = byte_level(), byte_level()
    stripping.normalizer = normalizers.Strip()
    greedy.add_tokens([AddedToken("<x>", lstrip=True)])
    unknown = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    for backend in (words, stripping, greedy, unknown):
        assert Tokenizer(backend).max_token_bytes is None


def test_other_threads_run_while_a_long_text_is_encoded_and_decoded() -> None:
    tokenizer = Tokenizer(byte_level())
    text = "The capital of France is Paris, they say. " * 12_000
    state: dict[str, object] = {}

    def work() -> None:
        state["ids"] = tokenizer.encode(text)
        state["text"] = tokenizer.decode(state["ids"])  # type: ignore[arg-type]

    thread, turns = threading.Thread(target=work), 0
    thread.start()
    while thread.is_alive():
        turns += 1
        time.sleep(0.001)
    assert state["text"] == text
    assert turns > 20  # one that holds Python's lock leaves two or three
