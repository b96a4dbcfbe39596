"""The step loop: drop what has ended or was cancelled, schedule, run the network, sample, emit pieces."""

from __future__ import annotations

import time
from typing import NamedTuple

from torch import Tensor

from newleaf.errors import NotFiniteError
from newleaf.generate.backend.executor import Executor
from newleaf.generate.decoding.sequence_group import SequenceGroup, advance_group
from newleaf.generate.engine.scheduler import Scheduler, slots_needed
from newleaf.generate.sampling.sampler import sample_tokens
from newleaf.generate.speculation.speculator import Speculator
from newleaf.generate.text.request import Request
from newleaf.generate.text.sequence import Sequence
from newleaf.generate.text.text_state import Piece, add_scores, one_thread
from newleaf.text.tokenizer import Tokenizer


class SampledSequence(NamedTuple):
    """A sequence that samples in this step: its first row of logits, and the proposals that the step ran."""

    sequence: Sequence
    first_row: int
    proposals: list[int]


class StepLoop:
    """Runs the requests of an engine, a step at a time. It is not thread-safe: its owner takes turns."""

    def __init__(
        self, executor: Executor, scheduler: Scheduler, speculator: Speculator, tokenizer: Tokenizer
    ) -> None:
        self.executor, self.scheduler, self.speculator = executor, scheduler, speculator
        self.tokenizer = tokenizer
        self.requests: dict[Request, list[Sequence]] = {}  # admitted, not finished

    def add(self, request: Request, sequences: list[Sequence]) -> None:
        """The scheduler gets the sequences of a request, and more slots where its group needs them."""
        if (missing := slots_needed(sequences[0]) - self.executor.count) > 0:
            self.scheduler.add_slots(missing)
        self.requests[request] = sequences
        for sequence in sequences:
            self.scheduler.add(sequence)

    def step(self) -> None:
        """One step for every sequence that takes part; then requests whose sequences are all done finish."""
        self._drop_done()
        self._run_step()
        for request in [
            each for each, sequences in self.requests.items() if all(sequence.done for sequence in sequences)
        ]:
            self._finish(request)

    def _drop_done(self) -> None:
        """Free the slots of sequences that have ended, or whose request was cancelled."""
        while sequence := next((each for each in self.scheduler.running if each.done), None):
            self.scheduler.drop(sequence)

    def _finish(self, request: Request) -> None:
        """All sequences have ended, or the request was cancelled: nothing more comes of it."""
        for sequence in self.requests.pop(request):
            if sequence in self.scheduler:
                self.scheduler.drop(sequence)
        request.finish()

    def _run_step(self) -> None:
        plan = self.scheduler.plan()
        began = time.perf_counter()
        logits = self.executor.run([part for _, part, _ in plan])
        ran = time.perf_counter()
        sampled: list[SampledSequence] = []
        ready: list[SequenceGroup] = []  # groups that have the logits of all their sequences
        row = 0
        for sequence, part, proposed in plan:
            sequence.computed += len(part.ids) - proposed
            _report_prefill(sequence)
            group = sequence.group
            if part.wanted and group is None:
                proposals = list(part.ids[1 : 1 + proposed])
                sampled.append(SampledSequence(sequence, row, proposals))
            elif part.wanted and isinstance(group, SequenceGroup) and group.add_logits(sequence, logits[row]):
                ready.append(group)
            row += part.wanted
        with one_thread():
            tokens = self._sample(logits, sampled)
            for group in ready:
                self._advance_group(group)
        if tokens:
            self.speculator.step_cost.record_sampling(tokens, time.perf_counter() - ran)
        # Only steps without prefill are comparable: each row gave logits for a sequence of its own.
        if len(plan) == len(sampled) and row == sum(len(part.ids) for _, part, _ in plan):
            self.speculator.step_cost.record(len(plan), row, ran - began)

    def _sample(self, logits: Tensor, sampled: list[SampledSequence]) -> int:
        """A token for every sequence, and a further one after each accepted proposal; returns how many.

        A proposal is accepted where the sampler takes the same token, so proposals change no text.
        """
        active, depth, count = [each for each in sampled if not each.sequence.done], 0, 0
        known = self.tokenizer.vocab_size  # a network may have more rows than the tokenizer has tokens
        while active:
            samples = [each.sequence.sample for each in active]
            rows = [sample.row for sample in samples]
            own = logits
            if len(active) != len(logits):
                own = logits[[each.first_row + depth for each in active]]
            tokens = sample_tokens(own[:, :known], rows)
            if any(row.config.logprobs is not None or row.config.best_of is not None for row in rows):
                add_scores(own, samples, tokens, known)
            further = []
            for each, token in zip(active, tokens, strict=True):
                self._emit(each.sequence, token)
                accepted = depth < len(each.proposals) and token == each.proposals[depth]
                if accepted and not each.sequence.done:
                    each.sequence.computed += 1
                    further.append(each)
                elif each.proposals:
                    self.speculator.record_accepted(each.sequence, depth + int(accepted))
            active, depth, count = further, depth + 1, count + len(active)
        return count

    def _emit(self, sequence: Sequence, token: int) -> None:
        """Append a token; what text is certain now goes to the request."""
        sample = sequence.sample
        try:
            text = sample.take(token)
        except NotFiniteError as error:  # of this sequence: others may have none
            sequence.request.finish(error)
            sequence.request.cancelled = True
            return
        if (text or sample.end) and not sequence.request.cancelled:
            scores, past = tuple(sample.waiting), sample.past_context
            sequence.request.put(Piece(sample.number, text, sample.end, scores, past_context=past))
            sample.waiting.clear()

    def _advance_group(self, group: SequenceGroup) -> None:
        """The next token of each sequence of a group: beams, or a text and its guide."""
        request = group.sequences[0].request
        if request.cancelled:
            return
        try:
            pieces, going = advance_group(group, self.tokenizer)
        except NotFiniteError as error:
            pieces, going = [], []
            request.finish(error)
        for piece in pieces:
            request.put(piece)
        group.finished = not going
        if going:
            self.scheduler.continue_group(group, going)


def _report_prefill(sequence: Sequence) -> None:
    """Tell the request how much of its prompt has been read."""
    sample = sequence.sample
    if not sample.row.written and sample.number == 0:
        sequence.request.report_prefill(sample.row.prompt, sample.cached, sequence.computed)
