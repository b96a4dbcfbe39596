"""Temperature, truncations and draws: stock transformers' own processors are the reference, on the same
logits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from scipy.stats import chisquare, kstest
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from newleaf.errors import InputError
from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.counter_rng import uniform
from newleaf.generate.sampling.sampler import NO_TOKEN_ALLOWED, SamplerRow, sample_tokens
from newleaf.generate.sampling.truncation import draw, probabilities

LOGITS = torch.randn(6, 50, generator=torch.Generator().manual_seed(3)) * 3


def rows_of(config: SamplingConfig, count: int, seed: int = 0) -> list[SamplerRow]:
    return [SamplerRow(config, [1], 1, seed, stream) for stream in range(count)]


CASES: list[tuple[dict[str, float], list[object]]] = [
    ({"temperature": 0.7}, [TemperatureLogitsWarper(0.7)]),
    ({"temperature": 1.3, "top_k": 7}, [TemperatureLogitsWarper(1.3), TopKLogitsWarper(7)]),
    ({"temperature": 1.0, "top_p": 0.6}, [TopPLogitsWarper(0.6)]),
    ({"temperature": 1.0, "top_p": 0.0001}, [TopPLogitsWarper(0.0001)]),
    ({"temperature": 0.9, "min_p": 0.1}, [TemperatureLogitsWarper(0.9), MinPLogitsWarper(0.1)]),
    ({"temperature": 1.0, "typical_p": 0.5}, [TypicalLogitsWarper(0.5)]),
    (
        {"temperature": 1.5, "top_k": 30, "typical_p": 0.9},
        [TemperatureLogitsWarper(1.5), TopKLogitsWarper(30), TypicalLogitsWarper(0.9)],
    ),
    (
        {"temperature": 0.9, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "typical_p": 0.95},
        [
            TemperatureLogitsWarper(0.9),
            TopKLogitsWarper(20),
            TopPLogitsWarper(0.8),
            MinPLogitsWarper(0.05),
            TypicalLogitsWarper(0.95),
        ],
    ),
    ({"temperature": 1.0, "top_k": 500}, []),
]


def stock(reference: Sequence[object], logits: torch.Tensor) -> torch.Tensor:
    found = LogitsProcessorList(reference)(torch.zeros(len(logits), 1, dtype=torch.long), logits.clone())  # type: ignore[arg-type]
    return found.softmax(-1)


@pytest.mark.parametrize(("options", "reference"), CASES)
def test_probabilities_are_those_of_stock_transformers(
    options: dict[str, float], reference: list[object]
) -> None:
    wanted = stock(reference, LOGITS)
    torch.testing.assert_close(
        probabilities(LOGITS, [SamplingConfig(**options)] * 6), wanted, atol=1e-6, rtol=1e-5
    )  # type: ignore[arg-type]


def test_rows_with_options_of_their_own_do_not_touch_each_other() -> None:
    cases = [case for case in CASES if case[1]]
    logits = torch.randn(len(cases), 3000, generator=torch.Generator().manual_seed(4))
    together = probabilities(logits, [SamplingConfig(**options) for options, _ in cases])  # type: ignore[arg-type]
    for row, (_, reference) in enumerate(cases):
        torch.testing.assert_close(
            together[row : row + 1], stock(reference, logits[row : row + 1]), atol=1e-6, rtol=1e-4
        )


def test_a_flat_distribution_over_a_large_vocabulary_keeps_its_top_p() -> None:
    """More tokens than the likeliest thousand are needed: a slow reference by sorting all."""
    logits = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(4)) / 10
    found = probabilities(logits, [SamplingConfig(temperature=1.0, top_p=p) for p in (0.7, 0.02)])
    for row, p in enumerate((0.7, 0.02)):
        chances = sorted(logits[row].double().softmax(-1).tolist(), reverse=True)
        needed, reached = 0, 0.0
        while reached < p:
            reached, needed = reached + chances[needed], needed + 1
        assert abs(int((found[row] > 0).sum()) - needed) <= 2  # rounding in single precision


def test_tiny_temperatures_do_not_overflow() -> None:
    found = probabilities(LOGITS * 1e4, [SamplingConfig(temperature=1e-38)] * 6)
    assert torch.equal(found.argmax(-1), LOGITS.argmax(-1))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 9}, {"top_p": 0.8, "temperature": 1.7}, {"min_p": 0.05}, {"typical_p": 0.7}]
)
def test_draws_have_the_probabilities_they_should(options: dict[str, float]) -> None:
    config = SamplingConfig(**{"temperature": 1.0, **options})  # type: ignore[arg-type]
    draws = torch.tensor(sample_tokens(LOGITS[:1].expand(8000, -1), rows_of(config, 8000)))
    expected = probabilities(LOGITS[:1], [config])[0]
    found = torch.bincount(draws, minlength=50)
    assert found[expected == 0].sum() == 0
    often = expected * 8000 >= 5  # what the chi-square test asks for; the rest is one class
    counts = [*found[often].tolist(), int(found[~often].sum())]
    wanted = [*(expected[often].double() * 8000).tolist(), float(expected[~often].double().sum() * 8000)]
    if wanted[-1] < 1:
        counts, wanted = [*counts[:-2], counts[-2] + counts[-1]], [*wanted[:-2], wanted[-2] + wanted[-1]]
    scale = sum(counts) / sum(wanted)
    assert chisquare(counts, [value * scale for value in wanted]).pvalue > 0.001


def test_numbers_of_one_request_are_uniform_and_unrelated_to_those_of_its_neighbours() -> None:
    for pick in (lambda n: (1, 0, n), lambda n: (1, n, 0), lambda n: (n, 0, 0)):
        numbers = [uniform(*pick(n)) for n in range(20_000)]
        assert kstest(numbers, "uniform").pvalue > 0.001
        pairs = torch.tensor(numbers)
        assert abs(torch.corrcoef(torch.stack([pairs[:-1], pairs[1:]]))[0, 1]) < 0.03
    assert (
        len(
            {
                uniform(seed, sample, place)
                for seed in range(20)
                for sample in range(20)
                for place in range(20)
            }
        )
        == 8000
    )


def test_a_draw_at_the_edges_never_gives_an_impossible_token() -> None:
    chances = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).expand(3, -1)
    assert draw(chances, [0.0, 0.5, 1 - 2.0**-53]).tolist() == [1, 3, 3]
    sparse = torch.zeros(2000, 3000)
    sparse[:, 5::97] = torch.rand(2000, 31, generator=torch.Generator().manual_seed(1))
    numbers = [uniform(1, 0, place) for place in range(1000)] + [0.0] * 500 + [1 - 2.0**-53] * 500
    found = draw(sparse, numbers)
    assert (sparse.gather(1, found[:, None]) > 0).all()
    exact = torch.searchsorted(
        sparse.double().cumsum(-1),
        torch.tensor(numbers).double()[:, None] * sparse.double().sum(-1, True),
        right=True,
    )
    assert (found == exact.squeeze(1))[:1500].float().mean() > 0.99


def test_temperature_zero_is_the_likeliest_token_beside_rows_that_draw() -> None:
    config = SamplingConfig(temperature=0)
    assert sample_tokens(LOGITS, rows_of(config, 6)) == LOGITS.argmax(-1).tolist()
    mixed = [SamplerRow(SamplingConfig(temperature=row % 2), [1], 1, 0, row) for row in range(6)]
    assert sample_tokens(LOGITS, mixed)[::2] == LOGITS.argmax(-1).tolist()[::2]


def test_a_row_draws_the_same_whatever_else_is_in_the_batch() -> None:
    rows = rows_of(SamplingConfig(temperature=1.0, top_p=0.95), 6)
    together = sample_tokens(LOGITS, rows)
    assert [sample_tokens(LOGITS[row : row + 1], [rows[row]])[0] for row in range(6)] == together
    assert sample_tokens(LOGITS[[5, 2]], [rows[5], rows[2]]) == [together[5], together[2]]


def test_a_row_with_everything_forbidden_is_stuck_and_the_others_are_not() -> None:
    rows = rows_of(SamplingConfig(temperature=1.0), 2)
    rows[0].config = SamplingConfig(temperature=1.0, banned_tokens=tuple(range(50)))
    found = sample_tokens(LOGITS[:2], rows)
    assert found[0] == NO_TOKEN_ALLOWED
    assert 0 <= found[1] < 50


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"), ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"), ({"frequency_penalty": float("nan")},
        "frequency_penalty"),
        ({"top_p": 0}, "top_p"), ({"top_p": 1.1}, "top_p"), ({"min_p": 2}, "min_p"), ({"top_k": -1}, "top_k"),
        ({"typical_p": 0}, "typical_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"), ({"stop": ("",)}, "stop"), ({"stop": 5}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop_ids": [-1]}, "stop_ids"), ({"stop_ids": ["x"]}, "stop_ids"), ({"logit_bias": {"x": 1}},
        "logit_bias"),
        ({"logit_bias": {1: float("-inf")}}, "logit_bias"), ({"n": 0}, "n"), ({"n": 3, "best_of": 2},
        "best_of"),
        ({"min_tokens": 200}, "min_tokens"), ({"beams": 2}, "temperature"), ({"beams": 2, "temperature": 0,
        "top_k": 3}, "top_k"),
        ({"beams": 2, "temperature": 0, "n": 3}, "n"), ({"length_penalty": 2}, "length_penalty"),
        ({"logprobs": -1}, "logprobs"),
        ({"regex": "a", "choice": ("b",)}, "choice"), ({"regex": "a", "forced_tokens": {0: 1}},
        "forced_tokens"),
        ({"negative_prompt": "a"}, "negative_prompt"),
    ],
)  # fmt: skip
def test_an_impossible_option_is_refused_by_name(options: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=f"^{named}:"):
        SamplingConfig(**options)  # type: ignore[arg-type]
