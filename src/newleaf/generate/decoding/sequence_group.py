"""Sequences that decode together: the beams of a search, and a text with its guidance sequence.

Each has a slot of its own. They take their next tokens together, once all have logits; where a beam continues
in several ways, its slot is forked. The scheduler gives a group all the slots it may need at once.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from newleaf.generate.decoding.beam_search import BeamSearch
from newleaf.generate.decoding.guidance import apply_guidance
from newleaf.generate.sampling.sampler import SamplerRow, sample_tokens
from newleaf.generate.text.request import Request
from newleaf.generate.text.sequence import Sequence
from newleaf.generate.text.text_state import Piece, TextState, add_scores, prompt_ids
from newleaf.text.tokenizer import Tokenizer


@dataclass(eq=False)
class SequenceGroup:
    """The beams of one search, or one text; with guidance, each has its guidance sequence.

    `members` has a tuple for each, the text itself first. `spare_slots` are reserved and empty; `logits` are
    those of this step so far.
    """

    samples: list[TextState]  # the resulting texts
    members: list[tuple[Sequence, ...]]
    slot_count: int
    max_length: int  # tokens of its longest sequence
    search: BeamSearch | None = None
    spare_slots: list[int] = field(default_factory=list)
    logits: dict[Sequence, Tensor] = field(default_factory=dict)
    finished: bool = False

    @property
    def sequences(self) -> list[Sequence]:
        return [sequence for member in self.members for sequence in member]

    def add_logits(self, sequence: Sequence, logits: Tensor) -> bool:
        """Add the logits [V] of a sequence; whether all have theirs now."""
        self.logits[sequence] = logits.clone()
        return len(self.logits) == len(self.sequences)

    def take_logits(self) -> Tensor:
        """Logits [members, V], with guidance applied."""
        found, self.logits = self.logits, {}
        own = [
            torch.stack([found[member[place]] for member in self.members])
            for place in range(len(self.members[0]))
        ]
        return (
            own[0]
            if len(own) == 1
            else apply_guidance(own[0], own[1], self.samples[0].row.config.guidance_scale)
        )


def make_sequences(request: Request, ids: Several[int], tokenizer: Tokenizer, limit: int) -> list[Sequence]:
    """The sequences of a request: one for each sample, or one with a group for a beam search."""
    config, samples = request.config, request.samples
    negative: Several[int] | None = None
    if config.guidance_scale != 1:
        prompt = config.negative_prompt
        negative = ids[-1:] if prompt is None else prompt_ids(tokenizer, prompt, config, limit)
    texts = [
        Sequence(sample, request, adapter=request.adapter)
        for sample in (samples if config.beams == 1 else samples[:1])
    ]
    if config.beams > 1 or negative is not None:
        for text in texts:
            make_group(text, samples if config.beams > 1 else [text.sample], tokenizer, negative)
    return texts


def make_group(
    sequence: Sequence, samples: list[TextState], tokenizer: Tokenizer, negative: Several[int] | None
) -> SequenceGroup:
    """Make a group of this sequence; `negative` is the prompt of its guidance sequence."""
    row, config = sequence.sample.row, sequence.sample.row.config
    texts = [sequence]
    if negative is not None:
        beside = SamplerRow(config, list(negative), len(negative), row.seed)
        texts.append(
            Sequence(
                replace(sequence.sample, row=beside, number=1, waiting=[]),
                sequence.request,
                adapter=sequence.adapter,
            )
        )
    search = BeamSearch(row, tokenizer) if config.beams > 1 else None
    longest = max(len(row.ids), len(negative or ())) + config.max_tokens
    group = SequenceGroup(samples, [tuple(texts)], config.beams * len(texts), longest, search)
    for text in texts:
        text.group = group
    return group


def advance_group(
    group: SequenceGroup, tokenizer: Tokenizer
) -> tuple[list[Piece], list[tuple[int, SamplerRow]]]:
    """The next token of each sequence, once all have logits. Raises NotFiniteError.

    Returns pieces that are certain now, and the continuations: a member's number and its new row. There is
    none where all texts have ended.
    """
    logits = group.take_logits()
    if group.search is None:
        return _sample(group, logits, tokenizer)
    going = group.search.step(logits)
    if going is not None:
        return [], going
    pieces = []
    for sample, found in zip(group.samples, group.search.texts, strict=False):
        sample.row.constraint = None  # the search has applied it
        text = "".join(sample.take(token) for token in found.ids)
        text += "" if sample.end else sample.finish(found.end)
        pieces.append(
            Piece(sample.number, text, found.end, rank=found.score, past_context=sample.past_context)
        )
    return pieces, []


def _sample(
    group: SequenceGroup, logits: Tensor, tokenizer: Tokenizer
) -> tuple[list[Piece], list[tuple[int, SamplerRow]]]:
    (sample,) = group.samples
    config = sample.row.config
    (token,) = sample_tokens(logits[:, : tokenizer.vocab_size], [sample.row])
    if config.logprobs is not None or config.best_of is not None:
        add_scores(logits, [sample], [token], tokenizer.vocab_size)
    text = sample.take(token)
    pieces = []
    if text or sample.end:
        pieces = [
            Piece(sample.number, text, sample.end, tuple(sample.waiting), past_context=sample.past_context)
        ]
        sample.waiting.clear()
    return pieces, [] if sample.end else [(0, sample.row)]
