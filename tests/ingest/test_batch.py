"""Many recordings in one call: each on its own, OK, SKIP or FAIL (runbook, Batch loop)."""

from __future__ import annotations

from pathlib import Path

from tests.ingest.rig import upload_as_rig
from tests.ingest.test_two_halves import HOST, MOTOR, node_manifests_of_both
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot

FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}
GOOD, BAD, WAITING, BARE, LAST = (
    f"rec_20260520_1956{second}_{second}{second}" for second in ("10", "20", "30", "40", "50")
)


def test_one_failure_never_stops_the_rest(lab: Lab):
    directories = _mixed_lot(lab)
    before = snapshot(lab.nas)

    items = lab.data.ingest_many(directories)

    assert [(item.rec_id, item.status) for item in items] == [
        (GOOD, "OK"),
        (BAD, "FAIL"),
        (WAITING, "SKIP"),
        (BARE, "OK"),
        (LAST, "OK"),
    ]
    assert {row.rec_id for row in lab.data.list_recordings()} == {GOOD, BARE, LAST}
    assert snapshot(lab.nas) == before
    lab.check_invariants()


def test_items_tell_what_happened_and_why(lab: Lab):
    items = {item.rec_id: item for item in lab.data.ingest_many(_mixed_lot(lab))}

    good, bad, waiting, bare = (items[rec_id] for rec_id in (GOOD, BAD, WAITING, BARE))
    assert (good.path, good.outcome, good.files_uploaded, good.files, good.verification) == (
        "A",
        "created",
        2,
        2,
        "sha256",
    )
    assert good.recording_hash in {row.recording_hash for row in lab.data.list_recordings()}
    assert (bad.error_type, bad.retryable) == ("ManifestInvalid", False)
    assert BAD in bad.reason
    assert (waiting.error_type, waiting.retryable) == ("RecordingNotSettled", True)
    assert "session.lock" in waiting.reason
    assert bare.path == "C+A"


def test_a_second_batch_is_cheap_and_mends_what_was_mended(lab: Lab):
    directories = _mixed_lot(lab)
    lab.data.ingest_many(directories)
    write_recording(lab.nas, BAD, FILES | {"mic/seg_0000.wav": b"another recording"})
    (lab.nas / WAITING / "session.lock").unlink()

    items = lab.interface().ingest_many(directories)

    assert [(item.status, item.outcome, item.files_uploaded) for item in items] == [
        ("OK", "unchanged", 0),
        ("OK", "created", 2),
        ("OK", "created", 2),
        ("OK", "unchanged", 0),
        ("OK", "unchanged", 0),
    ]
    lab.check_invariants()


def test_an_unforeseen_failure_of_one_recording_is_its_own(lab: Lab):
    good = write_recording(lab.nas, GOOD, FILES)

    items = lab.data.ingest_many([lab.nas / "\0", good])

    assert [item.status for item in items] == ["FAIL", "OK"]


def test_two_directories_of_one_recording_are_halves_of_one_item(lab: Lab):
    halves = node_manifests_of_both(lab)

    (item,) = lab.data.ingest_many([halves.motor, halves.host])

    assert (item.status, item.directories, item.files_uploaded) == ("OK", 2, 4)
    assert (item.nodes, item.nodes_missing) == ((HOST, MOTOR), ())
    (row,) = lab.data.list_recordings()
    assert row.recording_hash == item.recording_hash
    lab.check_invariants()


def test_two_copies_of_one_recording_are_sent_once(lab: Lab):
    copies = [write_recording(source, GOOD, FILES, participant="Aria Lin") for source in (lab.nas, lab.usb)]

    (item,) = lab.data.ingest_many(copies)

    assert (item.status, item.files_uploaded, item.files_skipped) == ("OK", 2, 2)
    lab.check_invariants()


def test_two_copies_that_differ_are_a_failure_of_the_recording_and_keep_the_first(lab: Lab):
    first = write_recording(lab.nas, GOOD, FILES)
    second = write_recording(lab.usb, GOOD, FILES | {"mic/seg_0000.wav": b"AUDIO" * 10})

    (item,) = lab.data.ingest_many([first, second])

    assert (item.status, item.error_type) == ("FAIL", "RecordingConflict")
    lab.check_invariants()


def test_partial_and_overwrite_hold_for_every_recording_of_a_batch(lab: Lab):
    directories = [write_recording(lab.nas, rec_id, {**FILES, "mic/id": rec_id.encode()}) for rec_id in (GOOD, LAST)]
    for directory in directories:
        (directory / "camera_a" / "seg_0000.mp4").unlink()

    refused = lab.data.ingest_many(directories)
    allowed = lab.interface().ingest_many(directories, allow_partial=True)

    assert [(item.status, item.error_type) for item in refused] == [("FAIL", "RecordingIncomplete")] * 2
    assert [item.status for item in allowed] == ["OK", "OK"]


def test_an_empty_batch_is_nothing(lab: Lab):
    assert lab.data.ingest_many([]) == []


def test_bytes_in_the_bucket_count_for_a_batch_as_well(lab: Lab):
    directory = write_recording(lab.nas, GOOD, FILES)
    upload_as_rig(lab, directory)

    (item,) = lab.data.ingest_many([directory])

    assert (item.status, item.files_uploaded, item.files_skipped, item.bytes_uploaded) == ("OK", 0, 2, 0)


def _mixed_lot(lab: Lab) -> list[Path]:
    """A good recording, one with a bad manifest, one still being recorded, one without manifest, and a good one."""
    directories = [
        write_recording(
            lab.nas,
            rec_id,
            {**FILES, "mic/seg_0000.wav": rec_id.encode()},
            manifest=rec_id != BARE,
            participant="Aria Lin",
        )
        for rec_id in (GOOD, BAD, WAITING, BARE, LAST)
    ]
    (lab.nas / BAD / "manifest.json").write_text("{")
    (lab.nas / WAITING / "session.lock").touch()
    return directories
