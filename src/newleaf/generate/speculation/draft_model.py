"""A draft model: a small network proposes tokens, and the large one verifies them in one pass.

Leviathan et al. 2023, arXiv:2211.17192; here the draft samples with the request's own random numbers, so
proposals change no text.

Its slots are numbered as the large network's. Its KV cache may lag behind the text, and may hold rejected
tokens: keys and values lie by position, so the tokens of the text overwrite them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Several
from dataclasses import dataclass, field

import torch

from newleaf.errors import InputError
from newleaf.generate.backend.executor import Executor, LoweredExecutor, ModuleExecutor, TokenChunk
from newleaf.generate.backend.lowered_program import CannotLower
from newleaf.generate.backend.runner import LoweredRunner, cache_dtype, say_once
from newleaf.generate.kv.layer_groups import head_bytes
from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.sampler import SamplerRow, sample_with_probabilities
from newleaf.generate.speculation.acceptance_rates import AcceptanceRates
from newleaf.generate.speculation.speculation_state import SpeculationStates
from newleaf.generate.speculation.step_cost import StepCost
from newleaf.generate.text.sequence import Sequence
from newleaf.generate.text.text_state import one_thread
from newleaf.model import GPT
from newleaf.text.tokenizer import Tokenizer

MAX_DRAFTED = 11  # tokens that are drafted at once
MIN_CONTEXT = 64  # of a draft: a shorter one would start over all the time
MAX_LAG = 16  # tokens that the draft reads in its first step; more take prefill steps of their own
# Lower bounds of the draft's own probability of its token: each is a kind of proposal.
CONFIDENCE_LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.97)
PRIOR = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.97)  # acceptance rate of each kind, before any is measured


def check_draft(network: GPT, tokenizer: Tokenizer, draft: GPT, draft_tokenizer: Tokenizer) -> None:
    """Raises InputError for a draft with another tokenizer or too short a context; warns of a slow one."""
    mine, its = (each.backend.get_vocab(with_added_tokens=True) for each in (tokenizer, draft_tokenizer))
    if mine != its:
        names = (
            {number: name for name, number in mine.items()},
            {number: name for name, number in its.items()},
        )
        first = min(
            number
            for number in names[0].keys() | names[1].keys()
            if names[0].get(number) != names[1].get(number)
        )
        ours, other = (repr(each[first]) if first in each else "none" for each in names)
        raise InputError(
            f"draft: its tokenizer is another one (token {first} is {other}, and {ours} in the model); take "
            f"a draft with the model's"
        )
    context, needed = draft.config.context_length, min(MIN_CONTEXT, network.config.context_length)
    if context < needed:
        raise InputError(
            f"draft: its context of {context} tokens is too short to write ahead in; {needed} are the least"
        )
    if context < network.config.context_length:
        say_once(
            f"the draft's context of {context:,} tokens is shorter than the model's: of longer texts it "
            f"sees the end"
        )
    if draft.weight_bytes() > network.weight_bytes():
        say_once(
            "the draft's weights take more memory than the model's, so each guess takes longer than writing "
            "the token would"
        )


def check_drafting(drafted: bool, config: SamplingConfig) -> None:
    """Raises InputError for a draft beside options that allow no proposals."""
    for name, off in (("beams", 1), ("guidance_scale", 1)):
        if drafted and getattr(config, name) != off:
            raise InputError(
                f"draft: cannot be combined with {name}, which takes no proposals; leave one of the two out"
            )
    if drafted and config.speculation == "off":
        raise InputError("draft: speculation=off takes no proposals; leave one of the two out")


@dataclass
class DraftedTokens:
    """Tokens drafted for one sequence. `reach` has the probabilities that all up to each are accepted."""

    sequence: Sequence
    row: SamplerRow
    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    reach: list[float] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)


class DraftModel:
    """The draft's executor, its progress in each sequence, and its acceptance rates.

    `share` is its size as a share of the large network: the assumed cost of a step until one is measured.
    """

    def __init__(self, executor: Executor, vocab_size: int, share: float) -> None:
        self.executor, self.vocab_size, self.share = executor, vocab_size, share
        self.states = SpeculationStates()
        self.step_cost, self.acceptance = StepCost(), AcceptanceRates(PRIOR)
        self.overall = AcceptanceRates((0.7,))  # of any token after accepted ones

    def step_seconds(self, texts: int, large: StepCost) -> float:
        """Seconds of a step for each of so many sequences."""
        return (
            self.step_cost.seconds(texts, texts)
            if self.step_cost.known
            else self.share * large.seconds(texts, texts)
        ) / texts

    def reading_seconds(self, tokens: int, large: StepCost) -> float:
        """Seconds of a prefill of so many tokens."""
        if tokens <= MAX_LAG:
            return 0.0
        rows = self.executor.rows
        return (
            (self.step_cost.seconds(0, rows) if self.step_cost.known else self.share * large.seconds(1, rows))
            / rows
            * tokens
        )

    def sync(self, sequence: Sequence) -> None:
        """Keep accepted proposals in the cache; start over where the text has left the draft's context."""
        ids, state = sequence.sample.row.ids, self.states.of(sequence)
        if (
            state.draft_base < sequence.base
            or len(ids) - state.draft_base + MAX_DRAFTED > self.executor.max_length
        ):
            self.reset(sequence)
            state.draft_base = max(sequence.base, len(ids) - (self.executor.max_length + 1) // 2)
        at = state.draft_base + state.draft_read
        accepted = 0
        while (
            accepted < len(state.draft_tokens)
            and at + accepted < len(ids) - 1
            and ids[at + accepted] == state.draft_tokens[accepted]
        ):
            accepted += 1
        state.draft_read += accepted
        state.draft_tokens = []

    def lag(self, sequence: Sequence) -> int:
        """Tokens of the text that the draft has not read."""
        state = self.states.of(sequence)
        return len(sequence.sample.row.ids) - state.draft_base - state.draft_read

    def prefill(self, sequence: Sequence, most: int) -> int:
        """Read at most so many tokens, and not the last, whose logits drafting needs; returns how many."""
        assert sequence.slot is not None
        state = self.states.of(sequence)
        text = sequence.sample.row.ids[state.draft_base :]
        if state.draft_read == 0:
            state.draft_read = self.executor.borrow(sequence.slot, text[:-1])
        ids = text[state.draft_read : min(state.draft_read + most, len(text) - 1)]
        if ids:
            begin = time.perf_counter()
            self.executor.run([TokenChunk(sequence.slot, state.draft_read, ids)])
            self.step_cost.record(0, len(ids), time.perf_counter() - begin)
            state.draft_read += len(ids)
            self.publish(sequence)
        return len(ids)

    def publish(self, sequence: Sequence) -> None:
        """Let other sequences reuse the pages of this one."""
        state = self.states.of(sequence)
        if sequence.slot is not None and state.draft_read:
            text = sequence.sample.row.ids[state.draft_base :]
            self.executor.publish(sequence.slot, text[: state.draft_read])

    def reset(self, sequence: Sequence) -> None:
        """Empty the draft's slot of this sequence."""
        if sequence.slot is not None:
            self.executor.release(sequence.slot)
        state = self.states.of(sequence)
        state.draft_read, state.draft_tokens = 0, []

    def step(self, several: Several[DraftedTokens]) -> list[DraftedTokens]:
        """Draft one more token for each sequence; returns those that have one.

        It is sampled from the draft's logits, with the random number of the sequence itself.
        """
        parts = [self._part(each) for each in several]
        begin = time.perf_counter()
        logits = self.executor.run(parts)
        with one_thread():
            tokens, probabilities = sample_with_probabilities(
                logits[:, : self.vocab_size], [each.row for each in several]
            )
        self.step_cost.record(len(parts), sum(len(part.ids) for part in parts), time.perf_counter() - begin)
        able = [
            (each, token, probability)
            for each, token, probability in zip(several, tokens, probabilities, strict=True)
            if token >= 0
        ]
        for each, token, probability in able:
            kind = sum(probability >= least for least in CONFIDENCE_LEVELS)
            each.kinds.append(kind)
            each.tokens.append(token)
            each.reach.append((each.reach[-1] if each.reach else 1.0) * self.acceptance.probability(kind))
            each.row.take(token)
        return [each for each, *_ in able]

    def _part(self, ahead: DraftedTokens) -> TokenChunk:
        """The unread tokens of the text, or the last drafted token; counted as read from here on."""
        sequence, slot = ahead.sequence, ahead.sequence.slot
        assert slot is not None
        state = self.states.of(sequence)
        start = state.draft_read + len(state.draft_tokens)
        if ahead.tokens:
            state.draft_tokens.append(ahead.tokens[-1])
            return TokenChunk(slot, start, ahead.tokens[-1:], 1)
        ids = sequence.sample.row.ids[state.draft_base + state.draft_read :]
        state.draft_read += len(ids)
        return TokenChunk(slot, start, ids, 1)

    def record_accepted(self, kinds: Several[int], accepted: int) -> None:
        self.acceptance.record(kinds, accepted)
        self.overall.record([0] * len(kinds), accepted)


def sleep_threads(executor: Executor) -> None:
    """Let the threads of a lowered program sleep, so that another program has the cores."""
    if isinstance(executor, LoweredExecutor):
        executor.runner.thread_pool.sleep()


def open_draft(
    draft: GPT,
    network: GPT,
    executor: Executor,
    limit: int,
    vocab_size: int,
    cache: torch.dtype | None = None,
) -> DraftModel:
    """A draft for this executor, with as many slots; lowered where the executor is, however small."""
    own: Executor
    if isinstance(executor, LoweredExecutor):
        try:
            own = LoweredExecutor(LoweredRunner(draft, executor.count, limit=limit, cache=cache))
        except CannotLower as error:
            raise InputError(f"draft: {error}, so it would write more slowly than the model") from None
    else:
        own = ModuleExecutor(draft, executor.count, limit, cache=cache)
    return DraftModel(own, vocab_size, draft.weight_bytes() / network.weight_bytes())


def split_cache_limit(
    limit: int, network: GPT, draft: GPT, cache: torch.dtype | None = None
) -> tuple[int, int]:
    """The limit of the KV cache split by the bytes of one token: the network's part, and the draft's."""
    mine, its = (_token_bytes(each, cache) for each in (network, draft))
    return limit * mine // (mine + its), limit * its // (mine + its)


def _token_bytes(network: GPT, cache: torch.dtype | None) -> int:
    config = network.config
    return config.n_layer * config.n_kv_head * sum(head_bytes(config, cache or cache_dtype(network)))
