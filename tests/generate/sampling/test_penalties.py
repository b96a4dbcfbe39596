"""Bias, penalties, bans and forced tokens, row by row: stock transformers where it has them, and slow
references."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    ForcedBOSTokenLogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.sampler import SamplerRow, process_logits

LOGITS = torch.randn(3, 50, generator=torch.Generator().manual_seed(3)) * 3
HISTORY = [3, 4, 5, 3, 4, 9, 3, 4]
PLAIN = SamplerRow(SamplingConfig(), [7, 7, 7, 7], 2, 0)


def shaped(
    row: int = 0, prompt: int = 5, ends: frozenset[int] = frozenset(), **options: object
) -> torch.Tensor:
    """One row's logits, shaped between two rows without options, which must stay as they are."""
    rows = [PLAIN] * 3
    rows[row] = SamplerRow(SamplingConfig(**options), list(HISTORY), prompt, 0, 0, ends)  # type: ignore[arg-type]
    before = LOGITS.clone()
    found = process_logits(LOGITS, rows)
    others = [other for other in range(3) if other != row]
    assert torch.equal(found[others], LOGITS[others])
    assert torch.equal(LOGITS, before)
    return found[row]


def stock(row: int, *processors: object) -> torch.Tensor:
    return LogitsProcessorList(processors)(torch.tensor([HISTORY]), LOGITS[row : row + 1].clone())[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("penalty", [1.0, 1.4, 0.8])
def test_repetition_is_penalized_as_in_stock_transformers(size: int, penalty: float) -> None:
    processors: list[object] = [RepetitionPenaltyLogitsProcessor(penalty)]
    if size:
        processors.append(NoRepeatNGramLogitsProcessor(size))
    torch.testing.assert_close(
        shaped(1, repetition_penalty=penalty, no_repeat_ngram_size=size), stock(1, *processors)
    )


def test_bias_bans_min_tokens_and_forced_tokens_are_those_of_stock_transformers() -> None:
    bias = {4: 2.5, 30: -3.0}
    torch.testing.assert_close(
        shaped(logit_bias=bias), stock(0, SequenceBiasLogitsProcessor([[[i], b] for i, b in bias.items()]))
    )
    torch.testing.assert_close(
        shaped(2, banned_tokens=(1, 49)), stock(2, SuppressTokensLogitsProcessor([1, 49]))
    )
    for least in (3, 4):
        wanted = stock(0, MinNewTokensLengthLogitsProcessor(5, least, [8, 9]))
        torch.testing.assert_close(shaped(0, min_tokens=least, ends=frozenset({8, 9})), wanted)
    forced = ForcedBOSTokenLogitsProcessor(6)(torch.tensor([[1]]), LOGITS[:1].clone())[0]
    torch.testing.assert_close(shaped(0, prompt=8, forced_tokens={0: 6}), forced)
    assert torch.equal(shaped(0, prompt=7, forced_tokens={0: 6}), LOGITS[0])


@pytest.mark.parametrize(("often", "once"), [(0.7, 0.0), (0.0, 1.1), (-0.5, 0.25)])
def test_frequency_and_presence_penalties_count_what_was_written_and_not_the_prompt(
    often: float, once: float
) -> None:
    """The formula of OpenAI's API reference, term by term: mu[j] - c[j] * frequency - float(c[j] > 0) *
    presence."""
    written = HISTORY[2:]
    wanted = [
        value - written.count(j) * often - float(written.count(j) > 0) * once
        for j, value in enumerate(LOGITS[0].tolist())
    ]
    torch.testing.assert_close(
        shaped(0, prompt=2, frequency_penalty=often, presence_penalty=once), torch.tensor(wanted)
    )


def test_the_steps_come_in_the_order_that_the_documentation_gives() -> None:
    """A slow reference, one token at a time: bias, repetition, frequency and presence, n-grams, bans."""
    found = shaped(0, prompt=6, logit_bias={3: 5.0, 4: -9.0}, repetition_penalty=1.5, frequency_penalty=0.5,
    presence_penalty=0.2,
                   no_repeat_ngram_size=3, banned_tokens=(12,))  # fmt: skip
    for token, value in enumerate(LOGITS[0].tolist()):
        value += {3: 5.0, 4: -9.0}.get(token, 0.0)
        if token in HISTORY:
            value = value / 1.5 if value > 0 else value * 1.5
        count = HISTORY[6:].count(token)
        value -= count * 0.5 + (count > 0) * 0.2
        if token == 12 or (3, 4, token) in zip(HISTORY, HISTORY[1:], HISTORY[2:], strict=False):
            value = -math.inf
        assert found[token].item() == pytest.approx(value, rel=1e-5)
