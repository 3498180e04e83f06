"""Every metric, declared once. Each application has its own registry."""

from __future__ import annotations

import platform
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final

import prometheus_client
import sanic
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sanic_app import __version__

# Leave out the series `*_created`. The library has only a global switch for them.
prometheus_client.disable_created_metrics()

MINUTE, HOUR, DAY = 60, 3_600, 86_400

FROM_1_MS_TO_10_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
MINUTES: Final = (MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE)
HOURS_AND_DAYS: Final = (HOUR, 3 * HOUR, 12 * HOUR, DAY, 3 * DAY, 10 * DAY, 30 * DAY)

TASK_BUCKETS: Final = (*FROM_1_MS_TO_10_S, 30, *MINUTES, *HOURS_AND_DAYS)
LATENESS_BUCKETS: Final = (0.0001, 0.00025, 0.0005, *FROM_1_MS_TO_10_S, 30, 60, 5 * MINUTE, HOUR)
COMMIT_BUCKETS: Final = (0.00005, 0.0001, 0.00025, 0.0005, *FROM_1_MS_TO_10_S)
WRITES_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
HTTP_BUCKETS: Final = (0.0005, *FROM_1_MS_TO_10_S, 30, 60)

OUTCOMES: Final = ("done", "cancelled")
REFUSALS: Final = (
    "invalid",
    "unauthorized",
    "forbidden",
    "timeout",
    "too_large",
    "media_type",
    "key_reused",
    "queue_full",
    "stopping",
    "disk_full",
    "store_unavailable",
    "outcome_unknown",
    "internal",
)
STORE_ERRORS: Final = ("full", "io", "corrupt", "busy", "unavailable", "other")
RESOLVED: Final = ("applied", "repeated", "absent")
METHODS: Final = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"})


class Distribution:
    """One series of a histogram. It observes a value ten times as fast as the library's own.

    It needs no lock, because only the event loop's thread observes and scrapes.
    """

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds`` are the upper bounds of the buckets in ascending order, without infinity."""
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value. A value that equals a bound is in the bucket below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram(Collector):
    """A histogram that the library exposes, made of distributions."""

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str]
    ) -> None:
        self._name, self._text, self._bounds, self._labels = name, text, bounds, labels
        self._series: dict[tuple[str, ...], Distribution] = {}

    def labels(self, *values: str) -> Distribution:
        """Return the series with these label values; create it if needed."""
        if values not in self._series:
            self._series[values] = Distribution(self._bounds)
        return self._series[values]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return all series in the library's types."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, series in self._series.items():
            counts = accumulate(map(float, series.counts))
            family.add_metric(values, list(zip(bounds, counts, strict=True)), series.total)
        return [family]


class Metrics:
    """The metrics of one application. A scrape costs O(1)."""

    def __init__(self, store: str) -> None:
        """Declare all metrics; ``store`` is the engine with its version."""
        self.registry = registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"sanic_app_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"sanic_app_{name}", text, labels, registry=registry)

        def histogram(
            name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()
        ) -> Histogram:
            family = Histogram(f"sanic_app_{name}", text, buckets, labels)
            registry.register(family)
            return family

        self.queue_depth = gauge("queue_depth", "Tasks in the queue, the head included.")
        self.queue_limit = gauge("queue_limit", "Tasks that the queue may hold.")
        self.queue_paused = gauge("queue_paused", "1 while the queue is paused, else 0.")
        self.oldest_task_age = gauge(
            "queue_oldest_task_age_seconds", "Age of the first task of the queue, 0 when empty."
        )
        self.backlog = gauge(
            "queue_backlog_seconds",
            "Sum of the waits still ahead, the rest of the head's included.",
        )
        self.head_overdue = gauge(
            "head_overdue_seconds", "How far the head is past its deadline, else 0."
        )
        self.tasks_added = counter("tasks_added", "Tasks added.")
        finished = counter("tasks_finished", "Tasks finished.", "outcome")
        self.tasks_finished = {outcome: finished.labels(outcome) for outcome in OUTCOMES}
        refused = counter("adds_refused", "Adds refused.", "reason")
        self.adds_refused = {reason: refused.labels(reason) for reason in REFUSALS}
        self.task_latency = histogram(
            "task_latency_seconds", "From created to finished, for done tasks.", TASK_BUCKETS
        ).labels()
        self.task_queue = histogram(
            "task_queue_seconds", "From created to started, for done tasks.", TASK_BUCKETS
        ).labels()
        self.task_lateness = histogram(
            "task_lateness_seconds",
            "From the deadline to the commit, for done tasks.",
            LATENESS_BUCKETS,
        ).labels()
        self.commit_seconds = histogram(
            "commit_seconds", "One durable commit.", COMMIT_BUCKETS
        ).labels()
        self.commit_writes = histogram(
            "commit_writes", "Writes that shared a commit.", WRITES_BUCKETS
        ).labels()
        self.stamp_ahead = gauge(
            "stamp_ahead_seconds", "How far the store's own time is ahead of the clock, else 0."
        )
        self.writes_waiting = gauge("writes_waiting", "Writes not in a commit yet.")
        errors = counter("store_errors", "Errors of the store.", "kind")
        self.store_errors = {kind: errors.labels(kind) for kind in STORE_ERRORS}
        size = gauge("store_size_bytes", "Size of the store's files.", "file")
        self.store_size = {file: size.labels(file) for file in ("database", "wal")}
        self.store_free = gauge(
            "store_free_bytes", "Free space on the disk of the store, for this user."
        )
        self.store_up = gauge("store_up", "1 while the store can be reached, else 0.")
        self.store_reconnects = counter(
            "store_reconnects", "Lost connections to PostgreSQL that were made anew."
        )
        self.takeovers = counter("takeovers", "Heads finished that another node had started.")
        resolved = counter(
            "commits_resolved", "Commits on PostgreSQL whose answer was missing.", "outcome"
        )
        self.commits_resolved = {outcome: resolved.labels(outcome) for outcome in RESOLVED}
        self.lock_wait = histogram(
            "lock_wait_seconds",
            "How long a commit on PostgreSQL waited for those of other nodes.",
            COMMIT_BUCKETS,
        ).labels()
        self.event_listeners = gauge("event_listeners", "Clients that listen to the events.")
        self.worker_up = gauge(
            "worker_up", "1 while the background task runs in this process, else 0."
        )
        self._http_seconds = histogram(
            "http_request_duration_seconds",
            "From the request's headers to the end of its answer.",
            HTTP_BUCKETS,
            ("method", "route", "status"),
        )
        self.in_flight = 0
        in_flight = gauge("http_requests_in_flight", "Requests that are being answered.")
        in_flight.set_function(lambda: self.in_flight)
        self.start_time = gauge(
            "start_time_seconds", "When this process started, in seconds since 1970."
        )
        self._build = gauge("build_info", "What runs here.", "version", "python", "sanic", "store")
        self.show_build(store)

    def notice(self, what: str) -> None:
        """Count what a store has met."""
        if what == "reconnect":
            self.store_reconnects.inc()
        else:
            self.commits_resolved[what].inc()

    def show_build(self, store: str) -> None:
        """Show what runs here; ``store`` is the engine with its version, as far as it is known."""
        self._build.clear()
        versions = (__version__, platform.python_version(), sanic.__version__)
        self._build.labels(*versions, store).set(1)

    def http_seconds(self, method: str, route: str, status: int) -> Distribution:
        """Return the series of a request. Unknown methods share one label, `other`."""
        known = method if method in METHODS else "other"
        return self._http_seconds.labels(known, route, str(status))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the body of a scrape and its content type, as ``accept`` prefers."""
        encoder: Callable[[CollectorRegistry], bytes]
        try:
            encoder, content_type = choose_encoder(_preferred(accept))
        except (TypeError, ValueError):
            # The library fails on a version that is not a number.
            encoder, content_type = choose_encoder("")
        return encoder(self.registry), content_type


def _preferred(accept: str) -> str:
    """Return the part of ``Accept`` that names the best format; the library takes its first one."""
    parts = [
        part.strip().lower()
        for part in accept.split(",")
        if part.strip().lower().startswith(("text/plain", "application/openmetrics-text"))
    ]
    best = max(parts, key=_quality, default="")
    return best if _quality(best) > 0 else ""


def _quality(part: str) -> float:
    """Return the weight of a part (RFC 9110, 12.4.2)."""
    found = re.search(r";\s*q=([01](?:\.[0-9]*)?)\s*(?:;|$)", part)
    return float(found[1]) if found else 1.0
