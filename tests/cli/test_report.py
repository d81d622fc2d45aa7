"""`ursa report`: one page that tells of everything, needs nothing else, and gives nothing away."""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.cli.test_commands import FILES, Command
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.maintenance import report_page
from ursa_pipelines.maintenance.report_page import write_page
from ursa_pipelines.orchestration.instance import open_instance
from ursa_pipelines.orchestration.partitions import RECORDING, recordings
from ursa_pipelines.orchestration.states import Mark

GOOD, BAD, WORSE, HELD, COPIED, WAIVED, NEW = (f"rec_20260520_19562{digit}_b1dd" for digit in range(7))
NAME = "Aria Lin"
HOSTILE = "<script>alert(1)</script>\"'><img src=http://example.com/x.png> {{ 7 * 6 }}"


class Page(HTMLParser):
    """The text of a page, and whatever a browser would fetch or run for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.text, self.fetched, self.tags = "", [], set()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [value for name, value in attrs if name in {"src", "href", "srcset", "action"} and value]

    def handle_data(self, data: str) -> None:
        self.text += data


@dataclass(frozen=True)
class Home:
    """A Dagster instance of the lab's profile."""

    instance: dg.DagsterInstance
    path: Path


@pytest.fixture
def ursa(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(lab.config, capsys, monkeypatch)


@pytest.fixture
def home(lab: Lab, store_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    path = store_state / f"dagster-{secrets.token_hex(4)}"
    path.mkdir()
    (path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(path))
    with open_instance("lab") as instance:
        yield Home(instance, path)


def ingested(lab: Lab, *rec_ids: str) -> None:
    for rec_id in rec_ids:
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, FILES, participant=NAME))


def marked(home: Home, *marks: Mark) -> None:
    home.instance.add_dynamic_partitions(str(recordings.name), sorted({mark.rec_id for mark in marks}))
    for mark in marks:
        home.instance.report_runless_asset_event(mark.observation())


def written(ursa: Command, tmp_path: Path) -> tuple[str, Page]:
    told = ursa("report", "--out", tmp_path / "out.html")
    return told, Page(tmp_path / "out.html")


def test_without_a_dagster_instance_the_catalog_alone_is_told_of(ursa: Command, lab: Lab, tmp_path: Path):
    ingested(lab, GOOD)

    told, page = written(ursa, tmp_path)

    assert "1 recordings" in told
    assert "There is no Dagster instance here" in told
    assert "nothing needs attention" not in told
    assert "There is no Dagster instance here" in page.text.partition("What the catalog holds")[0]
    assert lab.raw.name in page.text
    assert "verified by sha256" in page.text
    assert "readable" in page.text


def test_the_page_fetches_and_runs_nothing_and_holds_no_name(ursa: Command, lab: Lab, home: Home, tmp_path: Path):
    ingested(lab, GOOD)
    marked(home, Mark(BAD, "failed", reason="bad digest", error_type="ContentMismatch"))

    _, page = written(ursa, tmp_path)

    assert all(one.startswith(("data:image/png;base64,", "#")) for one in page.fetched)
    assert sum(one.startswith("data:") for one in page.fetched) == 4
    assert not page.tags & {"script", "link", "iframe", "object", "base"}
    assert not re.search(r"url\(|@import", page.source)
    assert NAME not in page.source


def test_what_became_of_recordings_is_told_with_causes_and_reasons(ursa: Command, lab: Lab, home: Home, tmp_path: Path):
    ingested(lab, GOOD)
    marked(
        home,
        Mark(BAD, "failed", reason="mic/seg_0000.wav is not what it was", error_type="ContentMismatch"),
        Mark(WORSE, "failed", reason="camera_a/seg_0000.mp4 is cut short", error_type="ContentMismatch"),
        Mark(HELD, "quarantined", reason="failed 4 times", by="ursa"),
        Mark(COPIED, "waiting", reason="seg_0002.mp4.part is still being copied"),
        Mark(WAIVED, "waived", reason="a test of the rig", by="anna@lab-nas"),
    )
    home.instance.add_dynamic_partitions(str(recordings.name), [GOOD, NEW])
    home.instance.report_runless_asset_event(dg.AssetMaterialization(RECORDING, partition=GOOD))

    told, page = written(ursa, tmp_path)

    assert "2 failed, 1 quarantined, 2 waiting" in told
    assert page.text.count("ContentMismatch") == 1
    assert "2 recordings · stays so until somebody acts" in page.text
    for expected in ("is not what it was", "is cut short", "failed 4 times", "still being copied", "anna@lab-nas"):
        assert expected in page.text
    assert "no run has registered it yet" in page.text
    assert GOOD not in page.text


def test_hostile_text_stays_text(ursa: Command, lab: Lab, home: Home, tmp_path: Path):
    marked(
        home, Mark(BAD, "failed", reason=HOSTILE, error_type=HOSTILE), Mark(HELD, "quarantined", HOSTILE, by=HOSTILE)
    )
    home.instance.report_runless_asset_event(reconciliation(HOSTILE))
    recording = lab.data.register_recording(
        recording_hash="h",
        start_time=datetime(2026, 5, 20, tzinfo=UTC),
        duration=timedelta(0),
        metadata={"verification": HOSTILE},
    )
    lab.data.register_modality(recording_hash=recording.recording_hash, modality=HOSTILE, format="raw_binary")

    _, page = written(ursa, tmp_path)

    assert "script" not in page.tags
    assert not [one for one in page.fetched if "example.com" in one]
    assert page.text.count(HOSTILE) >= 6
    assert "<script" not in page.source
    assert html.escape(HOSTILE, quote=False)[:20] in page.source


def test_the_newest_reconciliation_is_told_with_its_table(ursa: Command, home: Home, tmp_path: Path):
    home.instance.report_runless_asset_event(reconciliation("an older one"))
    home.instance.report_runless_asset_event(reconciliation("bring the other drive"))

    _, page = written(ursa, tmp_path)

    assert "bring the other drive" in page.text
    assert "an older one" not in page.text
    assert "1,234" in page.text
    assert "2.5 GB" in page.text
    assert "nas: not mounted" in page.text


def reconciliation(reason: str) -> dg.AssetMaterialization:
    value: Any = dg.MetadataValue
    return dg.AssetMaterialization(
        "reconciliation",
        metadata={
            "registered": 1_234,
            "backlog_bytes": 2_500_000_000,
            "oldest_backlog_hours": 3.5,
            "sources_unavailable": value.json({"nas": "not mounted"}),
            "attention": value.table(
                records=[dg.TableRecord({"recording": BAD, "state": "partial", "attempts": 0, "reason": reason})],
                schema=dg.TableSchema([dg.TableColumn(name) for name in ("recording", "state", "attempts", "reason")]),
            ),
        },
    )


def test_a_run_that_ended_without_a_word_is_a_failure(ursa: Command, home: Home, tmp_path: Path):
    home.instance.add_dynamic_partitions(str(recordings.name), [BAD])

    @dg.asset(key=RECORDING, partitions_def=recordings)
    def recording() -> None:
        raise dg.Failure("killed")

    dg.materialize([recording], instance=home.instance, partition_key=BAD, raise_on_error=False)

    told, page = written(ursa, tmp_path)

    assert "1 failed" in told
    assert "ended without telling why" in page.text
    assert "failure" in page.text


def test_a_source_that_is_not_mounted_is_told(ursa: Command, lab: Lab, tmp_path: Path):
    (lab.usb / "README.txt").unlink()

    told, page = written(ursa, tmp_path)

    assert "the source usb cannot be read" in told
    assert "There is no Dagster instance here" in told
    assert "empty, as a drive is that is not mounted" in page.text


def test_one_wild_clock_does_not_keep_the_page_from_being_written(ursa: Command, lab: Lab, home: Home, tmp_path: Path):
    for rec_id, moment in ((GOOD, "0001-01-01T00:00:00Z"), (BAD, "9999-12-31T23:59:00Z")):
        manifest = {"started_at": moment, "ended_at": moment}
        lab.data.ingest(
            source_dir=write_recording(lab.nas, rec_id, {"mic/seg_0000.wav": rec_id.encode()}, manifest=manifest)
        )
    ingested(lab, WORSE)

    told, _ = written(ursa, tmp_path)

    assert "3 recordings; nothing needs attention" in told


def test_the_instance_of_another_profile_is_left_alone(ursa: Command, home: Home, tmp_path: Path):
    (home.path / "ursa_profile").write_text("r2\n")

    told, page = written(ursa, tmp_path)

    assert "serves the profile 'r2', not 'lab'" in told
    assert "serves the profile 'r2', not 'lab'" in page.text


def test_no_dagster_instance_is_made(ursa: Command, store_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAGSTER_HOME", str(store_state / "nowhere"))

    written(ursa, tmp_path)

    assert not (store_state / "nowhere").exists()


def test_a_page_that_is_there_is_replaced_whole_or_not_at_all(
    ursa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "out.html"
    target.write_text("old")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):

        def fail(_: int) -> None:
            raise OSError(28, "disk is full")

        patch.setattr(report_page.os, "fsync", fail)
        write_page("new", target)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.glob("*out*")] == ["out.html"]

    _, page = written(ursa, tmp_path)

    assert "What the catalog holds" in page.text


def test_a_directory_that_is_not_there_is_named(ursa: Command, tmp_path: Path):
    assert "nowhere" in ursa("report", "--out", tmp_path / "nowhere" / "out.html", code=1)
