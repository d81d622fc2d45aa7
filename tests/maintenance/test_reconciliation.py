"""Sources, bucket and catalog compared, and that what happens meanwhile, or cannot be seen, is not called a loss."""

from __future__ import annotations

import shutil
import threading
import time
from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines.catalog.entries import entry_key
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.maintenance import reconciliation
from ursa_pipelines.maintenance.narrowing import Only
from ursa_pipelines.maintenance.reconciliation import Registered, Sighted, Standing, look_again, reconcile
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.recordings.inventory import take_inventory

FIRST, SECOND, THIRD, FOURTH, FIFTH = (f"rec_20260520_19562{digit}_b1dd" for digit in "12345")
LATE = "rec_20260601_000000_b1dd"
FILES = {"mic/seg_0000.wav": b"sound", "camera_a/seg_0000.mp4": b"video"}


def standings(lab: Lab) -> dict[str, Standing]:
    return {one.rec_id: one for one in reconcile(lab.data.reading_context, lab.data.sources)}


def files_of(rec_id: str) -> dict[str, bytes]:
    return {path: content + rec_id.encode() for path, content in FILES.items()}


def written(root: Path, rec_id: str, **options) -> Path:
    return write_recording(root, rec_id, files_of(rec_id), **options)


def ingested(lab: Lab, rec_id: str, *, root: Path | None = None) -> Path:
    directory = written(root or lab.nas, rec_id)
    lab.data.ingest(source_dir=directory)
    return directory


def test_each_recording_is_told_once_with_where_it_is(lab: Lab):
    ingested(lab, FIRST)
    written(lab.usb, FIRST)
    written(lab.usb, SECOND)
    shutil.rmtree(ingested(lab, THIRD))
    for path, content in files_of(FOURTH).items():
        lab.raw.create(raw_key(FOURTH, path), content)
    lab.raw.create("recordings/not_a_recording/file", b"x")
    (lab.nas / "notes").mkdir()

    found = standings(lab)

    assert {rec_id: one.places for rec_id, one in found.items()} == {
        FIRST: ("nas", "usb", "bucket", "catalog"),
        SECOND: ("usb",),
        THIRD: ("bucket", "catalog"),
        FOURTH: ("bucket",),
    }
    assert list(found) == sorted(found)
    assert [found[rec_id].marked for rec_id in (FIRST, SECOND, THIRD, FOURTH)] == [True, False, True, False]
    assert [one.problems for one in found.values()] == [()] * 4
    row = found[THIRD].row
    assert row is not None
    assert (row.bytes, row.verification) == (sum(map(len, files_of(THIRD).values())), "sha256")
    assert row.registered_at > 0


@pytest.mark.parametrize(
    ("only", "told"),
    [
        (Only(), ["rec_20260430_235959_b1dd", "rec_20260501_000000_b1dd", "rec_20260531_235959_b1dd", LATE]),
        (Only(since=date(2026, 5, 1)), ["rec_20260501_000000_b1dd", "rec_20260531_235959_b1dd", LATE]),
        (Only(before=date(2026, 5, 1)), ["rec_20260430_235959_b1dd"]),
        (
            Only(since=date(2026, 5, 1), before=date(2026, 6, 1)),
            ["rec_20260501_000000_b1dd", "rec_20260531_235959_b1dd"],
        ),
        (Only(frozenset({LATE, FIRST})), [FIRST, LATE]),
        (Only(frozenset({LATE, FIRST}), since=date(2026, 6, 1)), [LATE]),
    ],
)
def test_what_is_narrowed_is_told_as_it_is_in_the_whole(only: Only, told: list[str], lab: Lab):
    on_nas, registered, stored = ("rec_20260430_235959_b1dd", "rec_20260501_000000_b1dd", "rec_20260531_235959_b1dd")
    written(lab.nas, on_nas)
    ingested(lab, registered)
    lab.raw.create(raw_key(stored, "mic/seg_0000.wav"), b"sound")
    ingested(lab, LATE, root=lab.usb)
    whole = standings(lab)

    found = list(reconcile(lab.data.reading_context, lab.data.sources, only))

    assert [one.rec_id for one in found] == told
    assert found == [whole.get(rec_id) or Standing(rec_id) for rec_id in told]


@pytest.mark.parametrize("only", [Only(), Only(since=date(2026, 5, 1)), Only(before=date(2026, 6, 1))])
def test_a_catalog_of_many_rows_is_laid_beside_the_rest_month_by_month(
    only: Only, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    on_nas, april, may, stored = (f"rec_2026{day}_000000_b1dd" for day in ("0602", "0430", "0520", "0521"))
    written(lab.nas, on_nas)
    for rec_id in (april, may, LATE):
        ingested(lab, rec_id, root=lab.usb)
    lab.raw.create(raw_key(stored, "mic/seg_0000.wav"), b"sound")
    whole = list(reconcile(lab.data.reading_context, lab.data.sources, only))
    monkeypatch.setattr(reconciliation, "_ROWS_AT_ONCE", 1)
    (lab.nas / on_nas).parent.rename(lab.nas.with_name("away"))

    by_month = reconcile(lab.data.reading_context, lab.data.sources, only)
    found = list(by_month)

    assert [one.rec_id for one in found] == [one.rec_id for one in whole if one.rec_id != on_nas]
    assert [(one.rows, one.stored, one.marked) for one in found] == [
        (one.rows, one.stored, one.marked) for one in whole if one.rec_id != on_nas
    ]
    assert all(one.unknown_on == ("nas",) for one in found)
    assert list(by_month.unavailable) == ["nas"]
    assert by_month.seen["usb"] == len([one for one in whole if one.on_sources and one.rec_id != on_nas])


def test_only_what_is_asked_for_is_looked_at_on_a_source(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    for rec_id in (FIRST, SECOND, LATE):
        written(lab.nas, rec_id)
    looked: list[str] = []
    taken = reconciliation.take_inventory

    def noting(directory: Path, gets_on):
        looked.append(directory.name)
        return taken(directory, gets_on)

    monkeypatch.setattr(reconciliation, "take_inventory", noting)
    only = Only(since=date(2026, 6, 1))
    assert list(reconcile(lab.data.reading_context, lab.data.sources[:1], only))
    assert list(reconcile(lab.data.reading_context, lab.data.sources[:1], Only(frozenset({SECOND}))))

    assert looked == [LATE, SECOND]


def test_two_rows_are_seen_of_a_named_recording_too(lab: Lab):
    ingested(lab, FIRST)
    row = lab.data.list_recordings()[0]
    twin = row.model_copy(update={"recording_hash": "ab" * 32})
    entry = lab.data.catalog.entry(row.recording_hash)
    copy = entry.model_copy(update={"recording": twin, "modalities": [], "log": entry.log})
    lab.assets.create(entry_key(lab.data.catalog.prefix, twin.recording_hash), copy.model_dump_json().encode())
    lab.assets.create(f"{lab.data.catalog.prefix}/tail/{twin.recording_hash}.{entry.log[-1].txn}", b"")

    (found,) = reconcile(lab.data.reading_context, lab.data.sources, Only(frozenset({FIRST})))

    assert len(found.rows) == 2


def test_the_fingerprint_is_that_of_all_directories_in_the_order_of_the_sources(lab: Lab):
    on_usb, on_nas = written(lab.usb, FIRST), written(lab.nas, FIRST, age_s=60)

    found = standings(lab)[FIRST]

    assert found.fingerprint == f"{take_inventory(on_nas).fingerprint}+{take_inventory(on_usb).fingerprint}"


def test_a_registered_recording_without_bytes_is_lost(lab: Lab):
    row = lab.data.ingest(source_dir=written(lab.nas, FIRST)).recording
    assert row is not None
    metadata = {**(row.metadata or {}), "manifest_recording_id": SECOND}
    lab.data.register_recording(
        recording_hash="ab" * 32,
        start_time=row.start_time,
        duration=timedelta(minutes=1),
        participant_ids=[],
        device_info={},
        metadata=metadata,
    )

    found = standings(lab)

    assert not found[FIRST].is_lost
    assert found[SECOND].is_lost
    assert "no bytes" in found[SECOND].problems[0]


def test_a_source_that_is_not_mounted_leaves_its_recordings_unknown_there(lab: Lab):
    shutil.rmtree(ingested(lab, FIRST, root=lab.usb))
    written(lab.nas, SECOND)
    (lab.usb / "README.txt").unlink()

    found = reconcile(lab.data.reading_context, lab.data.sources)
    told = {one.rec_id: one for one in found}

    assert list(found.unavailable) == ["usb"]
    assert "empty" in found.unavailable["usb"]
    assert told[FIRST].unknown_on == told[SECOND].unknown_on == ("usb",)
    assert told[SECOND].places == ("nas",)
    assert dict(found.seen) == {"nas": 1}


def test_a_drive_that_is_pulled_out_half_way_is_told_and_ends_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    for rec_id in (FIRST, SECOND, THIRD):
        written(lab.usb, rec_id)
    written(lab.nas, FIFTH)
    monkeypatch.setattr(reconciliation, "_DIRECTORIES_AT_ONCE", 1)

    found = reconcile(lab.data.reading_context, lab.data.sources)
    first = next(found.standings)
    shutil.rmtree(lab.usb)
    rest = {one.rec_id: one for one in found}

    assert (first.rec_id, first.places) == (FIRST, ("usb",))
    assert list(found.unavailable) == ["usb"]
    assert rest[FIFTH].places == ("nas",)
    assert rest[FIFTH].unknown_on == ("usb",)


def test_a_source_that_hangs_does_not_hold_up_the_others(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    written(lab.nas, FIRST)
    written(lab.usb, SECOND)
    release = threading.Event()
    taken = reconciliation.take_inventory

    def hanging(directory: Path, gets_on):
        if directory.parent == lab.nas:
            release.wait(60)
        return taken(directory, gets_on)

    monkeypatch.setattr(reconciliation, "take_inventory", hanging)
    context = lab.data.reading_context
    monkeypatch.setattr(type(context), "listing", _impatient(type(context).listing))
    try:
        found = reconcile(context, lab.data.sources)
        told = {one.rec_id: one.places for one in found}
    finally:
        release.set()

    assert told == {SECOND: ("usb",)}
    assert list(found.unavailable) == ["nas"]


def _impatient(listing):
    from ursa_pipelines.objects.reading import unless_it_hangs

    return lambda context, rec_id, place, call: unless_it_hangs(rec_id, place, 0.3, call)


def test_what_an_ingest_will_refuse_and_what_is_being_copied_is_told_with_the_reason(lab: Lab):
    (written(lab.nas, FIRST) / "mic" / "link.wav").symlink_to("/etc/hostname")
    (written(lab.nas, SECOND) / "session.lock").touch()
    (lab.nas / THIRD).mkdir()

    found = standings(lab)

    assert "link.wav" in found[FIRST].on_sources[0].refused
    assert "still recording" in found[SECOND].on_sources[0].blocked
    assert found[THIRD].on_sources[0].refused != ""
    assert all(one.fingerprint == "" for one in (found[FIRST], found[THIRD]))


def test_a_half_that_waits_for_the_other_one_needs_no_marker(lab: Lab):
    files = files_of(FIRST)
    host = {path: content for path, content in files.items() if path.startswith("camera_a/")}
    whole = manifest_of(FIRST, files, node=None) | {"nodes": {"green-mantis": ["camera_a"], "green-motor": ["mic"]}}
    lab.data.ingest(source_dir=write_recording(lab.nas, FIRST, host, manifest=whole, node=None))

    found = standings(lab)[FIRST]

    assert found.row is not None
    assert (found.row.nodes, found.row.nodes_missing) == (("green-mantis",), ("green-motor",))
    assert (found.marked, found.problems) == (False, ())


def test_only_what_came_from_a_source_must_be_marked_complete():
    from_bucket, from_source = (Registered("ab", ingested_from=where) for where in ("r2", "nas"))

    assert Standing(FIRST, stored=True, rows=(from_bucket,)).problems == ()
    (problem,) = Standing(FIRST, stored=True, rows=(from_source,)).problems
    assert "commit marker" in problem


def test_two_rows_for_one_recording_are_a_problem():
    rows = (Registered("ab" * 32), Registered("cd" * 32))

    assert Standing(FIRST, stored=True, marked=True, rows=rows).problems == (
        "registered 2 times, as abababab, cdcdcdcd",
    )


def test_a_row_that_was_registered_by_hand_with_any_metadata_ends_nothing(lab: Lab):
    row = lab.data.ingest(source_dir=written(lab.nas, FIRST)).recording
    assert row is not None
    for rec_id, nodes in ((SECOND, 2), (THIRD, [{"name": "green-mantis"}, "green-motor"])):
        lab.data.register_recording(
            recording_hash=rec_id.encode().hex()[:64].ljust(64, "0"),
            start_time=row.start_time,
            duration=timedelta(minutes=1),
            participant_ids=[],
            device_info={},
            metadata={"manifest_recording_id": rec_id, "nodes": nodes, "nodes_missing": True},
        )

    rows = {rec_id: one.row for rec_id, one in standings(lab).items() if one.row}

    assert [(row.nodes, row.nodes_missing) for row in rows.values()][1:] == [((), ()), (("green-motor",), ())]


def test_a_directory_that_may_not_be_looked_at_is_unknown(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    written(lab.nas, FIRST)

    def refused(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reconciliation.os, "open", refused)
    monkeypatch.setattr(Path, "is_dir", refused)
    look = reconciliation._look_at_one(Source("nas", lab.nas), FIRST, lambda: None)

    assert look is not None
    assert "Permission denied" in look.unread


def test_a_directory_changes_when_it_is_filled_whatever_mtimes_the_copy_preserves(lab: Lab):
    began = time.time()
    written(lab.nas, FIRST, age_s=86_400)

    assert standings(lab)[FIRST].on_sources[0].changed_at >= began - 1


def test_a_second_look_does_not_believe_the_mtimes_that_a_copying_tool_preserves(lab: Lab):
    source = Source("nas", lab.nas)
    bare = written(lab.nas, FIRST, manifest=False, age_s=86_400)
    whole = written(lab.nas, SECOND, age_s=0)
    context = lab.data.reading_context
    periods = {"quiet_period": 100.0, "reconstruct_after": 3600.0}

    def look(directory: Path, *, later: float):
        sighted = Sighted("nas", take_inventory(directory).fingerprint)
        now = directory.stat().st_ctime + later
        return look_again(context, source, sighted, directory.name, now=now, **periods)

    assert not look(bare, later=60).settled
    assert look(bare, later=3601).settled
    assert look(whole, later=1).settled


def test_what_lost_its_last_object_is_lost_in_the_whole_as_it_is_by_name(lab: Lab):
    for rec_id in (FIRST, SECOND):
        ingested(lab, rec_id)
    remove(lab, FIRST)

    whole, since = standings(lab), list(reconcile(lab.data.reading_context, [], Only(since=date(2026, 5, 1))))
    named = list(reconcile(lab.data.reading_context, [], Only(frozenset({FIRST, SECOND}))))

    assert [one.is_lost for one in whole.values()] == [True, False]
    assert [(one.is_lost, one.marked) for one in since] == [(one.is_lost, one.marked) for one in named]


def test_a_named_recording_that_lost_some_of_its_files_is_lost_in_part(lab: Lab):
    ingested(lab, FIRST)
    ingested(lab, SECOND)
    remove(lab, FIRST, "mic/")

    short, whole = reconcile(lab.data.reading_context, [], Only(frozenset({FIRST, SECOND})))

    assert (short.is_short, whole.is_short) == (True, False)
    assert "lost in part" in short.problems[0]


def test_a_marker_that_nobody_can_write_any_more_is_not_missed_once_all_bytes_were_proved():
    row = Registered("ab", ingested_from="nas", verification="sha256")

    assert Standing(FIRST, stored=True, rows=(row,)).problems == ()
    assert Standing(FIRST, (Sighted("nas", "1-1-1"),), stored=True, rows=(row,)).problems != ()


def remove(lab: Lab, rec_id: str, below: str = "") -> None:
    for info in list(lab.raw.list_objects(raw_key(rec_id, below))):
        lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=info.key)
