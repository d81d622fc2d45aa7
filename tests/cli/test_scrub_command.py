"""`ursa scrub`: what it shows, what it writes, and what it exits with."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.cli.test_commands import Command
from tests.lab import Lab
from tests.recordings_on_disk import write_recording

REC = "rec_20260520_195628_b1dd"
MIC = "mic/seg_0000.wav"


@pytest.fixture
def ursa(lab: Lab, store_state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    home = store_state / f"dagster-{secrets.token_hex(4)}"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return Command(lab.config, capsys, monkeypatch)


def test_it_shows_whose_turn_it_is_and_what_it_finds_and_sends_again_what_is_missing(lab: Lab, ursa: Command):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, {MIC: b"sound" * 10}))

    assert "Nothing is due" in ursa("scrub", "--dry-run", code=0)
    assert REC in ursa("scrub", "--dry-run", "--rest-days", "0", code=0)
    before = lab.everything()
    ursa("scrub", "--rest-days", "0", typed="n", code=3)
    assert "is no size" in ursa("scrub", "--bytes", "much", code=2)
    assert lab.everything() == before

    assert "1 sound" in ursa("scrub", "--rest-days", "0", "--yes", code=0)
    lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=f"recordings/{REC}/{MIC}")
    told = ursa("scrub", "--rest-days", "0", "--yes", code=0)
    assert f"mended   {REC}" in told
    assert "is good: its SHA-256, read now, is the listed one" in told
    lab.raw.multipart_client.put_object(
        Bucket=lab.raw.name, Key=f"recordings/{REC}/{MIC}", Body=bytearray(b"SOUND" * 10)
    )
    told = ursa("scrub", "--rest-days", "0", "--yes", code=1)
    assert f"failed   {REC}" in told
    assert "have the bucket's administrator remove it" in told
    told = ursa("status", code=1)
    assert "quarantined" in told
