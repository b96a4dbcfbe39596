"""Many requests at once: schedule → run → choose → emit, a round at a time, so that texts begin and end independently of each other."""

from __future__ import annotations

import atexit
import threading
from collections.abc import AsyncIterator, Iterator
from collections.abc import Sequence as Several
from typing import Any, Literal

import psutil
from torch import Tensor

from newleaf.errors import InputError
from newleaf.generate.choose import choose
from newleaf.generate.constraints import Grammars
from newleaf.generate.options import SamplingConfig
from newleaf.generate.request import Request
from newleaf.generate.samples import Piece, add_scores, one_thread, prompt_ids, start
from newleaf.generate.scheduler import Scheduler
from newleaf.generate.sequence import Sequence
from newleaf.generate.slots import Slots, open_slots
from newleaf.model import GPT
from newleaf.text.tokenizer import Tokenizer

SLOTS = 16
SHARE = 0.5  # of the memory that is free when the engine opens: what keys and values may take


class Engine:
    """Writes for many requests at once with one network. Its thread starts with the first request and ends with `close`.

    `slots` texts are written at once, and others wait their turn; `limit` is the most bytes that keys and values may take (None: half of
    the memory that is free). A request draws the same random numbers whatever else is being written, so that its text is the same but for
    ties in rounding; `deterministic` makes it the same bit for bit. `speculation` "auto" guesses tokens where texts repeat themselves,
    which changes no text.
    """

    def __init__(
        self,
        network: GPT,
        tokenizer: Tokenizer,
        slots: int = SLOTS,
        limit: int | None = None,
        deterministic: bool = False,
        speculation: Literal["auto", "off"] = "auto",
        grammars: Grammars | None = None,
        runner: Slots | None = None,
    ) -> None:
        if speculation not in ("auto", "off"):
            raise InputError(f"speculation: {speculation!r} is not one of auto, off")
        if slots < 1:
            raise InputError(f"slots: must be at least 1, not {slots}")
        limit = int(psutil.virtual_memory().available * SHARE) if limit is None else limit
        self.tokenizer, self.grammars = tokenizer, grammars or Grammars(tokenizer)
        self.slots = runner or open_slots(network, slots, limit, deterministic)
        fixed = deterministic and not self.slots.steady
        # Where a row's rounding depends on how many rows there are, guesses could tip a tie.
        self.scheduler = Scheduler(self.slots, fixed, speculation == "auto" and (self.slots.steady or not deterministic))
        self._news = threading.Condition()
        self._submitted: list[Request] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, prompt: str | Several[int], config: SamplingConfig, first: int = 0) -> Request:
        """Hand in a prompt, text or ids; any thread may. Its pieces come from iterating over the request. `first` is its number among
        prompts that share a seed.

        Raises InputError for a prompt or options that cannot be, and for beams and guidance, which go through `write`.
        """
        for name, off in (("beams", 1), ("guidance_scale", 1)):
            if getattr(config, name) != off:
                raise InputError(f"{name}: the engine writes each text by itself; Model.generate has {name}")
        limit = self.slots.max_length
        ids = prompt_ids(self.tokenizer, prompt, config, limit) if isinstance(prompt, str) else list(prompt)
        if not 0 < len(ids) < limit or not (min(ids) >= 0 and max(ids) < self.tokenizer.vocab_size):
            raise InputError(f"prompt: {len(ids)} ids do not fit this model: 1 to {limit - 1}, below {self.tokenizer.vocab_size}")
        samples = start(self.tokenizer, [ids], config, self.grammars, config.best_of or config.n, first)
        request = Request(config, samples, self._wake)
        if not self.scheduler.fits(Sequence(samples[0], request)):
            raise InputError(
                f"the prompt and max_tokens={config.max_tokens} need more memory for keys and values than there is; ask for less"
            )
        if config.echo and isinstance(prompt, str):
            for number in range(config.n):
                request.echo(Piece(number, prompt if config.truncate is None else self.tokenizer.decode(ids)))
        with self._news:
            if self._closed:
                raise InputError("the engine is closed")
            self._submitted.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._live, name="newleaf-engine", daemon=True)
                self._thread.start()
                atexit.register(self.close)  # a thread that Python's end meets inside compiled code takes the process down
            self._news.notify_all()
        return request

    def write(self, prompts: str | Several[str], config: SamplingConfig) -> Iterator[Piece]:
        """Pieces of one prompt, or of several, one prompt after the other while all are being written."""
        prompts = [prompts] if isinstance(prompts, str) else prompts
        requests = [self.submit(prompt, config, number) for number, prompt in enumerate(prompts)]
        try:
            for number, request in enumerate(requests):
                yield from (_numbered(piece, number) for piece in request)
        finally:
            for request in requests:
                request.cancel()

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
        requests: dict[Request, list[Sequence]] = {}
        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._submitted or self._closed or requests)
                    news, self._submitted = self._submitted, []
                    if self._closed:
                        break
                for request in news:
                    requests[request] = [Sequence(sample, request) for sample in request.samples]
                    for sequence in requests[request]:
                        self.scheduler.add(sequence)
                self._round()
                for request in [each for each, texts in requests.items() if all(text.done for text in texts)]:
                    self._retire(request, requests.pop(request))
            problem = None
        except BaseException as error:  # whoever waits for a text must hear of it
            problem, self._closed = error, True
        for request in [*requests, *self._submitted, *(news if problem is not None else ())]:
            request.finish(problem)

    def _retire(self, request: Request, texts: list[Sequence]) -> None:
        for text in texts:
            if text.slot is not None or text in self.scheduler.waiting:
                self.scheduler.drop(text)
        request.finish()

    def _round(self) -> None:
        """Every text that takes part moves on by what it reads, and by a token or more if it writes."""
        for sequence in [each for each in self.scheduler.running if each.done]:
            self.scheduler.drop(sequence)
        plan = self.scheduler.plan()
        logits = self.slots.run([part for _, part, _ in plan])
        chosen: list[tuple[Sequence, int, int, int]] = []  # who, its first row of logits, how many, how many tokens were read before them
        row = 0
        for sequence, part, guessed in plan:
            sequence.read += len(part.ids) - guessed
            if part.wanted:
                chosen.append((sequence, row, part.wanted, guessed))
                row += part.wanted
        self._choose(logits[:, : self.tokenizer.vocab_size], chosen, {id(sequence): part.ids for sequence, part, _ in plan})

    def _choose(self, logits: Tensor, chosen: list[tuple[Sequence, int, int, int]], read: dict[int, Several[int]]) -> None:
        """A token for every text; a further one for those whose guess was that token, and so on."""
        alive, depth = [entry for entry in chosen if not entry[0].done], 0
        while alive:
            rows = [sequence.sample.row for sequence, *_ in alive]
            part = logits[[first + depth for _, first, *_ in alive]]
            samples = [sequence.sample for sequence, *_ in alive]
            with one_thread():
                tokens = choose(part, rows)
                if any(row.config.logprobs is not None or row.config.best_of is not None for row in rows):
                    add_scores(part, samples, tokens)
            further = []
            for entry, token in zip(alive, tokens, strict=True):
                sequence, _, _, guessed = entry
                self._take(sequence, token)
                right = depth < guessed and token == read[id(sequence)][depth + 1]
                if right and not sequence.done:
                    sequence.read += 1
                    further.append(entry)
                elif guessed:
                    sequence.drafts.judge(guessed, depth + int(right))
            alive, depth = further, depth + 1

    def _take(self, sequence: Sequence, token: int) -> None:
        sample = sequence.sample
        text = sample.take(token, self.tokenizer.eos_id)
        if (text or sample.end) and not sequence.request.cancelled:
            sequence.request.put(Piece(sample.number, text, sample.end, tuple(sample.waiting)))
            sample.waiting.clear()


def _numbered(piece: Piece, number: int) -> Piece:
    return Piece(piece.sample, piece.text, piece.end, piece.scores, number, piece.rank)
