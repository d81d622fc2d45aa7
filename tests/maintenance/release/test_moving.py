"""Into the trash and back: what changes between one step and the next, and that nothing is ever lost or replaced."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.catalog.by_hand import move_pointer
from tests.lab import Lab
from tests.maintenance.release.rig import (
    FILES,
    OTHER,
    REC,
    TRASH,
    allowing,
    certificates,
    ingested,
    only,
    trash_of,
    upon,
)
from tests.snapshot import snapshot
from ursa_pipelines.errors import SourceNotFound
from ursa_pipelines.ingest.sources import Source, list_recordings
from ursa_pipelines.maintenance.reconciliation import reconcile
from ursa_pipelines.maintenance.release import moving
from ursa_pipelines.maintenance.release.ledger import Release
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.orchestration.cases import Case, cases
from ursa_pipelines.orchestration.outlook import look_ahead
from ursa_pipelines.orchestration.states import History
from ursa_pipelines.orchestration.status_lines import status_line

VIDEO, PARTICIPANT = "camera_a/seg_0000.mp4", "Aria Lindqvist"
Deed = Callable[[Lab, Path], object]


def _swapped_by_a_link(lab: Lab, directory: Path) -> None:
    kept = lab.usb / "kept"
    (directory / VIDEO).rename(kept)
    (directory / VIDEO).symlink_to(kept)


def _swapped_as_a_whole(lab: Lab, directory: Path) -> None:
    directory.rename(lab.usb / "kept")
    directory.symlink_to(lab.usb / "kept", target_is_directory=True)


def _copied_over(lab: Lab, directory: Path) -> None:
    """The same names, sizes, bytes and mtimes, as `cp -a` makes them."""
    shutil.copytree(directory, lab.usb / "kept")
    shutil.rmtree(directory)
    shutil.copytree(lab.usb / "kept", directory)


def _row_changed(lab: Lab, directory: Path) -> None:
    row = lab.data.catalog.entry_of_rec_id(REC)
    assert row is not None
    recording = row.recording
    lab.data.register_recording(
        recording_hash=recording.recording_hash,
        start_time=recording.start_time,
        duration=recording.duration + timedelta(hours=1),
        on_conflict="extend",
    )


CHANGES: dict[str, Deed] = {
    "a byte is appended": lambda lab, it: (it / VIDEO).open("ab").write(b"x"),
    "a file is written anew": lambda lab, it: (it / VIDEO).write_bytes(b"VIDEO" * 100),
    "a file is touched": lambda lab, it: (it / VIDEO).touch(),
    "a file is added": lambda lab, it: (it / "mic/seg_0001.wav").write_text("new"),
    "a file is gone": lambda lab, it: (it / VIDEO).unlink(),
    "an empty directory is added": lambda lab, it: (it / "eeg_1").mkdir(),
    "a file is swapped by a link": _swapped_by_a_link,
    "the directory is swapped by a link": _swapped_as_a_whole,
    "the directory is copied over": _copied_over,
    "an object is gone": lambda lab, it: lab.raw.wire.delete(raw_key(REC, VIDEO)),
    "an object is another": lambda lab, it: (
        lab.raw.wire.delete(raw_key(REC, VIDEO)),
        lab.raw.create(raw_key(REC, VIDEO), b"VIDEO" * 100),
    ),
    "the row is changed": _row_changed,
    "another catalog is live": lambda lab, it: move_pointer(lab, "ursa/catalog-2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_after_the_certificate_keeps_the_directory_where_it_is(change: str, lab: Lab):
    directory = ingested(lab, participant=PARTICIPANT)
    data, after = allowing(lab), dict[str, object]()

    def deed() -> None:
        CHANGES[change](lab, directory)
        after.update(snapshot(lab.nas / REC))

    with upon("release.certified", deed) as passed:
        found = only(data.release([REC], source="nas", commit=True, held={}))

    assert found.state == "refused" and found.reason, found
    assert "release.moved" not in passed and not trash_of(lab)
    assert snapshot(lab.nas / REC) == after
    assert len(certificates(lab)) == 1


@pytest.mark.parametrize("change", [one for one in CHANGES if "file" in one])
def test_what_changes_while_it_is_moved_brings_it_back(change: str, lab: Lab):
    directory = ingested(lab)
    data = allowing(lab)

    def deed() -> None:
        (moved,) = (lab.nas / TRASH).iterdir()
        CHANGES[change](lab, moved)

    with upon("release.moved", deed):
        found = only(data.release([REC], source="nas", commit=True, held={}))

    assert found.state == "refused" and "it was put back" in found.reason
    assert directory.is_dir() and not trash_of(lab)


def test_what_cannot_be_brought_back_is_told_of_and_replaces_nothing(lab: Lab):
    directory = ingested(lab)
    data = allowing(lab)

    def deed() -> None:
        (moved,) = (lab.nas / TRASH).iterdir()
        (moved / "new").touch()
        directory.mkdir()
        (directory / "somebody's").touch()

    with upon("release.moved", deed):
        found = only(data.release([REC], source="nas", commit=True, held={}))

    assert found.state == "stopped" and "lies in the trash and could not be put back" in found.reason
    assert [one.name for one in directory.iterdir()] == ["somebody's"]
    assert len(trash_of(lab)) == 1
    assert [one.state for one in data.purge_released(commit=True, held={})] == ["stopped"]
    assert (lab.nas / TRASH / trash_of(lab)[0] / VIDEO).is_file()


def test_a_certificate_that_is_not_stored_as_written_moves_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    directory = ingested(lab)
    data = allowing(lab)
    create = type(lab.assets).create

    def lies(bucket: object, key: str, body: bytes, **more: object) -> object:
        return create(bucket, key, body.replace(b'"size": 500', b'"size": 501'), **more)  # type: ignore[arg-type]

    monkeypatch.setattr(type(lab.assets), "create", lies)
    found = only(data.release([REC], source="nas", commit=True, held={}))

    assert found.state == "stopped" and "not the one that was written" in found.reason
    assert directory.is_dir() and not trash_of(lab)


def test_a_certificate_tells_all_and_no_name(lab: Lab):
    directory = ingested(lab, participant=PARTICIPANT)
    before = {path.relative_to(directory).as_posix(): path.lstat() for path in directory.rglob("*")}
    data = allowing(lab)
    entry = data.catalog.entry_of_rec_id(REC)

    found = only(data.release([REC], source="nas", commit=True, held={}))

    (certificate,) = certificates(lab)
    assert entry is not None and certificate.recording_hash == entry.recording.recording_hash
    assert (certificate.source, certificate.directory, certificate.by) == ("nas", REC, data.writer.by)
    assert {one.path for one in certificate.files} == {*FILES, "manifest.json", "participant.txt"}
    assert {one.path for one in certificate.directories} == {"camera_a", "mic"}
    for one in certificate.files:
        status, object_ = before[one.path], lab.raw.head(one.key)
        assert (one.size, one.mtime_ns, one.ctime_ns, one.inode) == (
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
        )
        assert object_ is not None and (object_.size, object_.etag) == (one.size, one.etag)
    assert found.certificate == certificate.certificate_id and sum(found.evidence.values()) == 5
    body = lab.assets.get(certificate.key)[0].decode()
    assert "Lindqvist" not in body and str(lab.nas.parent) not in body
    assert json.loads(body)["entry"]["etag"] and certificate.manifests


def test_deep_reads_every_object(lab: Lab):
    ingested(lab)

    assert only(allowing(lab).release([REC], source="nas", commit=True, held={}, deep=True)).evidence == {"bytes": 4}


def test_what_lies_in_the_trash_is_nowhere_taken_for_a_recording(lab: Lab):
    ingested(lab)
    ingested(lab, OTHER, {"mic/seg_0000.wav": b"other"})
    data = allowing(lab)
    assert only(data.release([REC], source="nas", commit=True, held={})).state == "released"
    (name,) = trash_of(lab)

    assert list_recordings(Source("nas", lab.nas)) == [OTHER]
    assert {one.rec_id for one in lab.data.plan_many()} == {OTHER}
    assert {one.action for one in lab.data.plan_many([lab.nas / TRASH])} == {"refused"}
    with pytest.raises(SourceNotFound, match="holds no recordings"):
        lab.data.plan_many([lab.nas / TRASH / name])
    found = {one.rec_id: one for one in reconcile(lab.data.reading_context, lab.data.sources)}
    assert found[REC].places == ("bucket", "catalog") and not found[REC].problems
    told = {case.standing.rec_id: status_line(case, is_automatic=False) for case in _cases(lab)}
    assert (told[REC].state, told[REC].next_step) == ("registered", "Nothing.")
    by_a_run = History(REC, fingerprint="1-2-3", registered_at=1.0)
    assert look_ahead(found[REC], by_a_run).state == "registered" and not look_ahead(found[REC], by_a_run).due
    lab.check_invariants()


def _cases(lab: Lab) -> Iterator[Case]:
    return cases(reconcile(lab.data.reading_context, lab.data.sources), None, 0.0)


def test_a_source_from_which_all_is_released_is_not_taken_for_unmounted(lab: Lab):
    ingested(lab)
    (lab.nas / "README.txt").unlink()
    data = allowing(lab)
    data.release([REC], source="nas", commit=True, held={})
    data.purge_released(commit=True, held={})

    assert [one.name for one in lab.nas.iterdir()] == [TRASH]
    assert list_recordings(Source("nas", lab.nas)) == []


def test_a_restore_brings_back_exactly_what_was_moved(lab: Lab):
    directory = ingested(lab)
    data = allowing(lab)
    before = snapshot(directory)
    data.release([REC], source="nas", commit=True, held={})
    assert [one.state for one in data.restore_released([REC])] == ["in trash"]
    assert not directory.exists()

    found = only(data.restore_released([REC], commit=True))

    assert found.state == "restored" and snapshot(directory) == before and not trash_of(lab)
    assert [one.state for one in data.releases()] == ["restored"]
    assert lab.data.ingest(source_dir=directory).outcome == "unchanged"
    assert only(data.restore_released([REC], commit=True)).state == "stopped"


@pytest.mark.parametrize("taken", ["an empty directory", "a directory", "a file", "a dangling link"])
def test_a_restore_replaces_nothing(taken: str, lab: Lab):
    directory = ingested(lab)
    data = allowing(lab)
    data.release([REC], source="nas", commit=True, held={})
    if taken == "a file":
        directory.write_text("somebody's")
    elif taken == "a dangling link":
        directory.symlink_to("nowhere")
    else:
        directory.mkdir()
    if taken == "a directory":
        (directory / "mic").mkdir()
    before = directory.lstat().st_ino

    found = only(data.restore_released([REC], commit=True))

    assert found.state == "refused" and "left as it is" in found.reason
    assert directory.lstat().st_ino == before and len(trash_of(lab)) == 1


def test_a_restore_gives_way_to_a_purge_that_begins_meanwhile(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """It has seen no purge, and moves the directory back while one removes the second file."""
    directory = ingested(lab)
    data, other = allowing(lab), allowing(lab)
    data.release([REC], source="nas", commit=True, held={})
    look, looked, has_begun, has_moved = moving.has_happened, Event(), Event(), Event()
    restored: list[Release] = []

    def looking(*what: Any) -> bool:
        seen = look(*what)
        if not looked.is_set():
            looked.set()
            assert has_begun.wait(10)
        elif seen:
            has_moved.set()
        return seen

    def removed() -> None:
        has_begun.set()
        assert has_moved.wait(10)

    monkeypatch.setattr(moving, "has_happened", looking)
    thread = Thread(target=lambda: restored.extend(other.restore_released([REC], commit=True)))
    thread.start()
    assert looked.wait(10)
    with upon("release.file_removed", removed):
        data.purge_released(commit=True, held={})
    thread.join()

    assert [one.state for one in restored] == ["stopped"] and "purge has begun" in restored[0].reason
    assert not directory.exists()
    data.purge_released(commit=True, held={})
    assert only(data.releases()).state == "purged" and trash_of(lab) == []


def test_clutter_leaves_too_and_is_listed(lab: Lab):
    directory = ingested(lab)
    clutter = {".DS_Store": 7, "camera_a/._seg_0000.mp4": 0, "mic/@eaDir/seg_0000.wav@SynoEAStream": 3}
    for path, size in clutter.items():
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_bytes(bytes(size))
    data = allowing(lab)

    found = only(data.release([REC], source="nas", commit=True, held={}))

    assert (found.state, found.files) == ("released", 4)
    (certificate,) = certificates(lab)
    assert {one.path: one.size for one in certificate.clutter} == clutter
    assert {one.path for one in certificate.directories} == {"camera_a", "mic"}
    assert only(data.restore_released([REC], commit=True)).state == "restored"
    assert all((directory / path).is_file() for path in clutter)


def test_a_directory_that_has_taken_the_place_of_another_is_not_told_of_as_released(lab: Lab):
    ingested(lab)
    data = allowing(lab)
    data.release([REC], source="nas", commit=True, held={})
    (name,) = trash_of(lab)
    (lab.nas / TRASH / name).rename(lab.usb / "kept")
    shutil.copytree(lab.usb / "kept", lab.nas / TRASH / name)

    found = only(data.releases())

    assert found.state == "stopped" and "another directory has its name" in found.reason


def test_what_has_no_certificate_is_told_of_and_left(lab: Lab):
    ingested(lab)
    data = allowing(lab)
    data.release([REC], source="nas", commit=True, held={})
    (name,) = trash_of(lab)
    (lab.nas / TRASH / ".DS_Store").touch()
    (lab.nas / TRASH / "@eaDir").mkdir()
    strangers = ["notes", "a\nb", os.fsdecode(b"\xff"), f"{OTHER}.20260101T000000Z-00000000"]
    for one in strangers:
        (lab.nas / TRASH / one).mkdir()

    assert {one.state for one in data.purge_released(commit=True, held={}) if one.rec_id != REC} == {"stopped"}
    assert sorted(one.state for one in data.releases()) == ["purged", *["stopped"] * 4]
    told = "".join(f"{one.rec_id}{one.reason}" for one in (*data.releases(), *data.purge_released()))
    assert told.isprintable() and r"a\nb" in told and r"\udcff" in told
    assert trash_of(lab) == sorted([*strangers, ".DS_Store", "@eaDir"]) and name not in strangers
