"""The worker: drain, idle queue, lateness and drift."""

from __future__ import annotations

import statistics
import time
from datetime import datetime
from pathlib import Path

from sanic_app.store import RUN_MAX
from sanic_app.task import SECOND, NewTask
from tests.bench import servers
from tests.bench.bench import Bench
from tests.bench.client import Client, add, get
from tests.bench.figures import (
    Line,
    rate,
    rates_of,
    ratios,
    seconds,
    seconds_of,
    spread,
    times,
    times_of,
)
from tests.bench.fill import AT_ONCE, fill
from tests.bench.histogram import Histogram, histogram

SHORTEST = NewTask(5, 1)
"""One microsecond: it does not finish together with another."""
TEN_MS = NewTask(5, 10_000)
ASK_PAUSE = 0.0001
IDLE_PAUSE = 0.005
FAST_DISK = 0.0003
SECONDS = 300


def drain(bench: Bench) -> list[Line]:
    """Compare runs of zero timeouts with tasks that finish one by one."""
    runs, singles = [], []
    for _ in range(bench.scale.repetitions):
        bench.disk.sync()
        with bench.room("drain") as folder:
            count = bench.scale.drained
            runs.append(_drained(folder / "runs.db", AT_ONCE, count, RUN_MAX))
            singles.append(_drained(folder / "singles.db", SHORTEST, count // 100, 1))
    ratio = ratios(runs, singles)
    fast = bench.disk.median <= FAST_DISK
    median = statistics.median(runs)
    return [
        Line(
            "drain of zero timeouts, by single finishes",
            "≥ 10 x",
            times(spread(ratio).median),
            times_of(ratio),
            spread(ratio).median >= 10,
        ),
        Line(
            "drain of zero timeouts",
            f"≥ {rate(100_000)}" if fast else f"(sync over {seconds(FAST_DISK)})",
            rate(median),
            rates_of(runs),
            median >= 100_000 if fast else None,
        ),
        Line("single finishes", "", rate(statistics.median(singles)), rates_of(singles)),
    ]


def _drained(database: Path, task: NewTask, count: int, together: int) -> float:
    """Return the finishes a second, by the stamps of the first and the last."""
    fill(database, first=(task,) * count)
    with servers.service(database.parent, database.name) as server, Client(server.port) as client:
        wait_until_done(client, count)
        first, last = (finished(client, number) for number in (1, count))
    return (count - together) / (last - first)


def wait_until_done(client: Client, number: int, pause: float = 0.05) -> None:
    """Return when the task is finished."""
    deadline = time.monotonic() + SECONDS
    while client.parsed(get(f"/api/v1/tasks/{number}"))["state"] != "done":
        assert time.monotonic() < deadline, f"task {number} is not finished"
        time.sleep(pause)


def finished(client: Client, number: int) -> float:
    return started_and_finished(client, number)[1]


def started_and_finished(client: Client, number: int) -> tuple[float, float]:
    """Return the two stamps of a task that is done, in seconds."""
    task = client.parsed(get(f"/api/v1/tasks/{number}"))
    started, ended = (
        datetime.fromisoformat(task[name]).timestamp() for name in ("date_started", "date_finished")
    )
    return started, ended


def idle(bench: Bench) -> list[Line]:
    """Add to an idle queue, and ask on another connection until the result is there.

    What it is compared with has the same rhythm: a sync after a pause takes several times as long
    as one in a row, because the processor has gone to sleep as well.
    """
    taken, syncs = [], []
    request = add(0)
    with (
        bench.room("idle") as folder,
        servers.service(folder) as server,
        Client(server.port) as adder,
        Client(server.port) as reader,
    ):
        for _ in range(bench.scale.lone_tasks):
            time.sleep(IDLE_PAUSE)
            syncs.append(bench.disk.once())
            time.sleep(IDLE_PAUSE)
            begun = time.perf_counter()
            number = adder.parsed(request)["history_num"]
            page = get(f"/api/v1/results?limit=1&after={number - 1}")
            while b'"num"' not in reader.ask(page):
                # Asking without pause would keep the service from what is waited for.
                time.sleep(ASK_PAUSE)
            taken.append(time.perf_counter() - begun)
    target = 3 * statistics.median(syncs) + 0.001
    found = spread(taken)
    return [
        Line(
            "add on an idle queue, timeout 0, until visible in the result list",
            f"≤ {seconds(target)} (3 syncs + 1 ms)",
            seconds(found.median),
            seconds_of(taken),
            found.median <= target,
        ),
        Line("a sync in the same rhythm", "", seconds(statistics.median(syncs)), seconds_of(syncs)),
    ]


def lateness(bench: Bench) -> list[Line]:
    """Let lone tasks finish, and take their lateness from the service's own histogram."""
    early = 0
    with (
        bench.room("lateness") as folder,
        servers.changed_service(folder, "fine", "queue.db") as server,
        Client(server.port) as client,
    ):
        for index in range(bench.scale.lone_tasks):
            wait = 0.005 + index % 20 / 1_000
            number = client.parsed(add(wait))["history_num"]
            time.sleep(wait + 0.005)
            wait_until_done(client, number, 0.001)
            begun, ended = started_and_finished(client, number)
            # Stamps are whole microseconds, and these are floats of them.
            early += ended - begun - wait < -0.5 / SECOND
            if index % 10 == 0:
                bench.disk.sync()
        observed = histogram(
            client.ask(get("/metrics")).decode(), "sanic_app_task_lateness_seconds"
        )
    assert observed.total == bench.scale.lone_tasks, observed
    return _lateness_lines(observed, early, bench.disk.p99)


def _lateness_lines(observed: Histogram, early: int, sync: float) -> list[Line]:
    p99 = observed.quantile(0.99)
    return [
        Line(
            "lateness of a lone task, p99",
            f"≤ {seconds(0.002 + sync)} (2 ms + p99 of a sync)",
            seconds(p99),
            f"median {seconds(observed.quantile(0.5))}, all ≤ {seconds(observed.quantile(1.0))}",
            p99 <= 0.002 + sync,
        ),
        Line(
            "lone tasks that finished early, by their stamps",
            "0",
            f"{early} of {observed.total:.0f}",
            "",
            early == 0,
        ),
    ]


def drift(bench: Bench) -> list[Line]:
    """Let tasks of 10 ms wait one after the other, and see what each takes beyond that."""
    count = bench.scale.row_of_tasks
    with bench.room("drift") as folder:
        fill(folder / "queue.db", first=(TEN_MS,) * count)
        with servers.service(folder) as server, Client(server.port) as client:
            wait_until_done(client, count)
            # The first was started when the queue was filled.
            stamps = [started_and_finished(client, number) for number in range(2, count + 1)]
            commits = server.metric("sanic_app_commit_seconds_count")
            commit = server.metric("sanic_app_commit_seconds_sum") / commits
    beyond = [end - begun - 0.010 for begun, end in stamps]
    total = stamps[-1][1] - stamps[0][0] - 0.010 * len(stamps)
    median = statistics.median(beyond)
    return [
        Line(
            f"{count:,} tasks of 10 ms one after the other: beyond 10 ms, each",
            f"≤ {seconds(0.001 + commit)} (1 ms + one commit)",
            seconds(median),
            f"{seconds_of(beyond)}, together {seconds(total)}",
            median <= 0.001 + commit,
        )
    ]
