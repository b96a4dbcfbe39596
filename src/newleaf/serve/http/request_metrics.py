"""What Prometheus asks about: requests, tokens, times, and how full the engines are."""

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
# model, loaded, bytes, texts written, texts waiting
EngineLoads = Callable[[], Iterator[tuple[str, bool, int, int, int]]]


class Metrics:
    """Counters of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "newleaf_requests", "Requests answered", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "newleaf_request_seconds",
            "From a request to its end",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._first = Histogram(
            "newleaf_first_token_seconds",
            "From a request to its first text",
            ["model"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._read = Counter("newleaf_prompt_tokens", "Tokens read", ["model"], registry=self.registry)
        self._written = Counter(
            "newleaf_completion_tokens", "Tokens written", ["model"], registry=self.registry
        )

    def request(self, route: str, status: int, seconds: float, record: RequestRecord) -> None:
        """A request has ended. Routes are paths with names for their parts, so that there are few."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if record.model is not None:
            self._read.labels(record.model).inc(record.prompt_tokens or 0)
            self._written.labels(record.model).inc(record.completion_tokens or 0)
            if record.first_token is not None:
                self._first.labels(record.model).observe(record.first_token)

    def watch(self, loads: EngineLoads) -> None:
        """Ask this for the state of the engines whenever somebody asks us."""
        self.registry.register(_Engines(loads))


class _Engines(Collector):
    def __init__(self, loads: EngineLoads) -> None:
        self._loads = loads

    def collect(self) -> Iterator[GaugeMetricFamily]:
        texts = ("loaded", "bytes", "running", "waiting")
        helps = (
            "Whether the model is in memory",
            "Bytes of its weights in memory",
            "Texts being written",
            "Texts that wait",
        )
        gauges = [
            GaugeMetricFamily(f"newleaf_model_{name}", about, labels=["model"])
            for name, about in zip(texts, helps, strict=True)
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
