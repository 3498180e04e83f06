"""The series: names, types, labels and buckets of the contract, and what a run observes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

import sanic_app
from sanic_app.http.problems import PROBLEMS
from sanic_app.metrics import (
    COMMIT_BUCKETS,
    DAY,
    HOUR,
    LATENESS_BUCKETS,
    METHODS,
    REFUSALS,
    TASK_BUCKETS,
    WRITES_BUCKETS,
    Metrics,
)
from sanic_app.queue.writer import Committed
from sanic_app.store import RUN_MAX, Commit, Lease, Write
from tests.fake_clock import FakeClock
from tests.parts import Engine, new, service

pytestmark = pytest.mark.anyio

CONTRACT: dict[str, tuple[str, set[str]]] = {
    "queue_depth": ("gauge", set()),
    "queue_limit": ("gauge", set()),
    "queue_paused": ("gauge", set()),
    "queue_oldest_task_age_seconds": ("gauge", set()),
    "queue_backlog_seconds": ("gauge", set()),
    "head_overdue_seconds": ("gauge", set()),
    "tasks_added": ("counter", set()),
    "tasks_finished": ("counter", {"outcome"}),
    "adds_refused": ("counter", {"reason"}),
    "task_latency_seconds": ("histogram", set()),
    "task_queue_seconds": ("histogram", set()),
    "task_lateness_seconds": ("histogram", set()),
    "commit_seconds": ("histogram", set()),
    "commit_writes": ("histogram", set()),
    "stamp_ahead_seconds": ("gauge", set()),
    "writes_waiting": ("gauge", set()),
    "store_errors": ("counter", {"kind"}),
    "store_size_bytes": ("gauge", {"file"}),
    "store_free_bytes": ("gauge", set()),
    "store_up": ("gauge", set()),
    "store_reconnects": ("counter", set()),
    "takeovers": ("counter", set()),
    "commits_resolved": ("counter", {"outcome"}),
    "lock_wait_seconds": ("histogram", set()),
    "event_listeners": ("gauge", set()),
    "worker_up": ("gauge", set()),
    "http_request_duration_seconds": ("histogram", {"method", "route", "status"}),
    "http_requests_in_flight": ("gauge", set()),
    "start_time_seconds": ("gauge", set()),
    "build_info": ("gauge", {"version", "python", "sanic", "store"}),
}
"""README.md, "Metrics"; counters without their suffix, as the library names their families."""


def families(metrics: Metrics) -> dict[str, Any]:
    """Return what a scrape shows, by name without the prefix."""
    body, _ = metrics.exposition("")
    return {
        family.name.removeprefix("sanic_app_"): family
        for family in parse_text(body.decode())
        if family.name.startswith("sanic_app_")
    }


def full() -> Metrics:
    """Return metrics in which every family has a series."""
    metrics = Metrics("sqlite 3")
    metrics.http_seconds("GET", "/metrics", 200).observe(0.5)
    return metrics


# What is declared.


def test_the_series_are_those_of_the_contract() -> None:
    shown = families(full())
    found = {
        name: (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for name, family in shown.items()
    }
    assert found == CONTRACT


def test_every_family_says_in_a_sentence_what_it_means() -> None:
    for family in families(full()).values():
        assert family.documentation.rstrip().endswith(".")


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/plain", "application/openmetrics-text; version=1.0.0", ";;=,x;"]
)
def test_the_text_is_what_its_content_type_says(accept: str) -> None:
    metrics = full()
    body, kind = metrics.exposition(accept)
    parsers: dict[str, Any] = {
        "text/plain": parse_text,
        "application/openmetrics-text": parse_openmetrics,
    }
    parsed = list(parsers[kind.partition(";")[0]](body.decode()))
    assert len([each for each in parsed if each.name.startswith("sanic_app_")]) == len(CONTRACT)
    assert ("openmetrics" in accept) == ("openmetrics" in kind)


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text; q=0.000 , */*", False),
        ("text/plain, application/openmetrics-text;version=1.0.0;q=0.1", False),
        ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4", False),
        # That of Prometheus, without and with native histograms.
        (
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,"
                "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,"
                "*/*;q=0.2"
            ),
            True,
        ),
        (
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"
                "encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5"
            ),
            True,
        ),
        ("text/html,text/plain;q=0.5,Application/OpenMetrics-Text;Q=0.9", True),
        ("application/openmetrics-text;q=x", True),
    ],
)
def test_the_format_is_the_one_that_is_preferred(accept: str, openmetrics: bool) -> None:
    assert ("openmetrics" in full().exposition(accept)[1]) == openmetrics


@pytest.mark.parametrize("version", ["x", "1.x", "", "99", "1.0.0.0.0"])
def test_a_strange_version_of_openmetrics_is_no_error(version: str) -> None:
    body, kind = full().exposition(f"application/openmetrics-text; version={version}")
    assert body
    assert kind


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_there_are_no_created_series(accept: str) -> None:
    body, _ = full().exposition(accept)
    assert b"_created" not in body


def test_the_process_and_the_interpreter_show_themselves() -> None:
    body, _ = full().exposition("")
    for name in (b"process_resident_memory_bytes ", b"process_open_fds ", b"python_info{"):
        assert name in body


def test_the_build_is_told_by_its_labels() -> None:
    (sample,) = families(full())["build_info"].samples
    assert sample.value == 1
    assert sample.labels["version"] == sanic_app.__version__
    assert sample.labels["store"] == "sqlite 3"
    assert all(sample.labels.values())


@pytest.mark.parametrize(
    ("name", "low", "high", "buckets"),
    [
        ("task_latency_seconds", 0.001, 30 * DAY, TASK_BUCKETS),
        ("task_queue_seconds", 0.001, 30 * DAY, TASK_BUCKETS),
        ("task_lateness_seconds", 0.0001, HOUR, LATENESS_BUCKETS),
        ("commit_seconds", 0.00005, 10, COMMIT_BUCKETS),
        ("commit_writes", 1, 4_096, WRITES_BUCKETS),
    ],
)
def test_buckets_fit_the_thing(
    name: str, low: float, high: float, buckets: tuple[float, ...]
) -> None:
    samples = families(full())[name].samples
    bounds = [float(s.labels["le"]) for s in samples if s.name.endswith("_bucket")]
    assert bounds == [*buckets, float("inf")]
    assert (bounds[0], bounds[-2]) == (low, high)
    assert all(below < above for below, above in pairwise(buckets))


def test_a_value_is_counted_in_the_bucket_that_ends_with_it() -> None:
    metrics = Metrics("x")
    values = [0.00001, 0.0001, 0.00011, 0.5, 3_600, 3_601]
    for value in values:
        metrics.task_lateness.observe(value)
    samples = families(metrics)["task_lateness_seconds"].samples
    counts = {s.labels.get("le", s.name.rpartition("_")[2]): s.value for s in samples}
    for bound in LATENESS_BUCKETS:
        expected = sum(value <= bound for value in values)
        assert next(v for k, v in counts.items() if k[0].isdigit() and float(k) == bound) == (
            expected
        )
    assert counts["+Inf"] == counts["count"] == len(values)
    assert counts["sum"] == pytest.approx(sum(values))


def test_labels_come_from_closed_sets() -> None:
    metrics = Metrics("x")
    for method in (*METHODS, "ZZZ123", "get", ""):
        metrics.http_seconds(method, "/x", 200).observe(1)
    samples = families(metrics)["http_request_duration_seconds"].samples
    assert {sample.labels["method"] for sample in samples} == METHODS | {"other"}
    counts = {s.labels["method"]: s.value for s in samples if s.name.endswith("_count")}
    assert counts["other"] == 3


def test_series_with_labels_are_there_from_the_start() -> None:
    shown = families(Metrics("x"))
    reasons = {sample.labels["reason"] for sample in shown["adds_refused"].samples}
    slugs = {slug.replace("-", "_") for slug, _, _ in PROBLEMS.values()}
    assert reasons == set(REFUSALS)
    assert reasons <= slugs
    for name in ("invalid", "queue_full", "stopping", "disk_full"):
        assert name in reasons
    outcomes = {
        sample.labels["outcome"]: sample.value for sample in shown["tasks_finished"].samples
    }
    assert outcomes == {"done": 0, "cancelled": 0}
    kinds = {sample.labels["kind"] for sample in shown["store_errors"].samples}
    assert kinds == {"full", "io", "corrupt", "busy", "unavailable", "other"}
    resolved = {sample.labels["outcome"] for sample in shown["commits_resolved"].samples}
    assert resolved == {"applied", "repeated", "absent"}
    files = {sample.labels["file"] for sample in shown["store_size_bytes"].samples}
    assert files == {"database", "wal"}


def test_each_application_has_its_own_registry() -> None:
    one, two = Metrics("x"), Metrics("x")
    one.tasks_added.inc()
    assert families(two)["tasks_added"].samples[0].value == 0


# What a run observes.


async def test_gauges_follow_the_queue(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock, queue_max=9) as running:

        def gauges() -> list[float | None]:
            names = ("depth", "limit", "oldest_task_age_seconds", "backlog_seconds")
            shown = [running.metric(f"queue_{name}") for name in names]
            return [*shown, running.metric("head_overdue_seconds")]

        assert gauges() == [0, 9, 0, 0, 0]
        waiting = running.queue.add(new(3, 2))
        assert running.metric("writes_waiting") == 1
        await waiting
        assert running.metric("writes_waiting") == 0
        assert gauges() == [2, 9, 0, 5, 0]
        clock.advance(2)
        assert gauges() == [2, 9, 2, 3, 0]
        clock.advance(2)
        assert gauges() == [2, 9, 4, 2, 1]
        await running.queue.finish(1)
        assert gauges() == [1, 9, 4, 2, 0]
        clock.step_wall(-3_600)
        await running.queue.finish(2)
        assert gauges() == [0, 9, 0, 0, 0]


async def test_each_done_task_is_observed_once_with_its_times(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock) as running:
        await running.queue.add(new(3, 2))
        clock.advance(4)
        await running.queue.finish(1)
        clock.advance(2.5)
        await running.queue.finish(2)
        for name, total in (
            # created to finished: 4 and 6.5
            ("latency", 10.5),
            # created to started: 0 and 4
            ("queue", 4),
            # deadline to committed: 1 and 0.5
            ("lateness", 1.5),
        ):
            assert running.metric(f"task_{name}_seconds_count") == 2
            assert running.metric(f"task_{name}_seconds_sum") == pytest.approx(total)
        assert running.metric("tasks_added_total") == 2
        assert running.metric("tasks_finished_total", outcome="done") == 2
        assert running.metric("tasks_finished_total", outcome="cancelled") == 0


async def test_no_observation_is_negative_whatever_the_clock_does(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock) as running:
        for step in (-3_600, 7_200, -86_400):
            await running.queue.add(new(1, 0))
            clock.step_wall(step)
            head = running.queue.timer.head
            assert head is not None
            await running.queue.finish(head.task.history_num)
            await running.queue.finish(head.task.history_num + 1)
        for name in ("latency", "queue", "lateness"):
            samples = families(running.metrics)[f"task_{name}_seconds"].samples
            assert all(sample.value >= 0 for sample in samples)
        # Finished by hand before its deadline: not late, and not less than that.
        assert running.metric("task_lateness_seconds_sum") == 0


async def test_in_a_run_only_the_first_can_be_late(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock) as running:
        await running.queue.add(new(*[0] * RUN_MAX))
        clock.advance(2)
        await running.queue.finish(1)
        assert running.metric("task_lateness_seconds_count") == RUN_MAX
        assert running.metric("task_lateness_seconds_sum") == 2
        assert running.metric("task_latency_seconds_sum") == 2 * RUN_MAX
        assert running.metric("task_queue_seconds_sum") == 2 * (RUN_MAX - 1)


@pytest.mark.parametrize("behind", [0, 1])
async def test_how_late_a_task_is_stays_known_when_its_finish_is_seen_before_it_is_answered(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, behind: int
) -> None:
    """A node on PostgreSQL may see its own commit by looking."""
    async with service(engine, clock) as running:
        await running.queue.add(new(1, *[5] * behind))
        clock.advance(3)
        commit, learn = running.store.commit, running.queue._writer.learn

        async def seen_first(lease: Lease, writes: Sequence[Write]) -> Commit:
            done = await commit(lease, writes)
            now = clock.monotonic()
            learn(Committed(done._replace(results=[]), now, now, foreign=True))
            return done

        monkeypatch.setattr(running.store, "commit", seen_first)
        await running.queue.finish(1)
        assert running.metric("task_lateness_seconds_sum") == 2


async def test_replays_and_refusals_add_nothing(engine: Engine, clock: FakeClock) -> None:
    async with service(engine, clock) as running:
        await running.queue.add(new(1, 1), "key", "r")
        await running.queue.add(new(1, 1), "key", "r")
        await asyncio.gather(
            running.queue.add(new(1), "key", "other"),
            running.queue.finish(9),
            return_exceptions=True,
        )
        assert running.metric("tasks_added_total") == 2
        assert running.metric("queue_depth") == 2
        assert running.metric("task_latency_seconds_count") == 0


async def test_commits_are_timed_on_the_monotonic_clock(engine: Engine, clock: FakeClock) -> None:
    clock.advance(7)
    async with service(engine, clock) as running:
        adds = [running.queue.add(new(1)) for _ in range(5)]
        await asyncio.gather(*adds)
        await running.queue.add(new(1))
        assert running.metric("commit_seconds_count") == 2
        assert running.metric("commit_seconds_sum") == 0
        assert running.metric("commit_writes_count") == 2
        assert running.metric("commit_writes_sum") == 6
        assert running.metric("tasks_added_total") == 6


async def test_a_restart_counts_from_zero_and_shows_what_is_there(
    engine: Engine, clock: FakeClock
) -> None:
    async with service(engine, clock) as running:
        await running.queue.add(new(3, 2))
    clock.advance(1)
    async with service(engine, clock) as running:
        assert running.metric("tasks_added_total") == 0
        assert running.metric("queue_depth") == 2
        assert running.metric("queue_backlog_seconds") == 4
        assert running.metric("queue_oldest_task_age_seconds") == 1
