"""A browser before a running `ursa dev`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.orchestration.conftest import dev as dev  # the fixture
from tests.orchestration.dev import Dev
from tests.ui.pages import SECONDS, Pages, chromium

# Without these it looks for Google's hosts at every start, which a closed network refuses many at a time.
FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",
]


@pytest.fixture
def browser_path() -> str:
    if path := chromium():
        return path
    pytest.skip("no browser: install one (Debian: apt-get install chromium), or name it in URSA_CHROMIUM")


@pytest.fixture
def pages(browser_path: str, dev: Dev) -> Iterator[Pages]:
    """A tab of a browser of its own; `browser_path` comes first, so that nothing is started without a browser."""
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.set_default_timeout(SECONDS * 1000)
        yield Pages(page, f"http://127.0.0.1:{dev.port}", dev.log)
        browser.close()
