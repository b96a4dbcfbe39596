"""GrammarCompiler of strangers run in processes of their own: what ends one of those is an error of one
text."""

from __future__ import annotations

import json
import os
import signal
import string
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newleaf.errors import InputError
from newleaf.generate.constraints import grammar_compiler, grammar_host
from newleaf.generate.constraints.constraint import Constraint
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.constraints.grammar_host import ProcessLostError
from newleaf.generate.constraints.grammar_source import grammar_source
from newleaf.generate.constraints.schema_limits import MAX_DEPTH
from newleaf.generate.options import SamplingConfig
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

pytest.importorskip("llguidance")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([string.printable], TokenizerConfig(kind="byte"), None)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


def nested(opening: str, closing: str, times: int, inner: str = "") -> str:
    return opening * times + inner + closing * times


def objects(count: int) -> dict[str, Any]:
    """Definitions that each need the next."""
    step = {
        f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}, "required": ["a"]}
        for n in range(count)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**step, f"d{count}": {"type": "null"}}}


def composed(count: int) -> dict[str, Any]:
    step = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**step, f"d{count}": {"type": "null"}}}


def rules(count: int, step: str = "r{} ") -> str:
    return "start: r0\n" + "\n".join(f"r{n}: {step.format(n + 1)}" for n in range(count)) + f'\nr{count}: "b"'


HOSTILE: dict[str, dict[str, Any]] = {
    "the least 64-bit number": {"json_schema": {"const": -(2**63)}},
    "a bound of 64 bits": {"json_schema": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}},
    "object definitions": {"json_schema": objects(1000)},
    "many object definitions": {"json_schema": objects(20_000)},
    "allOf definitions": {"json_schema": composed(20_000)},
    "an allOf chain": {"json_schema": nested('{"allOf":[', "]}", 2000, '{"type":"object"}')},
    "nested arrays": {"json_schema": nested('{"type":"array","items":', "}", 2000, "{}")},
    "a nested constant": {"json_schema": '{"const":' + nested("[", "]", 100_000) + "}"},
    "rules": {"grammar": rules(3000)}, "many rules": {"grammar": rules(50_000)},
    "rules within rules": {"grammar": rules(30_000, '"a" r{} "b"')},
    "terminals": {"grammar": rules(30_000, '"a" R{}').replace("r", "R").replace("staRt: R0", "start: R0")},
    "brackets": {"grammar": f"start: {nested('(', ')', 10_000, chr(34) + 'a' + chr(34))}"},
    "a regex of brackets": {"regex": nested("(", ")", 5000, "a")},
    "a long regex": {"regex": "(a|b?)" * 20_000},
    "repetitions": {"regex": "((((a{1,1000}){1,1000}){1,1000}){1,1000}){1,1000}"},
}  # fmt: skip


@pytest.mark.parametrize("options", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_grammar_that_would_end_the_process_is_an_error_that_names_the_option(
    grammars: GrammarCompiler, options: dict[str, Any]
) -> None:
    constraint, refused = compiled(grammars, **options)
    if constraint is not None:  # deep, but within limits: it works to its end
        write(grammars.tokenizer, constraint, 60)
    else:
        assert refused.startswith(next(iter(options)))
        assert "\n" not in refused
    whole = grammars.compile(SamplingConfig(regex="yes"))
    assert whole is not None
    assert write(grammars.tokenizer, whole) == "yes"


@pytest.mark.parametrize("depth", [200, 5000])
def test_deep_json_is_refused_before_any_work(grammars: GrammarCompiler, depth: int) -> None:
    value: Any = {}
    for _ in range(depth):
        value = {"items": value}
    for schema in (value, nested('{"items":', "}", depth, "{}")):
        with pytest.raises(InputError, match=f"^json_schema: nested more than {MAX_DEPTH} deep$"):
            grammars.compile(SamplingConfig(json_schema=schema))


def test_values_that_are_not_json_are_refused(grammars: GrammarCompiler) -> None:
    ring: dict[str, Any] = {}
    ring["items"] = ring
    for schema in (
        ring,
        {"enum": [float("nan")]},
        '{"enum": [NaN]}',
        {"enum": [{1}]},
        {1: {}},
        {"const": "a" * (5 << 20)},
    ):
        with pytest.raises(InputError, match=r"^json_schema: "):
            grammars.compile(SamplingConfig(json_schema=schema))


def test_a_process_that_ends_stops_its_own_texts_alone(tokenizer: Tokenizer) -> None:
    grammars = GrammarCompiler(tokenizer)
    dying, living = (grammars.compile(SamplingConfig(regex=regex)) for regex in ("[ab]{9}", "[cd]{9}"))
    assert dying is not None
    assert living is not None
    for each, letter in ((dying, "a"), (living, "c")):
        each.take(tokenizer.encode(letter)[0])
    matcher = dying._matcher
    assert matcher is not None
    os.kill(matcher.process.number, signal.SIGKILL)
    assert not dying.allowed(tokenizer.vocab_size).any()
    assert not dying.complete
    assert "grammar library" in dying.problem
    assert write(tokenizer, living).strip("cd") == ""
    again = grammars.compile(SamplingConfig(regex="[ab]{9}"))
    assert again is not None
    assert len(write(tokenizer, again)) == 9


def test_a_process_that_takes_too_long_is_ended(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars = GrammarCompiler(tokenizer)
    assert grammars.compile(SamplingConfig(regex="yes")) is not None
    process = grammars._host.open()
    os.kill(process.number, signal.SIGSTOP)
    monkeypatch.setattr(grammar_host, "STEP_SECONDS", 0.05)
    with pytest.raises(ProcessLostError):
        process.mask(0)
    with pytest.raises(ProcessLostError):
        process.mask(0)


def test_more_grammars_than_are_kept_go_on_where_they_were(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_compiler, "MAX_PROCESSES", 2)
    grammars = GrammarCompiler(tokenizer)
    found = [grammars.compile(SamplingConfig(regex=f"{letter}[0-9]{letter}")) for letter in "vwxyz"]
    texts = [""] * len(found)
    for _ in range(3):
        for number, constraint in enumerate(found):
            assert constraint is not None
            (token,) = constraint.allowed(tokenizer.vocab_size).nonzero()[0].tolist()
            constraint.take(token)
            texts[number] += tokenizer.decode([token])
    assert texts == [f"{letter}0{letter}" for letter in "vwxyz"]
    assert all(constraint is not None and constraint.complete for constraint in found)


def test_where_nothing_can_fork_each_grammar_has_a_process_too(tokenizer: Tokenizer) -> None:
    grammars = GrammarCompiler(tokenizer)
    grammars._host._forks = False
    for regex, text in (("yes", "yes"), ("no", "no")):
        constraint = grammars.compile(SamplingConfig(regex=regex))
        assert constraint is not None
        assert write(tokenizer, constraint) == text


def test_a_grammar_is_compiled_once_for_all_who_use_it(grammars: GrammarCompiler) -> None:
    config = SamplingConfig(json_schema={"type": "object", "properties": {"once": {"type": "boolean"}}})
    (first, _), (second, _) = (grammars.process(grammar_source("json_schema", config)) for _ in range(2))
    assert first is second


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    [
        *(
            "type",
            "properties",
            "items",
            "enum",
            "const",
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "multipleOf",
            "minLength",
        ),
        *(
            "maxLength",
            "pattern",
            "format",
            "required",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
            "$ref",
            "$defs",
            "additionalProperties",
        ),
        *("minItems", "maxItems", "prefixItems", "patternProperties", "minProperties", "maxProperties"),
    ]
)
VALUES = JSON | st.sampled_from(
    ["object", "array", "string", "integer", "number", "null", "#", "#/$defs/a", "(", "^.{3}$", "date"]
)


def within(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    more = inner | st.lists(inner, max_size=3) | VALUES | st.dictionaries(st.text("ab", max_size=1), inner)
    return st.dictionaries(WORDS, more, max_size=4)


SCHEMAS = st.recursive(st.dictionaries(WORDS, VALUES, max_size=3), within, max_leaves=8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=SCHEMAS)
def test_any_schema_is_used_or_refused_in_one_line(grammars: GrammarCompiler, schema: dict[str, Any]) -> None:
    constraint, refused = compiled(grammars, json_schema=schema)
    if constraint is None:
        assert refused.startswith("json_schema")
        assert "\n" not in refused
        return
    text = write(grammars.tokenizer, constraint, 30)
    if constraint.complete:
        json.loads(text)


def compiled(grammars: GrammarCompiler, **options: Any) -> tuple[Constraint | None, str]:
    """The constraint, or why there is none."""
    try:
        return grammars.compile(SamplingConfig(**options)), ""
    except InputError as error:
        return None, str(error)


def write(tokenizer: Tokenizer, constraint: Constraint, most: int = 1000) -> str:
    """The text of the first token that may follow, again and again."""
    ids: list[int] = []
    while not constraint.complete and len(ids) < most:
        flags = constraint.allowed(tokenizer.vocab_size)
        flags[tokenizer.eos_id] &= flags.sum() == 1
        if not flags.any():
            break
        ids.append(int(flags.nonzero()[-1 if len(ids) % 2 else 0]))
        constraint.take(ids[-1])
    return tokenizer.decode(ids)
