"""What is written under a constraint fits it, whatever the network would like: random weights, high
temperatures."""

from __future__ import annotations

import json
import re
import textwrap
import time
from pathlib import Path

import jsonschema
import pytest
import torch
from fake_clocks import HANGS

from newleaf.api import Model, load
from newleaf.errors import InputError
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.sampler import SamplerRow, process_logits, sample_tokens
from newleaf.model import GPT, GPTConfig
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

pytest.importorskip("llguidance")

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer", "minimum": 0,
    "maximum": 150},
                   "tags": {"type": "array", "items": {"enum": ["red", "grün", "蓝"]}, "maxItems": 3},
                   "mother": {"$ref": "#/$defs/other"}},
    "required": ["name", "age", "tags"], "additionalProperties": False,
    "$defs": {"other": {"type": ["null", "boolean"]}},
}  # fmt: skip


@pytest.fixture(scope="module", params=["bpe", "byte", "char", "unigram"])
def model(request: pytest.FixtureRequest) -> Model:
    return make(request.param)


def make(kind: str) -> Model:
    torch.manual_seed(1)
    text = Path(textwrap.__file__).read_text("utf-8") + json.dumps(PERSON)
    tokenizer = train_tokenizer(
        [text], TokenizerConfig(kind=kind), 400 if kind in ("bpe", "unigram") else None
    )
    return Model(GPT(GPTConfig(tokenizer.vocab_size, 256, 1, 2, 32, init_std=0.3)).eval(), tokenizer, "qwen3")


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_json_schema_is_kept_or_the_end_says_length(model: Model, temperature: float) -> None:
    whole = 0
    for found in model.complete(
        "a", n=12, json_schema=PERSON, max_tokens=150, temperature=temperature, seed=1
    ):
        assert found.end in ("end", "length")
        if found.end == "end":
            jsonschema.validate(json.loads(found.text), PERSON)
            whole += 1
    assert whole >= 6 or temperature == 0


def test_a_json_object_a_regex_a_grammar_and_a_choice_are_kept(model: Model) -> None:
    options = {"temperature": 1.5, "seed": 3, "max_tokens": 120, "n": 8}
    for found in model.complete("a", json_object=True, **options):
        assert found.end == "length" or isinstance(json.loads(found.text), dict)
    for found in model.complete("a", regex=r"[A-Z]{3}-[0-9]{2,4}é", **options):
        assert found.end == "end"
        assert re.fullmatch(r"[A-Z]{3}-[0-9]{2,4}é", found.text)
    for found in model.complete("a", grammar='start: NUM ("+" NUM){1,4} "=?"\nNUM: /[0-9]{1,3}/', **options):
        assert found.end == "end"
        assert re.fullmatch(r"\d{1,3}(\+\d{1,3}){1,4}=\?", found.text)
    choices = ["yes", "no", "no way.*", 'a "quote"\n/\\', "não"]
    texts = [found.text for found in model.complete("a", choice=choices, **options | {"n": 24})]
    assert set(texts) <= set(choices)
    assert len(set(texts)) > 1


def test_an_end_by_length_is_told_from_a_whole_text() -> None:
    model = make("byte")
    found = model.complete("a", choice=["abcdef"], max_tokens=3, temperature=0)[0]
    assert (found.text, found.end) == ("abc", "length")
    assert model.complete("a", choice=["abcdef"], max_tokens=6, temperature=0)[0].end == "end"


def test_constraints_work_with_beams_bans_guidance_and_streams() -> None:
    model = make("bpe")
    options = {"choice": ["left", "right", "straight on"]}
    assert model.complete("a", beams=3, **options)[0].text in options["choice"]
    assert model.generate("a", guidance_scale=2.0, temperature=0, **options) in options["choice"]
    assert "".join(model.stream("a", seed=1, **options)) in options["choice"]
    # A ban that leaves nothing is set aside, and so is the wish for more tokens than the grammar has.
    every = list(range(model.tokenizer.vocab_size))
    assert model.generate("a", banned_tokens=every, min_tokens=40, **options) in options["choice"]
    texts = model.generate("a", n=20, no_repeat_ngram_size=1, regex="(ab){12}", seed=1)
    assert set(texts) == {"ab" * 12}


def test_beams_under_a_constraint_find_the_likeliest_choice() -> None:
    model = make("byte")
    choices = ["cat", "dog", "cow", "owl", "oxen"]
    ids = model.tokenizer.encode("a")

    def likelihood(text: str) -> float:
        whole = [*ids, *model.tokenizer.encode(text)]
        with torch.no_grad():
            logprobs = model.network(torch.tensor([whole]))[0].log_softmax(-1)
        return sum(float(logprobs[place - 1, whole[place]]) for place in range(len(ids), len(whole)))

    best = max(choices, key=likelihood)
    found = model.complete("a", beams=8, choice=choices, length_penalty=0)[0]
    assert found.text == best
    assert found.rank == pytest.approx(likelihood(best), abs=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regex": "[0-9]{3}-(ab|"}, r"regex, character 10 of .*: unclosed group"),
        ({"regex": "(?=a)b"}, r"regex, character 1 of .*look-around"),
        ({"grammar": 'start: a b\na: "x"'}, r"grammar, line 1, column 8: unknown name"),
        ({"grammar": 'start: "a"\nb: "c"\n %'}, r"grammar, line 3, column 3"),
        ({"json_schema": '{"type":\n "object",}'}, r"json_schema, line 2, column 1\d: not valid JSON"),
        ({"json_schema": {"type": "strnig"}}, r"json_schema, at #/type: Invalid type: strnig"),
        ({"json_schema": {"properties": {"a": {"items": {"type": "string", "pattern": "(["}}}}},
         r"json_schema, at #/properties/a/items/pattern: character 2 of .*: unclosed character class"),
        ({"json_schema": {"anyOf": [{"type": "null"}, {"type": "array", "uniqueItems": True}]}},
         r"json_schema, at #/anyOf/1/uniqueItems: the keyword uniqueItems cannot be kept"),
        ({"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}},
         r"json_schema, at #/minimum: no text fits it: minimum \(5\) is greater than maximum \(3\)"),
        ({"json_schema": False}, "json_schema"),
        ({"json_schema": [1]}, "json_schema: must be an object"),
        ({"choice": [""]}, "choice"),
    ],
)  # fmt: skip
def test_what_is_not_valid_is_one_line_with_the_place(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        make("byte").generate("a", **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(next(iter(options)))


@pytest.mark.parametrize(
    "options",
    [
        {"regex": "((a{1,1000}){1,1000}){1,1000}"},
        {"regex": r"(.*a.{1000}){500}"},
        {
            "json_schema": {
                "type": "array",
                "items": {"enum": [f"value {number}" for number in range(100_000)]},
            }
        },
        {"grammar": 'start: a a a a a a a a\na: a a | "x" | ""'},
    ],
)
def test_pathological_constraints_are_bounded_in_time_and_memory(options: dict[str, object]) -> None:
    psutil = pytest.importorskip("psutil")
    model, begun, before = make("byte"), time.monotonic(), psutil.Process().memory_info().rss
    try:
        (found,) = model.complete("a", max_tokens=60, temperature=1.0, seed=1, **options)
        assert found.end in ("length", "stuck", "end")
    except InputError as error:
        refused = str(error)
        assert "\n" not in refused
    assert time.monotonic() - begun < HANGS
    assert psutil.Process().memory_info().rss - before < 1_000_000_000


def test_a_tokenizer_that_puts_a_space_before_texts_can_be_constrained(tmp_path: Path) -> None:
    from chat_folders import make_chat_model

    model = load(make_chat_model(tmp_path / "m", "mistral"))
    for seed in range(3):
        found = model.complete(
            "a",
            json_schema={"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
            max_tokens=200,
            seed=seed,
        )[0]
        assert found.end == "end"
        assert all(isinstance(item, bool) for item in json.loads(found.text))


def test_a_greedy_choice_is_the_likeliest_of_all_that_fit_whether_or_not_all_were_found(model: Model) -> None:
    config = SamplingConfig(regex=r"([a-z]+ ?){80}", temperature=0, max_tokens=60)
    row = SamplerRow(config, [1], 1, seed=1, constraint=GrammarCompiler(model.tokenizer).compile(config))
    generator, fit_vocabulary = torch.Generator().manual_seed(5), 0
    for _ in range(30):
        logits = torch.randn(1, model.tokenizer.vocab_size, generator=generator)
        wanted = process_logits(logits, [row]).argmax(-1).tolist()
        assert sample_tokens(logits, [row]) == wanted
        fit_vocabulary += wanted == logits.argmax(-1).tolist()
        row.take(wanted[0])
    assert 0 < fit_vocabulary < 30
