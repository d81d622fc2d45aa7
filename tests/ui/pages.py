"""Dagster's pages as an operator sees them in a browser, and pictures of them.

Whatever depends on how Dagster draws its pages is here, so that a new version of it is one file's work.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

PICTURES = Path(os.environ.get("URSA_SCREENSHOTS") or Path(__file__).parents[2] / "artifacts" / "ui")
SECONDS = 300.0

_COLOURS = {"green": "materialized", "red": "failed", "blue": "materializing", "gray": "missing"}
_ROW = '[class*="VirtualizedTable_row"]'
_LOG_LINES = 200


def chromium() -> str | None:
    """The browser's path: `URSA_CHROMIUM`, or what the search path holds."""
    if given := os.environ.get("URSA_CHROMIUM"):
        return given
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Pages:
    """One browser tab on a running `ursa dev`, whose log is `log`."""

    def __init__(self, page: Page, address: str, log: Path) -> None:
        self.page = page
        self._address = address
        self._log = log
        # Dagster asks newcomers to join its community, in a dialog over the page, unless they have answered.
        page.add_init_script("localStorage.setItem('communityNux', JSON.stringify('1'))")
        PICTURES.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Ends in the picture `name`; or in `failed-<name>`, beside it the page's text and the end of the log."""
        for old in (*PICTURES.glob(f"{name}.*"), *PICTURES.glob(f"failed-{name}.*")):
            old.unlink()
        succeeded = False
        try:
            yield
            succeeded = True
        finally:
            if succeeded:
                self.take(name)
            else:
                self._keep_evidence(f"failed-{name}")

    def take(self, name: str) -> None:
        self.page.screenshot(path=PICTURES / f"{name}.png")

    def open_graph(self, asset: str) -> None:
        """The asset graph with every group unfolded, up to date as far as this asset goes."""
        self._open("/asset-groups")
        shown = self.page.locator("svg").get_by_text(asset, exact=True)
        deadline = time.monotonic() + SECONDS
        while not shown.is_visible() and time.monotonic() < deadline:
            # The graph has no mark of being ready for the key, and unfolding what is unfolded changes nothing.
            self.page.keyboard.press("Alt+e")
            self.page.wait_for_timeout(500)
        expect(shown).to_be_visible()
        expect(self.page.get_by_text("Loading…")).to_have_count(0)

    def open_overview(self, asset: str) -> None:
        self._open(f"/assets/{asset}?view=overview")

    def open_event(self, rec_id: str) -> None:
        """The newest event of a recording's partition."""
        self._open("/assets/recording?view=events")
        self.page.get_by_text(rec_id, exact=True).first.click()

    def open_partition(self, rec_id: str) -> None:
        self._open(f"/assets/recording?view=partitions&partition={rec_id}")
        expect(self._dot(rec_id)).to_be_visible()

    def open_automation(self) -> None:
        self._open("/automation")

    def expect_state(self, rec_id: str, state: str) -> None:
        """Waits until the partition's dot in the list has the colour of this state."""
        colour = next(colour for colour, name in _COLOURS.items() if name == state)
        expect(self._dot(rec_id)).to_have_attribute("style", re.compile(rf"--color-accent-{colour}\b"))

    def expect_count(self, state: str, number: int) -> None:
        """Waits until the page counts that many partitions of this state."""
        expect(self.page.get_by_text(f"{state.capitalize()} ({number})")).to_be_visible()

    def metadata(self, label: str) -> dict[str, str]:
        """The page's table of metadata as soon as it has this label: of the chosen partition, or an asset's newest."""
        rows = self.page.get_by_role("row")
        expect(rows.filter(has=self.page.get_by_text(label, exact=True))).to_be_visible()
        told = [[cell.strip() for cell in row.split("\t")] for row in rows.all_inner_texts()]
        return {cells[0]: cells[-1] or cells[1] for cells in told if len(cells) > 1}

    def materialize(self, asset: str, label: str) -> None:
        """Presses the button of an asset without partitions; ends on its page once that has metadata of this label."""
        self.open_overview(asset)
        self.page.get_by_role("button", name="Materialize").first.click()
        expect(self.page.get_by_text("Launched run")).to_be_visible()
        shown = self.page.get_by_role("row").filter(has=self.page.get_by_text(label, exact=True))
        deadline = time.monotonic() + SECONDS
        while not shown.is_visible() and time.monotonic() < deadline:
            # An open page goes on saying that there is no metadata.
            self.open_overview(asset)
            self.page.wait_for_timeout(2_000)
        expect(shown).to_be_visible()

    def open_markdown(self, label: str) -> Locator:
        """What the table of metadata hides behind a link at this label."""
        row = self.page.get_by_role("row").filter(has=self.page.get_by_text(label, exact=True))
        row.get_by_text("Show Markdown").click()
        return self.page.get_by_role("dialog")

    def plot(self, label: str) -> Locator:
        """The plot of a number on an asset's overview, switched to plots."""
        self.page.get_by_role("button", name="Plots").click()
        title = self.page.get_by_text(label, exact=True)
        return title.locator("xpath=following::canvas[1]")

    def is_drawn(self, canvas: Locator) -> bool:
        """Whether there is anything but paper on it."""
        expect(canvas).to_be_visible()
        return bool(
            canvas.evaluate(
                "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 === 3 && v)"
            )
        )

    def expect_pictures(self, pictures: Locator) -> None:
        """Waits until these are there and have pixels."""
        expect(pictures.first).to_be_visible()
        for picture in pictures.all():
            expect(picture).not_to_have_js_property("naturalWidth", 0)

    def open_launch_dialog(self) -> None:
        self.page.get_by_role("button", name="Materialize…").click()
        expect(self.page.get_by_text("Partition selection")).to_be_visible()

    def choose(self, which: str, number: int) -> None:
        """Chooses the dialog's ready-made selection (All, Failed, Missing), which comes to that many partitions."""
        self.page.get_by_role("button", name=which, exact=True).click()
        expect(self.page.get_by_text(re.compile(rf"^{number} partitions?$"))).to_be_visible()

    def launch(self, button: str) -> None:
        self.page.get_by_role("button", name=button).click()
        expect(self.page.get_by_text("Partition selection")).to_be_hidden()

    def follow_to_failed_run(self) -> None:
        """From the page of a failed partition."""
        self.page.get_by_text("failed, and did not materialize").locator("a").first.click()
        expect(self.page).to_have_url(re.compile(r"/runs/[0-9a-f-]{36}"))

    def re_execute_from_failure(self) -> None:
        """On a failed run's page; ends on that of the new run."""
        failed = self.page.url
        button = self.page.get_by_role("button", name="Re-execute all")
        button.locator("xpath=following::button[1]").click()
        self.page.get_by_text("From failure", exact=True).click()
        # Dagster asks back if the run is one of a backfill's that is complete, and does not if it is under way.
        confirm, confirmed = self.page.get_by_role("button", name="Confirm"), False
        deadline = time.monotonic() + SECONDS
        while self.page.url == failed and time.monotonic() < deadline:
            if not confirmed and confirm.is_visible():
                confirm.click()
                confirmed = True
            self.page.wait_for_timeout(100)
        assert self.page.url != failed, "no run was launched"

    def expect_run(self, status: str) -> None:
        expect(self.page.get_by_text(status, exact=True).first).to_be_visible()

    def expect_text(self, text: str) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible()

    def switch_on(self, sensor: str) -> None:
        """The toggle of a sensor on the automation page."""
        row = self.page.locator(_ROW).filter(has_text=sensor)
        toggle = row.locator('label[class*="formatSwitch"]')
        expect(toggle.get_by_role("checkbox")).not_to_be_checked()
        toggle.click()
        expect(toggle.get_by_role("checkbox")).to_be_checked()
        # It cannot be used until the server has done what was asked.
        expect(toggle.get_by_role("checkbox")).to_be_enabled()

    def _open(self, path: str) -> None:
        self.page.goto(f"{self._address}{path}")

    def _dot(self, rec_id: str) -> Locator:
        return self.page.locator(f'{_ROW} [data-tooltip="{rec_id}"] ~ div')

    def _keep_evidence(self, name: str) -> None:
        self.take(name)
        (PICTURES / f"{name}.txt").write_text(f"{self.page.url}\n{self.page.locator('body').inner_text()}\n")
        (PICTURES / f"{name}.log").write_text("\n".join(self._log.read_text().splitlines()[-_LOG_LINES:]) + "\n")
