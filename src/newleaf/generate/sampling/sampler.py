"""One step of writing: rows of logits in, the next token of each row out, by the one order that
docs/generation.md describes."""

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
    """One text as the next token's choice sees it."""

    config: SamplingConfig
    ids: list[int]  # all so far
    prompt: int  # how many of them are the prompt's
    seed: int
    stream: int = 0  # tells the random numbers of a request's texts apart
    end_ids: frozenset[int] = frozenset()  # end of text and stop ids
    constraint: Constraint | None = None
    utf8: Utf8Validity | None = None  # of the tokenizer, where tokens are to keep the text valid
    begun: bytes = b""  # what the text's end has of a character that is not complete; of rows with `utf8`

    @property
    def written(self) -> int:
        return len(self.ids) - self.prompt

    def take(self, token: int) -> None:
        """The token was chosen."""
        self.ids.append(token)
        if self.utf8 is not None:
            self.begun = self.utf8.after(self.begun, token)
        if self.constraint is not None:
            self.constraint.take(token)

    def fork(self) -> SamplerRow:
        """A text of its own that begins with what this one has."""
        constraint = self.constraint.fork() if self.constraint is not None else None
        return dataclasses.replace(self, ids=list(self.ids), constraint=constraint)


def process_logits(logits: Tensor, rows: Sequence[SamplerRow], chosen_only: bool = False) -> Tensor:
    """Bias, penalties, bans, constraint and forced tokens: logits [R, V] → logits [R, V], forbidden tokens at
    −inf.

    `chosen_only` asks for no more than what decides: a greedy row whose likeliest token fits its constraint
    is left as it is.
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
    """The next token of each row of logits [R, V]; STUCK where every token is forbidden, OVERFLOW where the
    logits are no numbers. A row's choice does not depend on the others."""
    return _pick(process_logits(logits, rows, chosen_only=True), rows)


def sample_with_probabilities(logits: Tensor, rows: Sequence[SamplerRow]) -> tuple[list[int], list[float]]:
    """The same, and how likely each token was before temperature and truncation, among those that are not
    forbidden."""
    logits = process_logits(logits, rows)
    tokens = _pick(logits, rows)
    own = logits[range(len(tokens)), [max(token, 0) for token in tokens]]
    return tokens, (own - logits.logsumexp(-1)).exp().tolist()


def keep_valid(logits: Tensor, rows: Sequence[SamplerRow]) -> Tensor:
    """Logits [R, V] with tokens at −inf that would make a text that is not UTF-8, in rows whose option wants
    that for likeliest tokens too. Where nothing else is left, the row stays as it is. A constraint's own
    tokens are valid."""
    wanting = [
        n
        for n, row in enumerate(rows)
        if row.utf8 is not None and row.constraint is None and row.config.valid_utf8 == "always"
    ]
    if wanting:
        logits = logits.clone()
    for number in wanting:
        logits[number] = _valid(logits[number], rows[number])
    return logits


def _valid(logits: Tensor, row: SamplerRow) -> Tensor:
    """Logits [V] with the tokens at −inf that would make the row's text invalid, unless that were all."""
    assert row.utf8 is not None
    left = logits.masked_fill(
        ~torch.from_numpy(row.utf8.fitting(row.begun, len(logits))), penalties.FORBIDDEN
    )
    return logits if bool((left == penalties.FORBIDDEN).all()) else left


def _pick(logits: Tensor, rows: Sequence[SamplerRow]) -> list[int]:
    tokens = _pick_any(logits, rows, again=False)
    # A mask for every row would cost a pass over the vocabulary each time. Choosing anew among the valid
    # tokens gives
    # each the same probability as a mask would (but for truncation).
    for number, row in enumerate(rows):
        if (
            row.utf8 is not None
            and row.constraint is None
            and tokens[number] >= 0
            and not row.utf8.fits(row.begun, tokens[number])
        ):
            (tokens[number],) = _pick_any(_valid(logits[number], row)[None], [row], again=True)
    return tokens


def _pick_any(logits: Tensor, rows: Sequence[SamplerRow], again: bool) -> list[int]:
    """Tokens by greedy choice or by chance, `again` with other random numbers."""
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
    token = int(logits.argmax())  # the first that is not a number, where there is one
    value = logits[token]
    if np.isfinite(value):
        return token
    return NO_TOKEN_ALLOWED if value == penalties.FORBIDDEN else OVERFLOW


def _banned(row: SamplerRow) -> frozenset[int] | set[int]:
    banned = row.config.banned_tokens
    early = row.end_ids if row.written < row.config.min_tokens else frozenset()
    return early.union(banned) if banned else early


def _fits(logits: Tensor, row: SamplerRow) -> bool:
    """Whether a greedy row's token fits its constraint, which takes a fraction of the time that finding all
    fitting ones does."""
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

    Where n-grams and bans (`free` has none) leave nothing, the constraint has the last word.
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
