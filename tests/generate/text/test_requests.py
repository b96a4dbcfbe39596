"""What a request asks for around the choice of tokens: several texts, the best, log-probabilities, echo,
ends, truncation, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from decoded_text import whole_text

from newleaf.api import Model
from newleaf.errors import InputError
from newleaf.generate.sampling.logprobs import TokenScore
from newleaf.generate.text.request import merge_pieces
from newleaf.generate.text.text_state import Piece
from newleaf.model import GPT, GPTConfig
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0, "seed": 4}


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(1)
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    # Wider than the tokenizer: the rows past its end must count for nothing.
    return Model(
        GPT(GPTConfig(tokenizer.vocab_size + 7, 64, 2, 2, 32, init_std=0.3)).eval(), tokenizer, "gpt2"
    )


def network_logprobs(model: Model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        # As stock transformers has it: rows of the head that the tokenizer has no token for count too.
        return model.network(torch.tensor([ids]))[0].log_softmax(-1)[:, : model.tokenizer.vocab_size]


def test_n_is_a_list_of_texts_and_none_is_a_text(model: Model) -> None:
    texts = model.generate("ab", n=3, **OPTIONS)
    assert len(set(texts)) == 3
    assert texts[0] == model.generate("ab", **OPTIONS)
    assert model.generate("ab", n=1, **OPTIONS) == texts[:1]
    assert "".join(model.stream("ab", **OPTIONS)) == texts[0]


def test_logprobs_are_the_networks_own_for_the_prompt_and_for_what_is_written(model: Model) -> None:
    found = model.complete(
        "hello", n=2, logprobs=3, prompt_logprobs=2, repetition_penalty=1.5, top_k=40, **OPTIONS
    )
    for text in found:
        ids = model.tokenizer.encode("hello")
        whole = ids + [token.id for token in text.tokens]
        logprobs = network_logprobs(model, whole)
        assert len(text.tokens) == 12 or text.end == "end"
        assert text.prompt_tokens[0].logprob is None
        for place, (token, top) in enumerate(
            [*((token, 2) for token in text.prompt_tokens), *((token, 3) for token in text.tokens)]
        ):
            assert token.id == whole[place]
            if place:
                best = logprobs[place - 1].topk(top)
                assert token.logprob == pytest.approx(float(logprobs[place - 1, token.id]), abs=1e-4)
                assert [each for each, _ in token.top] == best.indices.tolist()
                assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_best_of_keeps_the_texts_with_the_highest_mean_logprob(model: Model) -> None:
    every = model.complete("hello", n=8, logprobs=0, **OPTIONS)
    means = [sum(token.logprob or 0 for token in text.tokens) / len(text.tokens) for text in every]
    wanted = sorted(zip(means, (text.text for text in every), strict=True), reverse=True)[:2]
    best = model.complete("hello", n=2, best_of=8, **OPTIONS)
    assert [text.text for text in best] == [text for _, text in wanted]
    assert [text.rank for text in best] == pytest.approx([mean for mean, _ in wanted], abs=1e-5)


def test_echo_puts_the_prompt_before_each_text(model: Model) -> None:
    plain = model.generate("hello ", n=2, **OPTIONS)
    assert model.generate("hello ", n=2, echo=True, **OPTIONS) == ["hello " + text for text in plain]


def test_a_stop_id_ends_the_text_before_its_token_and_not_before_min_tokens(model: Model) -> None:
    ids = [token.id for token in model.complete("ab", logprobs=0, **OPTIONS)[0].tokens]
    found = model.complete("ab", stop_ids=[ids[4]], **OPTIONS)[0]
    assert found.end == "stop"
    assert found.text == whole_text(model.tokenizer, ids[: ids.index(ids[4])])
    later = model.complete("ab", stop_ids=[ids[4]], min_tokens=12, logprobs=0, **OPTIONS)[0]
    assert later.end == "length"
    assert ids[4] not in [token.id for token in later.tokens]


def test_forced_and_banned_tokens_and_biases_reach_the_text(model: Model) -> None:
    x, y, z = model.tokenizer.encode("xyz")
    assert model.generate("ab", forced_tokens={0: x, 2: y}, max_tokens=3, logit_bias={z: 1000.0}) == "xzy"
    assert (
        model.generate("ab", max_tokens=5, logit_bias={z: 1000.0, y: 999.0}, banned_tokens=[z], temperature=0)
        == "yyyyy"
    )


def test_options_that_leave_no_token_end_the_text_as_stuck(model: Model) -> None:
    found = model.complete("ab", banned_tokens=list(range(model.tokenizer.vocab_size)), logprobs=0)[0]
    assert (found.text, found.end, found.tokens) == ("", "stuck", [])
    assert (
        model.complete("ab", banned_tokens=list(range(model.tokenizer.vocab_size)), beams=2)[0].end == "stuck"
    )


def test_a_prompt_that_is_too_long_is_refused_or_cut_on_the_left(model: Model) -> None:
    long = "".join(chr(97 + n % 26) for n in range(150))
    with pytest.raises(InputError, match=r"150 tokens.*the context is 64.*truncate=left"):
        model.generate(long)
    assert model.generate(long, truncate="left", **OPTIONS) == model.generate(long[-52:], **OPTIONS)
    assert model.generate(long, truncate="left", echo=True, **OPTIONS).startswith(long[-52:])
    assert (
        len(model.complete(long, truncate="left", max_tokens=60, min_tokens=60, logprobs=0)[0].tokens) == 60
    )


def test_guidance_goes_on_when_the_context_is_full(model: Model) -> None:
    found = model.complete(
        "a" * 50, guidance_scale=1.5, negative_prompt="b", max_tokens=40, min_tokens=40, logprobs=0
    )[0]
    assert len(found.tokens) == 40


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temprature": 1}, "temprature: no such option; did you mean temperature?"),
        ({"stop": 5}, "stop: must be a text or a list of texts, not 5; token ids go into stop_ids"),
        ({"stop": ["a", 7]}, "stop: must be a text or a list of texts"),
        ({"stop_ids": [264]}, "stop_ids: there is no token 264; the ids of this model end at "),
        ({"logit_bias": {"999999": 1}}, "logit_bias: there is no token 999999"),
        ({"beams": 2, "temperature": 0.5}, "temperature: cannot be combined with beams"),
        ({"truncate": "right"}, "truncate: 'right' is not one of left"),
        ({"logprobs": 2}, "logprobs: generate returns text only"),
    ],
)
def test_wrong_options_are_refused_by_name(model: Model, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        model.generate("a", **options)
    assert str(caught.value).startswith(said)


def test_an_empty_prompt_without_a_beginning_of_text_is_refused(model: Model) -> None:
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    tokenizer.bos_id = None
    with pytest.raises(InputError, match="the prompt is empty"):
        Model(model.network, tokenizer, "gpt2").generate("")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_file_of_prompts_becomes_one_line_each_as_if_written_alone(model: Model, tmp_path: Path) -> None:
    prompts = ["hello", "a", "much longer than the others", "ü"]
    rows = [{"id": number, "prompt": prompt} for number, prompt in enumerate(prompts)]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    greedy = {"temperature": 0, "max_tokens": 20}
    assert model.generate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", batch=3, **greedy) == 4
    found = read(tmp_path / "out.jsonl")
    assert [{"id": row["id"], "prompt": row["prompt"]} for row in found] == rows
    assert [row["text"] for row in found] == [model.generate(prompt, **greedy) for prompt in prompts]
    assert {row["end"] for row in found} <= {"length", "end"}


def test_a_second_start_goes_on_after_the_last_whole_line_with_the_same_texts(
    model: Model, tmp_path: Path
) -> None:
    prompts = tmp_path / "in.txt"
    prompts.write_text("one\n\ntwo\nthree\nfour\nfive\n")
    model.generate_file(prompts, tmp_path / "whole.jsonl", batch=2, n=2, **OPTIONS)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert len(read(tmp_path / "whole.jsonl")) == 5
    lines = whole.splitlines(keepends=True)
    (tmp_path / "part.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    (tmp_path / "whole.jsonl.settings.json").rename(tmp_path / "part.jsonl.settings.json")
    heard: list[tuple[int, int]] = []
    assert (
        model.generate_file(
            prompts,
            tmp_path / "part.jsonl",
            batch=1,
            n=2,
            on_progress=lambda *done: heard.append(done),
            **OPTIONS,
        )
        == 2
    )
    assert heard == [(3, 5), (4, 5)]
    assert (tmp_path / "part.jsonl").read_bytes() == whole  # the same draws, whatever the batch
    assert model.generate_file(prompts, tmp_path / "part.jsonl", n=2, **OPTIONS) == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.exe", "x", "a.exe: prompts come from"), ("a.txt", "\n \n", "a.txt: holds no prompt"),
        ("a.jsonl", '{"prompt": "x"}\n{"p', "a.jsonl:2: not"),
        ("a.jsonl", '{"text": "x"}', "a.jsonl:1: has no field prompt"),
        ("a.jsonl", '{"prompt": "x", "end": 1}', "a.jsonl:1: has a field end"),
        ("a.txt", "ok\n" + "x" * 70, "a.txt:2: the prompt has 70 tokens"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_before_anything_is_written(
    model: Model, tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        model.generate_file(tmp_path / name, tmp_path / "out.jsonl")
    assert said in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_of_other_prompts_is_not_touched(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    (tmp_path / "out.jsonl").write_text('{"prompt": "two", "text": "x"}\n{"half')
    with pytest.raises(InputError, match=r"out\.jsonl:1: is not what these prompts give"):
        model.generate_file(tmp_path / "in.txt", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == '{"prompt": "two", "text": "x"}\n{"half'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 2}, "seed=4 (now 2)"),
        ({"max_tokens": 5}, "max_tokens=12 (now 5)"),
        ({"temperature": 0.5}, "temperature="),
        ({"stop": ["x"]}, "stop="),
    ],
)
def test_a_file_written_with_other_options_is_refused_and_untouched(
    model: Model, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    prompts, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    prompts.write_text("one\ntwo\nthree\n")
    model.generate_file(prompts, out, **OPTIONS)
    part = b"".join(out.read_bytes().splitlines(keepends=True)[:2]) + b'{"half'
    out.write_bytes(part)
    with pytest.raises(InputError) as caught:
        model.generate_file(prompts, out, **OPTIONS | change)
    assert said in str(caught.value)
    assert out.read_bytes() == part
    assert model.generate_file(prompts, out, overwrite=True, **OPTIONS | change) == 3
    assert model.generate_file(prompts, out, **OPTIONS | change) == 0


def test_a_file_written_by_another_model_is_refused(model: Model, tmp_path: Path) -> None:
    prompts, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    prompts.write_text("one\n")
    model.generate_file(prompts, out, **OPTIONS)
    torch.manual_seed(9)
    other = Model(GPT(model.network.config).eval(), model.tokenizer, "gpt2")
    with pytest.raises(InputError, match="was written by another model"):
        other.generate_file(prompts, out, **OPTIONS)
    (tmp_path / "out.jsonl.settings.json").unlink()
    with pytest.raises(InputError, match=r"no out\.jsonl\.settings\.json that says"):
        model.generate_file(prompts, out, **OPTIONS)


def test_pieces_that_came_meanwhile_are_one_for_each_text() -> None:
    score = TokenScore(5, -1.0, ())
    came = [
        Piece(0, "a", scores=(score,)),
        Piece(1, "x"),
        Piece(0, "b", scores=(score,)),
        Piece(0, "", "length", past_context=True),
        Piece(1, "y"),
    ]
    assert merge_pieces(came) == [Piece(0, "ab", "length", (score, score), past_context=True), Piece(1, "xy")]
    assert merge_pieces([]) == []
