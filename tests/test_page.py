"""What the page is made of, as it is served; tests/system/test_page.py opens it in a browser."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from sanic_app.http.blueprints.page import FILES
from tests.serving import ON_UVLOOP, problem, service

pytestmark = ON_UVLOOP

FOLDER = files("sanic_app.http") / "static"


async def test_the_page_and_its_files_are_served_with_a_strict_policy(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        kinds = {f"/page/{name}": kind for name, kind in FILES.items()}
        kinds["/"] = "text/html; charset=utf-8"
        for path, kind in kinds.items():
            answer = await served.client.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert "unsafe" not in policy
            assert "data:" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = await served.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")


async def test_no_other_file_is_served(tmp_path: Path) -> None:
    async with service(tmp_path) as served:
        for name in ("index.html", "__init__.py", "..%2f__main__.py", "%2e%2e", "page.js.map"):
            problem(await served.client.get(f"/page/{name}"), "not-found", 404)


def text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


async def test_every_file_is_served_and_loads_nothing_from_elsewhere() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {
        *FILES,
        *("index.html", "docs.html", "initializer.js"),
    }
    loaded = set(re.findall(r'(?:src|href)="([^"]+)"', text("index.html")))
    # Relative: the page may be served below a path of a proxy's own.
    assert loaded == {"page/page.css", "page/page.js", "page/icon.svg", "api/docs/"}
    assert not re.search(r"""(fetch|from|import)\s*\(?["'`]/""", "".join(map(text, FILES)))
    for name in FILES:
        assert set(re.findall(r"https?://[\w./]+", text(name))) <= {"http://www.w3.org/2000/svg"}


async def test_nothing_in_the_page_stands_inline() -> None:
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", text("index.html"))
    # What comes from the service is never read as HTML.
    for name in ("page.js", "chart.js", "service.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|document\.write", text(name)
        )


async def test_each_element_that_the_script_wants_is_there() -> None:
    wanted = set(re.findall(r'\$\("([\w-]+)"\)', text("page.js")))
    assert len(wanted) > 30
    assert wanted <= set(re.findall(r'id="([\w-]+)"', text("index.html")))
