"""Work beside writing: in pieces, after texts that are being written, for as long as somebody waits."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch

from newleaf.generate.backend.chunked_prefill import CHUNK_TOKENS, hidden_state_chunks
from newleaf.generate.backend.prompt_logprobs import score_prompt
from newleaf.generate.engine.engine import Engine
from newleaf.generate.engine.engine_tasks import (
    GENERATION_TIME_FACTOR,
    MAX_ACTIVE_TASKS,
    EngineTask,
    EngineTasks,
    TaskCancelledError,
)
from newleaf.generate.options import SamplingConfig
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


def engine_task(count: int, done: list[str], name: str = "a") -> EngineTask[str]:
    return EngineTask(steps(count, done, name), lambda: None)


def test_errands_take_turns_and_each_has_its_result() -> None:
    engine_tasks, done = EngineTasks(), []
    all_ = [engine_task(3, done, name) for name in "abcdef"]
    for each in all_:
        engine_tasks.add(each)
    while len(engine_tasks):
        assert engine_tasks.due(generating=False)
        engine_tasks.advance()
    assert [each.future.result() for each in all_] == [f"{name} is over" for name in "abcdef"]
    assert done[: 2 * MAX_ACTIVE_TASKS] == [*"abcd", *"abcd"]


def test_while_texts_are_written_a_piece_comes_after_they_had_several_times_as_long() -> None:
    clock, done = Clock(), []
    engine_tasks = EngineTasks(clock)

    def slow() -> Generator[None, None, None]:
        for _ in range(5):
            clock.now += 2.0
            done.append(clock.now)
            yield

    engine_tasks.add(EngineTask(slow(), lambda: None))
    rounds = 0
    while len(done) < 3:
        if engine_tasks.due(generating=True):
            engine_tasks.advance()
        engine_tasks.record_generation(0.5)
        rounds += 1
    assert rounds >= 2 * GENERATION_TIME_FACTOR * 2 / 0.5
    engine_tasks.advance()
    assert not engine_tasks.due(generating=True)
    assert engine_tasks.due(generating=False)


def test_a_cancelled_errand_does_no_further_piece() -> None:
    engine_tasks, done = EngineTasks(), []
    given = engine_task(100, done)
    engine_tasks.add(given)
    engine_tasks.advance()
    given.cancel()
    engine_tasks.advance()
    assert (len(done), len(engine_tasks)) == (1, 0)
    with pytest.raises(TaskCancelledError):
        given.future.result()


def test_what_goes_wrong_is_the_askers() -> None:
    def fails() -> Generator[None, None, None]:
        yield
        raise ArithmeticError("no")

    engine_tasks, done = EngineTasks(), []
    bad, good = EngineTask(fails(), lambda: None), engine_task(1, done)
    engine_tasks.add(bad)
    engine_tasks.add(good)
    while len(engine_tasks):
        engine_tasks.advance()
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
    with_engine = engine.run_in_engine(steps(1_000_000, done))
    pieces = list(engine.submit("a", SamplingConfig(max_tokens=20, seed=1)))
    assert pieces[-1].end is not None
    assert not with_engine.future.done()
    with_engine.cancel()
    with pytest.raises(TaskCancelledError):
        with_engine.future.result(60)
    assert len(done) < 1_000_000
    assert engine.load == (0, 0)


@pytest.mark.parametrize("count", [1, CHUNK_TOKENS, CHUNK_TOKENS + 1, 900])
def test_a_text_that_is_read_in_pieces_gives_the_numbers_of_one_pass(engine: Engine, count: int) -> None:
    torch.manual_seed(2)
    network = GPT(GPTConfig(300, 1024, 2, 4, 64, n_kv_head=2, init_std=0.3)).eval()
    ids = torch.randint(0, 300, (count,))
    with torch.no_grad():
        whole = network.hidden(ids[None])[0]
        logprobs = network(ids[None])[0].log_softmax(-1)
    pieces = list(hidden_state_chunks(network, ids.tolist()))
    assert max(map(len, pieces)) <= CHUNK_TOKENS
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-4, rtol=1e-4)
    scores = score_prompt(network, ids.tolist(), 300, 2)
    expected = logprobs[:-1].gather(1, ids[1:, None]).squeeze(1).tolist()
    assert scores[0].logprob is None
    assert [score.logprob for score in scores[1:]] == pytest.approx(expected, abs=1e-3)
