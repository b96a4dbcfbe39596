"""Beam search at work: the rows it keeps, and the texts it found."""

from __future__ import annotations

from collections.abc import Sequence

from newleaf.errors import NotFiniteError
from newleaf.generate.beam import BeamSearch, Candidate, Finished
from newleaf.generate.choose import Row, keep_valid, shape
from newleaf.generate.runner import Runner
from newleaf.text.tokenizer import Tokenizer


def search(runner: Runner, tokenizer: Tokenizer, row: Row) -> list[Finished]:
    """The best texts after a row's prompt, best first; `runner` must let one text be continued in several ways."""
    config = row.config
    found, rows = BeamSearch(config.beams, config.length_penalty), [row]
    logits = runner.start([row.ids])
    while True:
        if not bool(logits.amax(-1).isfinite().all()):
            raise NotFiniteError
        logprobs = keep_valid(shape(logits.log_softmax(-1)[:, : tokenizer.vocab_size], rows), rows)
        before = found.scores[0]
        open_, parents = _sort_out(found, found.candidates(logprobs, len(row.end_ids)), rows, tokenizer)
        if not open_ and not found.finished:
            return [Finished(tuple(rows[0].ids[row.prompt :]), before / max(rows[0].written, 1) ** config.length_penalty, "stuck")]
        rows = open_
        if not rows or found.hopeless(rows[0].written):
            return found.finished
        if runner.length < runner.max_length:
            logits = runner.advance([each.ids[-1] for each in rows], parents)
        else:
            logits = runner.start([each.ids for each in rows])


def _sort_out(found: BeamSearch, candidates: Sequence[Candidate], rows: Sequence[Row], tokenizer: Tokenizer) -> tuple[list[Row], list[int]]:
    """Those that end go to the finished; the likeliest others go on, as rows with the numbers of their parents."""
    going: list[tuple[Row, Candidate]] = []
    for rank, candidate in enumerate(candidates):
        row = rows[candidate.parent].fork()
        row.take(candidate.token)
        end = _end(row, tokenizer)
        if end is None and len(going) < found.beams:
            going.append((row, candidate))
        elif end is not None and rank < found.beams:
            found.finish(tuple(row.ids[row.prompt :]), candidate.score, row.written, end)
    found.scores = [candidate.score for _, candidate in going]
    return [row for row, _ in going], [candidate.parent for _, candidate in going]


def _end(row: Row, tokenizer: Tokenizer) -> str | None:
    """Why this text is whole; None if it goes on."""
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
