"""The page in a real browser that can reach nothing but the service."""

from __future__ import annotations

import http.client
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests import postgres
from tests.browser import Tab, tab
from tests.running import Running

pytestmark = pytest.mark.system

EXACT = 9007199254740993
"""2^53 + 1, which a number of the browser's language cannot hold."""
PICTURES = os.environ.get("PAGE_PICTURES")
"""A folder for pictures of the page, for whoever wants to look."""
TOKEN = "of-this-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SCREENS = {
    "narrow-dark": {"viewport": {"width": 320, "height": 700}, "color_scheme": "dark"},
    "wide-light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "4k-light": {"viewport": {"width": 3840, "height": 2160}, "color_scheme": "light"},
}


@contextmanager
def opened(folder: Path, **context: Any) -> Iterator[tuple[Running, Tab, Page]]:
    with Running(folder) as running, tab(running.url, **context) as one:
        one.page.goto(running.url)
        expect(one.page.locator("#depth")).not_to_have_text("…")
        yield running, one, one.page
        assert one.elsewhere == []


@pytest.fixture
def cluster() -> Iterator[postgres.Cluster]:
    cluster = postgres.Cluster()
    try:
        cluster.make()
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


def add(page: Page, num: object, timeout: object) -> None:
    page.get_by_label("Number", exact=True).fill(str(num))
    page.get_by_label("Timeout in seconds").fill(str(timeout))
    page.get_by_role("button", name="Add", exact=True).click()


def batch(running: Running, *timeouts: float, **headers: str) -> None:
    tasks = [{"num": index, "timeout": timeout} for index, timeout in enumerate(timeouts, 1)]
    path = "/api/v1/tasks/batch"
    assert running.request("POST", path, {"tasks": tasks}, headers)[0] == 201


HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
"""Script for a tab that nobody sees, or that is seen again."""


def wait_for_listeners(running: Running, page: Page, count: int) -> None:
    # The page's requests pass through this thread, and only while it is in a call of Playwright: a
    # plain sleep would hold them back.
    for _ in range(1_000):
        if f"sanic_app_event_listeners {count}.0\n" in running.request("GET", "/metrics")[1]:
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"there are never {count} listeners")


def cells(page: Page, body: str) -> list[list[str]]:
    rows = page.locator(f"#{body} tr").all()
    return [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]


def test_a_task_is_added_watched_and_finished_exactly(tmp_path: Path) -> None:
    with opened(tmp_path) as (running, one, page):
        expect(page.locator("#head")).to_have_text("Nothing is waiting.")
        add(page, EXACT, 1.5)
        expect(page.locator("#head")).to_have_text(f"Task 1: number {EXACT}")
        expect(page.locator("#left")).to_have_text(
            re.compile(r"^(1(\.\d)?|0\.\d) s left of 1\.5 s$")
        )
        before = float(page.locator("#wait").get_attribute("value") or 0)
        page.wait_for_timeout(300)
        assert float(page.locator("#wait").get_attribute("value") or 0) > before
        assert cells(page, "tasks")[0][:4] == ["1", "0", str(EXACT), "1.5 s"]
        expect(page.locator("#results tr")).to_have_count(1)
        assert cells(page, "results")[0][:2] == ["1", str(EXACT)]
        expect(page.locator("#head")).to_have_text("Nothing is waiting.")
        expect(page.locator("#throughput figcaption")).to_contain_text("Finished: 1,")
        expect(page.locator("#lateness figcaption")).to_contain_text(
            re.compile(r"at most [\d.]+ ms")
        )
        assert running.result() == [EXACT]
        assert one.errors == []


def test_many_are_added_and_cancelled(tmp_path: Path) -> None:
    with opened(tmp_path) as (running, one, page):
        page.get_by_text("Add many").click()
        page.get_by_label("A number and a timeout in each line").fill(
            f"1 600\n\n-{EXACT}, 60\n3\t0.5"
        )
        page.get_by_role("button", name="Add all").click()
        expect(page.locator("#tasks tr")).to_have_count(3)
        shown = cells(page, "tasks")
        assert [row[:4] for row in shown] == [
            ["1", "0", "1", "10 min 0 s"],
            ["2", "1", f"-{EXACT}", "1 min 0 s"],
            ["3", "2", "3", "0.5 s"],
        ]
        page.get_by_role("button", name="Cancel task 2", exact=True).click()
        expect(page.locator("#tasks tr")).to_have_count(2)
        expect(page.get_by_role("button", name="Cancel task 3")).to_be_focused()
        page.get_by_role("button", name="Cancel this task").click()
        expect(page.locator("#head")).to_have_text("Nothing is waiting.")
        assert running.result() == [3]
        batch(running, 60, 60, 60, 60)
        page.get_by_text("Cancel many").click()
        page.get_by_label("From task").fill("5")
        page.get_by_label("To task").fill("99")
        page.get_by_role("button", name="Cancel these").click()
        expect(page.locator("#tasks tr")).to_have_count(1)
        page.get_by_role("button", name="Cancel these").click()
        expect(page.locator("#range-error")).to_contain_text("No task in the queue")
        page.get_by_label("From task").fill("100")
        page.get_by_role("button", name="Cancel these").click()
        expect(page.locator("#range-error")).to_contain_text("must not be greater")
        assert one.errors == []


def test_pause_and_resume_cannot_be_missed(tmp_path: Path) -> None:
    with opened(tmp_path) as (running, _, page):
        batch(running, 600, 600)
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#paused")).to_be_visible()
        expect(page).to_have_title(re.compile("^Paused"))
        expect(page.locator("#end")).to_have_text("not while paused")
        assert [row[4] == "after the pause" for row in cells(page, "tasks")] == [False, True]
        assert running.request("GET", "/api/v1/queue")[1]["paused"] is True
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("#paused")).to_be_hidden()
        assert running.request("GET", "/api/v1/queue")[1]["paused"] is False
        # Whoever else pauses is seen too.
        running.request("POST", "/api/v1/queue/pause")
        expect(page.locator("#paused")).to_be_visible()


def test_errors_are_shown_where_they_arise_and_lose_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as (running, _, page):
        add(page, "1.5", "x")
        expect(page.locator("#num-error")).to_have_text("Must be a whole number.")
        expect(page.locator("#timeout-error")).to_have_text("Must be a number of seconds.")
        expect(page.get_by_label("Number", exact=True)).to_be_focused()
        add(page, "9223372036854775808", "86401")
        expect(page.locator("#num-error")).to_contain_text("64-bit")
        expect(page.locator("#timeout-error")).to_contain_text("86400")
        expect(page.get_by_label("Number", exact=True)).to_have_value("9223372036854775808")
        page.get_by_text("Add many").click()
        lines = page.get_by_label("A number and a timeout in each line")
        lines.fill("1 1\nnonsense")
        page.get_by_role("button", name="Add all").click()
        expect(page.locator("#batch-error")).to_contain_text("Line 2")
        lines.fill("1 1\n\n2 99999")
        page.get_by_role("button", name="Add all").click()
        expect(page.locator("#batch-error")).to_contain_text("Line 3, timeout: Must be")
        expect(lines).to_have_value("1 1\n\n2 99999")
        assert running.request("GET", "/api/v1/queue")[1]["depth"] == 0


@pytest.mark.parametrize("width", [320, 400])
def test_on_a_telephone_each_row_shows_when_it_is_due_and_can_be_cancelled(
    tmp_path: Path, width: int
) -> None:
    context = {"viewport": {"width": width, "height": 700}, "has_touch": True}
    with opened(tmp_path, **context) as (running, _, page):
        far = 80_000  # due tomorrow, or on the day after, so that the date is shown
        for num in (-(2**63), 1, 2):
            assert running.add(num, far)["num"] == num
        running.add(5, 0.0625)
        expect(page.locator("#tasks tr")).to_have_count(4)
        # Not rounded to 0.1 s, and a timeout of 0.02 s not to nothing.
        expect(page.locator("#tasks tr:last-child td:nth-child(4)")).to_have_text("0.0625 s")
        # Fields of a form stand beside each other or below each other, not askew.
        fields = [page.locator(f"#{name}").bounding_box() for name in ("num", "timeout")]
        assert fields[0]
        assert fields[1]
        assert fields[0]["x"] == fields[1]["x"] or fields[0]["y"] == fields[1]["y"]
        assert page.evaluate(
            "[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth)"
        )
        for row in page.locator("#tasks tr").all():
            for part in [*row.locator("td").all(), row.get_by_role("button")]:
                box = part.bounding_box()
                assert box is not None
                assert 0 <= box["x"] <= box["x"] + box["width"] <= width
                assert min(box["width"], box["height"]) >= 20
            # Whoever cannot see it hears a table with named cells.
            assert row.get_by_role("cell").count() == 6
            due = row.locator("td").nth(4)
            assert re.search(r"\d:\d\d:\d\d", due.inner_text())
            assert "Due" in due.evaluate("cell => getComputedStyle(cell, '::before').content")
        assert page.get_by_role("columnheader", name="Due").count() == 1
        page.get_by_role("button", name="Cancel task 3").tap()
        expect(page.locator("#tasks tr")).to_have_count(3)
        assert running.request("GET", "/api/v1/tasks/3")[1]["state"] == "cancelled"


def test_the_charts_have_axes_and_say_why_they_are_empty(tmp_path: Path) -> None:
    with opened(tmp_path) as (running, one, page):
        charts = [page.locator(f"#{name}") for name in ("throughput", "lateness")]

        def expect_why(text: str) -> None:
            for chart in charts:
                expect(chart.locator(".why")).to_contain_text(text)
                expect(chart.locator(".top")).to_have_text("")

        expect_why("the queue is empty")
        running.request("POST", "/api/v1/queue/pause")
        running.add(1, 0)
        expect_why("the queue is paused")
        running.request("DELETE", "/api/v1/tasks/1")
        # A cancelled task is finished too, but it is neither early nor late.
        expect(charts[0].locator("figcaption")).to_have_text("Finished: 1, at most 0.2 a second")
        expect(charts[1].locator(".why")).to_contain_text("Not told")
        page.reload()
        running.request("POST", "/api/v1/queue/resume")
        running.add(2, 600)
        expect_why("the first task is due at")
        running.request("DELETE", "/api/v1/tasks/2")
        running.add(3, 0)
        # Both finishes may fall into one slot of the chart, or not.
        for chart, top in zip(charts, (r"^0\.[25]/s$", r"^[125]0* ms$|^0\.[125] ms$"), strict=True):
            expect(chart.locator(".top")).to_have_text(re.compile(top))
            expect(chart.locator(".zero")).to_have_text("0")
            expect(chart.locator(".begin")).to_have_text("5 min ago")
            expect(chart.locator(".why")).to_be_hidden()
        assert one.errors == []


def test_the_latest_results_are_shown_however_many_were_cancelled_behind_them(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as (running, one, page):
        expect(page.locator("#no-results")).to_be_visible()
        batch(running, *[0] * 1_200)
        batch(running, *[600] * 2_500)
        expect(page.locator("#results tr").first).to_contain_text("1200")
        running.request("DELETE", "/api/v1/tasks?from=1201&to=3699")
        expect(page.locator("#depth")).to_have_text("1")
        page.reload()
        expect(page.locator("#results tr")).to_have_count(20)
        assert [row[0] for row in cells(page, "results")] == [str(n) for n in range(1200, 1180, -1)]
        expect(page.locator("#no-results")).to_be_hidden()
        running.request("DELETE", "/api/v1/tasks/3700")
        batch(running, 0)
        expect(page.locator("#results tr").first).to_contain_text("3701")
        expect(page.locator("#results tr")).to_have_count(20)
        assert one.errors == []


def test_a_lost_service_cannot_be_missed_and_comes_back(tmp_path: Path) -> None:
    with Running(tmp_path) as first, tab(first.url) as one:
        page = one.page
        page.goto(first.url)
        add(page, 1, 600)
        expect(page.locator("#tasks tr")).to_have_count(1)
        first.kill()
        expect(page.locator("#lost")).to_be_visible()
        expect(page.locator("#lost")).to_contain_text("Disconnected")
        expect(page.locator("#tasks tr")).to_have_count(1)
        add(page, 2, 600)
        expect(page.locator("#add-error")).to_contain_text("You can safely try again.")
        with Running(tmp_path, "--port", str(first.port)) as second:
            expect(page.locator("#lost")).to_be_hidden()
            page.get_by_role("button", name="Add", exact=True).click()
            expect(page.locator("#tasks tr")).to_have_count(2)
            second.request("DELETE", "/api/v1/tasks/1")
            expect(page.locator("#head")).to_have_text("Task 2: number 2")


def test_a_tab_that_nobody_sees_keeps_no_connection_and_comes_back(tmp_path: Path) -> None:
    # A browser has six connections to the service, for all its tabs: the seventh would stay empty.
    with opened(tmp_path) as (running, one, page):
        wait_for_listeners(running, page, 1)
        page.evaluate(HIDE, True)
        wait_for_listeners(running, page, 0)
        batch(running, *[0] * 30, 600)
        expect(page).to_have_title("1 · sanic-app")
        expect(page.locator("#lost")).to_be_hidden()
        page.evaluate(HIDE, False)
        wait_for_listeners(running, page, 1)
        batch(running, 600)
        expect(page.locator("#tasks tr")).to_have_count(2)
        # Those that were finished unseen are not shown as if they were finished now.
        assert running.request("DELETE", "/api/v1/tasks/31")[0] == 200
        expect(page.locator("#throughput figcaption")).to_contain_text("Finished: 1,")
        assert one.errors == []


def test_a_head_that_is_finished_and_removed_while_it_is_looked_at_is_no_error(
    tmp_path: Path,
) -> None:
    with Running(tmp_path, environ={"SANIC_APP_HISTORY_KEEP": "1"}) as running:
        running.add(4711, 60)

        def finish_and_go_on(route: Route) -> None:
            if running.request("DELETE", "/api/v1/tasks/1")[0] == 200:
                running.add(5)
                assert running.request("GET", "/api/v1/tasks/2?wait=20")[0] == 200
            route.continue_()

        with tab(running.url) as one:
            one.page.route("**/api/v1/tasks/1", finish_and_go_on)
            with one.page.expect_response("**/api/v1/tasks/1") as gone:
                one.page.goto(running.url)
            assert gone.value.status == 410
            expect(one.page.locator("#depth")).to_have_text("0")
            expect(one.page.locator("#results tr")).to_have_count(1)
            expect(one.page.locator("#switch-error")).to_have_text("")


@pytest.mark.parametrize("hidden", [False, True])
def test_the_page_follows_the_service_into_another_queue(tmp_path: Path, hidden: bool) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    with Running(first) as running, tab(running.url) as one:
        page = one.page
        page.goto(running.url)
        # What was finished before it listens is in no chart.
        wait_for_listeners(running, page, 1)
        batch(running, *[0] * 30, 600)
        expect(page.locator("#results tr")).to_have_count(20)
        expect(page.locator("#throughput figcaption")).to_contain_text("Finished: 30")
        if hidden:
            page.evaluate(HIDE, True)
        running.kill()
        with Running(second, "--port", str(running.port)) as other:
            if hidden:
                page.evaluate(HIDE, False)
            expect(page.locator("#lost")).to_be_hidden()
            # The queue is empty, and there is nothing that the page could have shown before.
            expect(page.locator("#head")).to_have_text("Nothing is waiting.")
            expect(page.locator("#results tr")).to_have_count(0)
            expect(page.locator("#spoken")).to_have_text("This is another queue now.")
            expect(page.locator("#throughput .why")).to_contain_text("the queue is empty")
            other.add(7)
            expect(page.locator("#results tr")).to_have_count(1)
            # It continues behind the last message of this queue.
            other.kill()
            expect(page.locator("#lost")).to_be_visible()
            with Running(second, "--port", str(running.port)) as again:
                expect(page.locator("#lost")).to_be_hidden()
                again.add(8)
                expect(page.locator("#throughput figcaption")).to_contain_text("Finished: 2,")
                expect(page.locator("#spoken")).to_have_text("Connected again.")


def test_which_node_answered_is_shown_when_there_may_be_several(
    tmp_path: Path, cluster: postgres.Cluster
) -> None:
    flags = ("-D", cluster.url())
    with Running(tmp_path, *flags) as first, Running(tmp_path, *flags) as second:
        for running in (first, second):
            with tab(running.url) as one:
                one.page.goto(running.url)
                name = f"Answered by {socket.gethostname()}:{running.port}"
                expect(one.page.locator("#node")).to_have_text(name)
                assert violations(one.page) == []
                assert one.errors == []


def test_a_lost_store_cannot_be_missed_and_comes_back(
    tmp_path: Path, cluster: postgres.Cluster
) -> None:
    with Running(tmp_path, "-D", cluster.url()) as running, tab(running.url) as one:
        page = one.page
        page.goto(running.url)
        add(page, 1, 600)
        expect(page.locator("#tasks tr")).to_have_count(1)
        cluster.stop()
        expect(page.locator("#lost")).to_contain_text("The store cannot be reached now")
        add(page, 2, 600)
        # The page adds with a key, and another node may have the first try.
        expect(page.locator("#add-error")).to_contain_text(
            "The store cannot be reached now; it is not known whether"
        )
        cluster.start()
        expect(page.locator("#lost")).to_be_hidden()
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.locator("#tasks tr")).to_have_count(2)


def test_a_token_is_asked_for_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    with (
        Running(tmp_path, environ={"SANIC_APP_API_TOKEN": TOKEN}) as running,
        tab(running.url) as one,
    ):
        page = one.page
        page.goto(running.url)
        field = page.locator("#token-value")
        expect(field).to_be_focused()
        expect(page.locator("#main")).to_be_hidden()
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#token-error")).to_have_text("This token is not accepted.")
        field.fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_visible()
        add(page, 7, 0)
        expect(page.locator("#results tr")).to_have_count(1)
        stores = "[localStorage.length, sessionStorage.length, document.cookie.length]"
        assert page.evaluate(stores) == [0, 0, 0]
        page.reload()
        expect(page.locator("#token-value")).to_be_visible()


def test_a_service_that_comes_back_with_another_token_is_not_said_to_be_lost(
    tmp_path: Path,
) -> None:
    with (
        Running(tmp_path) as first,
        tab(first.url, viewport={"width": 360, "height": 700}) as one,
    ):
        page = one.page
        page.goto(first.url)
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#paused")).to_be_visible()
        first.kill()
        expect(page.locator("#lost")).to_be_visible()
        environ = {"SANIC_APP_API_TOKEN": TOKEN}
        with Running(tmp_path, "--port", str(first.port), environ=environ):
            expect(page.locator("#token-value")).to_be_focused()
            # It is not trying again, and shows nothing of the queue.
            expect(page.locator("#lost")).to_be_hidden()
            expect(page.locator("#paused")).to_be_hidden()
            card = page.locator("#token").bounding_box()
            assert card is not None
            assert 8 <= card["x"] <= card["x"] + card["width"] <= 352
            page.locator("#token-value").fill(TOKEN)
            page.keyboard.press("Enter")
            expect(page.locator("#paused")).to_be_visible()
            expect(page.locator("#main")).to_be_visible()


def test_everything_can_be_done_with_the_keyboard(tmp_path: Path) -> None:
    with opened(tmp_path) as (running, _, page):

        def tab_to(name: str) -> None:
            for _ in range(60):
                page.keyboard.press("Tab")
                active = page.evaluate(
                    "document.activeElement.getAttribute('aria-label')"
                    " ?? document.activeElement.labels?.[0]?.textContent"
                    " ?? document.activeElement.textContent"
                )
                if active.strip() == name:
                    return
            pytest.fail(f"the keyboard does not reach {name}")

        tab_to("Number")
        page.keyboard.type("5")
        page.keyboard.press("Tab")
        page.keyboard.type("600")
        page.keyboard.press("Enter")
        expect(page.locator("#tasks tr")).to_have_count(1)
        expect(page.locator("#spoken")).to_have_text("Added task 1.")
        tab_to("Cancel task 1")
        page.keyboard.press("Enter")
        expect(page.locator("#tasks tr")).to_have_count(0)
        tab_to("Pause")
        page.keyboard.press("Space")
        expect(page.locator("#paused")).to_be_visible()
        assert running.request("GET", "/api/v1/queue")[1]["paused"] is True


def test_the_focus_stays_near_a_button_that_disappears(tmp_path: Path) -> None:
    with opened(tmp_path) as (running, _, page):
        batch(running, 600, 600)
        for task, place in ((2, "Cancel task 1"), (1, "Table of the next tasks")):
            page.get_by_role("button", name=f"Cancel task {task}").focus()
            page.keyboard.press("Enter")
            expect(page.locator("#tasks tr")).to_have_count(task - 1)
            expect(page.locator(":focus")).to_have_attribute("aria-label", place)
        running.add(1, 600)
        page.get_by_role("button", name="Cancel this task").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#cancel-head")).to_be_hidden()
        expect(page.locator("#head")).to_be_focused()


def test_a_million_tasks_are_shown_as_a_window(tmp_path: Path) -> None:
    with opened(tmp_path) as (running, one, page):
        running.request("POST", "/api/v1/queue/pause")
        body = {"tasks": [{"num": 1, "timeout": 86_400}] * 10_000}
        for _ in range(100):
            assert running.request("POST", "/api/v1/tasks/batch", body)[0] == 201
        expect(page.locator("#window")).to_have_text("Showing 50 of 1,000,000.")
        expect(page.locator("#tasks tr")).to_have_count(50)
        add(page, 2, 0)
        expect(page.locator("#depth")).to_have_text("1,000,001")
        assert one.errors == []


def axe() -> str:
    found = find_spec("axe_playwright_python")
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Page) -> list[str]:
    """Return what axe-core finds; it is run past the page's policy, which forbids such scripts."""
    page.evaluate(axe())
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 15
    return [
        f"{each['id']}: {node['html']} {node.get('failureSummary')}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def states(running: Running, page: Page) -> Iterator[str]:
    yield "empty"
    batch(running, *[0] * 30, *[7, 75, 4_000] * 4)
    expect(page.locator("#tasks tr")).to_have_count(12)
    add(page, "x", "y")
    for text in ("Add many", "Cancel many"):
        page.get_by_text(text).click()
    expect(page.locator("#throughput figcaption")).to_contain_text("30")
    yield "busy"
    running.request("POST", "/api/v1/queue/pause")
    expect(page.locator("#paused")).to_be_visible()
    yield "paused"
    running.kill()
    expect(page.locator("#lost")).to_be_visible()
    page.wait_for_timeout(300)
    yield "lost"


@pytest.mark.parametrize("screen", SCREENS)
def test_nobody_is_kept_out_on_any_screen(tmp_path: Path, screen: str) -> None:
    with opened(tmp_path, **SCREENS[screen]) as (running, _, page):
        for state in states(running, page):
            if PICTURES:
                page.screenshot(path=f"{PICTURES}/{screen}-{state}.png", full_page=state == "busy")
            assert violations(page) == [], (screen, state)
            assert page.locator("#node").is_hidden()
            overflow = "document.documentElement.scrollWidth - innerWidth"
            assert page.evaluate(overflow) <= 0, (screen, state)


class Below(BaseHTTPRequestHandler):
    """A proxy that serves a service below /queue/, over plain HTTP and with a Host of its own."""

    protocol_version = "HTTP/1.0"
    port = 0

    def do_GET(self) -> None:
        if not self.path.startswith("/queue/"):
            self.send_error(404)
            return
        kept = ("content-type", "idempotency-key", "last-event-id", "origin", "accept")
        headers = {name: value for name, value in self.headers.items() if name.lower() in kept}
        body = self.rfile.read(int(self.headers.get("content-length", 0))) or None
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(self.command, self.path.removeprefix("/queue"), body, headers)
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "keep-alive"):
                    self.send_header(name, value)
            self.end_headers()
            while data := answer.read1(65_536):
                self.wfile.write(data)
                self.wfile.flush()
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()

    do_POST = do_DELETE = do_GET  # noqa: N815 - the names that the library calls

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def below(folder: Path, **environ: str) -> Iterator[tuple[Running, str]]:
    """Run a service behind a proxy; return it and the proxy's own origin."""
    environ = {f"SANIC_APP_{key}": value for key, value in environ.items()}
    with Running(folder, environ=environ) as running:
        handler = type("To", (Below,), {"port": running.port})
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield running, f"http://127.0.0.1:{proxy.server_port}"
        finally:
            proxy.shutdown()
            proxy.server_close()


def test_the_page_works_below_a_path_of_a_proxy(tmp_path: Path) -> None:
    with (
        below(tmp_path, BASE_PATH="/queue", ALLOWED_HOSTS="127.0.0.1") as (running, origin),
        tab(origin) as one,
    ):
        page = one.page
        page.goto(f"{origin}/queue/")
        expect(page.locator("#head")).to_have_text("Nothing is waiting.")
        add(page, 4711, 600)
        expect(page.locator("#head")).to_have_text("Task 1: number 4711")
        running.request("POST", "/api/v1/queue/pause")
        # The events come through as well.
        expect(page.locator("#paused")).to_be_visible()
        page.get_by_role("link", name="API documentation").click()
        expect(page.locator(".opblock").first).to_be_visible()
        assert page.url == f"{origin}/queue/api/docs/"
        page.goto(f"{origin}/queue/api/docs")
        expect(page.locator(".opblock").first).to_be_visible()
        assert one.errors == []
        assert one.elsewhere == []


def test_axe_finds_what_is_wrong(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, _, page):
        page.evaluate("document.querySelector('label[for=num]').remove()")
        assert any(line.startswith("label:") for line in violations(page))


def test_the_policy_of_the_page_forbids_what_it_should(tmp_path: Path) -> None:
    with opened(tmp_path) as (running, one, page):
        policy = page.request.get(running.url).headers["content-security-policy"]
        assert "unsafe" not in policy
        assert policy.startswith("default-src 'none';")
        inline: Callable[[], Any] = lambda: page.evaluate(  # noqa: E731
            "const s = document.createElement('script'); s.textContent = 'window.bad = 1';"
            " document.body.append(s); window.bad ?? 0"
        )
        assert inline() == 0
        assert any("script-src" in error for error in one.errors)
