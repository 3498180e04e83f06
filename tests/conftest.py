"""What all tests share."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests import postgres, warm
from tests.fake_clock import FakeClock
from tests.nodes import Queue
from tests.parts import ENGINES, Engine
from tests.postgres import Cluster


def pytest_configure() -> None:
    """Heed Ctrl-C: a shell's background job ignores it, and so would each process of the tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Run one worker more than there are processors: tests that wait leave room for others."""
    return (os.cpu_count() or 1) + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deselect-postgres", action="store_true", help="leave the second engine out")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give tests of whole systems more time before they count as hanging."""
    if config.getoption("--deselect-postgres"):
        items[:] = [item for item in items if not re.search(r"\[postgres|OnPostgres", item.nodeid)]
    for item in items:
        if item.get_closest_marker("system"):
            item.add_marker(pytest.mark.timeout(240))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run the coroutines marked with anyio on asyncio alone."""
    return "asyncio"


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that stands still."""
    return FakeClock()


@pytest.fixture(scope="session", autouse=True)
def _no_server_left() -> Generator[None]:
    """Stop the PostgreSQL that tests have started, and what their processes begin from."""
    yield
    postgres.stop_shared()
    warm.stop()


@pytest.fixture(params=list(ENGINES.values()), ids=list(ENGINES))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """Return an empty place for a store; a test that asks for it runs once for each engine."""
    made: Engine = request.param(tmp_path)
    return made


@pytest.fixture
def queue() -> Queue:
    """Return an empty queue on the server of all tests."""
    return Queue(postgres.shared(), postgres.fresh_name())


@pytest.fixture(scope="session")
def _own() -> Iterator[Cluster]:
    cluster = Cluster()
    cluster.make()
    cluster.start()
    yield cluster
    cluster.remove()


@pytest.fixture
def own(_own: Cluster) -> Queue:
    """Return an empty queue on a server that a test may harm."""
    if _own.process is None:
        _own.start()
    return Queue(_own, postgres.fresh_name())


@pytest.fixture(scope="session")
def _hosts() -> Iterator[list[Cluster]]:
    primary, standby = Cluster(["synchronous_standby_names = '*'"]), Cluster()
    try:
        primary.make()
        primary.start()
        yield [primary, standby]
    finally:
        for each in (standby, primary):
            each.remove()


@pytest.fixture
def pair(_hosts: list[Cluster]) -> list[Cluster]:
    """Return a server and its synchronous standby, whatever a test before has made of them."""
    primary, standby = _hosts
    standby.stop(signal.SIGKILL)
    if primary.process is None:
        primary.start()
    standby.make_standby(primary, "synchronous_standby_names = ''")
    standby.start()
    end = time.monotonic() + 30
    while not primary.query("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"):
        assert time.monotonic() < end
        time.sleep(0.02)
    return [primary, standby]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skipped test as failed where nothing may be skipped."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI skips nothing: {report.longrepr}"
    return report
