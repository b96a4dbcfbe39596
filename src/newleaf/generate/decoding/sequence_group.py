"""Texts that are written as one: the beams of a search, and a text with the one that it is guided away from.

Each has a slot of its own. They take their next tokens together, once the logits of all are there; where a
text goes on in several ways, its slot is forked. The scheduler gives a group all the slots that it may come
to need at once.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from newleaf.generate.decoding.beam_search import Search
from newleaf.generate.decoding.guidance import apply_guidance
from newleaf.generate.sampling.sampler import SamplerRow, sample_tokens
from newleaf.generate.text.request import Request
from newleaf.generate.text.sequence import Sequence
from newleaf.generate.text.text_state import Piece, TextState, add_scores, prompt_ids
from newleaf.text.tokenizer import Tokenizer


@dataclass(eq=False)
class SequenceGroup:
    """The texts of one search, or one text, each with its guide where there is guidance: `members` has a
    tuple for each, the text itself first. `spare` are slots that are its own and empty, `logits` those that
    have come of the texts whose turn it is."""

    samples: list[TextState]  # what comes of it
    members: list[tuple[Sequence, ...]]
    slot_count: int
    max_length: int  # tokens of its longest sequence
    search: Search | None = None
    spare_slots: list[int] = field(default_factory=list)
    logits: dict[Sequence, Tensor] = field(default_factory=dict)
    finished: bool = False

    @property
    def sequences(self) -> list[Sequence]:
        return [sequence for member in self.members for sequence in member]

    def add_logits(self, sequence: Sequence, logits: Tensor) -> bool:
        """Logits [V] after a text; whether those of all are there now."""
        self.logits[sequence] = logits.clone()
        return len(self.logits) == len(self.sequences)

    def take_logits(self) -> Tensor:
        """Logits [members, V], guided where they are to be."""
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
    """What the scheduler is given for a request: a text for each sample; with beams a search for all of them
    together."""
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
    """The group that begins with this text; `negative` is what its guide begins with in the place of the
    prompt. It is noted in both."""
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
    search = Search(row, tokenizer) if config.beams > 1 else None
    longest = max(len(row.ids), len(negative or ())) + config.max_tokens
    group = SequenceGroup(samples, [tuple(texts)], config.beams * len(texts), longest, search)
    for text in texts:
        text.group = group
    return group


def advance_group(
    group: SequenceGroup, tokenizer: Tokenizer
) -> tuple[list[Piece], list[tuple[int, SamplerRow]]]:
    """The next token of each text, once all logits have come: pieces that are certain now, and how the group
    goes on: the number of a member, and the text that it becomes. Nothing goes on where all texts have ended.
    Raises NotFiniteError.
    """
    logits = group.take_logits()
    if group.search is None:
        return _sample(group, logits, tokenizer)
    going = group.search.step(logits)
    if going is not None:
        return [], going
    pieces = []
    for sample, found in zip(group.samples, group.search.texts, strict=False):
        sample.row.constraint = None  # the search has minded it
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
