"""`ursa durations fix` as an operator uses it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.cli.test_commands import Command
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, write_recording

FIRST, SECOND = (f"rec_20260520_19562{digit}_b1dd" for digit in "12")


@pytest.fixture
def ursa(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(lab.config, capsys, monkeypatch)


def recorded(lab: Lab, rec_id: str, *, ended_at: str | None = None) -> None:
    """A recording of a minute whose manifest tells another end, or one that tells no end at all."""
    files = {"mic/seg_0000.wav": rec_id.encode()}
    manifest = manifest_of(rec_id, files)
    manifest["ended_at"] = ended_at
    if ended_at is None:
        for file in manifest["files"]:
            del file["ended_at"]
    lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, files, manifest=manifest))


def test_a_fix_is_dry_until_it_is_committed(ursa: Command, lab: Lab):
    recorded(lab, FIRST, ended_at="2026-05-20T22:00:00Z")
    before = lab.everything()

    dry = ursa("durations", "fix")

    assert "2:03:39" in dry
    assert "0:01:00" in dry
    assert "Nothing was written; --commit" in dry
    assert "--yes" in ursa("durations", "fix", "--commit", code=2)
    assert lab.everything() == before
    assert "1 rows written" in ursa("durations", "fix", "--commit", "--yes")
    assert [row.duration for row in lab.data.list_recordings()] == [timedelta(minutes=1)]
    assert "Every duration is right" in ursa("durations", "fix", "--commit")


def test_small_differences_stay_unless_asked_for(ursa: Command, lab: Lab):
    recorded(lab, FIRST, ended_at="2026-05-20T19:57:50Z")

    assert ursa.json("durations", "fix")["items"] == []
    (item,) = ursa.json("durations", "fix", "--min-delta-seconds", "20", "--commit", "--yes")["items"]
    assert (item["state"], item["derived_duration_seconds"], item["outcome"]) == ("fix", 60.0, "written")


def test_too_many_rows_without_an_end_refuse_a_commit_with_exit_code_2(ursa: Command, lab: Lab):
    recorded(lab, FIRST, ended_at="2026-05-20T22:00:00Z")
    recorded(lab, SECOND)
    before = lab.everything()

    assert "no derivable end" in ursa("durations", "fix")
    assert "--max-indeterminate 0" in ursa("durations", "fix", "--commit", "--yes", code=2)
    assert lab.everything() == before

    assert "2 rows written" in ursa("durations", "fix", "--commit", "--yes", "--max-indeterminate", "1")
    rows = {row.rec_id: row for row in lab.data.list_recordings()}
    assert rows[FIRST].duration == timedelta(minutes=1)
    assert (rows[SECOND].metadata or {})["duration_known_wrong"] is True
