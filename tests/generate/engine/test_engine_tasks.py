"""Work beside writing: in pieces, after texts that are being written, for as long as somebody waits."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch

from newleaf.generate.backend.chunked_prefill import PIECE, hidden_pieces
from newleaf.generate.engine.engine import Engine
from newleaf.generate.engine.engine_tasks import AT_ONCE, PATIENCE, CancelledErrandError, Errand, Errands
from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.logprobs import score_prompt
from newleaf.model import GPT, GPTConfig
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def steps(count: int, done: list[str], name: str = "") -> Generator[None, None, str]:
    for _ in range(count):
        done.append(name)
        yield
    return f"{name} is over"


def errand(count: int, done: list[str], name: str = "a") -> Errand[str]:
    return Errand(steps(count, done, name), lambda: None)


def test_errands_take_turns_and_each_has_its_result() -> None:
    errands, done = Errands(), []
    all_ = [errand(3, done, name) for name in "abcdef"]
    for each in all_:
        errands.add(each)
    while len(errands):
        assert errands.due(writing=False)
        errands.advance()
    assert [each.future.result() for each in all_] == [f"{name} is over" for name in "abcdef"]
    assert done[: 2 * AT_ONCE] == [*"abcd", *"abcd"]


def test_while_texts_are_written_a_piece_comes_after_they_had_several_times_as_long() -> None:
    clock, done = Clock(), []
    errands = Errands(clock)

    def slow() -> Generator[None, None, None]:
        for _ in range(5):
            clock.now += 2.0
            done.append(clock.now)
            yield

    errands.add(Errand(slow(), lambda: None))
    rounds = 0
    while len(done) < 3:
        if errands.due(writing=True):
            errands.advance()
        errands.wrote(0.5)
        rounds += 1
    assert rounds >= 2 * PATIENCE * 2 / 0.5
    errands.advance()
    assert not errands.due(writing=True)
    assert errands.due(writing=False)


def test_a_cancelled_errand_does_no_further_piece() -> None:
    errands, done = Errands(), []
    given = errand(100, done)
    errands.add(given)
    errands.advance()
    given.cancel()
    errands.advance()
    assert (len(done), len(errands)) == (1, 0)
    with pytest.raises(CancelledErrandError):
        given.future.result()


def test_what_goes_wrong_is_the_askers() -> None:
    def fails() -> Generator[None, None, None]:
        yield
        raise ArithmeticError("no")

    errands, done = Errands(), []
    bad, good = Errand(fails(), lambda: None), errand(1, done)
    errands.add(bad)
    errands.add(good)
    while len(errands):
        errands.advance()
    with pytest.raises(ArithmeticError):
        bad.future.result()
    assert good.future.result() == "a is over"


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.manual_seed(1)
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    return Engine(GPT(GPTConfig(tokenizer.vocab_size, 1024, 1, 2, 32)), tokenizer)


def test_a_text_that_is_asked_for_during_an_errand_is_written_before_its_end(engine: Engine) -> None:
    done: list[str] = []
    with_engine = engine.aside(steps(1_000_000, done))
    pieces = list(engine.submit("a", SamplingConfig(max_tokens=20, seed=1)))
    assert pieces[-1].end is not None
    assert not with_engine.future.done()
    with_engine.cancel()
    with pytest.raises(CancelledErrandError):
        with_engine.future.result(60)
    assert len(done) < 1_000_000
    assert engine.load == (0, 0)


@pytest.mark.parametrize("count", [1, PIECE, PIECE + 1, 900])
def test_a_text_that_is_read_in_pieces_gives_the_numbers_of_one_pass(engine: Engine, count: int) -> None:
    torch.manual_seed(2)
    network = GPT(GPTConfig(300, 1024, 2, 4, 64, n_kv_head=2, init_std=0.3)).eval()
    ids = torch.randint(0, 300, (count,))
    with torch.no_grad():
        whole = network.hidden(ids[None])[0]
        logprobs = network(ids[None])[0].log_softmax(-1)
    pieces = list(hidden_pieces(network, ids.tolist()))
    assert max(map(len, pieces)) <= PIECE
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-4, rtol=1e-4)
    scores = score_prompt(network, ids.tolist(), 300, 2)
    expected = logprobs[:-1].gather(1, ids[1:, None]).squeeze(1).tolist()
    assert scores[0].logprob is None
    assert [score.logprob for score in scores[1:]] == pytest.approx(expected, abs=1e-3)
