"""The parts of the bench: what they read, compute and write. Nothing here looks at a time."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from sanic_app.clock import SystemClock
from sanic_app.store.sqlite.store import SqliteStore
from sanic_app.task import NewTask
from tests.bench import figures, plots, report, servers
from tests.bench.__main__ import LOADED, MEASURES
from tests.bench.bench import QUICK, Bench
from tests.bench.client import Client, add, get
from tests.bench.depth import BLOCK, Place
from tests.bench.figures import Line, Spread
from tests.bench.fill import fill
from tests.bench.histogram import histogram
from tests.bench.peer import PEERS
from tests.bench.peers import ABOUT, OURS
from tests.bench.wrk import Load, parse

WRK = """\
Running 1s test @ http://127.0.0.1:8000/add_task
  1 threads and 64 connections
Requests/sec:   8231.11
{"requests": 8300, "micros": 1000000, "p50": 7000, "p99": 21000, "errors": %d}
"""


def test_the_last_line_of_wrk_is_read() -> None:
    assert parse(WRK % 0) == Load(8300, 0.007, 0.021)


def test_a_load_with_errors_is_none() -> None:
    with pytest.raises(RuntimeError, match="the load failed"):
        parse(WRK % 1)


def test_a_spread_is_the_median_and_the_ends() -> None:
    assert figures.spread([3.0, 1.0, 2.0]) == Spread(2, 1, 3)


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(100)]
    assert figures.percentile(values, 0.99) == 99
    assert figures.percentile(values, 0.5) == 50
    assert figures.percentile([7.0], 0.99) == 7


def test_ratios_are_formed_per_repetition() -> None:
    assert figures.ratios([2, 9], [1, 3]) == [2, 3]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0000861, "86 µs"), (0.00345, "3.45 ms"), (1.5, "1.50 s")]
)
def test_times_are_written_in_a_fitting_unit(value: float, text: str) -> None:
    assert figures.seconds(value) == text


def test_a_histogram_is_read_from_a_scrape() -> None:
    text = 'a_bucket{le="0.1"} 1.0\na_bucket{le="0.2"} 99.0\na_bucket{le="+Inf"} 100.0\n'
    found = histogram(text, "a")
    assert found.total == 100
    assert found.quantile(0.01) == 0.1
    assert found.quantile(0.99) == 0.2
    assert found.quantile(1) == float("inf")


def test_the_table_has_a_verdict_where_there_is_a_target() -> None:
    lines = [Line("a", "≥ 1", "2", "1 to 3", True), Line("b", "≥ 1", "0", "", False)]
    table = report.terminal([*lines, Line("c", "", "5")])
    heads, *rows = table.splitlines()
    assert heads.split()[0] == "what"
    assert [row.split()[-1] for row in rows] == ["yes", "NO", "5"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(QUICK, tmp_path)
    made.lines = [Line("a", "≥ 1", "2", "1 to 3", True), Line("b", "", "5")]
    made.curves = {"ours": [(1, 10.0), (64, 900.0)], "<bare>": [(1, 20.0), (64, 1_000.0)]}
    made.ratios = {"add": 1.1, "a page": 1.4}
    made.missing = ["something needs something"]
    made.disk.sync()
    made.disk.close()
    return made


def test_the_page_is_written_with_its_plots(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "tests" / "bench").mkdir(parents=True)
    report.write(bench, tmp_path, "make bench")
    page = (tmp_path / "BENCHMARKS.md").read_text(encoding="utf-8")
    for part in ("make bench", "| a | ≥ 1 | 2 | 1 to 3 | yes |", "something needs", "SQLite"):
        assert part in page
    for plot in (report.PLOT_OF_ADDS, report.PLOT_OF_DEPTH):
        assert f"(tests/bench/{plot})" in page
        ET.parse(tmp_path / "tests" / "bench" / plot)


def test_the_page_keeps_what_it_says_of_peers(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "tests" / "bench").mkdir(parents=True)
    report.write_peers(tmp_path, f"{report.PEERS_HEADING}\n\nold")
    report.write_peers(tmp_path, f"{report.PEERS_HEADING}\n\nnew")
    report.write(bench, tmp_path, "make bench")
    page = (tmp_path / "BENCHMARKS.md").read_text(encoding="utf-8")
    assert page.count(report.PEERS_HEADING) == 1
    assert page.endswith("\nnew\n")
    assert "| a | ≥ 1 | 2 | 1 to 3 | yes |" in page


@pytest.mark.parametrize(("value", "top"), [(1, 1), (11, 20), (9_200, 10_000), (4_100, 6_000)])
def test_axes_end_at_round_numbers(value: float, top: float) -> None:
    assert plots.nice(value) == top


def test_every_measure_that_needs_wrk_exists() -> None:
    assert set(MEASURES) >= LOADED


def test_every_peer_is_said_what_it_does_not_promise() -> None:
    assert set(ABOUT) == {OURS, *PEERS}


def test_a_queue_is_filled_through_the_store(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    fill(path, results=2_500, first=(NewTask(7, 1),) * 3, waiting=10)

    async def look() -> None:
        store = SqliteStore(path, SystemClock(), 0)
        lease = await store.own()
        await store.open(lease)
        found = await store.figures()
        assert (found.depth, found.last_finish_num, found.head) == (13, 2_500, 2_501)
        await store.close()
        lease.release()

    asyncio.run(look())


def test_blocks_lie_between_the_results_and_what_waits(tmp_path: Path) -> None:
    place = Place(tmp_path, 1_000, 2)
    assert place.block(0) == (1_001, 1_000 + BLOCK)
    assert place.block(1)[1] + 2 == place.waiting_from


def test_the_client_reads_an_answer_in_pieces() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                for piece in (b"HTTP/1.1 200 OK\r\ncontent-le", b"ngth: 4\r\n\r\nab", b"cd"):
                    connection.sendall(piece)
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with Client(server.getsockname()[1]) as client:
            assert client.ask(get("/")) == b"abcd"
            with pytest.raises(RuntimeError, match="not a success"):
                client.ask(get("/"))
        thread.join(5)


def test_the_yardsticks_answer_what_the_service_is_asked(tmp_path: Path) -> None:
    with servers.bare(tmp_path) as bare, Client(bare.port) as client:
        assert client.parsed(add(3)) == {"ok": True}
    with (
        servers.changed_service(tmp_path, "alone", "alone.db") as alone,
        Client(alone.port) as client,
    ):
        assert client.parsed(add(3))["history_num"] == 1
        assert alone.seconds_to_ready() > 0
        assert alone.memory()[0] > 0
        assert alone.metric("sanic_app_queue_depth") == 1
