"""The engine: many requests at once with one network, in a thread of its own or in the caller's."""

from __future__ import annotations

import atexit
import threading
import time
import warnings
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from collections.abc import Sequence as Several
from dataclasses import replace
from typing import Any, TypeVar, Unpack

import psutil
import torch

from newleaf.errors import InputError
from newleaf.generate.backend.executor import Executor
from newleaf.generate.backend.lazy_lowering import open_executor
from newleaf.generate.backend.runner import say_once
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.engine.engine_tasks import EngineTask, EngineTasks, Steps
from newleaf.generate.engine.request_intake import RequestIntake
from newleaf.generate.engine.scheduler import Scheduler
from newleaf.generate.engine.step_loop import StepLoop
from newleaf.generate.options import SamplingConfig, SamplingOptions, sampling_config
from newleaf.generate.speculation.draft_model import DraftModel, open_draft, split_cache_limit
from newleaf.generate.speculation.speculator import Speculator, warn_renamed
from newleaf.generate.text.request import Request
from newleaf.generate.text.sequence import Sequence
from newleaf.generate.text.text_state import Piece
from newleaf.model import GPT
from newleaf.text.tokenizer import Tokenizer

Result = TypeVar("Result")

SLOTS = 16
CACHE_SHARE = 0.5  # of the memory that is free when the engine opens, for the KV cache


class Engine:
    """Generates for many requests at once: `submit` runs a thread, `write` runs in the caller's.

    `slots` sequences run at once, and others wait. `limit` is the most bytes that the KV cache may take
    (None: half of the free memory), a draft's included.

    A request draws the same random numbers whatever runs beside it, so its text is the same but for ties in
    rounding; `deterministic` makes it the same bit for bit.

    `adapters` are networks over the same weights, by the names under which requests choose them; one step
    may run several. `draft` is a small network with the same tokenizer that proposes tokens (`check_draft`).
    `cache` is the type of the KV cache: bf16, torch.int8 for codes with scales, or None for fp32 with fp32
    weights and bf16 with others. `lower_at_once` loads the kernels now, however small the network. `executor`
    runs the network in place of the one that would be chosen; `runner` is its old name.
    """

    def __init__(
        self,
        network: GPT,
        tokenizer: Tokenizer,
        slots: int = SLOTS,
        limit: int | None = None,
        deterministic: bool = False,
        grammars: GrammarCompiler | None = None,
        executor: Executor | None = None,
        adapters: Mapping[str, GPT] | None = None,
        draft: GPT | None = None,
        cache: torch.dtype | None = None,
        lower_at_once: bool = False,
        *,
        runner: Executor | None = None,
    ) -> None:
        if slots < 1:
            raise InputError(f"slots: must be at least 1, not {slots}")
        if runner is not None:
            warnings.warn(
                "runner is called executor now; the old name goes with the next release",
                DeprecationWarning,
                stacklevel=2,
            )
            executor = executor or runner
        limit = int(psutil.virtual_memory().available * CACHE_SHARE) if limit is None else limit
        self.tokenizer, self.grammars = tokenizer, grammars or GrammarCompiler(tokenizer)
        self.adapters = {name: number for number, name in enumerate(adapters or {}, start=1)}
        own, for_draft = (limit, 0) if draft is None else split_cache_limit(limit, network, draft, cache)
        networks = tuple((adapters or {}).values())
        self.executor = executor or open_executor(
            network, slots, own, deterministic, networks, cache, lower_at_once or draft is not None
        )
        model: DraftModel | None = None
        if draft is not None:
            model = open_draft(draft, network, self.executor, for_draft, tokenizer.vocab_size, cache)
        batch_variant = deterministic and not self.executor.batch_invariant
        if draft is not None and batch_variant:
            say_once(
                "deterministic: a network without a lowered program takes no proposals, which could tip "
                "ties; the draft is not used"
            )
        self.speculator = Speculator(self.executor, model)
        self.scheduler = Scheduler(self.executor, batch_variant, self.speculator)
        self._intake = RequestIntake(tokenizer, self.grammars, self.scheduler, self.adapters)
        self._step_loop = StepLoop(self.executor, self.scheduler, self.speculator, tokenizer)
        self._step_lock = threading.Lock()  # held for a step
        self._changed = threading.Condition()
        self._submitted: list[tuple[Request, list[Sequence]]] = []
        self._engine_tasks = EngineTasks()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(
        self,
        prompt: str | Several[int],
        config: SamplingConfig | None = None,
        first: int = 0,
        ends: Collection[int] = (),
        shown: Mapping[int, str] | None = None,
        adapter: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Request:
        """Queue a prompt, text or ids, from any thread; iterate over the request for its pieces.

        Options are the fields of `SamplingConfig`, or one `config`. `first` is the prompt's number among
        those that share a seed. `ends` are end tokens in place of the tokenizer's own; `shown` are special
        tokens that become text, and as what. `adapter` names one of the engine's.

        Raises InputError for a prompt or options that cannot be.
        """
        config = sampling_config(options, config)
        needed = config.beams * (2 if config.guidance_scale != 1 else 1)
        if needed > self.executor.count:
            name = "beams" if config.beams > 1 else "guidance_scale"
            raise InputError(f"{name}: needs {needed} slots, and this engine has {self.executor.count}")
        request = self._enqueue(prompt, config, first, ends, shown, adapter)
        self._start()
        return request

    def run_in_engine(self, steps: Steps[Result]) -> EngineTask[Result]:
        """Run a task in the engine's thread, in slices between steps, where it has the network to itself.

        Any thread may call this.
        """
        engine_task = EngineTask(steps, self._wake)
        with self._changed:
            if self._closed:
                raise InputError("the engine is closed")
            self._engine_tasks.add(engine_task)
            self._changed.notify_all()
        self._start()
        return engine_task

    @property
    def load(self) -> tuple[int, int]:
        """How many sequences run, and how many wait, engine tasks included."""
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
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_thread, name="newleaf-engine", daemon=True)
                self._thread.start()
                # A thread inside compiled code would crash the process when Python ends.
                atexit.register(self.close)

    def write(
        self,
        prompts: str | Several[str] | Several[Several[int]],
        config: SamplingConfig | None = None,
        first: int = 0,
        ends: Collection[int] = (),
        adapter: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Piece]:
        """Pieces of one prompt, or of several (texts or ids) in one batch, as they come.

        The engine runs while the caller iterates. Parameters and errors are those of `submit`.
        """
        config = sampling_config(options, config)
        several: list[str | Several[int]] = [prompts] if isinstance(prompts, str) else list(prompts)
        requests = [
            self._enqueue(prompt, config, first + number, ends, adapter=adapter)
            for number, prompt in enumerate(several)
        ]
        return self._run_until_done(requests)

    def answer(
        self, prompt: Several[int], config: SamplingConfig, ends: Collection[int], shown: Mapping[int, str]
    ) -> Iterator[tuple[Piece, int]]:
        """Pieces after these ids, each with the number of generated tokens; parameters as for `submit`."""
        request = self._enqueue(prompt, config, 0, ends, shown)
        return ((piece, request.samples[0].row.written) for piece in self._run_until_done([request]))

    def _run_until_done(self, requests: list[Request]) -> Iterator[Piece]:
        try:
            while not all(request.ended for request in requests):
                if self._thread is None:
                    self._step()
                else:
                    time.sleep(0.001)
                for number, request in enumerate(requests):
                    yield from (replace(piece, prompt=number) for piece in request.drain())
            for number, request in enumerate(requests):
                yield from (replace(piece, prompt=number) for piece in request.drain())
        finally:
            for request in requests:
                request.cancel()

    def _enqueue(
        self,
        prompt: str | Several[int],
        config: SamplingConfig,
        first: int,
        ends: Collection[int] = (),
        shown: Mapping[int, str] | None = None,
        adapter: str | None = None,
    ) -> Request:
        request, sequences = self._intake.open(self._wake, prompt, config, first, ends, shown, adapter)
        with self._changed:
            if self._closed:
                raise InputError("the engine is closed")
            self._submitted.append((request, sequences))
            self._changed.notify_all()
        return request

    async def stream(
        self,
        prompt: str | Several[int],
        config: SamplingConfig | None = None,
        **options: Unpack[SamplingOptions],
    ) -> AsyncIterator[Piece]:
        """Pieces of one prompt for an event loop; options as for `submit`."""
        async for piece in self.submit(prompt, config, **options):
            yield piece

    def close(self) -> None:
        """End the thread; running requests end with the pieces they have."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            atexit.unregister(self.close)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run_thread(self) -> None:
        """The engine's thread: steps while there is work, sleep while there is none."""
        problem, requests = None, self._step_loop.requests
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._submitted or self._closed or requests or self._engine_tasks
                    )
                    if self._closed:
                        break
                if self._engine_tasks.due(generating=bool(self._submitted or requests)):
                    self._engine_tasks.advance()
                if self._submitted or requests:
                    began = time.perf_counter()
                    self._step()
                    self._engine_tasks.record_generation(time.perf_counter() - began)
        except BaseException as error:  # whoever waits for a text must get it
            problem, self._closed = error, True
        for request in [*requests, *(request for request, _ in self._submitted)]:
            request.finish(problem)
        self._engine_tasks.fail(problem or InputError("the engine is closed"))

    def _step(self) -> None:
        """Admit the requests that have come, and run a step."""
        with self._step_lock:
            with self._changed:
                submitted, self._submitted = self._submitted, []
            for request, sequences in submitted:
                self._step_loop.add(request, sequences)
            self._step_loop.step()
