"""The documentation page in a real browser that can reach nothing but the service."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import tab
from tests.running import Running

pytestmark = pytest.mark.system

TOKEN = "of-this-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def test_the_page_shows_each_operation_and_adds_a_task(tmp_path: Path) -> None:
    with (
        Running(tmp_path, environ={"SANIC_APP_API_TOKEN": TOKEN}) as service,
        tab(service.url) as opened,
    ):
        page = opened.page
        page.goto(f"{service.url}/api/docs/")
        expect(page.locator(".opblock").first).to_be_visible()
        document = service.request("GET", "/api/docs/openapi.json")[1]
        assert sorted(shown(page)) == sorted(
            (method.upper(), path)
            for path, methods in document["paths"].items()
            for method in methods
        )

        authorize(page)
        try_out(page, "classic-addTaskClassic", '{"num": 4711, "timeout": 600}')

        status, queue = service.request("GET", "/api/v1/tasks", headers=BEARER)
        assert status == 200
        assert [(task["num"], task["timeout"]) for task in queue["tasks"]] == [(4711, 600)]
        assert opened.errors == []
        assert opened.elsewhere == []


def shown(page: Page) -> list[tuple[str, str | None]]:
    """Return method and path of each operation on the page."""
    return [
        (
            operation.locator(".opblock-summary-method").inner_text(),
            operation.locator(".opblock-summary-path").get_attribute("data-path"),
        )
        for operation in page.locator(".opblock").all()
    ]


def authorize(page: Page) -> None:
    """Give the page the token, as its reader would."""
    page.locator(".auth-wrapper .authorize").click()
    dialog = page.locator(".modal-ux")
    dialog.locator("input").fill(TOKEN)
    dialog.get_by_role("button", name="Apply credentials").click()
    dialog.get_by_role("button", name="Close").last.click()


def try_out(page: Page, name: str, body: str) -> None:
    """Send the operation's request with the body; it must be answered 200."""
    operation = page.locator(f"#operations-{name}")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.locator("textarea.body-param__text").fill(body)
    operation.get_by_role("button", name="Execute").click()
    answered = operation.locator(".live-responses-table .response-col_status").last
    expect(answered).to_have_text("200")
