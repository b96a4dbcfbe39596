"""Beam search, a step at a time: continues the open beams and collects the finished ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from newleaf.errors import NotFiniteError
from newleaf.generate.decoding.beam_hypotheses import BeamHypotheses, Candidate, FinishedBeam
from newleaf.generate.sampling.sampler import SamplerRow, keep_valid, process_logits
from newleaf.text.tokenizer import Tokenizer


class BeamSearch:
    """A search from one prompt. `rows` are the open beams; `texts` the result, best first, at the end."""

    def __init__(self, row: SamplerRow, tokenizer: Tokenizer) -> None:
        self.rows, self.texts = [row], list[FinishedBeam]()
        self._hypotheses = BeamHypotheses(row.config.beams, row.config.length_penalty)
        self._tokenizer = tokenizer

    def step(self, logits: Tensor) -> list[tuple[int, SamplerRow]] | None:
        """One more token, by logits [R, V] of the open beams. Raises NotFiniteError.

        Returns the beams that are open now, each with the number of its parent; None at the end.
        """
        if not bool(logits.amax(-1).isfinite().all()):
            raise NotFiniteError
        found, first = self._hypotheses, self.rows[0]
        # A network may have more rows than the tokenizer has tokens.
        logprobs = keep_valid(
            process_logits(logits.log_softmax(-1)[:, : self._tokenizer.vocab_size], self.rows), self.rows
        )
        before = found.scores[0]
        going = self._split_candidates(found.candidates(logprobs, len(first.end_ids)))
        if not going and not found.finished:
            rank = before / max(first.written, 1) ** first.config.length_penalty
            self.texts = [FinishedBeam(tuple(first.ids[first.prompt :]), rank, "stuck")]
            return None
        self.rows = [row for _, row in going]
        if not self.rows or found.is_done(self.rows[0].written):
            self.texts = found.finished
            return None
        return going

    def _split_candidates(self, candidates: Sequence[Candidate]) -> list[tuple[int, SamplerRow]]:
        """Candidates that end become finished beams; the likeliest others stay open."""
        found = self._hypotheses
        going: list[tuple[SamplerRow, Candidate]] = []
        for rank, candidate in enumerate(candidates):
            row = self.rows[candidate.parent].fork()
            row.take(candidate.token)
            end = _end(row, self._tokenizer)
            if end is None and len(going) < found.beams:
                going.append((row, candidate))
            elif end is not None and rank < found.beams:
                found.finish(tuple(row.ids[row.prompt :]), candidate.score, row.written, end)
        found.scores = [candidate.score for _, candidate in going]
        return [(candidate.parent, row) for row, candidate in going]


def _end(row: SamplerRow, tokenizer: Tokenizer) -> str | None:
    """Why this beam is finished; None if it is not."""
    token, config = row.ids[-1], row.config
    if token in row.end_ids:
        return "end" if token == tokenizer.eos_id and token not in config.stop_ids else "stop"
    if config.stop:
        text = tokenizer.decode_after(row.ids[: row.prompt], row.ids[row.prompt :])
        if any(stop in text for stop in config.stop):
            return "stop"
    if row.constraint is not None and row.constraint.complete:
        return "end"
    return "length" if row.written >= config.max_tokens else None
