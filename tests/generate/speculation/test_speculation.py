"""Proposals, found in the text or drafted by a small network: they change no text, and stop where they do not
pay."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from decoded_text import whole_text
from fixed_step_cost import FixedStepCost

from newleaf.api import Model
from newleaf.errors import InputError
from newleaf.generate.backend.executor import Executor, LoweredExecutor, ModuleExecutor, TokenChunk
from newleaf.generate.backend.runner import LoweredRunner, say_once
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.generate.speculation.acceptance_rates import AcceptanceRates
from newleaf.generate.speculation.draft_model import MAX_LAG
from newleaf.generate.speculation.prompt_lookup import PromptLookup
from newleaf.generate.speculation.step_cost import StepCost
from newleaf.model import GPT, GPTConfig
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

CONTEXT = 128
PROMPTS = ["abc hello", "über", "xyzzy " * 8, "k"]


def make(seed: int = 1, noise: float = 0.0, context: int = CONTEXT, **shape: Any) -> Model:
    """Random weights over raw bytes; `noise` moves those of the same seed a little."""
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    torch.manual_seed(seed)
    config = GPTConfig(
        tokenizer.vocab_size,
        context,
        2,
        2,
        32,
        **{"positions": "rotary", "init_std": 0.3, "tie_embeddings": False} | shape,
    )
    network = GPT(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * noise * weight.std().nan_to_num())
    return Model(network, tokenizer, "newleaf")


@pytest.fixture(scope="module")
def model() -> Model:
    return make()


@pytest.fixture(scope="module")
def sister() -> Model:
    """Agrees with the model more often than not."""
    return make(noise=0.05)


def engine_of(
    model: Model, draft: Model | None, kernels: bool = True, cost: float = 0.01, limit: int | None = None
) -> Engine:
    """Four slots; the draft's steps take `cost` of a step of the model, and rows nothing."""
    slots: Executor = ModuleExecutor(model.network, 4, limit)
    if kernels:
        pytest.importorskip("numba")
        slots = LoweredExecutor(LoweredRunner(model.network, 4, threads=1, limit=limit))
    engine = Engine(
        model.network,
        model.tokenizer,
        executor=slots,
        draft=draft.network if draft is not None else None,
        limit=limit,
    )
    engine.speculator.step_cost = FixedStepCost(1.0, 0.001)
    if engine.speculator.draft is not None:
        engine.speculator.draft.step_cost = FixedStepCost(cost, 0.0)
    return engine


def texts(
    engine: Engine, config: SamplingConfig, prompts: list[str] = PROMPTS
) -> list[tuple[str, list[Any]]]:
    """What each prompt's request gives: text and scores of each of its texts."""
    found: dict[tuple[int, int], tuple[str, list[Any]]] = {}
    for piece in engine.write(prompts, config):
        text, scores = found.get((piece.prompt, piece.sample), ("", []))
        found[piece.prompt, piece.sample] = (
            text + piece.text,
            [*scores, *piece.scores, *([piece.end] if piece.end else [])],
        )
    return [found[key] for key in sorted(found)]


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "min_tokens": 40},
    "sampled": {"temperature": 0.8, "top_p": 0.95, "seed": 3, "min_tokens": 40},
    "penalties": {
        "temperature": 0.7,
        "seed": 4,
        "frequency_penalty": 0.4,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
    },
    "log-probabilities": {"temperature": 0.5, "seed": 5, "logprobs": 2, "min_tokens": 40},
    "several texts": {"temperature": 0.5, "seed": 6, "n": 2},
    "best of": {"temperature": 0.5, "seed": 7, "n": 2, "best_of": 3},
    "forced and banned": {
        "temperature": 0.5,
        "seed": 8,
        "forced_tokens": {3: 97, 9: 98},
        "banned_tokens": [101, 116],
        "logit_bias": {99: 2.0},
    },
    "regex": {"temperature": 0.8, "seed": 9, "regex": "([a-z]{2,5} )*[0-9]{3}"},
    "choice": {"temperature": 0, "choice": ["hello hello hello world", "hello hello hello there"]},
}


@pytest.mark.parametrize(
    ("name", "kernels"), [*((name, True) for name in OPTIONS), ("greedy", False), ("several texts", False)]
)
def test_a_drafts_guesses_change_no_text(model: Model, sister: Model, name: str, kernels: bool) -> None:
    """Against the same engine without proposals, four prompts side by side; log-probabilities too, by the
    kernels to the last bit."""
    if {"regex", "choice"} & OPTIONS[name].keys():
        pytest.importorskip("llguidance")
    config = {"max_tokens": 40} | OPTIONS[name]
    plain = texts(engine_of(model, None, kernels), SamplingConfig(**config, speculation="off"))
    engine = engine_of(model, sister, kernels)
    drafted = texts(engine, SamplingConfig(**config))
    assert [text for text, _ in drafted] == [text for text, _ in plain]
    if kernels:
        assert drafted == plain
    assert engine.speculator.acceptance_counts["draft"].accepted >= 8


def test_stop_strings_end_drafted_text_where_they_begin(model: Model, sister: Model) -> None:
    options: dict[str, Any] = {"max_tokens": 50, "min_tokens": 50, "temperature": 0.5, "seed": 3}
    (whole, _), *_ = texts(engine_of(model, None), SamplingConfig(**options), ["abc"])
    engine = engine_of(model, sister)
    (cut, scores), *_ = texts(engine, SamplingConfig(stop=(whole[20:23],), **options), ["abc"])
    assert cut == whole[: whole.index(whole[20:23])]
    assert scores == ["stop"]
    assert engine.speculator.acceptance_counts["draft"].accepted


def test_greedy_text_is_that_of_stock_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, draft = make(2), make(2, noise=0.03)
    model.save(tmp_path / "model")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for prompt in PROMPTS[:2]:
        ids = model.tokenizer.encode(prompt)
        wanted = stock.generate(
            torch.tensor([ids]), max_new_tokens=80, min_new_tokens=80, do_sample=False, pad_token_id=0
        )[0, len(ids) :]
        found = model.generate(prompt, draft=draft, max_tokens=80, min_tokens=80, temperature=0)
        assert found == whole_text(model.tokenizer, wanted.tolist())


def test_sampled_tokens_have_the_models_distribution(model: Model, sister: Model) -> None:
    """The second token of 400 texts, which the draft proposals, beside what the model's own probabilities
    say: a chi-squared test."""
    from scipy.stats import chisquare

    engine, count = engine_of(model, sister), 400
    ids = model.tokenizer.encode("abc")
    seen: dict[int, int] = {}
    for seed in range(count):
        config = SamplingConfig(
            max_tokens=3, min_tokens=3, temperature=1.0, top_k=4, seed=seed, valid_utf8="off"
        )
        request = engine._enqueue(ids, config, 0)
        list(engine._run_until_done([request]))
        token = request.samples[0].row.ids[len(ids) + 1]
        seen[token] = seen.get(token, 0) + 1
    assert engine.speculator.acceptance_counts["draft"].accepted > count / 3
    allowed = [number for number in range(model.tokenizer.vocab_size) if number != model.tokenizer.eos_id]

    def chances(context: list[int]) -> dict[int, float]:
        with torch.no_grad():
            logits = model.network(torch.tensor([context]))[0, -1, allowed]
        best = logits.topk(4)
        return {
            allowed[place]: float(p)
            for place, p in zip(best.indices.tolist(), best.values.double().softmax(0).tolist(), strict=True)
        }

    wanted: dict[int, float] = {}
    for first, probability in chances(ids).items():
        for second, more in chances([*ids, first]).items():
            wanted[second] = wanted.get(second, 0.0) + count * probability * more
    assert seen.keys() <= wanted.keys()
    assert chisquare([seen.get(token, 0) for token in wanted], list(wanted.values())).pvalue > 0.001


@pytest.mark.parametrize("context", [CONTEXT, 64])
def test_what_the_draft_has_read_is_the_text_whatever_was_wrong_before(model: Model, context: int) -> None:
    """Its logits at every step, beside the draft reading from scratch: after wrong proposals, in company,
    past the end of the contexts."""
    draft = make(noise=0.1, context=context)
    engine = engine_of(model, draft)
    found, checked = engine.speculator.draft, 0
    assert found is not None
    run = found.executor.run

    def checking(parts: list[TokenChunk]) -> torch.Tensor:
        nonlocal checked
        logits = run(parts)
        row = 0
        for part in parts:
            text = next(each for each in engine.scheduler.running if each.slot == part.slot)
            state = engine.speculator.states.of(text)
            drafted = [*state.draft_tokens[:-1], *part.ids] if state.draft_tokens else []
            ids = text.sample.row.ids[state.draft_base :]
            whole = [*ids, *drafted] if drafted else ids[: part.start + len(part.ids)]
            assert len(whole) == part.start + len(part.ids)
            if part.wanted:
                with torch.no_grad():
                    assert torch.allclose(logits[row], draft.network(torch.tensor([whole]))[0, -1], atol=1e-3)
                row, checked = row + 1, checked + 1
        return logits

    found.executor.run = checking  # type: ignore[method-assign]
    config = SamplingConfig(max_tokens=150, min_tokens=150, temperature=0.6, seed=1)
    drafted = texts(engine, config, PROMPTS[:2])
    acceptance_counts = engine.speculator.acceptance_counts["draft"]
    assert 30 < acceptance_counts.accepted < acceptance_counts.proposed
    assert checked > 80
    assert drafted == texts(engine_of(model, None), config, PROMPTS[:2])


def test_a_draft_saves_rounds_and_one_that_is_the_model_itself_is_always_right(
    model: Model, sister: Model
) -> None:
    config = SamplingConfig(max_tokens=96, min_tokens=96, temperature=0)
    rounds = {}
    for name, draft in (("none", None), ("sister", sister), ("itself", model)):
        engine = engine_of(model, draft)
        run, count = engine.executor.run, [0]

        def counting(parts: list[TokenChunk], run: Any = run, count: list[int] = count) -> torch.Tensor:
            count[0] += 1
            return run(parts)  # type: ignore[no-any-return]

        engine.executor.run = counting  # type: ignore[method-assign]
        texts(engine, config, ["über"])
        rounds[name] = count[0]
        if name == "itself":
            assert (
                engine.speculator.acceptance_counts["draft"].accepted
                == engine.speculator.acceptance_counts["draft"].proposed
                > 40
            )
    assert rounds["itself"] < rounds["none"] / 3
    assert rounds["sister"] < rounds["none"] / 1.5


def test_a_draft_that_does_not_pay_is_left_alone(model: Model) -> None:
    """One that is never right, and one that is always right and takes as long as the model; the first costs a
    few steps to find out."""
    config = SamplingConfig(max_tokens=100, min_tokens=100, temperature=1.0, seed=2)
    engine = engine_of(model, make(77), cost=0.1)
    engine.speculator.step_cost = FixedStepCost(1.0, 0.1)
    texts(engine, config)
    assert 0 < engine.speculator.acceptance_counts["draft"].proposed < 60
    costly = engine_of(model, model, cost=0.9)
    costly.speculator.step_cost = FixedStepCost(1.0, 0.3)
    texts(costly, config)
    assert costly.speculator.acceptance_counts["draft"].proposed == 0


def test_what_speculation_knows_of_a_text_goes_with_the_text(model: Model, sister: Model) -> None:
    engine = engine_of(model, sister)
    drive = engine.write(PROMPTS, SamplingConfig(max_tokens=40, min_tokens=40, temperature=0))
    next(drive)
    assert len(engine.speculator.states) > 0
    for _ in drive:
        pass
    gc.collect()
    assert len(engine.speculator.states) == 0


def test_what_texts_begin_with_is_read_once_by_the_draft_too(model: Model, sister: Model) -> None:
    engine = engine_of(model, sister)
    assert engine.speculator.draft is not None
    slots, read = engine.speculator.draft.executor, [0]
    run = slots.run

    def counting(parts: list[TokenChunk]) -> torch.Tensor:
        read[0] += sum(len(part.ids) for part in parts if not part.wanted)
        return run(parts)

    slots.run = counting  # type: ignore[method-assign]
    config = SamplingConfig(max_tokens=5, min_tokens=5, temperature=0)
    texts(engine, config, ["0123456789" * 8])
    assert 80 - MAX_LAG <= read[0] <= 80
    read[0] = 0
    texts(engine, config, ["0123456789" * 8 + "abcdefghijklmnopqrstuv"])
    assert read[0] <= 102 - 64


def test_texts_come_and_go_while_others_are_drafted(model: Model, sister: Model) -> None:
    config = SamplingConfig(max_tokens=60, min_tokens=60, temperature=0.5, seed=3)
    wanted = texts(engine_of(model, None), config, ["abc"])[0][0]
    with engine_of(model, sister) as engine:
        long = [
            engine.submit("xy", SamplingConfig(max_tokens=5000, min_tokens=5000, seed=number))
            for number in range(6)
        ]
        mine = engine.submit("abc", config)
        for request in long[:4]:
            next(iter(request))
            request.cancel()
        assert "".join(piece.text for piece in mine) == wanted
        for request in long:
            request.cancel()


def test_the_drafts_cache_counts_when_texts_are_let_in(model: Model, sister: Model) -> None:
    """A page of this model is 16 KiB, and of its draft too. Of 16 pages a text may need three and three."""
    page = 2 * 2 * 2 * 32 * 16 * 4
    for pages, at_once in ((16, 2), (8, 1)):
        engine = engine_of(model, sister, limit=pages * page)
        engine.executor.runner.pages.most = pages // 2  # type: ignore[attr-defined]
        most, run = 0, engine.executor.run

        def watching(parts: list[TokenChunk], run: Any = run) -> torch.Tensor:
            nonlocal most
            most = max(most, len(parts))
            return run(parts)  # type: ignore[no-any-return]

        engine.executor.run = watching  # type: ignore[method-assign]
        config = SamplingConfig(max_tokens=70, min_tokens=70, temperature=0)
        assert texts(engine, config) == texts(engine_of(model, None), config)
        assert most == at_once
        draft = engine.speculator.draft
        assert draft is not None
        assert draft.executor.runner.pages.nbytes <= pages // 2 * page  # type: ignore[attr-defined]
        with pytest.raises(InputError, match="more memory for keys and values"):
            engine_of(model, sister, limit=4 * page).write(["a" * 40], config)


def test_a_constraint_is_asked_before_anything_is_guessed(model: Model, sister: Model) -> None:
    pytest.importorskip("llguidance")
    engine = engine_of(model, sister)
    proposed: list[str] = []
    record_accepted = engine.speculator.record_accepted

    def judging(sequence: Any, accepted: int) -> None:
        proposed.append(model.tokenizer.decode(engine.speculator._proposals[sequence.slot].tokens))
        record_accepted(sequence, accepted)

    engine.speculator.record_accepted = judging  # type: ignore[method-assign]
    texts(engine, SamplingConfig(max_tokens=80, temperature=1.0, seed=1, regex="(ab|cd|[0-9])*"))
    assert len(proposed) > 10
    assert set("".join(proposed)) <= set("abcd0123456789")


def test_deterministic_engines_give_the_same_bits_with_a_draft(model: Model, sister: Model) -> None:
    config = SamplingConfig(max_tokens=60, min_tokens=60, seed=3, logprobs=1)
    for make_slots in (
        lambda: LoweredExecutor(LoweredRunner(model.network, 4, threads=1), True),
        lambda: ModuleExecutor(model.network, 4),
    ):
        found = []
        for draft in (None, sister.network):
            engine = Engine(
                model.network, model.tokenizer, deterministic=True, executor=make_slots(), draft=draft
            )
            if engine.speculator.draft is not None:
                engine.speculator.step_cost, engine.speculator.draft.step_cost = (
                    FixedStepCost(1.0, 0.0),
                    FixedStepCost(0.01, 0.0),
                )
            found.append(texts(engine, config))
        assert found[0] == found[1]


def test_what_does_not_fit_is_refused_or_said(
    model: Model, sister: Model, caplog: pytest.LogCaptureFixture
) -> None:
    other = make()
    other.tokenizer = train_tokenizer(["abcabc"] * 9, TokenizerConfig(vocab_size=270))
    for draft, options, said in (
        (other, {}, "draft: its tokenizer is another one"),
        (
            make(context=32),
            {},
            "draft: its context of 32 tokens is too short to write ahead in; 64 are the least",
        ),
        (sister, {"beams": 2}, "draft: cannot be combined with beams"),
        (sister, {"guidance_scale": 2.0}, "draft: cannot be combined with guidance_scale"),
        (sister, {"speculation": "off"}, "draft: speculation=off takes no proposals"),
        ("small", {}, "draft: must be a model, as newleaf.load opens one, not 'small'"),
    ):
        with pytest.raises(InputError, match=said):
            model.generate("abc", draft=draft, max_tokens=2, **options)
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "newleaf"):
        model.generate("abc", draft=make(n_inner=512, context=64), max_tokens=2)
    assert "the draft's context of 64 tokens is shorter than the model's" in caplog.text
    assert "the draft's weights take more memory than the model's" in caplog.text


def test_as_many_guesses_are_taken_as_make_most_tokens_a_second() -> None:
    """Against every count tried one by one."""
    step_cost = StepCost()
    for rows, seconds in ((1, 1.0), (2, 1.4), (4, 1.6), (5, 2.2), (8, 2.4), (16, 5.0)):
        step_cost.record(1, rows, seconds)
    assert step_cost.seconds(1, 6) == pytest.approx(2.2 + 0.2 / 3)
    for probability in (0.1, 0.5, 0.7, 0.9, 0.99):
        reach = [probability**count for count in range(1, 16)]
        rates = [(1 + sum(reach[:count])) / step_cost.seconds(1, 1 + count) for count in range(16)]
        count, rate = step_cost.best_count(1, 1, reach)
        assert (count, rate) == (rates.index(max(rates)), pytest.approx(max(rates))) or rates[
            0
        ] * 1.02 >= max(rates)
    assert [step_cost.best_count(1, 1, [probability])[0] for probability in (0.3, 0.5)] == [0, 1]


def test_measured_times_follow_the_machine_and_not_its_hiccups() -> None:
    step_cost = StepCost()
    for _ in range(20):
        step_cost.record(1, 1, 1.0)
    step_cost.record(1, 1, 50.0)
    assert step_cost.seconds(1, 1) < 1.2
    for _ in range(40):
        step_cost.record(1, 1, 2.0)
    assert step_cost.seconds(1, 1) == pytest.approx(2.0, rel=0.02)


def test_look_up_goes_on_with_what_repeats_and_guesses_little_where_it_is_wrong() -> None:
    lookup = PromptLookup()
    assert lookup.find([1, 2, 3, 9, 1, 2, 3], 4) == ([9, 1, 2, 3], 3)
    assert PromptLookup().find([7, 1, 2, 1, 2, 1, 2], 6)[0] == [1, 2, 1, 2, 1, 2]
    assert PromptLookup().find([1, 2, 3, 4], 4) == ([], 0)
    changed = PromptLookup()
    assert changed.find([1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4], 4) == ([5, 6, 7, 8], 4)
    # one token is another one, and then?
    assert changed.find([1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 99], 2) == ([6, 7], 0)
    acceptance = AcceptanceRates((0.5,))
    mine = acceptance.child()
    for _ in range(10):
        mine.record([0, 0, 0], 0)
    assert mine.probability(0) < acceptance.probability(0) < 0.2
    assert acceptance.child().probability(0) == acceptance.probability(0)
    mine.record([0] * 30, 30)
    assert mine.probability(0) > 0.6


def test_counts_are_found_by_their_old_names_for_this_release(model: Model) -> None:
    engine = Engine(model.network, model.tokenizer)
    with pytest.warns(DeprecationWarning, match="guesser is called speculator now"):
        assert engine.guesser is engine.speculator
    with pytest.warns(DeprecationWarning, match="tally is called acceptance_counts now"):
        found = engine.speculator.tally["look-up"]
    with pytest.warns(DeprecationWarning, match="the old name goes with the next release"):
        assert (found.guessed, found.right) == (found.proposed, found.accepted)
