"""A real headless browser; without the Debian package chromium exactly these tests skip."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright


# Not of the session: while it is there, its event loop runs in this thread, and no test may start one of its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs the Debian package chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        yield playwright.chromium.launch(executable_path=program, args=arguments)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page; `page.requested` holds every URL it asked for, but those its own policy kept from leaving the browser."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(60_000)
    page.requested = []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("requestfailed", lambda request: request.failure == "csp" and page.requested.remove(request.url))
    yield page
    page.close()
