"""What a look at a directory comes to, and when it counts as settled (DESIGN section 4, Settled)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot
from ursa_pipelines.errors import SourceUnavailable
from ursa_pipelines.ingest.watch import Arrival, Patience, SourceHangs, look_at

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}
NOW = 1_800_000_000.0
QUIET, RECONSTRUCT = 120.0, 3600.0


def look(directory: Path, previous: Arrival | None = None, *, after: float = 0) -> Arrival:
    """A look `after` seconds after the first one."""
    return look_at(directory, previous, now=NOW + after, quiet_period=QUIET, reconstruct_after=RECONSTRUCT)


def settles_after(directory: Path) -> float:
    """How many seconds an unchanged directory waits, found by looking at the edges of the two periods."""
    first = look(directory)
    if first.settled:
        return 0
    for period in (QUIET, RECONSTRUCT):
        assert not look(directory, first, after=period - 1).settled
        if look(directory, first, after=period + 1).settled:
            return period
    raise AssertionError("it never settles")


def test_a_directory_that_its_manifest_describes_settles_at_once(tmp_path: Path):
    assert settles_after(write_recording(tmp_path, REC, FILES)) == 0


def test_a_directory_without_a_manifest_waits_for_the_longer_period(tmp_path: Path):
    assert settles_after(write_recording(tmp_path, REC, FILES, manifest=False)) == RECONSTRUCT


def test_a_stub_counts_as_no_manifest(tmp_path: Path):
    assert settles_after(write_recording(tmp_path, REC, FILES, manifest={"files": []})) == RECONSTRUCT


def test_a_missing_file_is_waited_for(tmp_path: Path):
    directory = write_recording(tmp_path, REC, FILES)
    (directory / "mic/seg_0000.wav").unlink()

    assert settles_after(directory) == QUIET


def test_a_file_of_another_size_is_waited_for(tmp_path: Path):
    directory = write_recording(tmp_path, REC, FILES)
    (directory / "mic/seg_0000.wav").write_bytes(b"aud")

    assert settles_after(directory) == QUIET


def test_a_file_that_no_manifest_lists_is_waited_for(tmp_path: Path):
    directory = write_recording(tmp_path, REC, FILES)
    (directory / "mic/seg_0001.wav").write_bytes(b"more")

    assert settles_after(directory) == QUIET


def test_a_manifest_without_digests_waits_for_the_quiet_period(tmp_path: Path):
    files = [{"path": path, "size_bytes": len(content)} for path, content in FILES.items()]

    assert settles_after(write_recording(tmp_path, REC, FILES, manifest={"files": files})) == QUIET


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("session.lock", "session.lock is present: the rig is still recording"),
        ("mic/seg_0001.wav.part", "mic/seg_0001.wav.part is still being copied"),
        ("mic/seg_0001.wav.crdownload", "mic/seg_0001.wav.crdownload is still being copied"),
    ],
)
def test_a_directory_that_says_it_is_unfinished_waits_for_ever(name: str, reason: str, tmp_path: Path):
    directory = write_recording(tmp_path, REC, {**FILES, name: b""})

    later = look(directory, look(directory), after=10 * RECONSTRUCT)

    assert (later.settled, later.reason) == (False, reason)


def test_the_reason_counts_the_seconds(tmp_path: Path):
    directory = write_recording(tmp_path, REC, FILES, manifest=False)

    assert look(directory, look(directory), after=42).reason == "without a manifest for 42 s of 3600 s"


def test_a_change_starts_the_waiting_anew(tmp_path: Path):
    directory = write_recording(tmp_path, REC, FILES, manifest=False)
    first = look(directory)
    write_recording(tmp_path, REC, {"mic/seg_0000.wav": b"longer audio"}, manifest=False)

    second = look(directory, first, after=RECONSTRUCT + 1)

    assert (second.settled, second.since) == (False, NOW + RECONSTRUCT + 1)
    assert second.fingerprint != first.fingerprint
    assert look(directory, second, after=2 * RECONSTRUCT + 2).settled


@pytest.mark.parametrize("clock_was_off_by", [365 * 86_400, -NOW], ids=["ahead", "at the epoch"])
@pytest.mark.parametrize("name", ["mic/more.wav", "mic/a\\b.wav"], ids=["accepted", "refused"])
def test_a_clock_that_was_set_starts_the_waiting_anew(clock_was_off_by: float, name: str, tmp_path: Path):
    directory = write_recording(tmp_path, REC, {**FILES, name: b"more"}, manifest=False)
    wrong = look(directory, after=clock_was_off_by)

    right = look(directory, wrong)

    assert (right.settled, right.since, right.first_seen) == (False, NOW, NOW)
    assert look(directory, right, after=RECONSTRUCT + 1).settled


def test_a_file_touched_without_a_change_of_size_is_a_change(tmp_path: Path):
    directory = write_recording(tmp_path, REC, FILES)
    first = look(directory)
    os.utime(directory / "mic/seg_0000.wav")

    assert look(directory, first).fingerprint != first.fingerprint


def test_clutter_is_no_change(tmp_path: Path):
    directory = write_recording(tmp_path, REC, FILES)
    first = look(directory)
    (directory / "mic/.DS_Store").write_bytes(b"finder")

    assert look(directory, first) == first


@pytest.mark.parametrize("harm", ["link", "unsafe name", "broken manifest"])
def test_what_will_be_refused_settles_once_it_is_quiet(harm: str, tmp_path: Path):
    directory = write_recording(tmp_path, REC, FILES)
    if harm == "link":
        (directory / "mic/link.wav").symlink_to(directory / "mic/seg_0000.wav")
    elif harm == "unsafe name":
        (directory / "mic/a\\b.wav").write_bytes(b"audio")
    else:
        (directory / "manifest.json").write_bytes(b"{")

    first = look(directory)

    assert not first.settled
    assert look(directory, first, after=RECONSTRUCT + 1).settled


def test_a_directory_that_disappears_between_two_looks_is_told_and_not_raised(tmp_path: Path):
    found = look(tmp_path / REC)

    assert not found.settled
    assert REC in found.reason


def test_what_was_seen_survives_the_cursor(tmp_path: Path):
    seen = look(write_recording(tmp_path, REC, FILES, manifest=False))

    assert Arrival.from_cursor(seen.to_cursor()) == seen


def test_looking_writes_nothing(tmp_path: Path):
    write_recording(tmp_path, REC, FILES, manifest=False, participant="Aria Lin")
    before = snapshot(tmp_path)

    look(tmp_path / REC)

    assert snapshot(tmp_path) == before


def test_a_directory_whose_manifest_cannot_be_read_is_told_and_not_raised(tmp_path: Path):
    directory = write_recording(tmp_path, REC, FILES, manifest=False)
    (directory / "manifest.json").symlink_to("/etc/hostname")

    first = look(directory)

    assert "manifest.json" in first.reason
    assert look(directory, first, after=QUIET + 1).settled


def test_when_it_was_found_outlives_its_changes(tmp_path: Path):
    directory = write_recording(tmp_path, REC, FILES, manifest=False)
    first = look(directory)
    (directory / "manifest.json").write_bytes(b"{")
    refused = look(directory, first, after=10)

    assert (refused.since, refused.first_seen) == (NOW + 10, NOW)


def test_a_drive_that_takes_its_time_is_left_alone_while_it_gets_on():
    def slow(gets_on):
        for _ in range(4):
            threading.Event().wait(0.2)
            gets_on()
        return "read"

    assert Patience().call("place", 0.5, 60, slow) == "read"
    with pytest.raises(SourceUnavailable, match=r"it takes longer than 0\.1 s"):
        Patience().call("place", 0.5, 0.1, slow)


def test_what_hangs_is_not_asked_again_and_a_round_gives_up_after_two():
    released = threading.Event()
    patience = Patience()
    for place in "ab":
        with pytest.raises(SourceUnavailable, match=r"it gave nothing for 0\.1 s"):
            patience.call(place, 0.1, 60, lambda gets_on: released.wait(60))

    with pytest.raises(SourceUnavailable, match="it has hung for"):
        patience.call("a", 0.1, 60, lambda gets_on: "read")
    with pytest.raises(SourceHangs):
        patience.call("c", 0.1, 60, lambda gets_on: "read")
    patience.begin()
    assert patience.call("c", 0.1, 60, lambda gets_on: "read") == "read"
    released.set()
