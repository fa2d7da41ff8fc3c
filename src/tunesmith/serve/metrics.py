"""What Prometheus reads: answers by route, and the queue's own counts at the moment of asking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tunesmith.serve import measures
from tunesmith.serve.measures import Measures

_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """One server's own registry, so that two in one process do not meet.

    Args:
        measured: the queue's counts.
        adapters: how many can be named.
    """

    def __init__(self, measured: Callable[[], Measures], adapters: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Queue(measured, adapters))
        self._answers = Counter(
            "tunesmith_http_answers",
            "Answers by route and status; 499 is a client that left before.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._took = Histogram(
            "tunesmith_http_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer. ``route`` is the pattern, not the path: there are not many of them."""
        method = method if method in ("GET", "HEAD", "POST", "DELETE") else "other"
        self._answers.labels(method, route, str(status)).inc()
        self._took.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Queue(Collector):
    def __init__(self, measured: Callable[[], Measures], adapters: Callable[[], int]) -> None:
        self._measured, self._adapters = measured, adapters

    def describe(self) -> list[Metric]:  # so that registering asks nothing of the queue
        return []

    def collect(self) -> Iterator[Metric]:
        now = self._measured()
        jobs = GaugeMetricFamily("tunesmith_jobs", "Jobs by how they stand.", labels=["state"])
        for state in ("waiting", "running", "held"):
            jobs.add_metric([state], getattr(now, state))
        yield jobs
        yield GaugeMetricFamily(
            "tunesmith_held_seconds", "How long a job that is over has kept its place.", now.held_s
        )
        yield GaugeMetricFamily("tunesmith_listeners", "Subscriptions to jobs.", now.listening)
        yield GaugeMetricFamily("tunesmith_adapters", "Adapters by name.", self._adapters())
        taken = CounterMetricFamily("tunesmith_requests", "Requests for sound.", labels=["fate"])
        for fate in ("accepted", "repeated", "rejected", "restored"):
            taken.add_metric([fate], getattr(now, fate))
        yield taken
        ended = CounterMetricFamily("tunesmith_jobs_ended", "Jobs that ended.", labels=["state"])
        for state in ("done", "failed", "cancelled"):
            ended.add_metric([state], getattr(now, state))
        yield ended
        yield CounterMetricFamily("tunesmith_audio_seconds", "Sound made.", now.audio_s)
        yield _buckets("tunesmith_wait_seconds", "From acceptance to the beginning.", now.wait_s)
        yield _buckets("tunesmith_run_seconds", "From the beginning to the end.", now.run_s)


def _buckets(name: str, what: str, found: measures.Histogram) -> HistogramMetricFamily:
    bounds = [*(str(bound) for bound in found.bounds), "+Inf"]
    added = list(accumulate(found.counts))
    return HistogramMetricFamily(
        name, what, buckets=list(zip(bounds, added, strict=True)), sum_value=found.total
    )


__all__ = ["Metrics"]
