"""A tab of the system's Chromium that can reach nothing but one service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import ConsoleMessage, Page, Route, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]

# What is expected usually comes at once; the 5 s of Playwright are not enough for a busy machine.
expect.set_options(timeout=20_000)

# A violation of the page's policy that the browser would only mention becomes an error.
REPORT = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`${event.violatedDirective}: ${event.blockedURI}`);
});
"""


@dataclass
class Tab:
    """A tab of the browser, what went wrong in it, and what it wanted from elsewhere."""

    page: Page
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


@contextmanager
def tab(origin: str, **context: Any) -> Iterator[Tab]:
    """Open a tab in which each request to another origin fails; ``context`` is Playwright's."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = Tab(browser.new_page(**context))

        def route(route: Route) -> None:
            if route.request.url.startswith(f"{origin}/"):
                route.continue_()
            else:
                opened.elsewhere.append(route.request.url)
                route.abort()

        def note(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                opened.errors.append(message.text)

        opened.page.route("**/*", route)
        opened.page.on("console", note)
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.add_init_script(REPORT)
        yield opened
        browser.close()
