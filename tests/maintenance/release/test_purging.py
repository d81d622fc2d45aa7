"""Out of the trash for good: only what is exactly as certified, whose objects are still those that were proved."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.catalog.by_hand import move_pointer
from tests.lab import Lab
from tests.maintenance.release.rig import (
    DAY,
    OTHER,
    REC,
    TRASH,
    allowing,
    bound,
    certificates,
    desk_of,
    ingested,
    only,
    trash_of,
    upon,
)
from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot
from ursa_pipelines import DataInterface
from ursa_pipelines.errors import ClockWrong, ReleaseRefused
from ursa_pipelines.maintenance.release import purging
from ursa_pipelines.maintenance.release.desk import purge_released
from ursa_pipelines.objects.keys import BUCKET_IDENTITY, raw_key, release_key

VIDEO = "camera_a/seg_0000.mp4"


def released(lab: Lab, **rules: object) -> tuple[DataInterface, Path]:
    """A recording in the trash."""
    ingested(lab, participant="Aria Lindqvist")
    data = allowing(lab, **rules)
    assert only(data.release([REC], source="nas", commit=True, held={})).state == "released"
    (name,) = trash_of(lab)
    return data, lab.nas / TRASH / name


def _swapped_by_a_link(lab: Lab, it: Path) -> None:
    (it / VIDEO).rename(lab.usb / "kept")
    (it / VIDEO).symlink_to(lab.usb / "kept")


def _copied_over(lab: Lab, it: Path) -> None:
    shutil.copytree(it, lab.usb / "kept")
    shutil.rmtree(it)
    shutil.copytree(lab.usb / "kept", it)


def _a_link_as_a_whole(lab: Lab, it: Path) -> None:
    it.rename(lab.usb / "kept")
    it.symlink_to(lab.usb / "kept", target_is_directory=True)


def _trash_as_a_link(lab: Lab, it: Path) -> None:
    it.parent.rename(lab.usb / "kept")
    it.parent.symlink_to(lab.usb / "kept", target_is_directory=True)


def _row_gone(lab: Lab, it: Path) -> None:
    for info in list(lab.assets.list_objects("ursa/catalog/entries/")):
        lab.assets.wire.delete(info.key)


def _object(lab: Lab, path: str, body: bytes | None) -> None:
    lab.raw.wire.delete(raw_key(REC, path))
    if body is not None:
        lab.raw.create(raw_key(REC, path), body)


def _rewritten(lab: Lab, **fields: object) -> None:
    """A certificate that somebody has changed."""
    (certificate,) = certificates(lab)
    document = json.loads(lab.assets.get(certificate.key)[0]) | fields
    lab.assets.wire.delete(certificate.key)
    lab.assets.create(certificate.key, json.dumps(document).encode())


def _leading_out(lab: Lab, it: Path) -> None:
    (certificate,) = certificates(lab)
    files = [one.model_dump() for one in certificate.files]
    _rewritten(lab, files=[files[0] | {"path": "../../README.txt"}, *files[1:]])


def _of_another_recording(lab: Lab) -> None:
    (certificate,) = certificates(lab)
    files = [one.model_dump() for one in certificate.files]
    _rewritten(lab, files=[files[0] | {"key": raw_key(OTHER, VIDEO)}, *files[1:]])


def _called(lab: Lab, told: dict[str, str]) -> None:
    raw, info = lab.raw.get(BUCKET_IDENTITY)
    lab.raw.replace(BUCKET_IDENTITY, json.dumps(json.loads(raw) | told).encode(), info.etag)


SPOILS: dict[str, Callable[[Lab, Path], object]] = {
    "a byte is appended": lambda lab, it: (it / VIDEO).open("ab").write(b"x"),
    "a file is touched": lambda lab, it: (it / VIDEO).touch(),
    "a file has other rights": lambda lab, it: (it / VIDEO).chmod(0o600),
    "a file is linked elsewhere": lambda lab, it: (lab.usb / "kept").hardlink_to(it / VIDEO),
    "a file is added": lambda lab, it: (it / "notes.txt").touch(),
    "clutter is added that is large": lambda lab, it: (it / ".DS_Store").write_bytes(bytes(2**20 + 1)),
    "clutter is added that is a link": lambda lab, it: (it / ".DS_Store").symlink_to(VIDEO),
    "clutter is added that is a directory": lambda lab, it: (it / ".Trashes").mkdir(),
    "a directory is added": lambda lab, it: (it / "mic/new").mkdir(),
    "a file is gone": lambda lab, it: (it / VIDEO).unlink(),
    "a FIFO is added": lambda lab, it: os.mkfifo(it / "pipe"),
    "a file is swapped by a link": _swapped_by_a_link,
    "it is copied over": _copied_over,
    "it is swapped by a link": _a_link_as_a_whole,
    "the trash is swapped by a link": _trash_as_a_link,
    "an object is gone": lambda lab, it: _object(lab, VIDEO, None),
    "an object is another": lambda lab, it: _object(lab, VIDEO, b"VIDEO" * 100),
    "the manifest is gone": lambda lab, it: _object(lab, "manifest.json", None),
    "its row is gone": _row_gone,
    "the certificate is gone": lambda lab, it: lab.assets.wire.delete(certificates(lab)[0].key),
    "the certificate leads out": _leading_out,
    "the certificate is of another source": lambda lab, it: _rewritten(lab, source="usb"),
    "the certificate is of another recording": lambda lab, it: _rewritten(lab, recording_hash="f" * 64),
    "the certificate is of another bucket": lambda lab, it: _rewritten(lab, bucket="another"),
    "the certificate names objects of another recording": lambda lab, it: _of_another_recording(lab),
    "the raw bucket is one of assets": lambda lab, it: _called(lab, {"purpose": "assets"}),
    "another catalog is live": lambda lab, it: move_pointer(lab, "ursa/catalog-2"),
    "the certificate has more in it": lambda lab, it: _rewritten(lab, more="x"),
    "the certificate is of a later format": lambda lab, it: _rewritten(lab, format="ursa_release/2"),
}


@pytest.mark.parametrize("spoilt", SPOILS)
def test_what_is_not_as_certified_is_not_removed(spoilt: str, lab: Lab):
    data, directory = released(lab)
    SPOILS[spoilt](lab, directory)
    before = {root: snapshot(root) for root in (lab.nas, lab.usb)}

    found = data.purge_released(commit=True, held={})

    assert {one.state for one in found} <= {"stopped", "refused"} and all(one.reason for one in found)
    assert {root: snapshot(root) for root in (lab.nas, lab.usb)} == before
    assert not [info.key for info in lab.assets.list_objects("ursa/releases/") if "purg" in info.key]


def test_what_has_not_waited_long_enough_stays_by_the_longer_grace(lab: Lab):
    data, directory = released(lab, grace_days=14)
    before, now = snapshot(directory), allowing(lab, grace_days=0)

    for one in (data, now):
        assert only(one.purge_released(commit=True, held={})).state == "refused"
        assert "waits in the trash until" in only(one.purge_released(commit=True, held={})).reason
    assert snapshot(directory) == before
    (certificate,) = certificates(lab)
    moved = directory.stat().st_ctime
    assert purging.due_at(desk_of(data), certificate, 0.0, moved) >= moved + 14 * DAY
    later = moved + 3 * DAY
    assert purging.due_at(desk_of(data, ahead=4 * DAY), certificate, 0.0, later) == later + 14 * DAY
    assert purging.due_at(desk_of(data, ahead=4 * DAY), certificate, later, moved) == later + 14 * DAY
    with pytest.raises(ReleaseRefused, match="a clock is wrong"):
        purging.due_at(desk_of(data, ahead=-DAY), certificate, 0.0, moved)


def test_a_clock_that_jumps_ahead_does_not_shorten_the_wait(lab: Lab):
    data, directory = released(lab, grace_days=14)
    desk = desk_of(data, ahead=20 * DAY)

    (found,) = purge_released(desk, commit=True, held={})

    assert found.state == "stopped" and "clock" in found.reason
    assert directory.is_dir()
    with pytest.raises(ClockWrong):
        purging.purge(desk, data.sources[0], directory.name, commit=True)


@pytest.mark.parametrize(
    ("deed", "left"),
    [
        (lambda it: (it / VIDEO).touch(), {VIDEO}),
        (lambda it: (it / "camera_a/new").touch(), {"camera_a/new"}),
        (lambda it: (it / VIDEO).unlink(), set()),
    ],
)
def test_what_changes_during_the_purge_ends_it_and_stays(deed: Callable[[Path], object], left: set[str], lab: Lab):
    data, directory = released(lab)

    with upon("release.purging", lambda: deed(directory)):
        found = only(data.purge_released(commit=True, held={}))

    there = {one.relative_to(directory).as_posix() for one in directory.rglob("*") if one.is_file()}
    assert left <= there
    assert found.state == "stopped" and found.reason
    again = only(data.purge_released(commit=True, held={}))
    assert again.state == ("stopped" if left else "purged"), again.reason
    assert all((directory / one).exists() for one in left)
    if left:
        assert "purge has begun" in only(data.restore_released([REC], commit=True)).reason


def test_a_purge_removes_the_files_of_one_certificate_and_nothing_else(lab: Lab):
    data, directory = released(lab)
    before = snapshot(lab.nas)
    assert only(data.purge_released()).state == "due" and snapshot(lab.nas) == before

    found = only(data.purge_released([REC], commit=True, held={}))

    assert found.state == "purged" and not directory.exists()
    assert {path.name for path in lab.nas.iterdir()} == {"README.txt", TRASH}
    assert data.purge_released(commit=True, held={}) == []
    assert only(data.releases()).state == "purged"
    (certificate,) = certificates(lab)
    for happened in ("purging", "purged"):
        told = json.loads(lab.assets.get(release_key(REC, certificate.certificate_id, happened))[0])
        assert (told["happened"], told["by"]) == (happened, data.writer.by)
    lab.check_invariants()


def test_clutter_that_comes_changes_or_goes_keeps_nothing_in_the_trash(lab: Lab):
    directory = ingested(lab)
    for path in (".DS_Store", "mic/@eaDir/seg_0000.wav@SynoEAStream", "camera_a/Thumbs.db"):
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text("x")
    data = allowing(lab)
    assert only(data.release([REC], source="nas", commit=True, held={})).state == "released"
    (name,) = trash_of(lab)
    it = lab.nas / TRASH / name
    (it / ".DS_Store").write_text("the Finder was here")
    shutil.rmtree(it / "mic/@eaDir")
    (it / "camera_a/@eaDir").mkdir()
    (it / "camera_a/@eaDir/x").touch()

    found = only(data.purge_released(commit=True, held={}))

    assert found.state == "purged", found.reason
    assert trash_of(lab) == []
    (certificate,) = certificates(lab)
    told = json.loads(lab.assets.get(release_key(REC, certificate.certificate_id, "purging"))[0])
    assert {one["path"] for one in told["clutter"]} == {".DS_Store", "camera_a/@eaDir/x", "camera_a/Thumbs.db"}


@pytest.mark.parametrize(
    ("deed", "state"),
    [
        (lambda it: shutil.rmtree(it / "mic/@eaDir"), "purged"),
        (lambda it: (it / "mic/@eaDir/x").write_text("the indexer was here"), "stopped"),
        (lambda it: (it / "camera_a/.DS_Store").touch(), "stopped"),
    ],
)
def test_clutter_that_changes_during_the_purge_is_for_the_next_at_the_latest(
    deed: Callable[[Path], object], state: str, lab: Lab
):
    directory = ingested(lab)
    (directory / "mic/@eaDir").mkdir()
    (directory / "mic/@eaDir/x").touch()
    data = allowing(lab)
    data.release([REC], source="nas", commit=True, held={})
    (name,) = trash_of(lab)

    with upon("release.purging", lambda: deed(lab.nas / TRASH / name)):
        assert only(data.purge_released(commit=True, held={})).state == state

    data.purge_released(commit=True, held={})
    assert only(data.releases()).state == "purged" and trash_of(lab) == []


def test_what_is_mounted_there_meanwhile_is_not_removed(lab: Lab):
    data, directory = released(lab)
    point, elsewhere = directory / "camera_a", lab.usb / "elsewhere"
    point.rename(elsewhere)
    point.mkdir()
    with bound(elsewhere, point):
        found = only(data.purge_released(commit=True, held={}))

        assert found.state == "stopped" and "mounted there" in found.reason
    assert len(list(elsewhere.iterdir())) == 2


def test_what_was_restored_in_the_middle_of_a_purge_is_not_told_as_purged(lab: Lab):
    data, directory = released(lab)

    with upon("release.purging", lambda: directory.rename(lab.nas / REC)):
        assert only(data.purge_released(commit=True, held={})).state == "stopped"

    assert only(data.purge_released(commit=True, held={})).state == "stopped"
    assert only(data.releases()).state == "unused"
    assert (lab.nas / REC / VIDEO).is_file()


def test_files_of_other_spelling_and_with_odd_names_are_removed_as_they_are_called(lab: Lab):
    files = {"notes/café 1.jsonl": b"{}", "notes/a b/c d.txt": b"x", "camera_a/seg_0000.mp4": b""}
    directory = write_recording(lab.nas, REC, files)
    (directory / "notes/café 1.jsonl").rename(directory / unicodedata.normalize("NFD", "notes/café 1.jsonl"))
    lab.data.ingest(source_dir=directory)
    data = allowing(lab)

    assert only(data.release([REC], source="nas", commit=True, held={})).state == "released"
    assert only(data.purge_released(commit=True, held={})).state == "purged"
    assert trash_of(lab) == []
