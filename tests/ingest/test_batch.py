"""Many recordings in one call: each on its own, OK, SKIP or FAIL (runbook, Batch loop)."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.faults.detour import Detour
from tests.faults.proxy import ConnectionDropped, Fault, RequestRefused
from tests.ingest.rig import upload_as_rig
from tests.ingest.test_two_halves import HOST, MOTOR, node_manifests_of_both
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot
from ursa_pipelines.catalog.claims import claim_key
from ursa_pipelines.errors import UploadInterrupted
from ursa_pipelines.ingest.batch import STEPS, Batch, BatchItem, StepName, several_at_once
from ursa_pipelines.ingest.verify import Verification, verify_many

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


def test_directories_that_contradict_one_another_are_refused_before_the_first_byte(lab: Lab):
    halves = [
        write_recording(lab.nas, GOOD, {"camera_a/seg_0000.mp4": b"video"}, node="host", stated_hash=True),
        write_recording(lab.usb, GOOD, {"mic/seg_0000.wav": b"audio"}, node="motor", stated_hash=True),
    ]

    (plan,) = lab.data.plan_many(halves)
    (item,) = lab.data.ingest_many(halves)

    assert (plan.error_type, item.error_type) == ("RecordingConflict", "RecordingConflict")
    assert item.reason == plan.reason
    assert lab.objects(GOOD) == {}


def test_copies_that_name_other_participants_overwrite_nothing_the_second_time(lab: Lab):
    copies = [write_recording(lab.nas, GOOD, FILES, participant="Aria Lin")]
    copies.append(write_recording(lab.usb, GOOD, FILES, participant="Bob Ray"))
    lab.data.ingest_many(copies, overwrite=True)
    before = lab.everything()

    (item,) = lab.interface().ingest_many(copies, overwrite=True)

    assert item.outcome == "unchanged"
    assert lab.everything() == before
    assert len(lab.data.list_recordings()[0].participant_ids) == 2


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


class Outage(Fault):
    """From the first request on, for some seconds, nothing is answered but 503, or nothing at all."""

    SECONDS = 1.5

    def __init__(self, *, answers: bool) -> None:
        self._answers, self._until, self._lock = answers, 0.0, threading.Lock()
        self.met = 0

    def before(self, request: str) -> None:
        with self._lock:
            self._until = self._until or time.monotonic() + self.SECONDS
            if time.monotonic() > self._until:
                return
            self.met += 1
        if self._answers:
            raise RequestRefused(503, "SlowDown")
        raise ConnectionDropped


@pytest.mark.parametrize("answers", [True, False], ids=["503", "no answer"])
@pytest.mark.parametrize("step", ["discover", "upload", "register"])
def test_a_short_outage_of_the_store_fails_no_step(step: StepName, answers: bool, lab: Lab, detour: Detour):
    for rec_id in (GOOD, LAST):
        write_recording(lab.nas, rec_id, {**FILES, "notes/notes.jsonl": rec_id.encode()})
    batch = Batch(detour.interface().ingest_context(), lambda rec_id: [lab.nas / rec_id])
    items = [BatchItem(rec_id) for rec_id in (GOOD, LAST)]
    for one in STEPS:
        outage = Outage(answers=answers)
        detour.proxy.fault = outage if one == step else Fault()
        items = batch.step(one, items)
        assert outage.met > 0 or one != step

    assert [(item.status, item.reason) for item in items] == [("OK", ""), ("OK", "")]
    lab.check_invariants()


def test_an_interrupt_of_the_caller_stops_what_is_under_way_and_begins_nothing_more():
    stop, begun = threading.Event(), list[int]()

    def work(number: int) -> int:
        begun.append(number)
        if number == 0:
            raise KeyboardInterrupt
        assert stop.wait(60)
        return number

    with pytest.raises(KeyboardInterrupt):
        several_at_once(work, range(100), 2, stop)

    assert stop.is_set()
    assert len(begun) <= 3


def test_a_stop_does_not_wait_for_a_source_that_says_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    write_recording(lab.nas, GOOD, FILES)
    hanging, released = threading.Event(), threading.Event()
    batch = Batch(lab.data.ingest_context(), lambda rec_id: [lab.nas / rec_id])
    open_file = os.open

    def hang(path: object, *args: object, **kwargs: object) -> int:
        if threading.current_thread().name.startswith("source"):
            hanging.set()
            released.wait(60)
        return open_file(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", hang)
    interrupt = threading.Thread(target=lambda: (hanging.wait(60), batch.stop()))
    interrupt.start()
    began = time.monotonic()

    (item,) = batch.step("discover", [BatchItem(GOOD)])

    assert hanging.is_set()
    assert time.monotonic() - began < 10
    assert (item.status, item.error_type) == ("SKIP", "UploadInterrupted")
    released.set()
    interrupt.join()


def test_progress_and_registrations_are_told_by_recording(lab: Lab):
    for rec_id in (GOOD, LAST):
        write_recording(lab.nas, rec_id, {**FILES, "mic/seg_0000.wav": rec_id.encode()})
    size = len(FILES["camera_a/seg_0000.mp4"]) + len(GOOD)
    come, registered = dict[str, int](), list[str]()
    batch = Batch(
        lab.data.ingest_context(),
        lambda rec_id: [lab.nas / rec_id],
        on_progress=lambda rec_id, progress: come.update({rec_id: progress.bytes_uploaded}),
        on_registered=lambda item: registered.append(item.rec_id),
    )

    batch.run_all([GOOD, LAST])

    assert come == {GOOD: size, LAST: size}
    assert sorted(registered) == [GOOD, LAST]


def test_each_recording_that_ended_is_told_once_whatever_became_of_it(lab: Lab):
    directories = _mixed_lot(lab)
    told: list[tuple[str, str]] = []
    lock = threading.Lock()

    def tell(item: BatchItem) -> None:
        with lock:
            told.append((item.rec_id, item.status))
        raise OSError("the terminal is gone")

    items = lab.data.ingest_many(directories, on_ended=tell)

    assert sorted(told) == sorted((item.rec_id, item.status) for item in items)
    assert {status for _, status in told} == {"OK", "FAIL", "SKIP"}


def test_the_steps_of_an_orchestrator_tell_of_each_end_once(lab: Lab):
    directories = _mixed_lot(lab)
    told: list[str] = []
    batch = Batch(
        lab.data.ingest_context(), lambda rec_id: [lab.nas / rec_id], on_ended=lambda item: told.append(item.rec_id)
    )
    items = [BatchItem(directory.name) for directory in directories]

    ended_at: dict[StepName, list[str]] = {}
    for name in STEPS:
        items = batch.step(name, items)
        ended_at[name], told[:] = sorted(told), []

    assert ended_at["discover"] == sorted([BAD, WAITING])
    assert ended_at["register"] == sorted([GOOD, BARE, LAST])
    assert sum(map(len, ended_at.values())) == len(items)


def test_a_pause_stops_between_two_recordings_and_nothing_of_the_rest_is_registered(lab: Lab):
    directories = [write_recording(lab.nas, rec_id, {**FILES, "mic/id": rec_id.encode()}) for rec_id in (GOOD, LAST)]
    paused = threading.Event()

    first = lab.data.ingest_many(directories, should_pause=lambda: True)
    items = lab.data.ingest_many(directories, on_ended=lambda item: paused.set(), should_pause=paused.is_set)

    assert [(item.status, item.error_type) for item in first] == [("SKIP", "UploadInterrupted")] * 2
    assert items[0].status == "OK" or items[1].status == "OK"
    lab.check_invariants()


def test_a_plan_writes_nothing(lab: Lab):
    directories = _mixed_lot(lab)
    lab.data.ingest_many(directories[:1])
    before = lab.everything()
    reading = Batch(lab.interface(writes=False).reading_context, lambda rec_id: [lab.nas / rec_id])

    items = reading.plan([GOOD, BAD, WAITING, BARE])

    assert [(item.state, item.outcome) for item in items] == [
        ("planned", "would send nothing; registered already"),
        ("failed", ""),
        ("waiting", ""),
        ("planned", "would send 2 files, 524 bytes; would register it"),
    ]
    assert lab.everything() == before


def test_many_are_verified_each_on_its_own_until_it_is_to_stop(lab: Lab):
    lab.data.ingest_many([write_recording(lab.nas, GOOD, FILES)])
    context = lab.data.reading_context

    found = verify_many(context, [GOOD, LAST])
    stopped = verify_many(context, [GOOD, LAST], should_stop=lambda: True)

    good, other = found[GOOD], found[LAST]
    assert isinstance(good, Verification)
    assert good.ok
    assert "not in the catalog" in str(other)
    assert [type(one) for one in stopped.values()] == [UploadInterrupted, UploadInterrupted]


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


def test_one_that_cannot_be_told_of_does_not_stop_the_others(lab: Lab):
    for rec_id in (GOOD, LAST):
        write_recording(lab.nas, rec_id, {**FILES, "notes/notes.jsonl": rec_id.encode()})

    def tell(item: BatchItem) -> None:
        if item.rec_id == GOOD:
            raise OSError("the event log is locked")

    batch = Batch(lab.data.ingest_context(), lambda rec_id: [lab.nas / rec_id], on_registered=tell)
    good, last = batch.run_all([GOOD, LAST])

    assert (good.status, good.retryable, last.status) == ("FAIL", True, "OK")
    assert "event log" not in good.reason
    lab.check_invariants()


def test_a_plan_tells_of_a_claim_that_cannot_be_read(lab: Lab):
    for rec_id in (GOOD, LAST):
        write_recording(lab.nas, rec_id, {**FILES, "notes/notes.jsonl": rec_id.encode()})
    lab.assets.create(claim_key(lab.data.catalog.prefix, GOOD), b"not json")

    batch = Batch(lab.data.reading_context, lambda rec_id: [lab.nas / rec_id])
    good, last = batch.plan([GOOD, LAST])

    assert (good.status, last.state) == ("FAIL", "planned")
