"""When an unattended ingest may take a recording directory, and what it says while it waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines.recordings.inventory import Inventory, SourceFile, take_inventory
from ursa_pipelines.recordings.manifest import parse_manifest
from ursa_pipelines.recordings.merge import MergedManifest, NamedManifest, merge_manifests
from ursa_pipelines.recordings.settling import Sighting, Verdict, blocked_by_writer, is_satisfied, judge

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}
NOW = 1_780_000_000.0
QUIET, RECONSTRUCT_AFTER = 120.0, 3600.0
TIB = 1 << 40


def inventory_of(tmp_path: Path, files: dict[str, bytes]) -> Inventory:
    return take_inventory(write_recording(tmp_path, REC, files, manifest=False))


def manifest(files: dict[str, bytes], **changes: Any) -> MergedManifest | None:
    """The merged manifest of `files`, with `changes` to the entry of the first one."""
    document = manifest_of(REC, files)
    for file in document["files"][:1]:
        file.update(changes)
    raw = json.dumps(document).encode()
    parsed = parse_manifest(raw, rec_id=REC, place="manifest.json")
    return merge_manifests(REC, [NamedManifest("manifest.json", parsed, raw)])


def large(total_bytes: int) -> Inventory:
    """An inventory of one file of that size, which no test could write."""
    file = SourceFile("camera_a/x", "camera_a/x", total_bytes, 0, 0, 0)
    return Inventory(Path("/mnt") / REC, REC, {file.path: file}, None, (), None, False, (), ())


def verdict(inventory: Inventory, merged: MergedManifest | None, unchanged_s: float | None) -> Verdict:
    """The verdict on a directory that has looked the same for so long; None: never seen before."""
    sighting = None if unchanged_s is None else Sighting(inventory.fingerprint, NOW - unchanged_s)
    return judge(inventory, merged, sighting, now=NOW, quiet_period=QUIET, reconstruct_after=RECONSTRUCT_AFTER)


def test_a_recording_with_all_that_its_manifest_attests_need_not_wait(tmp_path: Path) -> None:
    inventory, merged = inventory_of(tmp_path, FILES), manifest(FILES)
    assert merged is not None
    assert is_satisfied(inventory, merged)
    assert verdict(inventory, merged, None) == Verdict(True)


UNSATISFIED = {
    "a file is missing": (FILES | {"eeg/x": b"eeg"}, {}),
    "another size is listed": (FILES, {"size_bytes": 999}),
    "a file is unattested": (FILES, {"sha256": None}),
    "fault_27_an_extra_file_is_here": ({"mic/seg_0000.wav": b"audio"}, {}),
}


@pytest.mark.parametrize(("listed", "changes"), UNSATISFIED.values(), ids=UNSATISFIED.keys())
@pytest.mark.parametrize(
    ("unchanged_s", "settled"), [(None, False), (0, False), (119.5, False), (120.5, True), (86400, True)]
)
def test_a_recording_that_its_manifest_does_not_settle_waits_for_the_quiet_period(
    tmp_path: Path, listed: dict[str, bytes], changes: dict[str, Any], unchanged_s: float | None, settled: bool
) -> None:
    inventory, merged = inventory_of(tmp_path, FILES), manifest(listed, **changes)
    assert merged is not None
    assert not is_satisfied(inventory, merged)
    told = verdict(inventory, merged, unchanged_s)
    assert told.settled is settled
    assert told.reason == ("" if settled else f"unchanged for {unchanged_s or 0:.0f} s of 120 s")


@pytest.mark.parametrize(
    ("unchanged_s", "settled"), [(None, False), (121, False), (3599, False), (3601, True), (1e6, True)]
)
def test_a_recording_without_a_manifest_waits_longer(tmp_path: Path, unchanged_s: float | None, settled: bool) -> None:
    told = verdict(inventory_of(tmp_path, FILES), None, unchanged_s)
    assert told.settled is settled
    assert ("without a manifest" in told.reason) is not settled


def test_fault_43_a_stub_settles_nothing(tmp_path: Path) -> None:
    assert not verdict(inventory_of(tmp_path, FILES), manifest({}), 121).settled


def test_a_change_starts_the_wait_anew(tmp_path: Path) -> None:
    before = Sighting(inventory_of(tmp_path, FILES).fingerprint, NOW - 86400)
    inventory = inventory_of(tmp_path, {"mic/seg_0001.wav": b"more"})
    told = judge(inventory, None, before, now=NOW, quiet_period=QUIET, reconstruct_after=RECONSTRUCT_AFTER)
    assert told == Verdict(False, "without a manifest for 0 s of 3600 s")


def test_a_clock_that_was_set_back_does_not_settle(tmp_path: Path) -> None:
    assert not verdict(inventory_of(tmp_path, FILES), manifest(FILES | {"eeg/x": b""}), -500).settled


@pytest.mark.parametrize(
    ("total_bytes", "wait"),
    [(0, 120.0), (100 * 1024**2, 121.0), (TIB // 8, 120 + 1310.72), (TIB, 1800.0), (50 * TIB, 1800.0)],
)
def test_a_larger_recording_waits_longer_but_not_for_ever(total_bytes: int, wait: float) -> None:
    merged = manifest({"camera_a/y": b""})
    assert not verdict(large(total_bytes), merged, wait - 1).settled
    assert verdict(large(total_bytes), merged, wait + 1).settled


def test_the_quiet_period_is_over_when_it_has_passed() -> None:
    assert verdict(large(0), manifest({"camera_a/y": b""}), QUIET) == Verdict(True)


def test_a_quiet_period_longer_than_the_limit_is_kept() -> None:
    inventory, merged = large(50 * TIB), manifest({"camera_a/y": b""})
    sighting = Sighting(inventory.fingerprint, NOW - 3000)
    assert not judge(inventory, merged, sighting, now=NOW, quiet_period=3600, reconstruct_after=5).settled
    assert judge(inventory, merged, sighting, now=NOW, quiet_period=2900, reconstruct_after=5).settled


def test_without_a_manifest_the_longer_of_both_waits_counts(tmp_path: Path) -> None:
    inventory = inventory_of(tmp_path, FILES)
    sighting = Sighting(inventory.fingerprint, NOW - 60)
    assert not judge(inventory, None, sighting, now=NOW, quiet_period=120, reconstruct_after=5).settled
    assert judge(inventory, None, sighting, now=NOW, quiet_period=5, reconstruct_after=5).settled


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("session.lock", "session.lock is present: the rig is still recording"),
        ("mic/seg_0001.wav.part", "mic/seg_0001.wav.part is still being copied"),
        ("manifest.json.tmp", "manifest.json.tmp is still being copied"),
    ],
)
def test_an_unfinished_recording_waits_however_long_it_has_been_quiet(tmp_path: Path, path: str, reason: str) -> None:
    inventory = inventory_of(tmp_path, FILES | {path: b""})
    assert blocked_by_writer(inventory) == reason
    assert verdict(inventory, manifest(FILES), 1e9) == Verdict(False, reason)


def test_a_finished_recording_is_blocked_by_nobody(tmp_path: Path) -> None:
    assert blocked_by_writer(inventory_of(tmp_path, FILES)) is None


def test_the_reason_shows_no_control_characters(tmp_path: Path) -> None:
    reason = blocked_by_writer(inventory_of(tmp_path, FILES | {"mic/\x1b[31m\u202e\n.part": b""}))
    assert reason is not None
    assert reason.isprintable()
