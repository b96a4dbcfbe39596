"""Prometheus metrics: requests, latencies, tokens, and the load of the engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from newleaf.serve.http.request_record import RequestRecord

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# Of each model: name, whether it is loaded, bytes, sequences running, sequences waiting.
EngineLoads = Callable[[], Iterator[tuple[str, bool, int, int, int]]]


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("newleaf_requests", "Requests", ["route", "status"], registry=self.registry)
        self._seconds = Histogram(
            "newleaf_request_seconds",
            "Request duration",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._first_token = Histogram(
            "newleaf_first_token_seconds",
            "Time to first token",
            ["model"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._prompt_tokens = Counter(
            "newleaf_prompt_tokens", "Prompt tokens", ["model"], registry=self.registry
        )
        self._completion_tokens = Counter(
            "newleaf_completion_tokens", "Completion tokens", ["model"], registry=self.registry
        )

    def request(self, route: str, status: int, seconds: float, record: RequestRecord) -> None:
        """Count a finished request. Routes are path templates, so that there are few labels."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if record.model is not None:
            self._prompt_tokens.labels(record.model).inc(record.prompt_tokens or 0)
            self._completion_tokens.labels(record.model).inc(record.completion_tokens or 0)
            if record.first_token is not None:
                self._first_token.labels(record.model).observe(record.first_token)

    def watch(self, loads: EngineLoads) -> None:
        """Collect the engines' load at each scrape."""
        self.registry.register(_Engines(loads))


class _Engines(Collector):
    def __init__(self, loads: EngineLoads) -> None:
        self._loads = loads

    def collect(self) -> Iterator[GaugeMetricFamily]:
        names = ("loaded", "bytes", "running", "waiting")
        helps = (
            "Whether the model is in memory",
            "Bytes of weights in memory",
            "Sequences being generated",
            "Sequences waiting",
        )
        gauges = [
            GaugeMetricFamily(f"newleaf_model_{name}", about, labels=["model"])
            for name, about in zip(names, helps, strict=True)
        ]
        for model, *values in self._loads():
            for gauge, value in zip(gauges, values, strict=True):
                gauge.add_metric([model], float(value))
        yield from gauges


def metrics_router(metrics: Metrics) -> APIRouter:
    routes = APIRouter()

    @routes.get("/metrics", include_in_schema=False)
    async def show() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes
