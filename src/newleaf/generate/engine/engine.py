"""Many requests at once: schedule → run → choose → emit, a round at a time, so that texts begin and end
independently of each other."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from collections.abc import Sequence as Several
from dataclasses import replace
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor

from newleaf.errors import InputError, NotFiniteError
from newleaf.generate.backend.executor import Executor
from newleaf.generate.backend.lazy_lowering import open_executor
from newleaf.generate.backend.runner import say_once
from newleaf.generate.constraints.constraint import Grammars
from newleaf.generate.decoding.sequence_group import SequenceGroup, advance, sequences_of
from newleaf.generate.engine.engine_tasks import EngineTask, EngineTasks, Steps
from newleaf.generate.engine.scheduler import Scheduler, slots_of
from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.sampler import sample_tokens
from newleaf.generate.speculation.draft_model import open_draft, shares
from newleaf.generate.speculation.speculator import Speculator, warn_renamed
from newleaf.generate.text.request import Request
from newleaf.generate.text.sequence import Sequence
from newleaf.generate.text.text_state import Piece, add_scores, one_thread, prompt_ids, start
from newleaf.model import GPT
from newleaf.text.tokenizer import Tokenizer

Result = TypeVar("Result")

SLOTS = 16
SHARE = 0.5  # of the memory that is free when the engine opens: what keys and values may take


class Engine:
    """Writes for many requests at once with one network: `submit` for a thread of its own, `write` in the
    thread that asks.

    `slots` texts are written at once, and others wait their turn; `limit` is the most bytes that keys and
    values may take (None: half of the memory that is free). A request draws the same random numbers whatever
    else is being written, so that its text is the same but for ties in rounding; `deterministic` makes it the
    same bit for bit. `adapters` are networks over the same weights, each with an adapter, by the names under
    which requests ask for them; texts with different ones go through each round together. `draft` is a small
    network with the same tokenizer that proposes tokens (`check_draft`), and whose keys and values are within
    the limit too. `cache` is the type of keys and values: bf16, torch.int8 for codes with scales, or None for
    fp32 with fp32 weights and bf16 with others. `lower_at_once` loads the kernels at once, however small the
    network, since much will be written.
    """

    def __init__(
        self,
        network: GPT,
        tokenizer: Tokenizer,
        slots: int = SLOTS,
        limit: int | None = None,
        deterministic: bool = False,
        grammars: Grammars | None = None,
        runner: Executor | None = None,
        adapters: Mapping[str, GPT] | None = None,
        draft: GPT | None = None,
        cache: torch.dtype | None = None,
        lower_at_once: bool = False,
    ) -> None:
        if slots < 1:
            raise InputError(f"slots: must be at least 1, not {slots}")
        limit = int(psutil.virtual_memory().available * SHARE) if limit is None else limit
        self.tokenizer, self.grammars = tokenizer, grammars or Grammars(tokenizer)
        self.adapters = {name: number for number, name in enumerate(adapters or {}, start=1)}
        mine, its = (limit, 0) if draft is None else shares(limit, network, draft, cache)
        networks = tuple((adapters or {}).values())
        self.executor = runner or open_executor(
            network, slots, mine, deterministic, networks, cache, lower_at_once or draft is not None
        )
        written = (
            open_draft(draft, network, self.executor, its, tokenizer.vocab_size, cache)
            if draft is not None
            else None
        )
        if draft is not None and deterministic and not self.executor.batch_invariant:
            say_once(
                "deterministic: a network without a program takes no proposals, which could tip ties, so "
                "the draft is not used"
            )
        self.speculator = Speculator(self.executor, written)
        self.scheduler = Scheduler(
            self.executor, deterministic and not self.executor.batch_invariant, self.speculator
        )
        self._news = threading.Condition()
        self._turn = threading.Lock()  # held for a round
        self._submitted: list[tuple[Request, list[Sequence]]] = []
        self._engine_tasks = EngineTasks()
        self._requests: dict[Request, list[Sequence]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(
        self,
        prompt: str | Several[int],
        config: SamplingConfig,
        first: int = 0,
        ends: Collection[int] = (),
        shown: Mapping[int, str] | None = None,
        adapter: str | None = None,
    ) -> Request:
        """Hand in a prompt, text or ids; any thread may. Its pieces come from iterating over the request,
        whoever else is served meanwhile. `first` is its number among prompts that share a seed; `ends` and
        `shown` are as for `start` in generate/text/text_state.py; `adapter` names one of the engine's.

        Raises InputError for a prompt or options that cannot be.
        """
        needed = config.beams * (2 if config.guidance_scale != 1 else 1)
        if needed > self.executor.count:
            name = "beams" if config.beams > 1 else "guidance_scale"
            raise InputError(f"{name}: needs {needed} slots, and this engine has {self.executor.count}")
        request = self._hand_in(prompt, config, first, ends, shown, adapter)
        self._start()
        return request

    def run_in_engine(self, steps: Steps[Result]) -> EngineTask[Result]:
        """Do work in the engine's thread, a step at a time between two rounds, so that it has the network to
        itself; any thread may ask."""
        engine_task = EngineTask(steps, self._wake)
        with self._news:
            if self._closed:
                raise InputError("the engine is closed")
            self._engine_tasks.add(engine_task)
            self._news.notify_all()
        self._start()
        return engine_task

    @property
    def load(self) -> tuple[int, int]:
        """How many texts are being written, and how many wait, engine tasks too."""
        waiting = len(self.scheduler.waiting) + sum(len(texts) for _, texts in self._submitted)
        return len(self.scheduler.running), waiting + len(self._engine_tasks)

    @property
    def guesser(self) -> Speculator:
        """`speculator`, by its old name."""
        warn_renamed("guesser", "speculator")
        return self.speculator

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests: it was closed, or it failed."""
        return self._closed

    def _start(self) -> None:
        with self._news:
            if self._thread is None:
                self._thread = threading.Thread(target=self._live, name="newleaf-engine", daemon=True)
                self._thread.start()
                # a thread that Python's end meets inside compiled code takes the process down
                atexit.register(self.close)

    def write(
        self,
        prompts: str | Several[str] | Several[Several[int]],
        config: SamplingConfig,
        first: int = 0,
        ends: Collection[int] = (),
        adapter: str | None = None,
    ) -> Iterator[Piece]:
        """Pieces of one prompt, or of several (texts or ids) that are written together, as they come; the
        engine works while somebody iterates. `ends` are tokens that end a text, beside the tokenizer's own.

        Raises InputError as `submit` does.
        """
        several: list[str | Several[int]] = [prompts] if isinstance(prompts, str) else list(prompts)
        requests = [
            self._hand_in(prompt, config, first + number, ends, adapter=adapter)
            for number, prompt in enumerate(several)
        ]
        return self._drive(requests)

    def answer(
        self, prompt: Several[int], config: SamplingConfig, ends: Collection[int], shown: Mapping[int, str]
    ) -> Iterator[tuple[Piece, int]]:
        """Pieces of what follows these ids, each with how many tokens are written; `ends` and `shown` as for
        `start` in generate/text/text_state.py."""
        request = self._hand_in(prompt, config, 0, ends, shown)
        return ((piece, request.samples[0].row.written) for piece in self._drive([request]))

    def _drive(self, requests: list[Request]) -> Iterator[Piece]:
        try:
            while not all(request.ended for request in requests):
                if self._thread is None:
                    self._advance()
                else:
                    time.sleep(0.001)
                for number, request in enumerate(requests):
                    yield from (replace(piece, prompt=number) for piece in request.drain())
            for number, request in enumerate(requests):
                yield from (replace(piece, prompt=number) for piece in request.drain())
        finally:
            for request in requests:
                request.cancel()

    def _hand_in(
        self,
        prompt: str | Several[int],
        config: SamplingConfig,
        first: int,
        ends: Collection[int] = (),
        shown: Mapping[int, str] | None = None,
        adapter: str | None = None,
    ) -> Request:
        if adapter is not None and adapter not in self.adapters:
            known = ", ".join(self.adapters) or "no adapters"
            raise InputError(f"adapter: {adapter!r} is not open here; this engine has {known}")
        limit = self.executor.max_length
        ids = prompt_ids(self.tokenizer, prompt, config, limit) if isinstance(prompt, str) else list(prompt)
        if not 0 < len(ids) < limit or not (min(ids) >= 0 and max(ids) < self.tokenizer.vocab_size):
            raise InputError(
                f"prompt: {len(ids)} ids do not fit this model: 1 to {limit - 1}, below "
                f"{self.tokenizer.vocab_size}"
            )
        samples = start(
            self.tokenizer,
            [ids],
            config,
            self.grammars,
            config.best_of or config.n,
            first,
            ends,
            shown,
            limit,
        )
        request = Request(config, samples, self._wake, self.adapters[adapter] if adapter is not None else 0)
        texts = sequences_of(request, ids, self.tokenizer, limit)
        if not self.scheduler.fits(texts[0]):
            raise InputError(
                f"the prompt and max_tokens={config.max_tokens} need more memory for keys and values than "
                f"there is; ask for less"
            )
        if config.echo and isinstance(prompt, str):
            for number in range(config.n):
                request.echo(Piece(number, prompt if config.truncate is None else self.tokenizer.decode(ids)))
        with self._news:
            if self._closed:
                raise InputError("the engine is closed")
            self._submitted.append((request, texts))
            self._news.notify_all()
        return request

    async def stream(self, prompt: str | Several[int], config: SamplingConfig) -> AsyncIterator[Piece]:
        """Pieces of one prompt for an event loop."""
        async for piece in self.submit(prompt, config):
            yield piece

    def close(self) -> None:
        """End the thread; requests that are being written end with the pieces they have."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._thread is not None:
            self._thread.join()
            atexit.unregister(self.close)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()

    def _live(self) -> None:
        """The engine's thread: rounds while there is work, sleep while there is none."""
        problem = None
        try:
            while True:
                with self._news:
                    self._news.wait_for(
                        lambda: self._submitted or self._closed or self._requests or self._engine_tasks
                    )
                    if self._closed:
                        break
                if self._engine_tasks.due(writing=bool(self._submitted or self._requests)):
                    self._engine_tasks.advance()
                if self._submitted or self._requests:
                    began = time.perf_counter()
                    self._advance()
                    self._engine_tasks.wrote(time.perf_counter() - began)
        except BaseException as error:  # whoever waits for a text must hear of it
            problem, self._closed = error, True
        for request in [*self._requests, *(request for request, _ in self._submitted)]:
            request.finish(problem)
        self._engine_tasks.fail(problem or InputError("the engine is closed"))

    def _advance(self) -> None:
        """Take in what is new, run a round, and let go of the requests that have ended."""
        with self._turn:
            with self._news:
                news, self._submitted = self._submitted, []
            for request, texts in news:
                if (missing := slots_of(texts[0]) - self.executor.count) > 0:
                    self.scheduler.add_slots(missing)
                self._requests[request] = texts
                for text in texts:
                    self.scheduler.add(text)
            self._round()
            for request in [
                each for each, texts in self._requests.items() if all(text.done for text in texts)
            ]:
                self._retire(request, self._requests.pop(request))

    def _retire(self, request: Request, texts: list[Sequence]) -> None:
        for text in texts:
            if text in self.scheduler:
                self.scheduler.drop(text)
        request.finish()

    def _round(self) -> None:
        """Every text that takes part moves on by what it reads, and by a token or more if it writes."""
        while sequence := next((each for each in self.scheduler.running if each.done), None):
            self.scheduler.drop(sequence)
        plan = self.scheduler.plan()
        begin = time.perf_counter()
        logits = self.executor.run([part for _, part, _ in plan])
        ran = time.perf_counter()
        # who, its first row of logits, how many, how many tokens were read before them
        chosen: list[tuple[Sequence, int, int, int]] = []
        whole: list[SequenceGroup] = []  # groups whose turn it is
        row = 0
        for sequence, part, guessed in plan:
            sequence.read += len(part.ids) - guessed
            if not sequence.sample.row.written and sequence.sample.number == 0:
                sequence.request.note_reading(
                    sequence.sample.row.prompt, sequence.sample.cached, sequence.read
                )
            if part.wanted and sequence.group is None:
                chosen.append((sequence, row, part.wanted, guessed))
            elif (
                part.wanted
                and isinstance(group := sequence.group, SequenceGroup)
                and group.note(sequence, logits[row])
            ):
                whole.append(group)
            row += part.wanted
        with one_thread():
            tokens = self._choose(logits, chosen, {id(sequence): part.ids for sequence, part, _ in plan})
            for group in whole:
                self._go_on(group)
        if tokens:
            self.speculator.step_cost.note_choice(tokens, time.perf_counter() - ran)
        # nothing but writing
        if len(plan) == len(chosen) and row == sum(len(part.ids) for _, part, _ in plan):
            self.speculator.step_cost.note(len(plan), row, ran - begin)

    def _choose(
        self, logits: Tensor, chosen: list[tuple[Sequence, int, int, int]], read: dict[int, Several[int]]
    ) -> int:
        """A token for every text; a further one for those whose proposal was that token, and so on. Returns
        how many."""
        alive, depth, count = [entry for entry in chosen if not entry[0].done], 0, 0
        known = self.tokenizer.vocab_size  # a network may have more rows than the tokenizer has tokens
        while alive:
            rows = [sequence.sample.row for sequence, *_ in alive]
            part = logits if len(alive) == len(logits) else logits[[first + depth for _, first, *_ in alive]]
            tokens = sample_tokens(part[:, :known], rows)
            if any(row.config.logprobs is not None or row.config.best_of is not None for row in rows):
                add_scores(part, [sequence.sample for sequence, *_ in alive], tokens, known)
            further = []
            for entry, token in zip(alive, tokens, strict=True):
                sequence, _, _, guessed = entry
                self._take(sequence, token)
                right = depth < guessed and token == read[id(sequence)][depth + 1]
                if right and not sequence.done:
                    sequence.read += 1
                    further.append(entry)
                elif guessed:
                    self.speculator.record_accepted(sequence, depth + int(right))
            alive, depth, count = further, depth + 1, count + len(alive)
        return count

    def _go_on(self, group: SequenceGroup) -> None:
        request = group.sequences[0].request
        if request.cancelled:
            return
        try:
            pieces, going = advance(group, self.tokenizer)
        except NotFiniteError as error:
            pieces, going = [], []
            request.finish(error)
        for piece in pieces:
            request.put(piece)
        group.over = not going
        if going:
            self.scheduler.go_on(group, going)

    def _take(self, sequence: Sequence, token: int) -> None:
        sample = sequence.sample
        try:
            text = sample.take(token)
        except NotFiniteError as error:  # of this text: others may have none
            sequence.request.finish(error)
            sequence.request.cancelled = True
            return
        if (text or sample.end) and not sequence.request.cancelled:
            past = sample.past_context
            sequence.request.put(
                Piece(sample.number, text, sample.end, tuple(sample.waiting), past_context=past)
            )
            sample.waiting.clear()
