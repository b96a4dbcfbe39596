"""A request: texts that somebody waits for, and the pieces of them that have come so far."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from newleaf.generate.options import SamplingConfig
from newleaf.generate.text.text_state import Piece, TextState


@dataclass(frozen=True)
class PrefillProgress:
    """How far a prompt has been read: `processed` of `total` tokens, the first `cached_directory` of which
    the cache had already."""

    total: int
    cached: int
    processed: int


Message = Piece | BaseException | None  # None: nothing more comes


class Request:
    """One prompt and its options in the engine. Iterate over it, with `for` or `async for`, for its pieces as
    they come."""

    def __init__(
        self, config: SamplingConfig, samples: list[TextState], wake: Callable[[], None], adapter: int = 0
    ) -> None:
        self.config, self.samples, self.adapter = config, samples, adapter
        self.cancelled = False
        self.prefill: PrefillProgress | None = None
        self._watched = self._read_on = False
        self._wake = wake
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._listener: Callable[[], None] | None = None
        self._woken = False  # whether the listener was called and has not looked since
        self._kept: list[Piece] = []  # of best_of, until all texts have ended
        self._left = len(samples)
        self._ended = False

    def cancel(self) -> None:
        """Stop writing before the next token; iteration ends after the pieces that have come. Any thread may
        call this, at any time."""
        self.cancelled = True
        self._wake()

    def watch_prefill(self) -> None:
        """Let `batches` say, by an empty batch, that more of the prompt has been read; `prefill` has how
        much."""
        self._watched = True

    def __iter__(self) -> Iterator[Piece]:
        """Raises what went wrong in the engine, if something did. Leaving the loop early cancels the
        request."""
        try:
            while (message := self._messages.get()) is not None:
                yield self._checked(message)
            self._messages.put(None)  # for whoever iterates again
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """The same without blocking the event loop."""
        async for pieces in self.batches():
            for piece in pieces:
                yield piece

    async def batches(self) -> AsyncIterator[list[Piece]]:
        """The pieces without blocking the event loop: all that have come since the last time at once, those
        of one text as one piece, so that a loop with many texts keeps up with the engine. Empty batches where
        the reading of the prompt is watched."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        self._listener = lambda: _set(loop, news)
        try:
            while True:
                news.clear()
                self._woken = False  # before looking: whatever comes from now on wakes the loop again
                over = self._ended  # before looking: what has come by then is all
                read_on, self._read_on = self._read_on, False
                if (pieces := merge_pieces(self.drain())) or read_on:
                    yield pieces
                elif over:
                    return
                else:
                    await news.wait()
        finally:
            self._listener = None
            self.cancel()

    @staticmethod
    def _checked(message: Piece | BaseException) -> Piece:
        if isinstance(message, BaseException):
            raise message
        return message

    # ---- the engine's side

    def echo(self, piece: Piece) -> None:
        """A piece that comes before all others, held back for nothing."""
        self._send(piece)

    def report_prefill(self, total: int, cached: int, processed: int) -> None:
        """A round has read more of the prompt."""
        self.prefill = PrefillProgress(total, cached, processed)
        if self._watched:
            self._read_on = True
            self._tell()

    def put(self, piece: Piece) -> None:
        """A piece has been written; those of best_of are held back until the texts can be compared."""
        if self.config.best_of is None:
            self._send(piece)
        else:
            self._kept.append(piece)
        if piece.end is not None:
            self._left -= 1
            if self._left == 0:
                self._rank()
                self._send(None)

    def finish(self, problem: BaseException | None = None) -> None:
        """It was cancelled, or the engine failed."""
        if not self._ended:
            if problem is not None:
                self._send(problem)
            self._send(None)

    @property
    def ended(self) -> bool:
        return self._ended

    def drain(self) -> Iterator[Piece]:
        """The pieces that have come, without waiting for more."""
        while not self._messages.empty():
            message = self._messages.get()
            if message is None:
                self._messages.put(None)
                return
            yield self._checked(message)

    def _rank(self) -> None:
        ranked = (
            sorted(self.samples, key=lambda sample: -sample.mean_logprob)
            if self.config.best_of is not None
            else []
        )
        for number, sample in enumerate(ranked[: self.config.n]):
            own = [piece for piece in self._kept if piece.sample == sample.number]
            scores = tuple(found for piece in own for found in piece.scores)
            text, past = "".join(piece.text for piece in own), sample.past_context
            self._send(Piece(number, text, sample.end, scores, sample.prompt, sample.mean_logprob, past))

    def _send(self, message: Message) -> None:
        self._ended |= message is None
        self._messages.put(message)
        self._tell()

    def _tell(self) -> None:
        listener = self._listener
        if listener is not None and not self._woken:
            self._woken = True
            listener()


def merge_pieces(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces of one text after the other become one; texts stand in the order of their first pieces."""
    found: dict[tuple[int, int], Piece] = {}
    for piece in pieces:
        key = piece.prompt, piece.sample
        before = found.get(key)
        if before is None:
            found[key] = piece
        else:
            found[key] = replace(piece, text=before.text + piece.text, scores=before.scores + piece.scores)
    return list(found.values())


def _set(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has been closed, and nobody listens
        loop.call_soon_threadsafe(news.set)
