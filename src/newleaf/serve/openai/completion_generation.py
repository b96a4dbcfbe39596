"""What is being generated for the prompts of one completion request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from newleaf.generate.backend.prompt_logprobs import score_steps
from newleaf.generate.engine.engine_tasks import EngineTask
from newleaf.generate.sampling.logprobs import TokenScore
from newleaf.generate.text.request import Request as GenerationRequest
from newleaf.generate.text.text_state import Piece
from newleaf.serve.http.cancellation import engine_task_result
from newleaf.serve.models.loaded_model import LoadedModel


@dataclass(frozen=True)
class CompletionGeneration:
    """The engine requests of one completion request, with its prompts (text, ids)."""

    prompts: Sequence[tuple[str, list[int]]]
    requests: Sequence[GenerationRequest]
    engine_tasks: list[EngineTask[list[TokenScore]]] = field(default_factory=list)  # scores of prompts

    @property
    def prompt_tokens(self) -> int:
        return sum(len(ids) for _, ids in self.prompts)

    @property
    def completion_tokens(self) -> int:
        return sum(sample.row.written for request in self.requests for sample in request.samples)

    def cancel(self) -> None:
        for request in self.requests:
            request.cancel()
        for engine_task in self.engine_tasks:
            engine_task.cancel()

    async def score(self, loaded_model: LoadedModel, ids: list[int], top: int) -> list[TokenScore]:
        """A prompt's log-probabilities; cancelled with the request."""
        model = loaded_model.model
        self.engine_tasks.append(
            loaded_model.run_in_engine(score_steps(model.network, ids, model.tokenizer.vocab_size, top))
        )
        try:
            return await engine_task_result(self.engine_tasks[-1])
        finally:
            self.engine_tasks[-1].cancel()  # also where it is we who are cancelled

    async def pieces(self) -> AsyncIterator[list[tuple[int, Piece]]]:
        """New text of all prompts, each piece with its prompt's index."""
        if len(self.requests) == 1:
            async for found in self.requests[0].batches():
                if found:
                    yield [(0, piece) for piece in found]
            return
        news: asyncio.Queue[tuple[int, list[Piece] | BaseException | None]] = asyncio.Queue()

        async def follow(number: int, request: GenerationRequest) -> None:
            try:
                async for pieces in request.batches():
                    news.put_nowait((number, pieces))
                news.put_nowait((number, None))
            except Exception as error:
                news.put_nowait((number, error))

        tasks = [asyncio.create_task(follow(*each)) for each in enumerate(self.requests)]
        try:
            left = len(tasks)
            while left:
                number, came = await news.get()
                if isinstance(came, BaseException):
                    raise came
                left -= came is None
                if came:
                    yield [(number, piece) for piece in came]
        finally:
            for task in tasks:
                task.cancel()
