"""Makes docs/images/asset_graph.png: Dagster's lineage page after the sound recordings of the demo were ingested.

`uv run python -m scripts.picture_asset_graph [FILE]`; needs Chromium, as tests/ui does.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, Page, expect, sync_playwright

from tests.orchestration.dev import Dev
from tests.ui.conftest import FLAGS
from tests.ui.pages import SECONDS, Pages, chromium
from ursa_pipelines import DataInterface
from ursa_pipelines.embedded.demo_recordings import make_demo_recordings
from ursa_pipelines.embedded.store import open_store

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "asset_graph.png"
_MARGIN = 24
_COLOURS = 256


def main() -> None:
    picture = Path(sys.argv[1] if len(sys.argv) > 1 else PICTURE).absolute()
    browser_path = chromium() or sys.exit("no browser: apt-get install chromium, or name one in URSA_CHROMIUM")
    os.environ.pop("DAGSTER_HOME", None)
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        rec_ids = _make_recordings()
        dev = Dev(Path(directory))
        try:
            dev.wait("the page", dev.is_up)
            # The recording that only the bucket has is too old for the sensor, and left to the reconciliation.
            dev.end_of(dev.press_job("nightly"))
            dev.wait("the recordings", lambda: len(DataInterface("local").list_recordings()) == len(rec_ids))
            for job in ("nightly", "fold"):
                dev.end_of(dev.press_job(job))
            _take(browser_path, dev, picture)
        finally:
            dev.end()
            open_store(Path(directory) / ".ursa").release()


def _make_recordings() -> list[str]:
    """Those of the demo that are neither damaged nor being copied; their ids."""
    data = DataInterface("local")
    data.enable_writes(roles=("assets_rw", "raw_rw"))
    nas, usb = (source.root for source in data.sources)
    *sound, damaged, unfinished = make_demo_recordings(nas, usb)
    for directory in (*damaged.directories, *unfinished.directories):
        shutil.rmtree(directory)
    raw = data.ingest_context().raw
    for one in sound:
        for key, body in one.objects.items():
            raw.create(key, body)
    return [one.rec_id for one in sound]


def _take(browser_path: str, dev: Dev, picture: Path) -> None:
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1700, "height": 900}, device_scale_factor=2)
        pages = Pages(page, f"http://127.0.0.1:{dev.port}", dev.log)
        pages.open_graph("recording")
        pages.expect_text("100% filled")
        page.screenshot(path=picture, clip=_around_the_groups(page))
        browser.close()
    with Image.open(picture) as full:
        full.convert("RGB").quantize(_COLOURS).save(picture, optimize=True)


def _around_the_groups(page: Page) -> FloatRect:
    boxes = [box for one in page.locator("svg foreignObject").all() if (box := one.bounding_box())]
    left, top = min(box["x"] for box in boxes) - _MARGIN, min(box["y"] for box in boxes) - _MARGIN
    right = max(box["x"] + box["width"] for box in boxes) + _MARGIN
    bottom = max(box["y"] + box["height"] for box in boxes) + _MARGIN
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


if __name__ == "__main__":
    main()
