"""Every row of the table of routes, and what holds for all of them."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import sqlite3
import time
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from sanic_app.store import Slice
from sanic_app.task import HISTORY_NUM_MAX
from tests.serving import ENGINE, JSON, ON_UVLOOP, SECONDS, Service, problem, request, service

pytestmark = ON_UVLOOP

DATE = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
TASK_FIELDS = [
    *("history_num", "date_created", "num", "timeout", "state", "date_started", "date_finished"),
]
PLACE_FIELDS = ["position", "seconds_until_due", "date_due"]
ADDS = ["/add_task", "/api/v1/tasks"]
READABLE = "GET, HEAD, OPTIONS"
ROUTES = {
    "/add_task": "OPTIONS, POST",
    "/get_queue_work": READABLE,
    "/get_result": READABLE,
    "/api/v1/tasks": "DELETE, GET, HEAD, OPTIONS, POST",
    "/api/v1/tasks/batch": "OPTIONS, POST",
    "/api/v1/tasks/1": "DELETE, GET, HEAD, OPTIONS",
    "/api/v1/results": READABLE,
    "/api/v1/queue": READABLE,
    "/metrics": READABLE,
    "/health/live": READABLE,
    "/health/ready": READABLE,
}
FILES = ["/", "/page/page.js", "/api/docs/", "/api/docs/openapi.json", "/api/docs/swagger-ui.css"]
SWITCHES = ["/api/v1/queue/pause", "/api/v1/queue/resume"]
ALL = {
    **ROUTES,
    **dict.fromkeys([*FILES, "/api/docs", "/api/v1/events"], READABLE),
    **dict.fromkeys(SWITCHES, "OPTIONS, POST"),
}
"""Every route with the methods that it allows."""
READS = [path for path, methods in ROUTES.items() if "GET" in methods]


async def post(service: Service, path: str, content: str | bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.client.post(path, content=content, headers={**JSON, **named})


# Adding.


async def test_the_classic_add_answers_200_and_the_task(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        answer = await post(served, "/add_task", '{"num": 5, "timeout": 3}')
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert "location" not in answer.headers
        task = answer.json()
        assert list(task) == TASK_FIELDS
        assert DATE.fullmatch(task["date_created"])
        assert task == {
            "history_num": 1,
            "date_created": task["date_created"],
            "num": 5,
            "timeout": 3,
            "state": "waiting",
            "date_started": task["date_created"],
            "date_finished": None,
        }
        # A whole number comes back as one.
        assert '"timeout":3,' in answer.text


async def test_the_other_add_answers_201_and_where_the_task_is(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 9)
        answer = await post(served, "/api/v1/tasks", '{"num": 5, "timeout": 0.5}')
        assert answer.status_code == 201
        assert answer.headers["location"] == "/api/v1/tasks/2"
        task = answer.json()
        assert list(task) == TASK_FIELDS
        assert (task["state"], task["date_started"], task["timeout"]) == ("queued", None, 0.5)
        shown = await served.get(answer.headers["location"])
        assert {name: shown[name] for name in TASK_FIELDS} == task


TAKEN = [
    ('{"num": -9223372036854775808, "timeout": 60}', -(2**63), "60"),
    ('{"num": 9223372036854775807, "timeout": 86400}', 2**63 - 1, "86400"),
    ('{"num": 0, "timeout": 1.0}', 0, "1"),
    ('{"num": 0, "timeout": 1e1}', 0, "10"),
    ('{"num": 0, "timeout": 60.1}', 0, "60.1"),
    ('{"num": 0, "timeout": 60.0000001}', 0, "60.000001"),
    ('{"num": 0, "timeout": 86399.9999999}', 0, "86400"),
    ('\n {"timeout" : 60 ,\t"num":0} \r\n', 0, "60"),
]


@pytest.mark.parametrize("path", ADDS)
async def test_numbers_at_the_ends_of_their_ranges_are_taken(tmp_path: Path, path: str) -> None:
    async with service(tmp_path) as served:
        for sent, num, seconds in TAKEN:
            answer = await post(served, path, sent)
            assert answer.status_code in (200, 201), answer.text
            task = json.loads(answer.text, parse_float=str, parse_int=str)
            assert (task["num"], task["timeout"]) == (str(num), seconds)
        tasks = (await served.get("/get_queue_work"))["tasks"]
        assert [task["num"] for task in tasks] == [num for _, num, _ in TAKEN]
        assert [task["timeout"] for task in tasks] == [float(seconds) for *_, seconds in TAKEN]


FAULTS: list[tuple[str | bytes, list[str]]] = [
    ("", [""]),
    ("nonsense", [""]),
    ('{"num": 1, "timeout": 1', [""]),
    ('{"num": 1, "timeout": 1} {}', [""]),
    (b'\xff{"num": 1, "timeout": 1}', [""]),
    ('\ufeff{"num": 1, "timeout": 1}', [""]),
    ("[" * 10_000, [""]),
    ('[{"num": 1, "timeout": 1}]', [""]),
    ("null", [""]),
    ('{"num": 1, "timeout": NaN}', [""]),
    ('{"num": 1, "timeout": -Infinity}', [""]),
    ("{}", ["/num", "/timeout"]),
    ('{"num": 1}', ["/timeout"]),
    ('{"timeout": 1}', ["/num"]),
    ('{"num": true, "timeout": 1}', ["/num"]),
    ('{"num": 1.0, "timeout": 1}', ["/num"]),
    ('{"num": "1", "timeout": 1}', ["/num"]),
    ('{"num": null, "timeout": 1}', ["/num"]),
    ('{"num": 9223372036854775808, "timeout": 1}', ["/num"]),
    ('{"num": -9223372036854775809, "timeout": 1}', ["/num"]),
    ('{"num": 1, "timeout": -1}', ["/timeout"]),
    ('{"num": 1, "timeout": -0.0000001}', ["/timeout"]),
    ('{"num": 1, "timeout": 86401}', ["/timeout"]),
    ('{"num": 1, "timeout": 86400.0000001}', ["/timeout"]),
    ('{"num": 1, "timeout": 1e400}', ["/timeout"]),
    ('{"num": 1, "timeout": 1e999999999}', ["/timeout"]),
    ('{"num": 1, "timeout": "3"}', ["/timeout"]),
    ('{"num": 1, "timeout": false}', ["/timeout"]),
    ('{"num": 1, "timeout": [3]}', ["/timeout"]),
    ('{"num": "x", "timeout": "y"}', ["/num", "/timeout"]),
    ('{"num": 1, "timeout": 1, "num": 1}', ["/num"]),
    ('{"num": 1, "timeout": 1, "more": 1}', ["/more"]),
    ('{"num": 1, "timeout": 1, "a/b~": 1}', ["/a~1b~0"]),
]


@pytest.mark.parametrize("path", ADDS)
async def test_a_body_that_is_no_task_is_refused_with_a_fault_for_each_thing_wrong(
    tmp_path: Path, path: str
) -> None:
    async with service(tmp_path) as served:
        for body, pointers in FAULTS:
            document = problem(await post(served, path, body), "invalid", 400)
            assert document["applied"] is False
            assert sorted(fault["pointer"] for fault in document["errors"]) == pointers, body
            assert all(fault["message"] for fault in document["errors"])
            assert all(set(fault) == {"pointer", "message"} for fault in document["errors"])
        assert await served.get("/api/v1/tasks") == {"tasks": []}
        assert served.metric("adds_refused_total", reason="invalid") == len(FAULTS)


async def test_numbers_of_thousands_of_digits_are_refused(tmp_path: Path) -> None:
    digits = "9" * 8_000
    async with service(tmp_path) as served:
        for number in (digits, f"0.{digits}", f"{digits}.5", f"1e{digits}"):
            for body in (
                f'{{"num": {number}, "timeout": 1}}',
                f'{{"num": 1, "timeout": {number}}}',
            ):
                answer = await post(served, "/add_task", body)
                if number == f"0.{digits}" and answer.status_code == 200:
                    # A second, when it is rounded up to the microsecond.
                    assert answer.json()["timeout"] == 1
                    continue
                problem(answer, "invalid", 400)


async def test_a_timeout_above_the_setting_is_refused(tmp_path: Path) -> None:
    async with service(tmp_path, timeout_max_us=2_500_000) as served:
        assert (await served.add(1, 2.5))["timeout"] == 2.5
        refused = await post(served, "/add_task", '{"num": 1, "timeout": 2.500001}')
        (fault,) = problem(refused, "invalid", 400)["errors"]
        assert "2.5" in fault["message"]


# Content types.


async def test_json_is_taken_with_any_parameters(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for kind in (
            "application/json",
            "application/json; charset=utf-8",
            "Application/JSON ;x=y",
        ):
            for path in ADDS:
                answer = await post(served, path, '{"num": 1, "timeout": 0}', Content_Type=kind)
                assert answer.status_code in (200, 201)


FORM = "application/x-www-form-urlencoded"
FROM_A_BROWSER = ["Origin: http://localhost", "Sec-Fetch-Mode: cors", "Sec-Fetch-Site: none"]


@pytest.mark.parametrize(
    ("path", "kind", "taken"),
    [
        ("/add_task", None, True),
        ("/api/v1/tasks", None, True),
        ("/add_task", FORM, True),
        ("/add_task/", f"{FORM}; charset=utf-8", True),
        ("/api/v1/tasks", FORM, False),
        ("/add_task", "text/plain", False),
        ("/add_task", "multipart/form-data; boundary=x", False),
        ("/add_task", "application/json-seq", False),
        ("/add_task", "", False),
    ],
)
async def test_other_types_pass_only_where_no_browser_can_send_them(
    tmp_path: Path, path: str, kind: str | None, taken: bool
) -> None:
    body = b'{"num": 1, "timeout": 0}'
    lines = [f"Content-Length: {len(body)}"]
    lines += [] if kind is None else [f"Content-Type: {kind}"]
    async with service(tmp_path) as served:
        answer = await served.say(request(path, b"", *lines) + body)
        if taken:
            assert answer.status in (200, 201)
        else:
            assert answer.problem["type"].endswith(":media-type")
            assert "application/json" in answer.problem["detail"]
        for line in FROM_A_BROWSER:
            document = (await served.say(request(path, b"", *lines, line) + body)).problem
            assert (document["status"], document["applied"]) == (415, False), line
        assert served.parts.queue.figures.last_history_num == int(taken)


# Reading.


async def test_the_classic_lists_have_their_sample_s_shapes(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        assert await served.get("/get_queue_work") == {"tasks": []}
        assert await served.get("/get_result") == {"result": []}
        first = await served.add(7, 0)
        await served.until_empty()
        second = await served.add(-3, 600)
        third = await served.add(2**62, 0.25)
        assert await served.get("/get_result") == {"result": [7]}
        tasks = (await served.get("/get_queue_work"))["tasks"]
        names = ["history_num", "date_created", "num", "timeout"]
        assert [list(task) for task in tasks] == [names, names]
        assert tasks == [{name: task[name] for name in names} for task in (second, third)]
        assert first["history_num"] == 1


async def test_a_task_is_shown_in_each_of_its_states(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        added = await served.add(7, 0)
        await served.until_empty()
        done = await served.get("/api/v1/tasks/1")
        assert list(done) == TASK_FIELDS + PLACE_FIELDS
        assert done["state"] == "done"
        assert added["date_created"] == done["date_created"]
        assert added["date_created"] <= done["date_started"] <= done["date_finished"]
        waiting, queued = await served.add(8, 600), await served.add(9, 600)
        for task in (waiting, queued):
            shown = await served.get(f"/api/v1/tasks/{task['history_num']}")
            assert {name: shown[name] for name in TASK_FIELDS} == task
        assert (waiting["state"], queued["state"]) == ("waiting", "queued")
        page = (await served.get("/api/v1/tasks"))["tasks"]
        assert page == [waiting, queued]
        results = (await served.get("/api/v1/results"))["results"]
        assert results == [{"history_num": 1, "num": 7, "date_finished": done["date_finished"]}]
        assert list(results[0]) == ["history_num", "num", "date_finished"]


@pytest.mark.on_sqlite
async def test_a_cancelled_task_is_shown_and_is_no_result(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(7, 0)
        await served.until_empty()
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as raw:
        # Cancelling has no route yet; the schema knows it.
        raw.execute("UPDATE history SET outcome = 'cancelled', started_at = NULL")
    async with service(tmp_path) as served:
        task = await served.get("/api/v1/tasks/1")
        assert (task["state"], task["date_started"]) == ("cancelled", None)
        assert DATE.fullmatch(task["date_finished"])
        assert await served.result() == []
        assert await served.get("/api/v1/results") == {"results": []}


@pytest.mark.on_sqlite
async def test_a_task_that_retention_removed_is_gone(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for num in (7, 8):
            await served.add(num, 0)
        await served.until_empty()
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as raw:
        raw.execute("BEGIN")
        raw.execute("DELETE FROM history WHERE history_num = 1")
        raw.execute("UPDATE state SET pruned = 1")
        raw.execute("COMMIT")
    async with service(tmp_path) as served:
        problem(await served.client.get("/api/v1/tasks/1"), "gone", 410)
        assert (await served.get("/api/v1/tasks/2"))["num"] == 8
        problem(await served.client.get("/api/v1/tasks/3"), "not-found", 404)
        assert (await served.get("/api/v1/queue"))["pruned"] == 1


ODD = [
    *("0", "-1", "+1", "01", "1.0", "1e0", "x", "0x1", "1_0", "%20", "1%20", "%31%00", "1;x"),
    *("9223372036854775808", "9" * 30, "%D9%A3", "..", "1%2F2", "%FF", "None"),
]


async def test_an_odd_number_in_the_path_is_not_found(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 600)
        for number in ODD:
            answer = await served.say(request(f"/api/v1/tasks/{number}", method="GET"))
            assert answer.problem["type"].endswith(":not-found"), number
        # In a path there is nothing but ASCII.
        answer = await served.say(request("/api/v1/tasks/\u0663", method="GET"))
        assert answer.problem["type"].endswith(":invalid")


async def test_a_number_nobody_has_is_not_found(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for number in (1, HISTORY_NUM_MAX):
            problem(await served.client.get(f"/api/v1/tasks/{number}"), "not-found", 404)
        for path in (
            "/page",
            "/nothing",
            "/api",
            "/api/v2/tasks",
            "/api/v1/tasks/1/2",
            "/Add_task",
        ):
            problem(await served.client.get(path), "not-found", 404)
            problem(await served.client.post(path), "not-found", 404)


async def test_the_queue_shows_its_figures(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        assert await served.get("/api/v1/queue") == {
            "depth": 0,
            "oldest_task_age_seconds": 0.0,
            "backlog_seconds": 0.0,
            "paused": False,
            "head": None,
            "pruned": 0,
        }
        head = await served.add(1, 600)
        await served.add(2, 100)
        answer = await served.client.get("/api/v1/queue")
        names = ["depth", "oldest_task_age_seconds", "backlog_seconds", "paused", "head", "pruned"]
        figures = answer.json()
        assert list(figures) == names
        assert (figures["depth"], figures["head"]) == (2, head)
        assert list(figures["head"]) == TASK_FIELDS
        assert 0 < figures["oldest_task_age_seconds"] < 60
        assert 640 < figures["backlog_seconds"] < 700


# Pages.


async def walk(served: Service, path: str, name: str) -> list[list[dict[str, Any]]]:
    """Return the pages from this path on, as the links lead from one to the next."""
    pages = []
    while path:
        answer = await served.client.get(path)
        assert answer.status_code == 200, answer.text
        assert list(answer.json()) == [name]
        pages.append(answer.json()[name])
        link = answer.headers.get("link", "")
        if link:
            assert re.fullmatch(r'</api/v1/\w+\?limit=\d+&after=\d+>; rel="next"', link)
        path = link.partition(">")[0].lstrip("<")
    return pages


@pytest.mark.parametrize(("name", "wait"), [("tasks", 600), ("results", 0)])
async def test_links_lead_through_all_pages(tmp_path: Path, name: str, wait: int) -> None:
    async with service(tmp_path) as served:
        for num in range(7):
            await served.add(num, wait)
        if name == "results":
            await served.until_empty()
        path = f"/api/v1/{name}"
        for query, sizes in {
            "": [7],
            "?limit=3": [3, 3, 1],
            "?limit=7": [7],
            "?limit=6": [6, 1],
            "?limit=1000": [7],
            "?limit=2&after=3": [2, 2],
            "?after=7": [0],
            "?after=0&limit=4": [4, 3],
            f"?after={HISTORY_NUM_MAX}": [0],
        }.items():
            pages = await walk(served, path + query, name)
            assert [len(page) for page in pages] == sizes, query
            numbers = [item["history_num"] for page in pages for item in page]
            assert numbers == list(range(8 - sum(sizes), 8)), query


async def test_a_page_has_a_hundred_items_unless_asked_otherwise(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await asyncio.gather(*(served.add(num, 600) for num in range(101)))
        answer = await served.client.get("/api/v1/tasks")
        assert len(answer.json()["tasks"]) == 100
        assert answer.headers["link"] == '</api/v1/tasks?limit=100&after=100>; rel="next"'


@pytest.mark.parametrize("path", ["/api/v1/tasks", "/api/v1/results"])
async def test_odd_parameters_of_a_page_are_refused(tmp_path: Path, path: str) -> None:
    async with service(tmp_path) as served:
        for query, faults in {
            "limit=0": 1,
            "limit=1001": 1,
            "limit=": 1,
            "limit": 1,
            "limit=1.0": 1,
            "limit=+1": 1,
            "limit=-1": 1,
            "limit=%D9%A3": 1,
            "after=-1": 1,
            "after=x": 1,
            "after=9223372036854775808": 1,
            f"after={'1' * 5000}": 1,
            "limit=1&limit=2": 1,
            "limit=1&limit=1": 1,
            "after=1&after=1": 1,
            "page=2": 1,
            "Limit=1": 1,
            "": 0,
            "limit=0&after=x&more=1": 3,
        }.items():
            answer = await served.client.get(f"{path}?{query}")
            if faults:
                assert len(problem(answer, "invalid", 400)["errors"]) == faults, query
            else:
                assert answer.status_code == 200


async def test_unknown_query_parameters_are_refused_everywhere(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for query in ("x", "x=1", "x=", "=", "limit=1", "x=1&x=2", "%0a"):
            for path in READS:
                if path.startswith("/health") or path in ("/api/v1/tasks", "/api/v1/results"):
                    continue
                answer = await served.client.get(f"{path}?{query}")
                assert problem(answer, "invalid", 400)["errors"], path
            for path in ADDS:
                answer = await post(served, f"{path}?{query}", '{"num": 1, "timeout": 0}')
                assert problem(answer, "invalid", 400)["errors"], path
        assert served.parts.queue.figures.last_history_num == 0


# Methods.


METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "ZZZ123"]


async def test_other_methods_are_refused_with_those_that_are_allowed(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for method, (path, allowed) in itertools.product(METHODS, ALL.items()):
            if method in allowed.split(", "):
                continue
            answer = await served.client.request(method, path)
            assert answer.status_code == 405, (method, path)
            assert answer.headers["allow"] == allowed
            assert answer.headers["content-type"] == "application/problem+json"
            if method == "HEAD":
                assert answer.content == b""
            else:
                assert answer.json()["type"].endswith(":method-not-allowed")
        assert served.parts.queue.figures.last_history_num == 0


async def test_head_answers_what_get_does_without_the_body(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        await served.add(1, 600)
        for path in [
            *READS,
            *FILES,
            "/api/docs",
            "/api/v1/tasks?limit=1",
            "/api/v1/tasks/77",
            "/x",
        ]:
            same = {"X-Request-ID": "same"}
            get = await served.client.get(path, headers=same)
            head = await served.client.head(path, headers=same)
            assert (head.status_code, head.content) == (get.status_code, b""), path
            # The figures of some answers change from one moment to the next.
            moving = ("/metrics", "/api/v1/queue", "/api/v1/tasks/1")
            ignored = {"date", *(["content-length"] if path in moving else [])}
            assert "content-length" in head.headers, path
            assert {k: v for k, v in head.headers.items() if k not in ignored} == {
                k: v for k, v in get.headers.items() if k not in ignored
            }, path
            if "etag" in get.headers:
                known = {"If-None-Match": get.headers["etag"]}
                assert (await served.client.head(path, headers=known)).status_code == 304
        name = "http_request_duration_seconds_count"
        assert served.metric(name, method="HEAD", route="/metrics", status="200") == 1


async def test_no_cache_keeps_what_may_change_and_each_answer_has_its_date(tmp_path: Path) -> None:
    async with service(tmp_path) as served, served.wire() as wire:
        await served.add(1, 600)
        paths = [*READS, *FILES, "/api/v1/tasks/77", "/api/v1/tasks?limit=x", "/x"]
        asked = [(method, path) for path in paths for method in ("GET", "HEAD", "PATCH", "OPTIONS")]
        for method, path in [
            *asked,
            ("DELETE", "/api/v1/tasks/1"),
            ("POST", "/api/v1/queue/pause"),
        ]:
            answer = await served.client.request(method, path)
            moment = parsedate_to_datetime(answer.headers["date"])
            assert abs(moment.timestamp() - time.time()) < SECONDS, path
            assert answer.headers["date"].endswith(" GMT")
            kept = method in ("GET", "HEAD") and path in FILES
            wanted = "no-cache" if kept else "no-store"
            assert answer.headers.get_list("cache-control") == [wanted], (method, path)
        # Streams and lists in chunks, and what is no HTTP, have their heads made elsewhere.
        await wire.send(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        _, stream = await wire.head()
        for headers in (stream, (await served.say(b"\r\r\n\r\n")).headers):
            assert headers["cache-control"] == "no-store"
            assert headers["date"].endswith(" GMT")


async def test_head_begins_nothing_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slice_of(after: int, _: int) -> Slice:
        assert after == 0, "only the first slice is read"
        return Slice("1", 1)

    async with service(tmp_path) as served, served.wire() as wire:
        await served.add(1, 600)
        monkeypatch.setattr(served.store, "results_slice", slice_of)
        # One behind the other on one connection: no byte of a body comes between.
        for path in ("/api/v1/events", "/api/v1/tasks/1?wait=60", "/get_result", "/health/live"):
            await wire.send(request(path, method="HEAD"))
            async with asyncio.timeout(5):
                status, headers = await wire.head()
            assert (status, headers["connection"]) == (200, "keep-alive"), path
        assert served.metric("event_listeners") == 0


async def test_options_answers_with_the_methods_of_every_path(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for path, allowed in ALL.items():
            answer = await served.client.options(path)
            assert (answer.status_code, answer.content) == (204, b""), path
            assert answer.headers["allow"] == allowed, path
            assert answer.headers["x-request-id"]
            assert "content-length" not in answer.headers
        assert (await served.client.options("/nothing")).status_code == 404
        async with served.wire() as wire:
            await wire.send(request("*", method="OPTIONS"))
            status, headers = await wire.head()
            assert (status, headers["allow"]) == (204, "DELETE, GET, HEAD, OPTIONS, POST")
        preflight = {"Origin": "http://example.com", "Access-Control-Request-Method": "POST"}
        answer = await served.client.options("/add_task", headers=preflight)
        assert answer.status_code == 204
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_no_route_was_forgotten(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for route in served.app.router.routes:
            assert ("GET" in route.methods) == ("HEAD" in route.methods), route.path
        count = len({route.path.rstrip("/") for route in served.app.router.routes})
        assert len({path.rstrip("/") for path in ALL}) == count


async def test_a_missing_task_is_not_a_missing_page(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for method in ("GET", "DELETE"):
            for number in ("1", "77", "0", "x", str(2**63)):
                answer = await served.client.request(method, f"/api/v1/tasks/{number}")
                detail = problem(answer, "not-found", 404)["detail"]
                assert detail == "No task has this history number."
        answer = await served.client.get("/nothing")
        assert problem(answer, "not-found", 404)["detail"] == "There is nothing here."


async def test_invented_methods_share_one_label(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for number in range(5):
            await served.client.request(f"ZZZ{number}", "/add_task")
        name = "http_request_duration_seconds_count"
        # Without a method that fits there is no route.
        assert served.metric(name, method="other", route="unmatched", status="405") == 5
        assert "ZZZ" not in (await served.client.get("/metrics")).text


# Idempotency.


@pytest.mark.parametrize("path", ADDS)
async def test_a_key_makes_a_retry_answer_what_the_first_was_answered(
    tmp_path: Path, path: str
) -> None:
    async with service(tmp_path) as served:
        key = "".join(map(chr, range(0x21, 0x7F))) + "x" * 161
        body = '{"num": 7, "timeout": 0}'
        first = await post(served, path, body, Idempotency_Key=key)
        assert "idempotent-replayed" not in first.headers
        await served.until_empty()
        # Equal after parsing, and answered as it was then, though the task is done by now.
        for same in (body, '{"timeout":0.0,"num":7}'):
            again = await post(served, path, same, Idempotency_Key=key)
            assert again.headers["idempotent-replayed"] == "true"
            assert (again.status_code, again.text) == (first.status_code, first.text)
            assert again.headers.get("location") == first.headers.get("location")
        assert await served.result() == [7]
        assert served.metric("tasks_added_total") == 1


async def test_both_ways_of_adding_share_the_keys(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        body = '{"num": 7, "timeout": 600}'
        first = await post(served, ADDS[0], body, Idempotency_Key="a")
        again = await post(served, ADDS[1], body, Idempotency_Key="a")
        assert (again.status_code, again.json()) == (201, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["location"] == "/api/v1/tasks/1"


@pytest.mark.parametrize("path", ADDS)
async def test_a_key_with_another_request_is_refused(tmp_path: Path, path: str) -> None:
    async with service(tmp_path) as served:
        await post(served, "/add_task", '{"num": 7, "timeout": 600}', Idempotency_Key="a")
        for other in ('{"num": 8, "timeout": 600}', '{"num": 7, "timeout": 600.1}'):
            refused = await post(served, path, other, Idempotency_Key="a")
            assert problem(refused, "key-reused", 422)["applied"] is False
        assert served.parts.queue.figures.depth == 1
        assert served.metric("adds_refused_total", reason="key_reused") == 2


async def test_many_retries_at_once_add_one_task(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        body = '{"num": 7, "timeout": 600}'
        answers = await asyncio.gather(
            *(post(served, ADDS[n % 2], body, Idempotency_Key="a") for n in range(20))
        )
        assert {answer.json()["history_num"] for answer in answers} == {1}
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1


async def test_a_key_survives_a_restart(tmp_path: Path) -> None:
    body = '{"num": 7, "timeout": 600}'
    async with service(tmp_path) as served:
        first = await post(served, "/add_task", body, Idempotency_Key="a")
    async with service(tmp_path) as served:
        again = await post(served, "/add_task", body, Idempotency_Key="a")
        assert again.headers["idempotent-replayed"] == "true"
        assert again.text == first.text


async def test_a_refusal_stores_no_key(tmp_path: Path) -> None:
    async with service(tmp_path, queue_max=1) as served:
        bad = await post(served, "/add_task", '{"num": 7}', Idempotency_Key="a")
        problem(bad, "invalid", 400)
        await post(served, "/add_task", '{"num": 7, "timeout": 600}', Idempotency_Key="a")
        full = await post(served, "/add_task", '{"num": 8, "timeout": 0}', Idempotency_Key="b")
        problem(full, "queue-full", 503)
        assert (await served.client.delete("/api/v1/tasks/1")).status_code == 200
        other = await post(served, "/add_task", '{"num": 9, "timeout": 0}', Idempotency_Key="b")
        assert other.status_code == 200
        assert "idempotent-replayed" not in other.headers


async def test_odd_keys_are_refused(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        body = b'{"num": 1, "timeout": 0}'
        for path in ADDS:
            for key in ("", "x" * 256, "a b", "a\tb", "\u00e9", "\x7f"):
                answer = await served.say(request(path, body, f"Idempotency-Key: {key}"))
                assert answer.problem["type"].endswith(":invalid"), key
                assert answer.problem["applied"] is False
            twice = request(path, body, "Idempotency-Key: a", "Idempotency-Key: a")
            assert (await served.say(twice)).problem["status"] == 400
        assert served.parts.queue.figures.last_history_num == 0


# Limits.


async def test_a_full_queue_refuses_what_is_more(tmp_path: Path) -> None:
    async with service(tmp_path, queue_max=3) as served:
        keyed = '{"num": 0, "timeout": 600}'
        first = await post(served, "/add_task", keyed, Idempotency_Key="a")
        assert first.status_code == 200
        answers = await asyncio.gather(
            *(post(served, ADDS[n % 2], '{"num": 1, "timeout": 0.01}') for n in range(9))
        )
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(refused) == 7
        for answer in refused:
            assert problem(answer, "queue-full", 503)["applied"] is False
            assert int(answer.headers["retry-after"]) > 0
        assert served.metric("adds_refused_total", reason="queue_full") == 7
        assert await served.get("/health/ready") == {
            "status": "ready",
            "reason": "the queue is full",
        }
        # What was added before is there: its retry is answered all the same.
        again = await post(served, "/api/v1/tasks", keyed, Idempotency_Key="a")
        assert again.headers["idempotent-replayed"] == "true"


async def test_there_is_room_again_once_a_task_is_done(tmp_path: Path) -> None:
    async with service(tmp_path, queue_max=1) as served:
        await served.add(1, 0.02)
        await served.until_empty()
        await served.add(2, 0)
        await served.until_empty()
        assert await served.result() == [1, 2]


@pytest.mark.parametrize("path", ["/add_task", "/api/v1/tasks", "/nothing"])
async def test_a_body_beyond_the_limit_is_too_large(tmp_path: Path, path: str) -> None:
    body = b'{"num": 1, "timeout": 0}'
    chunk = b" " * 500
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [body, *[chunk] * 4])
    async with service(tmp_path, body_max=1000) as served:
        exact = await served.say(request(path, body + b" " * (1000 - len(body))))
        assert exact.status in (200, 201, 404)
        for raw in (
            request(path, body + b" " * (1001 - len(body))),
            request(path, b"", "Content-Length: 99999999999") + body,
            request(path, b"", *["Transfer-Encoding: chunked"]) + chunks + b"0\r\n\r\n",
        ):
            answer = await served.say(raw)
            if path == "/nothing" and answer.status == 404:
                continue
            assert answer.status == 413
            assert answer.problem["type"].endswith(":too-large")
            assert answer.problem["applied"] is False
            assert answer.headers["connection"] == "close"
        added = served.parts.queue.figures.last_history_num
        assert added == (0 if path == "/nothing" else 1)


async def test_chunked_bodies_within_the_limit_are_taken(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        raw = request(
            "/add_task", b"", "Transfer-Encoding: chunked", "Content-Type: application/json"
        )
        raw += b'8\r\n{"num": \r\n10;ext=1\r\n3, "timeout": 60\r\n1\r\n}\r\n0\r\n\r\n'
        answer = await served.say(raw)
        assert answer.status == 200, answer.body
        assert json.loads(answer.body)["num"] == 3


async def test_headers_beyond_their_limit_are_too_large(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        answer = await served.say(request("/get_result", b"", f"X: {'x' * 20_000}", method="GET"))
        assert answer.problem["type"].endswith(":too-large")


# Operations.


async def test_metrics_come_in_the_format_that_is_asked_for(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        text = await served.client.get("/metrics")
        assert text.headers["content-type"].startswith("text/plain")
        assert "\nsanic_app_queue_depth 0.0\n" in text.text
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        open_metrics = await served.client.get("/metrics", headers=accept)
        assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
        assert open_metrics.text.endswith("# EOF\n")
        assert "_created" not in text.text + open_metrics.text


async def test_metrics_follow_what_happens(tmp_path: Path) -> None:
    before = time.time()
    async with service(tmp_path, queue_max=77) as served:
        assert before <= served.metric("start_time_seconds") <= time.time()
        assert served.metric("queue_limit") == 77
        await served.add(1, 1)
        await served.add(2, 0)
        assert served.metric("queue_depth") == 2
        assert served.metric("queue_oldest_task_age_seconds") > 0
        assert 0 < served.metric("queue_backlog_seconds") <= 1
        await served.until_empty()
        assert served.metric("queue_depth") == 0
        assert served.metric("queue_oldest_task_age_seconds") == 0
        assert served.metric("queue_backlog_seconds") == 0
        assert served.metric("head_overdue_seconds") == 0
        assert served.metric("worker_up") == 1
        assert served.metric("tasks_added_total") == 2
        assert served.metric("tasks_finished_total", outcome="done") == 2
        for name in ("latency", "queue", "lateness"):
            assert served.metric(f"task_{name}_seconds_count") == 2
        assert 1 <= served.metric("task_latency_seconds_sum") < 10
        assert served.metric("commit_seconds_count") >= 4
        assert served.metric("store_size_bytes", file="database") > 0
        if ENGINE == "sqlite":
            assert 0 < served.metric("store_free_bytes") <= shutil.disk_usage(tmp_path).total
        name = "http_request_duration_seconds_count"
        labels = {"method": "POST", "route": "/add_task", "status": "200"}
        assert served.metric(name, **labels) == 2
        await served.client.get("/api/v1/tasks/1")
        labels = {"method": "GET", "route": "/api/v1/tasks/{history_num}", "status": "200"}
        assert served.metric(name, **labels) == 1
        await served.client.get("/metrics")
        assert served.metric("http_requests_in_flight") == 0


async def test_health_says_live_and_ready(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        assert await served.get("/health/live") == {"status": "live"}
        assert await served.get("/health/ready") == {"status": "ready", "reason": "ok"}


# What holds for all.


async def test_an_id_of_the_client_s_own_is_sent_back_if_it_is_a_plain_one(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for path in (*READS, "/nothing"):
            for given in ("a", "x" * 128, "A-z0.9_~+/=:"):
                answer = await served.client.get(path, headers={"X-Request-ID": given})
                assert answer.headers["x-request-id"] == given
        made = set()
        for odd in ("", "x" * 129, "a b", 'a"', "a,b", "{}", "é"):
            raw = request("/health/live", b"", f"X-Request-ID: {odd}", method="GET")
            made.add((await served.say(raw)).headers["x-request-id"])
        made.add((await served.client.get("/health/live")).headers["x-request-id"])
        # Each has one of its own, and none of these is the client's.
        assert len(made) == 8
        assert all(re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", each) for each in made)


async def test_an_answer_to_no_request_at_all_has_an_id_too(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for raw in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"):
            answer = await served.say(raw)
            assert answer.problem["type"].endswith(":invalid")
            assert answer.headers["x-request-id"]


async def test_a_failure_inside_shows_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = f"secret in {tmp_path}"

    def fail(*_: object) -> None:
        raise RuntimeError(secret)

    async with service(tmp_path) as served:
        monkeypatch.setattr(served.parts.queue, "add", fail)
        monkeypatch.setattr(served.store, "overview", fail)
        monkeypatch.setattr(served.store, "results_slice", fail)
        monkeypatch.setattr(served.store, "queue_page", fail)
        for path in ADDS:
            answer = await post(served, path, '{"num": 1, "timeout": 0}')
            # It may have been applied for all that anybody knows.
            assert problem(answer, "internal", 500)["applied"] is None
        for path in ("/api/v1/queue", "/get_result", "/api/v1/tasks"):
            answer = await served.client.get(path)
            problem(answer, "internal", 500)
            assert "secret" not in answer.text + str(answer.headers)
            assert str(tmp_path) not in answer.text
            assert "Traceback" not in answer.text
        assert served.metric("adds_refused_total", reason="internal") == 2
    # The log has it.
    assert secret in caplog.text


async def test_nothing_answers_html(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        headers = {"Accept": "text/html,application/xhtml+xml"}
        for path in (*ROUTES, "/nothing", "/api/v1/tasks/x"):
            for method in ("GET", "POST", "PUT"):
                answer = await served.client.request(method, path, headers=headers)
                assert "html" not in answer.headers["content-type"], (method, path)
                assert "<" not in answer.text or path == "/api/v1/tasks", (method, path)
        garbled = await served.say(b"GET / HTTP/1.1\r\nAccept: text/html\r\nbad\r\n\r\n")
        assert garbled.problem["status"] == 400


async def test_a_trailing_slash_leads_to_the_same_place(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        assert (await post(served, "/add_task/", '{"num": 1, "timeout": 0}')).status_code == 200
        assert (await post(served, "/add_task/", "{}")).status_code == 400
        assert served.metric("adds_refused_total", reason="invalid") == 1
