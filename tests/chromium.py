"""Pages in Chromium, without a screen: what they complain of, and what they ask of a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

SIZES = {"laptop": (1366, 768), "phone": (390, 844)}
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium: the machine's, else Playwright's own; the test is skipped where there is neither."""
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    found = next(filter(None, map(shutil.which, filter(None, names))), None)
    with sync_playwright() as driver:
        found = found or driver.chromium.executable_path
        if not Path(found).exists():
            pytest.skip("needs Chromium, named by CHROMIUM or on the PATH, or `playwright install chromium`")
        yield driver.chromium.launch(executable_path=found, args=QUIET)


def until(page: Page, expression: str) -> None:
    """Wait up to 5 s. Playwright's own waiting evaluates text in the page, which the page's policy forbids."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")


class Opened:
    """A page with what it has complained of and asked for."""

    def __init__(self, context: BrowserContext, path: Path) -> None:
        self.page, self.complaints, self.requests = context.new_page(), [], []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def check(self) -> None:
        """That nothing has gone wrong, and nothing was asked of a network."""
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []


@contextmanager
def opened_page(browser: Browser, path: Path, size: str, scheme: Literal["light", "dark"]) -> Iterator[Opened]:
    """A page, offline, at one of SIZES and in "light" or "dark". At the end nothing may have gone wrong."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
    found = Opened(context, path)
    yield found
    found.check()
    context.close()
