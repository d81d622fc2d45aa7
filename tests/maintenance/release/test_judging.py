"""What may not leave its source: each reason, told before anything is moved."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.mounts import sized_disk
from tests.faults.source_writes import watched
from tests.lab import Lab
from tests.maintenance.release.rig import (
    DAY,
    FILES,
    OTHER,
    REC,
    TRASH,
    allowing,
    bound,
    desk_of,
    ingested,
    only,
    trash_of,
)
from tests.recordings_on_disk import manifest_of, write_recording
from tests.snapshot import snapshot
from ursa_pipelines.errors import RecordingConflict, ReleaseNotEnabled, ReleaseRefused, RoleNotEnabled, WritesNotEnabled
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.maintenance.release import judging
from ursa_pipelines.maintenance.release.desk import release
from ursa_pipelines.maintenance.release.ledger import Release
from ursa_pipelines.objects.keys import BUCKET_IDENTITY, marker_key, raw_key
from ursa_pipelines.objects.store import Bucket

VIDEO = "camera_a/seg_0000.mp4"
Spoil = Callable[[Lab, Path], object]


def _other_bytes(lab: Lab, path: str, body: bytes, sha256: str | None = None) -> None:
    lab.raw.wire.delete(raw_key(REC, path))
    lab.raw.create(raw_key(REC, path), body, sha256=sha256)


def _rotten(lab: Lab, directory: Path) -> None:
    """The same size and the same stated digest, and a commit marker that speaks for it."""
    info = lab.raw.head(raw_key(REC, VIDEO))
    assert info is not None
    _other_bytes(lab, VIDEO, b"VIDEO" * 100, info.sha256)


def _on_usb(lab: Lab, files: dict[str, bytes], **more: object) -> Path:
    return write_recording(lab.usb, REC, files, **more)  # type: ignore[arg-type]


def _behind_a_link(lab: Lab, directory: Path) -> None:
    elsewhere = lab.usb.parent / "elsewhere"
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere, target_is_directory=True)


SPOILS: dict[str, tuple[Spoil, str]] = {
    "the rig still records": (lambda lab, it: (it / "session.lock").touch(), "session.lock"),
    "a copy is not finished": (lambda lab, it: (it / "mic/seg_0001.wav.part").touch(), "still being copied"),
    "clutter that is large": (lambda lab, it: (it / ".DS_Store").write_bytes(bytes(2**20 + 1)), "is 1,048,577 bytes"),
    "clutter that is a link": (lambda lab, it: (it / ".DS_Store").symlink_to(VIDEO), "no regular file"),
    "clutter that is a hard link": (lambda lab, it: (it / "mic/._a").hardlink_to(it / VIDEO), "second name"),
    "too much clutter": (lambda lab, it: _cluttered(it, 65), "65 files are no part of it"),
    "a directory with the name of clutter": (lambda lab, it: (it / ".Trashes").mkdir(), "is a directory"),
    "a directory in clutter": (lambda lab, it: (it / "@eaDir/more").mkdir(parents=True), "is a directory"),
    "a FIFO in clutter": (lambda lab, it: ((it / "@eaDir").mkdir(), os.mkfifo(it / "@eaDir/x")), "no regular file"),
    "an empty directory that no document can name": (lambda lab, it: (it / os.fsdecode(b"\xff")).mkdir(), "surrogate"),
    "an empty directory with a line break": (lambda lab, it: (it / "a\nb").mkdir(), "U+000A"),
    "a raw bucket of another family": (lambda lab, it: _of_family(lab.raw, "test"), "not of the family local"),
    "a file that nobody ingested": (lambda lab, it: (it / "mic/seg_0001.wav").write_text("new"), "has it not"),
    "a file in the bucket's size": (lambda lab, it: (it / VIDEO).write_bytes(b"VIDEO" * 100), "other bytes"),
    "a file in another size": (lambda lab, it: (it / VIDEO).write_bytes(b"video"), "in another size"),
    "another manifest": (lambda lab, it: (it / "manifest.json").write_text("{}"), "manifest"),
    "a participant nobody stored": (lambda lab, it: (it / "participant.txt").write_text("\n"), "has it not"),
    "a link": (lambda lab, it: (it / "mic/seg_0001.wav").symlink_to("/etc/passwd"), "symbolic link"),
    "a FIFO": (lambda lab, it: os.mkfifo(it / "mic/pipe"), "FIFO"),
    "a hard link": (lambda lab, it: (lab.usb / "same").hardlink_to(it / VIDEO), "second name"),
    "a directory behind a link": (_behind_a_link, "link"),
    "an object that is gone": (lambda lab, it: lab.raw.wire.delete(raw_key(REC, VIDEO)), "not in the bucket"),
    "an object in another size": (lambda lab, it: _other_bytes(lab, VIDEO, b"video"), "bytes in the bucket"),
    "an object of other bytes": (_rotten, "other bytes"),
    "no commit marker": (lambda lab, it: lab.raw.wire.delete(marker_key(REC)), "no commit marker"),
    "a rig's own marker": (lambda lab, it: _rigs_marker(lab), "no commit marker"),
    "a copy elsewhere in another size": (lambda lab, it: _on_usb(lab, FILES | {VIDEO: b"v"}), "usb"),
    "a copy elsewhere with more files": (
        lambda lab, it: _on_usb(lab, FILES | {"mic/seg_0001.wav": b"x"}),
        "mic/seg_0001.wav",
    ),
    "a copy elsewhere with another digest": (
        lambda lab, it: _on_usb(lab, FILES | {VIDEO: b"VIDEO" * 100}, node="green-mantis"),
        VIDEO,
    ),
    "an entry that is gone": (lambda lab, it: _delete(lab, "/entries/"), "not in the catalog"),
    "a trash that is a link": (lambda lab, it: (lab.nas / TRASH).symlink_to(lab.usb), "links are never followed"),
    "a trash that is a file": (lambda lab, it: (lab.nas / TRASH).write_text("x"), "no directory"),
}


def _rigs_marker(lab: Lab) -> None:
    lab.raw.wire.delete(marker_key(REC))
    lab.raw.create(marker_key(REC), b"{}")


def _cluttered(directory: Path, count: int) -> None:
    for number in range(count):
        (directory / f"mic/._{number}").touch()


def _of_family(bucket: Bucket, family: str) -> None:
    raw, info = bucket.get(BUCKET_IDENTITY)
    bucket.replace(BUCKET_IDENTITY, json.dumps(json.loads(raw) | {"family": family}).encode(), info.etag)


def _delete(lab: Lab, part: str) -> None:
    for info in list(lab.assets.list_objects("ursa/catalog/")):
        if part in info.key:
            lab.assets.wire.delete(info.key)


@pytest.mark.parametrize("spoilt", SPOILS)
def test_what_is_not_all_right_stays(spoilt: str, lab: Lab):
    spoil, told = SPOILS[spoilt]
    directory = ingested(lab, participant="Aria Lindqvist")
    data = allowing(lab)
    spoil(lab, directory)
    before = snapshot(lab.nas)

    found = only(data.release([REC], source="nas", commit=True, held={}))

    assert found.state == "refused" and told in found.reason, found.reason
    assert found.remedy and "Lindqvist" not in found.reason
    assert {path: one for path, one in snapshot(lab.nas).items() if path in before and path != str(lab.nas)} == {
        path: one for path, one in before.items() if path != str(lab.nas)
    }
    assert REC not in str(trash_of(lab))
    assert not list(lab.assets.list_objects("ursa/releases/"))


def test_what_was_never_ingested_or_is_not_there_stays(lab: Lab):
    write_recording(lab.nas, REC, FILES)
    data = allowing(lab)

    assert "not in the catalog" in only(data.release([REC], source="nas", commit=True, held={})).reason
    assert "no such directory" in only(data.release([OTHER], source="nas", commit=True, held={})).reason


@pytest.mark.parametrize("name", [f"../usb/{REC}", f"./{REC}", "..", "", f"{REC}/mic", f"{REC}\n"])
def test_what_is_no_recording_id_is_not_even_looked_at(name: str, lab: Lab, monkeypatch: pytest.MonkeyPatch):
    ingested(lab)
    monkeypatch.setattr(judging, "look_at", pytest.fail)

    (found,) = release(desk_of(allowing(lab)), [(Source("nas", lab.nas), name)], commit=True, held={})

    assert found.state == "refused" and "is not a recording id" in found.reason


def test_half_of_a_session_stays_until_the_other_half_is_there(lab: Lab):
    halves = [{"camera_a/seg_0000.mp4": b"video" * 9}, {"eeg_4559/seg_0000.edf": b"eeg" * 9}]
    manifests = {
        f"_node_manifests/{node}.json": manifest_of(REC, files, node=node)
        for node, files in zip(("green-mantis", "green-motor"), halves, strict=True)
    }
    for source, files in zip((lab.nas, lab.usb), halves, strict=True):
        directory = write_recording(source, REC, files, manifest=False)
        (directory / "_node_manifests").mkdir()
        for name, document in manifests.items():
            (directory / name).write_text(json.dumps(document))
    lab.data.ingest(source_dir=lab.nas / REC)
    data = allowing(lab)
    before = only(data.release([REC], source="nas", commit=True, held={}))
    lab.data.ingest(source_dir=lab.usb / REC)

    after = data.release([REC], commit=True, held={})

    assert "half of another node" in before.reason or "no commit marker" in before.reason
    assert [(one.source, one.state) for one in after] == [("nas", "released"), ("usb", "released")]


def test_a_participants_name_in_the_name_of_a_file_is_never_certified(lab: Lab):
    for number, name in enumerate(("notes/aria_lindqvist.jsonl", "Lindqvist-Aria/x.jsonl", "notes/LINDQVIST ARIA.txt")):
        rec_id = f"rec_20260520_19560{number}_b1dd"
        ingested(lab, rec_id, {name: b"{}" * (number + 1)}, participant="Aria Lindqvist")

        found = only(allowing(lab).release([rec_id], source="nas", commit=True, held={}))

        assert "a participant's name" in found.reason, found
        assert "indqvist" not in f"{found.reason}{found.remedy}".casefold()
    assert not list(lab.assets.list_objects("ursa/releases/"))


def test_what_is_young_stays_by_the_source_and_by_the_bucket(lab: Lab):
    ingested(lab)
    data = allowing(lab, retention_days=30)
    nas = data.sources[0]

    def judged(desk: judging.Desk) -> Release:
        return only(list(release(desk, [(nas, REC)], commit=False)))

    assert "directory was changed" in judged(desk_of(data)).reason
    assert judged(desk_of(data, ahead=29 * DAY)).state == "refused"
    assert judged(desk_of(data, ahead=31 * DAY)).state == "eligible"
    assert "in the future" in judged(desk_of(data, ahead=-DAY)).reason
    seen = judging.examine(desk_of(data, ahead=31 * DAY), nas, REC)
    between = seen.registered_at - seen.changed_at
    assert between > 0
    desk = replace(
        desk_of(data, clock=lambda: seen.changed_at + between + 0.001), retention_days=(between + 0.0005) / DAY
    )
    assert "the bucket's copy was written" in judged(desk).reason


def test_what_somebody_objects_to_stays(lab: Lab):
    ingested(lab)

    found = only(allowing(lab).release([REC], source="nas", commit=True, held={REC: "it is quarantined: look at it"}))

    assert found.state == "refused" and "quarantined" in found.reason


def test_nothing_leaves_while_nobody_says_what_is_objected_to(lab: Lab):
    ingested(lab)
    data = allowing(lab)

    for call in (data.release, data.purge_released):
        with pytest.raises(ReleaseRefused, match="nobody says which recordings are quarantined"):
            call([REC], commit=True)
    assert only(data.release([REC], source="nas")).state == "eligible"


def test_nothing_leaves_while_a_clock_is_wrong(lab: Lab):
    ingested(lab)
    data = allowing(lab)
    before = snapshot(lab.nas / REC)

    (found,) = release(desk_of(data, ahead=3600), [(data.sources[0], REC)], commit=True, held={})

    assert found.state == "refused" and "clock and the store's differ" in found.reason
    assert snapshot(lab.nas / REC) == before and not list(lab.assets.list_objects("ursa/releases/"))


def test_a_source_that_is_a_link_is_refused(lab: Lab):
    ingested(lab)
    data, link = allowing(lab), lab.nas.with_name("alias")
    link.symlink_to(lab.nas, target_is_directory=True)

    (found,) = release(desk_of(data), [(Source("nas", link), REC)], commit=True, held={})

    assert found.state == "refused" and "links are never followed" in found.reason
    assert (lab.nas / REC).is_dir()


@pytest.mark.parametrize("where", [TRASH, REC, f"{REC}/mic"])
def test_another_file_system_is_refused(where: str, lab: Lab):
    ingested(lab)
    data, point = allowing(lab), lab.nas / where
    if point.exists():
        shutil.move(point, lab.usb / "kept")
    with sized_disk(point, "1m"):
        if where != TRASH:
            shutil.copytree(lab.usb / "kept", point, dirs_exist_ok=True)
        before = snapshot(point)

        found = only(data.release([REC], source="nas", commit=True, held={}))

        assert found.state == "refused", found
        assert "another file system" in found.reason, found.reason
        assert not list(lab.assets.list_objects("ursa/releases/"))
        assert snapshot(point) == before


def test_a_part_of_the_same_file_system_that_is_mounted_there_is_another_name_for_it(lab: Lab):
    directory, elsewhere = ingested(lab), lab.usb / "elsewhere"
    data, point = allowing(lab), directory / "camera_a"
    point.rename(elsewhere)
    point.mkdir()
    with bound(elsewhere, point):
        found = only(data.release([REC], source="nas", commit=True, held={}))

        assert found.state == "refused" and "a part of this one" in found.reason
    assert len(list(elsewhere.iterdir())) == 2 and not trash_of(lab)


def test_a_source_that_may_not_be_written_is_told_of_before_a_byte_is_read(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    ingested(lab)
    data = allowing(lab)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("ursa_pipelines.maintenance.release.tree.os.mkdir", read_only)
    monkeypatch.setattr("ursa_pipelines.maintenance.release.moving.prove", pytest.fail)

    found = only(data.release([REC], source="nas", commit=True, held={}))

    assert "may not change it (Read-only file system)" in found.reason and "Mount the source writable" in found.remedy


def test_without_the_switch_nothing_leaves(lab: Lab):
    ingested(lab)
    data = lab.interface(writes=False)

    assert only(data.release([REC], source="nas")).state == "refused"
    for call in (
        lambda: data.enable_writes(roles=("source_rw", "assets_rw")),
        lambda: data.release([REC], commit=True, held={}),
        lambda: data.purge_released(commit=True, held={}),
        lambda: data.restore_released([REC], commit=True),
    ):
        with pytest.raises(ReleaseNotEnabled, match=r"release: \{enabled: true\}"):
            call()
    assert (lab.nas / REC).is_dir() and not trash_of(lab)


def test_without_the_roles_nothing_leaves(lab: Lab):
    ingested(lab)
    allowed = allowing(lab)
    data = type(allowed)(config_path=lab.config.with_name("releasing.yaml"))
    calls = (
        lambda: data.release([REC], commit=True, held={}),
        lambda: data.purge_released(commit=True, held={}),
        lambda: data.restore_released([REC], commit=True),
    )

    for roles in ((), ("assets_rw",), ("assets_rw", "raw_rw"), ("source_rw",)):
        data = type(allowed)(config_path=lab.config.with_name("releasing.yaml"))
        data.enable_writes(roles=roles)
        for call in calls:
            with pytest.raises(WritesNotEnabled if not roles else RoleNotEnabled, match="enable_writes"):
                call()
        data.close()
    assert (lab.nas / REC).is_dir() and not trash_of(lab)


def test_a_look_writes_nothing_anywhere(lab: Lab):
    directory = ingested(lab)
    data = allowing(lab)
    before, stored = snapshot(lab.nas), lab.everything()

    with watched(lab.nas, lab.usb) as writes:
        assert only(data.release([REC], source="nas")).state == "eligible"
        assert data.purge_released() == [] and data.releases() == []
        data.restore_released([REC])

    assert writes == [] and snapshot(lab.nas) == before and lab.everything() == stored
    with watched(lab.nas) as writes:
        assert only(data.release([REC], source="nas", commit=True, held={})).state == "released"
    assert not directory.exists()
    assert {one.rpartition("ursa_pipelines/")[2] for one in writes} == {"maintenance/release/tree.py"}


def test_a_directory_of_another_recording_in_the_bucket_is_a_conflict(lab: Lab):
    ingested(lab)
    _on_usb(lab, FILES | {VIDEO: b"VIDEO" * 100})

    with pytest.raises(RecordingConflict):
        lab.data.ingest(source_dir=lab.usb / REC)
    found = {one.source: one for one in allowing(lab).release([REC], commit=True, held={})}

    assert {name: one.state for name, one in found.items()} == {"nas": "refused", "usb": "refused"}
