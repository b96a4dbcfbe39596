"""The dial's choices: sensible everywhere, bigger with more, blind to everything but text size and budget."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.model import GPT, GPTConfig
from newleaf.train.dial import Budget, Choice, choose


def weights(choice: Choice) -> int:
    import torch

    with torch.device("meta"):
        return GPT(GPTConfig(vocab_size=choice.vocab_size, **choice.model)).parameter_count()


@settings(deadline=None)
@given(st.integers(1, 10**12), st.floats(1, 10**6), st.floats(1e9, 1e14))
def test_every_budget_on_every_text_gives_a_network_that_can_be_built(text_bytes: int, seconds: float, speed: float) -> None:
    choice = choose(text_bytes, Budget(seconds=seconds, matrix_speed=speed))
    assert weights(choice) > 0
    assert choice.batch_size >= 1
    assert 257 <= choice.vocab_size <= 65_536


def test_more_time_a_faster_machine_or_more_tokens_never_choose_a_smaller_model() -> None:
    by_time = [weights(choose(10**9, Budget(seconds=s, matrix_speed=5e11))) for s in (10, 30, 120, 480, 3600, 86400)]
    by_speed = [weights(choose(10**9, Budget(seconds=60, matrix_speed=s))) for s in (1e10, 1e11, 1e12, 1e13)]
    by_tokens = [weights(choose(10**9, Budget(tokens=t))) for t in (1e4, 1e5, 1e6, 1e7, 1e8)]
    for found in (by_time, by_speed, by_tokens):
        assert found == sorted(found)
        assert found[-1] > found[0]


def test_dropout_comes_with_reading_the_same_text_again_and_again() -> None:
    once, often, always = (choose(10**6, Budget(tokens=10**6 * epochs)).model["residual_dropout"] for epochs in (1, 3, 30))
    assert once == 0 < often < always == 0.2


def test_a_small_text_bounds_the_model_however_long_the_run() -> None:
    assert weights(choose(10**5, Budget(seconds=10**6, matrix_speed=1e13))) < 10**6
