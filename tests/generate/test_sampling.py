"""Sampling does what its options say: stock transformers' own processors are the reference, on the same logits."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from newleaf.errors import InputError
from newleaf.generate.sampling import SamplingConfig, choose, penalize, probabilities

LOGITS = torch.randn(6, 50, generator=torch.Generator().manual_seed(3)) * 3


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"temperature": 0.7}, [TemperatureLogitsWarper(0.7)]),
        ({"temperature": 1.3, "top_k": 7}, [TemperatureLogitsWarper(1.3), TopKLogitsWarper(7)]),
        ({"temperature": 1.0, "top_p": 0.6}, [TopPLogitsWarper(0.6)]),
        ({"temperature": 1.0, "top_p": 0.0001}, [TopPLogitsWarper(0.0001)]),
        ({"temperature": 0.9, "min_p": 0.1}, [TemperatureLogitsWarper(0.9), MinPLogitsWarper(0.1)]),
        (
            {"temperature": 0.9, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
            [TemperatureLogitsWarper(0.9), TopKLogitsWarper(20), TopPLogitsWarper(0.8), MinPLogitsWarper(0.05)],
        ),
        ({"temperature": 1.0, "top_k": 500}, []),
    ],
)
def test_probabilities_are_those_of_stock_transformers(options: dict[str, float], reference: list[object]) -> None:
    wanted = LogitsProcessorList(reference)(torch.zeros(6, 1, dtype=torch.long), LOGITS.clone()).softmax(-1)  # type: ignore[arg-type]
    torch.testing.assert_close(probabilities(LOGITS, SamplingConfig(**options)), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [0, 1, 2, 3])
@pytest.mark.parametrize("penalty", [1.0, 1.4, 0.8])
def test_penalties_are_those_of_stock_transformers(size: int, penalty: float) -> None:
    history = torch.tensor([3, 4, 5, 3, 4, 9, 3, 4])
    processors: list[object] = [RepetitionPenaltyLogitsProcessor(penalty)]
    if size:
        processors.append(NoRepeatNGramLogitsProcessor(size))
    wanted = LogitsProcessorList(processors)(history[None], LOGITS[:1].clone())[0]  # type: ignore[arg-type]
    got = penalize(LOGITS[0].clone(), history, SamplingConfig(repetition_penalty=penalty, no_repeat_ngram_size=size))
    torch.testing.assert_close(got, wanted)


def test_draws_have_the_probabilities_they_should() -> None:
    config = SamplingConfig(temperature=1.0, top_k=5)
    row = LOGITS[:1]
    generator = torch.Generator().manual_seed(0)
    draws = choose(row.expand(4000, -1), [torch.empty(0, dtype=torch.long)] * 4000, config, [generator] * 4000)
    expected = probabilities(row, config)[0]
    found = torch.bincount(draws, minlength=50) / 4000
    assert (found - expected).abs().max() < 0.03
    assert set(draws.tolist()) <= set(row[0].topk(5).indices.tolist())


def test_temperature_zero_is_the_likeliest_token() -> None:
    config = SamplingConfig(temperature=0)
    assert torch.equal(choose(LOGITS, [torch.empty(0, dtype=torch.long)] * 6, config, [torch.Generator()] * 6), LOGITS.argmax(-1))


def test_a_row_draws_the_same_whatever_else_is_in_the_batch() -> None:
    config = SamplingConfig(temperature=1.0)

    def draw(rows: list[int]) -> list[int]:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return choose(LOGITS[rows], [torch.empty(0, dtype=torch.long)] * len(rows), config, generators).tolist()

    assert draw([0, 1, 2, 3])[2] == draw([2])[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"), ({"temperature": -0.1}, "temperature"), ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"), ({"top_p": 1.1}, "top_p"), ({"min_p": 2}, "min_p"), ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"), ({"stop": ("",)}, "stop"),
    ],
)  # fmt: skip
def test_an_impossible_option_is_refused_by_name(options: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=f"^{named}"):
        SamplingConfig(**options)  # type: ignore[arg-type]
