"""A loaded model of the server: its engine, chat template and adapters, and the worker threads."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

from newleaf.api import Model
from newleaf.errors import InputError
from newleaf.generate.chat.answering import ChatResponder
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.engine.engine_tasks import EngineTask, Steps
from newleaf.generate.options import SamplingConfig
from newleaf.generate.text.request import Request
from newleaf.serve.api_errors import too_many_requests
from newleaf.text.chat_template import ChatTemplate
from newleaf.version import VERSION

Result = TypeVar("Result")
# Concurrent checks against JSON Schemas; each takes milliseconds, or ends after CHECK_SECONDS.
MAX_SCHEMA_CHECKS = 4
CHECK_WAIT_SECONDS = 1.0  # for a slot


class LoadedModel:
    """A model in memory with its engine, `adapters` by name and a `draft` model.

    `template` replaces the chat templates of adapters. `active_requests` counts the requests that keep the
    model loaded.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        slots: int,
        cache: int | None,
        queue: int,
        adapters: Mapping[str, str] | None = None,
        template: str | None = None,
        draft: Model | None = None,
    ) -> None:
        self.name, self.model, self.queue = name, model, queue
        self.slots, self.cache, self.draft = slots, cache, draft
        self.active_requests = 0
        self.schema_checks = ConcurrencyLimit(MAX_SCHEMA_CHECKS, CHECK_WAIT_SECONDS)
        self.adapters = dict(adapters or {})
        self.engine = model.engine(slots, cache, adapters=self.adapters, draft=draft)
        self.template = _template(model)
        self.context = model.network.config.context_length
        self.loaded_adapters = {
            each: LoadedAdapter(each, path, self, template) for each, path in self.adapters.items()
        }

    @property
    def engine_owner(self) -> LoadedModel:
        """The model that owns the engine and counts requests: itself, or an adapter's base."""
        return self

    @property
    def responder(self) -> ChatResponder:
        """Raises InputError when the model has no chat template."""
        return ChatResponder(self.context, self.template or self.model.chat_template, self.model.end_ids)

    @property
    def grammars(self) -> GrammarCompiler:
        """Compiles constraints for this model's tokenizer."""
        return self.engine_owner.engine.grammars

    @property
    def checks(self) -> ConcurrencyLimit:
        """The limit of concurrent checks against JSON Schemas."""
        return self.engine_owner.schema_checks

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, the draft's included."""
        return self.model.network.weight_bytes() + (
            self.draft.network.weight_bytes() if self.draft is not None else 0
        )

    @cached_property
    def fingerprint(self) -> str:
        """What completions depend on beside the request: version, network, number formats, tokenizer."""
        network = self.model.network
        kinds = sorted(
            {str(each.dtype) for each in network.parameters()}
            | {type(each).__name__ for each in network.modules()}
        )
        parts = [VERSION, self.name, network.config, kinds, self.model.tokenizer.fingerprint, self.slots]
        return f"fp_{hashlib.sha256(repr(parts).encode()).hexdigest()[:10]}"

    def check_queue(self, texts: int) -> None:
        """Raises ApiError (429) when so many more sequences would exceed the queue."""
        running, waiting = self.engine.load
        if running + waiting + texts > self.queue:
            seconds = 1 + waiting / max(1, self.slots)
            raise too_many_requests(
                f"{self.name}: {waiting} requests are waiting; try again in {seconds:.0f} s",
                seconds,
                "queue_full",
            )

    def submit(
        self,
        prompt: str | Sequence[int],
        config: SamplingConfig,
        ends: Collection[int] = (),
        shown: Mapping[int, str] | None = None,
        first: int = 0,
        adapter: str | None = None,
    ) -> Request:
        """Submit a prompt to the engine; a closed engine is replaced first."""
        self._restart_if_closed()
        return self.engine.submit(prompt, config, first, {*ends, *self.model.end_ids}, shown, adapter)

    def run_in_engine(self, steps: Steps[Result]) -> EngineTask[Result]:
        """Run a task between two steps of the engine; a closed engine is replaced first."""
        self._restart_if_closed()
        return self.engine.run_in_engine(steps)

    def _restart_if_closed(self) -> None:
        if self.engine.closed:
            self.engine = self.model.engine(self.slots, self.cache, adapters=self.adapters, draft=self.draft)

    def close(self) -> None:
        self.engine.close()
        for each in self.loaded_adapters.values():
            each.close()
        if self.template is not None:
            self.template.sandbox.close()


class LoadedAdapter(LoadedModel):
    """A model with an adapter. It shares its base's engine, which batches all adapters."""

    def __init__(self, name: str, path: str, base: LoadedModel, template: str | None) -> None:
        self.name, self.model, self.base, self.slots = name, base.model.with_adapter(path), base, base.slots
        if template is not None:
            self.model.use_template(template)
        # An adapter's own tokenizer may have a chat template.
        own_tokenizer = self.model.tokenizer is not base.model.tokenizer
        self.template = (_template(self.model) if own_tokenizer else None) or base.template
        self.context = base.context

    @property
    def engine_owner(self) -> LoadedModel:
        return self.base

    def check_queue(self, texts: int) -> None:
        self.base.check_queue(texts)

    def submit(
        self,
        prompt: str | Sequence[int],
        config: SamplingConfig,
        ends: Collection[int] = (),
        shown: Mapping[int, str] | None = None,
        first: int = 0,
        adapter: str | None = None,
    ) -> Request:
        return self.base.submit(prompt, config, {*ends, *self.model.end_ids}, shown, first, self.name)

    def run_in_engine(self, steps: Steps[Result]) -> EngineTask[Result]:
        return self.base.run_in_engine(steps)

    def close(self) -> None:
        if self.template is not None and self.template is not self.base.template:
            self.template.sandbox.close()


class ConcurrencyLimit:
    """Lets `count` run at once. Others wait for `seconds`, then get TimeoutError."""

    def __init__(self, count: int, seconds: float) -> None:
        self._places, self._seconds = asyncio.Semaphore(count), seconds

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        await asyncio.wait_for(self._places.acquire(), self._seconds)
        try:
            yield
        finally:
            self._places.release()


class WorkerThreads:
    """A thread pool for rendering, encoding, compiling grammars and loading models."""

    def __init__(self, count: int = 8) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="newleaf-serve")

    async def run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _template(model: Model) -> ChatTemplate | None:
    try:
        return model.chat_template
    except InputError:
        return None
