"""The sampler: from logits to the next token of each row, in the order that docs/generation.md gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from newleaf.generate.constraints.constraint import Constraint
from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling import penalties
from newleaf.generate.sampling.counter_rng import uniform
from newleaf.generate.sampling.truncation import draw, probabilities
from newleaf.text.utf8_validity import Utf8Validity

NO_TOKEN_ALLOWED = -1  # in place of an id: every token is forbidden
OVERFLOW = -2  # in place of an id: the likeliest logit is infinite or not a number


@dataclass
class SamplerRow:
    """One text as the sampler sees it."""

    config: SamplingConfig
    ids: list[int]  # all so far
    prompt: int  # how many of them are the prompt's
    seed: int
    stream: int = 0  # separates the random numbers of a request's texts
    end_ids: frozenset[int] = frozenset()  # end of text and stop ids
    constraint: Constraint | None = None
    utf8: Utf8Validity | None = None  # of the tokenizer, where the text must stay valid UTF-8
    partial: bytes = b""  # the incomplete character at the end of the text; with `utf8` only

    @property
    def written(self) -> int:
        """Generated tokens so far."""
        return len(self.ids) - self.prompt

    def take(self, token: int) -> None:
        """Append a token."""
        self.ids.append(token)
        if self.utf8 is not None:
            self.partial = self.utf8.after(self.partial, token)
        if self.constraint is not None:
            self.constraint.take(token)

    def fork(self) -> SamplerRow:
        """A copy that continues on its own."""
        constraint = self.constraint.fork() if self.constraint is not None else None
        return dataclasses.replace(self, ids=list(self.ids), constraint=constraint)


def process_logits(logits: Tensor, rows: Sequence[SamplerRow], chosen_only: bool = False) -> Tensor:
    """Bias, penalties, bans, constraints, forced tokens: logits [R, V] → [R, V], forbidden tokens at −inf.

    With `chosen_only` a greedy row is not masked where its likeliest token fits the constraint.
    """
    configs = [row.config for row in rows]
    if any(config.logit_bias for config in configs):
        logits = penalties.add_bias(logits, [config.logit_bias for config in configs])
    if any(config.repetition_penalty != 1 for config in configs):
        logits = penalties.penalize_repetition(
            logits, [row.ids for row in rows], [config.repetition_penalty for config in configs]
        )
    if any(config.frequency_penalty or config.presence_penalty for config in configs):
        written = [row.ids[row.prompt :] for row in rows]
        often, once = (
            [config.frequency_penalty for config in configs],
            [config.presence_penalty for config in configs],
        )
        logits = penalties.penalize_frequency(logits, written, often, once)
    free = logits
    if any(config.no_repeat_ngram_size for config in configs):
        logits = penalties.forbid_repeated_ngrams(
            logits, [row.ids for row in rows], [config.no_repeat_ngram_size for config in configs]
        )
    banned = [_banned(row) for row in rows]
    if any(banned):
        logits = penalties.forbid(logits, banned)
    if any(row.constraint is not None for row in rows):
        logits = _constrain(logits, free, rows, chosen_only)
    forced = [row.config.forced_tokens.get(row.written) for row in rows]
    return penalties.force(logits, forced) if any(token is not None for token in forced) else logits


def sample_tokens(logits: Tensor, rows: Sequence[SamplerRow]) -> list[int]:
    """The next token of each row of logits [R, V], independent of the other rows.

    NO_TOKEN_ALLOWED where every token is forbidden, OVERFLOW where the logits are not finite.
    """
    return _sample_valid(process_logits(logits, rows, chosen_only=True), rows)


def sample_with_probabilities(logits: Tensor, rows: Sequence[SamplerRow]) -> tuple[list[int], list[float]]:
    """The same, with each token's probability among allowed ones, before temperature and truncation."""
    logits = process_logits(logits, rows)
    tokens = _sample_valid(logits, rows)
    own = logits[range(len(tokens)), [max(token, 0) for token in tokens]]
    return tokens, (own - logits.logsumexp(-1)).exp().tolist()


def keep_valid(logits: Tensor, rows: Sequence[SamplerRow]) -> Tensor:
    """Logits [R, V] with tokens at −inf that would make invalid UTF-8, in rows with valid_utf8 "always".

    A row without a valid token stays as it is. Tokens that a constraint allows are valid.
    """
    strict = [
        n
        for n, row in enumerate(rows)
        if row.utf8 is not None and row.constraint is None and row.config.valid_utf8 == "always"
    ]
    if strict:
        logits = logits.clone()
    for number in strict:
        logits[number] = _valid(logits[number], rows[number])
    return logits


def _valid(logits: Tensor, row: SamplerRow) -> Tensor:
    """Logits [V] with tokens at −inf that would make invalid UTF-8, unless that were all."""
    assert row.utf8 is not None
    left = logits.masked_fill(
        ~torch.from_numpy(row.utf8.fitting(row.partial, len(logits))), penalties.FORBIDDEN
    )
    return logits if bool((left == penalties.FORBIDDEN).all()) else left


def _sample_valid(logits: Tensor, rows: Sequence[SamplerRow]) -> list[int]:
    tokens = _sample(logits, rows, again=False)
    # A mask for every row would cost a pass over the vocabulary. Resampling among the valid tokens gives
    # each the same probability as a mask would, truncation aside.
    for number, row in enumerate(rows):
        if (
            row.utf8 is not None
            and row.constraint is None
            and tokens[number] >= 0
            and not row.utf8.fits(row.partial, tokens[number])
        ):
            (tokens[number],) = _sample(_valid(logits[number], row)[None], [row], again=True)
    return tokens


def _sample(logits: Tensor, rows: Sequence[SamplerRow], again: bool) -> list[int]:
    """The likeliest tokens or random ones; `again` takes other random numbers."""
    # NumPy's argmax takes a tenth of the time of PyTorch's over one row.
    tokens = [_likeliest(row) for row in logits.numpy()]
    drawn = [number for number, row in enumerate(rows) if row.config.temperature > 0 and tokens[number] >= 0]
    if drawn:
        chances = probabilities(
            logits if len(drawn) == len(rows) else logits[drawn], [rows[number].config for number in drawn]
        )
        places = (
            (rows[number], ~rows[number].written if again else rows[number].written) for number in drawn
        )
        numbers = [uniform(row.seed, row.stream, place) for row, place in places]
        for number, token in zip(drawn, draw(chances, numbers).tolist(), strict=True):
            tokens[number] = token
    return tokens


def _likeliest(logits: npt.NDArray[np.float32]) -> int:
    token = int(logits.argmax())  # the first NaN, where there is one
    value = logits[token]
    if np.isfinite(value):
        return token
    return NO_TOKEN_ALLOWED if value == penalties.FORBIDDEN else OVERFLOW


def _banned(row: SamplerRow) -> frozenset[int] | set[int]:
    banned = row.config.banned_tokens
    early = row.end_ids if row.written < row.config.min_tokens else frozenset()
    return early.union(banned) if banned else early


def _fits(logits: Tensor, row: SamplerRow) -> bool:
    """Whether a greedy row's token fits its constraint: much cheaper than a mask of all tokens."""
    if row.config.temperature > 0 or row.constraint is None:
        return False
    token = int(logits.numpy().argmax())
    return (
        bool(logits[token] != penalties.FORBIDDEN)
        and token not in row.end_ids
        and row.constraint.fitting([token]) == 1
    )


def _constrain(logits: Tensor, free: Tensor, rows: Sequence[SamplerRow], chosen_only: bool) -> Tensor:
    """Forbid what the constraints do not allow.

    Where n-grams and bans, which `free` has not seen, leave nothing, the constraint wins.
    """
    given = logits
    for number, row in enumerate(rows):
        if row.constraint is not None and not (chosen_only and _fits(logits[number], row)):
            if logits is given:
                logits = logits.clone()
            refused = ~row.constraint.allowed(logits.shape[1])
            logits[number].masked_fill_(refused, penalties.FORBIDDEN)
            if free is not given and bool((logits[number] == penalties.FORBIDDEN).all()):
                logits[number] = free[number].masked_fill(refused, penalties.FORBIDDEN)
    return logits
