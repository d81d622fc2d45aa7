"""`ursa query` and `ursa download`: what they show, where files go, and how they end."""

from __future__ import annotations

import json
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.cli import delivery, printing, reading
from ursa_pipelines.cli.main import main
from ursa_pipelines.errors import StoreUnavailable
from ursa_pipelines.ingest.wanted import wanted_of_each
from ursa_pipelines.objects import destination
from ursa_pipelines.objects.download import DownloadProgress
from ursa_pipelines.objects.keys import marker_key, raw_key

EARLY, LATE = "rec_20260520_195621_b1dd", "rec_20260612_080000_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 1000, "mic/seg_0000.wav": b"audio" * 100}
EEG = {"eeg_4559/seg_0000.edf": b"eeg" * 100}


class Command:
    """`ursa` in this process, away from a terminal."""

    def __init__(self, config: Path, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._config, self._capture, self._patch = config, capture, patch
        patch.setenv("COLUMNS", "200")

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """What the command prints; on standard error, too, if it fails."""
        printed = self._run(*arguments, code=code)
        return printed.out + printed.err if code else printed.out

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        document = json.loads(self._run(*arguments, "--json", code=code).out)
        assert document["exit_code"] == code
        return document

    def _run(self, *arguments: str | Path, code: int) -> Any:
        self._patch.setattr(sys, "argv", ["ursa", *map(str, arguments), "--config", str(self._config)])
        with pytest.raises(SystemExit) as exit:
            main()
            raise SystemExit(0)
        printed = self._capture.readouterr()
        assert (exit.value.code or 0) == code, printed
        return printed


@pytest.fixture
def ursa(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    lab.data.ingest(source_dir=write_recording(lab.nas, EARLY, FILES, participant="Aria Lin"))
    lab.data.ingest(source_dir=write_recording(lab.nas, LATE, EEG, participant="Björn Ek"))
    return Command(lab.config, capsys, monkeypatch)


def test_query_takes_what_narrows_it_down(ursa: Command):
    everything, late = ursa("query"), ursa("query", "--since", "2026-06-01")
    chosen = {
        arguments: [item["rec_id"] for item in ursa.json("query", *arguments)["items"]]
        for arguments in [
            ("--until", "2026-06-12T08:00"),
            ("--participant", "björn ek"),
            ("--modality", "eeg", "--modality", "mic"),
            ("--status", "ingested"),
        ]
    }

    assert EARLY in everything and LATE in everything and "2 recordings" in everything
    assert EARLY not in late and LATE in late
    assert list(chosen.values()) == [[EARLY], [LATE], [EARLY, LATE], []]
    assert "Aria" not in everything


def test_query_shows_a_page_of_the_latest_unless_all_are_asked_for(ursa: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "_PAGE", 1)

    page, everything = ursa("query"), ursa("query", "--all")

    assert EARLY not in page and LATE in page
    assert "2 recordings" in page and "the latest 1 are shown, --all shows all" in page
    assert EARLY in everything and "--all" not in everything


@pytest.mark.parametrize("width", [60, 80, 105, 140])
def test_query_fits_the_terminal_and_cuts_nothing_but_modalities(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
):
    many = {f"modality{number}_a/b": bytes([number]) * 1000 for number in range(20)}
    lab.data.ingest(source_dir=write_recording(lab.nas, EARLY, many, participant="Aria Lin"))
    monkeypatch.setattr(printing, "console", Console(width=width, force_terminal=True, color_system=None))

    told = Command(lab.config, capsys, monkeypatch)("query")

    assert max(map(len, told.splitlines())) <= width
    assert EARLY in told and "20.0 kB" in told and "modality0" in told
    assert told.count("\u2026") == 1
    assert ("p_fb7cdd6357b63c7a" in told) == (width > 100)


def test_download_says_what_it_brings_and_brings_it(ursa: Command, tmp_path: Path):
    out = tmp_path / "out"

    planned = ursa("download", "--to", out, "--dry-run")
    assert not out.exists()
    brought, again = (ursa("download", "--to", out, "--layout", "by_modality") for _ in range(2))
    document = ursa.json("download", EARLY, "--to", out, "--layout", "by_modality", "--modality", "mic")

    assert "Would bring 2 recordings, 3 files, 5.8 kB" in planned and "are free there" in planned
    assert f"{LATE}: 1 file, 300 bytes" in planned and "Nothing was fetched" in planned
    assert f"OK {EARLY}: 2 files, 5.5 kB" in brought
    assert "2 recordings, 3 files, 5.8 kB in" in brought and "verified" in brought
    assert "5.8 kB are there already" in again
    (item,) = document["items"]
    assert (item["rec_id"], item["status"], document["summary"]["bytes_to_fetch"]) == (EARLY, "OK", 0)
    assert Path(item["paths"][0]).read_bytes() == FILES["mic/seg_0000.wav"]


def test_away_from_a_terminal_a_line_tells_now_and_then_how_far_it_is(
    ursa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(delivery, "_LINE_EVERY_SECONDS", 0.0)

    told = ursa("download", "--to", tmp_path / "out")

    assert "... 5.8 kB of 5.8 kB, " in told
    assert "\x1b" not in told


def test_a_recording_that_fails_is_told_and_the_others_come(
    ursa: Command, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    info = lab.raw.head(raw_key(EARLY, "mic/seg_0000.wav"))
    assert info is not None
    lab.raw.replace(info.key, b"noise" * 100, info.etag)

    told = ursa("download", EARLY, LATE, "rec_nobody", "--to", tmp_path / "out", code=1)
    monkeypatch.setattr(reading, "_MANY", 0)
    document = ursa.json("download", EARLY, LATE, "--to", tmp_path / "out", code=1)

    assert "FAIL rec_nobody: no recording of this id" in told
    assert f"FAIL {EARLY}: mic/seg_0000.wav: the bytes in the bucket are not those that were ingested" in told
    assert f"OK {LATE}: 1 file" in told and "2 failed" in told
    assert [(item["status"], item["error_type"]) for item in document["items"]] == [
        ("FAIL", "ContentMismatch"),
        ("OK", None),
    ]
    assert document["summary"]["failed"] == 1


def test_ctrl_c_says_that_what_is_there_is_kept(ursa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tell = delivery.Delivery._tell

    def interrupted(self: delivery.Delivery, event: DownloadProgress) -> None:
        tell(self, event)
        if event.phase == "modality_start" and event.rec_id == LATE:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(delivery.Delivery, "_tell", interrupted)

    told = ursa("download", "--to", tmp_path / "out", code=130)
    document = ursa.json("download", "--to", tmp_path / "out", code=130)

    assert f"OK {EARLY}: 2 files" in told and "1 recording, 2 files, 5.5 kB in" in told
    assert "Interrupted. Run it again to go on; what is there is kept." in told
    assert [(item["rec_id"], item["status"]) for item in document["items"]] == [(EARLY, "OK")]
    assert document["error"]["type"] == "Interrupted"


def test_a_disk_that_is_too_small_ends_it_before_it_begins(
    ursa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = SimpleNamespace(free=5000)
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda place: usage)

    planned = ursa("download", "--to", tmp_path / "out", "--dry-run")
    told = ursa("download", "--to", tmp_path / "out", code=3)

    assert "800 bytes more than is free" in planned
    assert "800 bytes are missing; nothing was fetched" in told
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_directory_is_named_before_anything_is_looked_up(ursa: Command, tmp_path: Path):
    (tmp_path / "file").write_text("mine")

    for to in (tmp_path / "file", tmp_path / "file" / "below"):
        told = ursa("download", "--to", to, code=3)
        assert f"{tmp_path / 'file'}: is no directory. Move it away or choose another directory" in told


def test_a_download_of_which_nothing_states_a_digest_is_not_called_verified(ursa: Command, lab: Lab, tmp_path: Path):
    path, third = "mic/a.wav", "rec_20260701_080000_b1dd"
    manifest = {"files": [{"path": path, "size_bytes": 5}]}
    lab.data.ingest(source_dir=write_recording(lab.nas, third, {path: b"audio"}, manifest=manifest))
    client = lab.raw.multipart_client
    client.delete_object(Bucket=lab.raw.name, Key=marker_key(third))
    client.put_object(Bucket=lab.raw.name, Key=raw_key(third, path), Body=bytearray(b"audio"))

    told = ursa("download", third, "--to", tmp_path / "out")
    (item,) = ursa.json("download", third, "--to", tmp_path / "out")["items"]

    assert ", verified" not in told and "1 of the files could not be verified" in told
    assert (item["status"], item["files_unproved"]) == ("OK", 1)


def test_a_recording_without_a_rec_id_fails_and_has_none_in_the_document(ursa: Command, lab: Lab, tmp_path: Path):
    given = {"recording_hash": "a" * 64}
    lab.data.register_recording(**given, start_time=datetime(2026, 1, 1, tzinfo=UTC), duration=timedelta(seconds=5))
    lab.data.register_modality(
        **given, modality="mic", format="raw_audio", raw_storage_uri="r2://raw/mic/", segment_count=3
    )

    document = ursa.json("download", "--to", tmp_path / "out", "--until", "2026-02-01", code=1)

    (item,) = document["items"]
    assert (item["rec_id"], item["recording_hash"], item["status"]) == (None, "a" * 64, "FAIL")
    assert item["error_type"] == "ObjectsMissing"


def test_only_look_ups_that_go_unanswered_one_after_the_other_end_it(
    lab: Lab, ursa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    results, lost = list(lab.data.query()), StoreUnavailable("it gave no answer")
    found = dict(enumerate(files for _, files in wanted_of_each(lab.raw, results)))

    def deliver(answers: list[Any]) -> delivery.Delivery:
        monkeypatch.setattr("ursa_pipelines.ingest.wanted.wanted_of_each", lambda raw, _: iter(answers))
        one = delivery.Delivery(tmp_path / "out", "by_recording", dry_run=False, is_quiet=True)
        one.plan(lab.data, results)
        return one

    unanswered, answered = (results[0], lost), (results[1], found[1])
    assert deliver([unanswered, unanswered, answered, unanswered]).wanted == {LATE: found[1]}
    with pytest.raises(StoreUnavailable):
        deliver([answered, unanswered, unanswered, unanswered])


def test_where_nothing_matches_it_says_what_shows_more(ursa: Command, tmp_path: Path):
    for dry in ((), ("--dry-run",)):
        told = ursa("download", "--to", tmp_path / "out", "--modality", "none", *dry)
        assert told == "Nothing in the catalog matches; `ursa query` shows what there is.\n"
    assert "Nothing in the catalog matches; `ursa query` without" in ursa("query", "--modality", "none")
