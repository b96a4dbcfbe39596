"""A request: its texts, the pieces generated so far, and its cancellation."""

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
    """Progress of a prompt: `processed` of `total` tokens; `cached` of them came from the prefix cache."""

    total: int
    cached: int
    processed: int


Message = Piece | BaseException | None  # None: the request has ended


class Request:
    """One prompt and its options in the engine. Iterate, with `for` or `async for`, over its pieces."""

    def __init__(
        self, config: SamplingConfig, samples: list[TextState], wake: Callable[[], None], adapter: int = 0
    ) -> None:
        self.config, self.samples, self.adapter = config, samples, adapter
        self.cancelled = False
        self.prefill: PrefillProgress | None = None
        self._watches_prefill = self._advanced = False
        self._wake = wake
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._listener: Callable[[], None] | None = None
        self._notified = False  # whether the listener was called and has not read since
        self._held_pieces: list[Piece] = []  # with best_of, until all texts have ended
        self._unfinished = len(samples)
        self._ended = False

    def cancel(self) -> None:
        """Cancel: generation stops before the next token, and iteration after the pieces so far.

        Any thread may call this, at any time.
        """
        self.cancelled = True
        self._wake()

    def watch_prefill(self) -> None:
        """Let `batches` yield an empty batch when the prefill has advanced; `prefill` has how far."""
        self._watches_prefill = True

    def __iter__(self) -> Iterator[Piece]:
        """Raises an error of the engine. Leaving the loop early cancels the request."""
        try:
            while (message := self._messages.get()) is not None:
                yield self._raise_errors(message)
            self._messages.put(None)  # for another iteration
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """The same without blocking the event loop."""
        async for pieces in self.batches():
            for piece in pieces:
                yield piece

    async def batches(self) -> AsyncIterator[list[Piece]]:
        """Batches of pieces, without blocking the event loop: all since the last batch, merged by text.

        Merging lets a loop with many texts keep up with the engine. Batches may be empty after
        `watch_prefill`.
        """
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        self._listener = lambda: _set(loop, news)
        try:
            while True:
                news.clear()
                self._notified = False  # before reading: what comes later wakes the loop again
                over = self._ended  # before reading: nothing is sent after the end
                advanced, self._advanced = self._advanced, False
                if (pieces := merge_pieces(self.drain())) or advanced:
                    yield pieces
                elif over:
                    return
                else:
                    await news.wait()
        finally:
            self._listener = None
            self.cancel()

    @staticmethod
    def _raise_errors(message: Piece | BaseException) -> Piece:
        if isinstance(message, BaseException):
            raise message
        return message

    # ---- the engine's side

    def echo(self, piece: Piece) -> None:
        """Send a piece before all others, at once."""
        self._send(piece)

    def report_prefill(self, total: int, cached: int, processed: int) -> None:
        """A step has read more of the prompt."""
        self.prefill = PrefillProgress(total, cached, processed)
        if self._watches_prefill:
            self._advanced = True
            self._notify()

    def put(self, piece: Piece) -> None:
        """Send a piece; with best_of, hold it back until all texts can be compared."""
        if self.config.best_of is None:
            self._send(piece)
        else:
            self._held_pieces.append(piece)
        if piece.end is not None:
            self._unfinished -= 1
            if self._unfinished == 0:
                self._rank()
                self._send(None)

    def finish(self, problem: BaseException | None = None) -> None:
        """End a request that was cancelled, or whose engine failed."""
        if not self._ended:
            if problem is not None:
                self._send(problem)
            self._send(None)

    @property
    def ended(self) -> bool:
        return self._ended

    def drain(self) -> Iterator[Piece]:
        """The pieces so far, without waiting for more."""
        while not self._messages.empty():
            message = self._messages.get()
            if message is None:
                self._messages.put(None)
                return
            yield self._raise_errors(message)

    def _rank(self) -> None:
        ranked = (
            sorted(self.samples, key=lambda sample: -sample.mean_logprob)
            if self.config.best_of is not None
            else []
        )
        for number, sample in enumerate(ranked[: self.config.n]):
            own = [piece for piece in self._held_pieces if piece.sample == sample.number]
            scores = tuple(found for piece in own for found in piece.scores)
            text, past = "".join(piece.text for piece in own), sample.past_context
            self._send(Piece(number, text, sample.end, scores, sample.prompt, sample.mean_logprob, past))

    def _send(self, message: Message) -> None:
        self._ended |= message is None
        self._messages.put(message)
        self._notify()

    def _notify(self) -> None:
        listener = self._listener
        if listener is not None and not self._notified:
            self._notified = True
            listener()


def merge_pieces(pieces: Iterable[Piece]) -> list[Piece]:
    """Join the pieces of each text; texts are in the order of their first pieces."""
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
    with contextlib.suppress(RuntimeError):  # the loop has been closed
        loop.call_soon_threadsafe(news.set)
