"""What all routes share: settings, models, threads, logs, metrics, and the end of a request."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from newleaf.serve.http.logs import Logs
from newleaf.serve.http.request_metrics import Metrics
from newleaf.serve.http.request_record import RequestRecord
from newleaf.serve.http.server_settings import Limits, Settings
from newleaf.serve.models.loaded_model import LoadedModel, WorkerThreads
from newleaf.serve.models.model_registry import ModelRegistry

Result = TypeVar("Result")


class TokenCounts(Protocol):
    """Token counts of a request."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def completion_tokens(self) -> int: ...


@dataclass(frozen=True)
class ServerContext:
    """One server."""

    settings: Settings
    registry: ModelRegistry
    threads: WorkerThreads
    metrics: Metrics
    logs: Logs

    @property
    def limits(self) -> Limits:
        return self.settings.limits

    def finish_request(self, loaded_model: LoadedModel, counted: TokenCounts, record: RequestRecord) -> None:
        """Record a request's token counts and release its model, however the request ended."""
        record.prompt_tokens, record.completion_tokens = counted.prompt_tokens, counted.completion_tokens
        self.registry.release(loaded_model)

    async def finish_after(
        self, loaded_model: LoadedModel, counted: TokenCounts, record: RequestRecord, work: Awaitable[Result]
    ) -> Result:
        """The result of `work`, after which the request is finished."""
        try:
            return await work
        finally:
            self.finish_request(loaded_model, counted, record)
