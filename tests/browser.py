"""A tab of the system's Chromium that can reach nothing but one service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Playwright,
    Route,
    expect,
    sync_playwright,
)

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
    """Open a tab in which each request to another origin fails; ``context`` is Playwright's.

    It knows nothing of any tab before: cookies, storage and caches are its own.
    """
    page = _shared().new_page(**context)
    opened = Tab(page)

    def route(route: Route) -> None:
        if route.request.url.startswith(f"{origin}/"):
            route.continue_()
        else:
            opened.elsewhere.append(route.request.url)
            route.abort()

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            opened.errors.append(message.text)

    page.route("**/*", route)
    page.on("console", note)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.add_init_script(REPORT)
    try:
        yield opened
    finally:
        page.close()


_started: tuple[Playwright, Browser] | None = None


def _shared() -> Browser:
    """Return the browser of this test process."""
    global _started  # noqa: PLW0603 - one for all tabs
    if _started is None:
        playwright = sync_playwright().start()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        _started = playwright, browser
    return _started[1]


def stop() -> None:
    """Close the browser, if there is one."""
    global _started  # noqa: PLW0603 - one for all tabs
    if _started is not None:
        playwright, browser = _started
        _started = None
        browser.close()
        playwright.stop()
