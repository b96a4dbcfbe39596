"""Writing: streams, stops, seeds, contexts that fill up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from decoded_text import whole_text
from hypothesis import given
from hypothesis import strategies as st

from newleaf.api import Model
from newleaf.errors import InputError
from newleaf.generate.text.stop_strings import StopFinder
from newleaf.model import GPT, GPTConfig
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="module")
def model() -> Model:
    """Random weights and raw bytes: almost everything it writes is broken UTF-8."""
    torch.manual_seed(1)
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    return Model(GPT(GPTConfig(tokenizer.vocab_size, 32, 2, 2, 32, init_std=0.3)).eval(), tokenizer, "gpt2")


def test_the_pieces_of_a_stream_put_together_are_the_text(model: Model) -> None:
    pieces = list(model.stream("über", max_tokens=60, min_tokens=60, temperature=1.0, seed=5))
    assert len(pieces) > 5
    assert "".join(pieces) == model.generate("über", max_tokens=60, min_tokens=60, temperature=1.0, seed=5)


def test_the_same_seed_gives_the_same_text_and_another_seed_another(model: Model) -> None:
    first, second, third = (
        model.generate("a", max_tokens=30, min_tokens=30, temperature=1.0, seed=seed) for seed in (1, 1, 2)
    )
    assert first == second != third


def test_several_samples_differ_and_the_first_is_the_single_one(model: Model) -> None:
    texts = model.generate("a", n=3, max_tokens=30, min_tokens=30, temperature=1.0, seed=1)
    assert len(set(texts)) == 3
    assert texts[0] == model.generate("a", max_tokens=30, min_tokens=30, temperature=1.0, seed=1)


def test_writing_goes_on_when_the_context_is_full(model: Model) -> None:
    text = model.generate("0123456789", max_tokens=100, min_tokens=100, temperature=1.0, seed=1)
    ids = model.tokenizer.encode("0123456789")
    assert len(text) > 20
    assert len(ids) + 100 > model.network.config.context_length


@pytest.mark.parametrize("way", [{}, {"best_of": 2}, {"beams": 2}, {"guidance_scale": 1.5}])
@pytest.mark.parametrize("more", [0, 1])
def test_a_text_that_outgrows_the_context_is_marked_and_told(
    way: dict[str, Any], more: int, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    """The context has 32 tokens: 10 of the prompt, and 22 that fit or 23."""
    assert len(model.tokenizer.encode("0123456789")) == 10
    options = {"max_tokens": 22 + more, "min_tokens": 22 + more, "seed": 1} | (
        {} if "beams" in way else {"temperature": 1.0}
    )
    (found,) = model.complete("0123456789", **options | way)
    assert (found.end, found.past_context) == ("length", bool(more))
    assert ("longer, prompt included, than the model's context of 32 tokens" in caplog.text) == bool(more)


def test_a_file_of_prompts_names_the_texts_that_outgrew_the_context(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in.txt").write_text("ab\n0123456789012345\ncd\n0123456789012345\n")
    model.generate_file(
        tmp_path / "in.txt", tmp_path / "out.jsonl", batch=1, max_tokens=20, min_tokens=20, seed=1
    )
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row.get("past_context", False) for row in rows] == [False, True, False, True]
    assert [record.message.split(" longer")[0] for record in caplog.records] == ["2 texts are"]


def test_writing_within_the_context_equals_a_plain_loop_without_a_cache(model: Model) -> None:
    ids = model.tokenizer.encode("abc")
    for _ in range(25):
        with torch.no_grad():
            ids.append(int(model.network(torch.tensor([ids]))[0, -1].argmax()))
    end = model.tokenizer.eos_id
    wanted = ids[3:] if end not in ids[3:] else ids[3 : ids.index(end, 3)]
    assert model.generate("abc", max_tokens=25, temperature=0) == whole_text(model.tokenizer, wanted)


def test_a_stop_string_ends_the_text_before_itself(model: Model) -> None:
    whole = model.generate("a", max_tokens=60, min_tokens=60, temperature=1.0, seed=3)
    stop = whole[7:9]
    text = model.generate("a", max_tokens=60, min_tokens=60, temperature=1.0, seed=3, stop=[stop])
    assert text == whole[: whole.index(stop)]
    ends = [
        piece.end
        for piece in model.pieces("a", max_tokens=60, min_tokens=60, temperature=1.0, seed=3, stop=[stop])
    ]
    assert ends[-1] == "stop"


def test_min_tokens_keeps_the_end_away(model: Model) -> None:
    end = model.tokenizer.eos_id
    assert end is not None
    eager = GPT(model.network.config.replace(tie_embeddings=False, head_bias=True)).eval()
    with torch.no_grad():
        eager.head.bias[end] = 100.0
    hasty = Model(eager, model.tokenizer, "newleaf")
    assert hasty.generate("a", max_tokens=20, temperature=1.0, seed=1) == ""
    letters = sum(
        len(piece.text) for piece in hasty.pieces("a", max_tokens=20, min_tokens=9, temperature=1.0, seed=1)
    )
    assert 3 <= letters <= 9  # nine bytes, of which those of one broken character may come out as one


def test_an_empty_prompt_starts_from_the_beginning_of_text(model: Model) -> None:
    bos = model.tokenizer.bos_id
    with torch.no_grad():
        first = int(model.network(torch.tensor([[bos]]))[0, -1].argmax())
    assert model.generate("", max_tokens=1, temperature=0) == whole_text(model.tokenizer, [first])


def test_a_prompt_that_leaves_no_room_is_refused(model: Model) -> None:
    with pytest.raises(
        InputError, match="the prompt has 32 tokens and leaves no room to write: the context is 32"
    ):
        model.generate("x" * 32)


@given(
    st.text(alphabet="abc", max_size=40),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.data(),
)
def test_stops_are_found_however_the_text_is_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    """The text up to the earliest stop, whatever pieces it came in; among stops that end at one place, pushed
    text decides."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    finder = StopFinder(tuple(stops))
    out = (
        "".join(finder.push(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))
        + finder.finish()
    )
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    if not places:
        assert out == text
    else:
        assert text.startswith(out)
        assert not any(stop in out for stop in stops)
        assert finder.found
