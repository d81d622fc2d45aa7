"""Faults 9, 10, 26, 28 and 29: drives that fail, vanish, are full, or are not to be read or written to.

The drives are real file systems (`mounts.py`); what happens to them happens at a byte, never after a while.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.faults.detour import Detour
from tests.faults.final_state import final_state
from tests.faults.mounts import Answer, Mount, Upon, mounted, sized_disk
from tests.faults.on_a_drive import (
    BESIDE_THE_SEGMENTS,
    CAMERA,
    FILES,
    HASHED_OR_SENT,
    IN_THE_SECOND_PART,
    MIC,
    OTHER_REC,
    REC,
    SMALL_FILES,
    States,
    break_down,
    interface,
    open_uploads,
    repair,
    require_nothing_registered,
)
from tests.faults.on_a_drive import drive as drive
from tests.faults.on_a_drive import uninterrupted as uninterrupted
from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot
from ursa_pipelines.errors import Retryable, SourceNotFound, SourceRefused, SourceUnavailable
from ursa_pipelines.ingest.batch import Batch
from ursa_pipelines.ingest.sources import Source, directories_of, list_recordings


@HASHED_OR_SENT
@pytest.mark.parametrize(
    ("error", "path", "offset"),
    [
        (errno.EIO, CAMERA, IN_THE_SECOND_PART),
        (errno.ESTALE, MIC, 0),
        (errno.ENOTCONN, CAMERA, IN_THE_SECOND_PART),
        (errno.ENOTCONN, MIC, 0),
    ],
    ids=["EIO in parts", "ESTALE in one request", "ENOTCONN in parts", "ENOTCONN in one request"],
)
def test_fault_9_a_drive_that_fails_while_a_file_is(
    lab: Lab, drive: Mount, uninterrupted: States, error: int, path: str, offset: int, manifest: bool
):
    before = snapshot(write_recording(lab.nas, REC, FILES, participant="A", manifest=manifest))
    fault = drive.fault = Upon("read", f"{REC}/{path}", partial(break_down, drive, error), offset=offset)

    with pytest.raises(SourceUnavailable) as caught:
        interface(lab).ingest(source_dir=drive.point / REC)

    assert fault.happened
    assert (caught.value.recording, isinstance(caught.value, Retryable)) == (REC, True)
    require_nothing_registered(lab, without=path)
    assert open_uploads(lab) == []
    repair(drive)
    interface(lab).ingest(source_dir=drive.point / REC)
    assert final_state(lab) == uninterrupted[manifest]
    assert snapshot(lab.nas / REC) == before
    lab.check_invariants()


@BESIDE_THE_SEGMENTS
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOTCONN], ids=errno.errorcode.get)
def test_fault_9_a_drive_that_fails(lab: Lab, drive: Mount, kind: str, path: str, nth: int, error: int):
    write_recording(lab.nas, REC, SMALL_FILES, participant="A")
    fault = drive.fault = Upon(kind, path, partial(break_down, drive, error), nth=nth)

    with pytest.raises(SourceUnavailable) as caught:
        interface(lab).ingest(source_dir=drive.point / REC)

    assert fault.happened
    assert caught.value.recording == REC
    require_nothing_registered(lab)
    assert nth == 2 or lab.objects(REC) == {}


@HASHED_OR_SENT
def test_fault_9_a_drive_that_is_unmounted_between_two_files(
    lab: Lab, drive: Mount, uninterrupted: States, manifest: bool
):
    """What is open is read to its end; what is opened afterwards is not there, as if it never had been."""
    write_recording(lab.nas, REC, FILES, participant="A", manifest=manifest)
    drive.fault = Upon("read", f"{REC}/{CAMERA}", drive.unmount)

    with pytest.raises(SourceUnavailable) as caught:
        interface(lab).ingest(source_dir=drive.point / REC)

    assert caught.value.recording == REC
    require_nothing_registered(lab)
    assert open_uploads(lab) == []
    repair(drive)
    interface(lab).ingest(source_dir=drive.point / REC)
    assert final_state(lab) == uninterrupted[manifest]
    lab.check_invariants()


def test_fault_10_an_unmounted_source_is_an_error_and_not_empty(lab: Lab, drive: Mount):
    write_recording(lab.nas, REC, SMALL_FILES)
    source = Source("nas", drive.point)
    assert list_recordings(source) == [REC]

    drive.unmount()

    assert list(drive.point.iterdir()) == []
    for look in (partial(list_recordings, source), partial(directories_of, REC, [source])):
        with pytest.raises(SourceUnavailable, match="mount"):
            look()
    before = lab.everything()
    with pytest.raises((SourceNotFound, SourceUnavailable), match="mount"):
        lab.data.ingest(source_dir=drive.point / REC)
    assert lab.everything() == before


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.ENOTCONN], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "look",
    [
        pytest.param(list_recordings, id="all"),
        pytest.param(
            lambda source: directories_of(REC, [source]),
            id="one",
        ),
    ],
)
def test_fault_10_a_dead_source_is_an_error_and_not_empty(tmp_path: Path, look: Callable[[Source], object], error: int):
    write_recording(tmp_path / "nas", REC, SMALL_FILES)
    with mounted(tmp_path / "nas", tmp_path / "drive") as drive:
        break_down(drive, error)

        with pytest.raises(SourceUnavailable):
            look(Source("nas", drive.point))


@pytest.mark.parametrize(
    "how",
    [
        "unmounted",
        pytest.param("dead"),
    ],
)
def test_fault_10_a_recording_whose_drive_is_gone_is_not_taken_from_the_bucket(lab: Lab, drive: Mount, how: str):
    """What a rig has sent so far looks whole, but only the drive can tell."""
    upload_as_rig(lab, write_recording(lab.nas, REC, SMALL_FILES))
    before = lab.everything()
    drive.unmount() if how == "unmounted" else drive.die()
    batch = Batch(lab.data.ingest_context(), lambda rec_id: directories_of(rec_id, [Source("nas", drive.point)]))

    (item,) = batch.run_all([REC])

    assert (item.state, item.error_type, item.retryable) == ("failed", "SourceUnavailable", True)
    assert lab.everything() == before


@pytest.mark.parametrize(
    ("kind", "path"), [("read", CAMERA), ("open", MIC), ("open", "manifest.json"), ("read", "participant.txt")]
)
def test_fault_26_an_unreadable_file_refuses_the_recording_by_name(lab: Lab, drive: Mount, path: str, kind: str):
    before = snapshot(write_recording(lab.nas, REC, FILES, participant="A"))
    drive.fault = Upon(kind, f"{REC}/{path}", lambda: Answer(error=errno.EACCES), times=1000)

    with pytest.raises(SourceRefused, match="may not be read") as caught:
        interface(lab).ingest(source_dir=drive.point / REC)

    assert (caught.value.recording, caught.value.place) == (REC, path)
    assert "right to read" in caught.value.remedy
    require_nothing_registered(lab, without=path)
    assert open_uploads(lab) == []
    assert snapshot(lab.nas / REC) == before


@pytest.mark.parametrize(
    "kind",
    [
        "open",
        pytest.param("list"),
    ],
)
def test_fault_26_an_unreadable_directory_refuses_the_recording_by_name(lab: Lab, drive: Mount, kind: str):
    write_recording(lab.nas, REC, SMALL_FILES)
    before = lab.everything()
    drive.fault = Upon(kind, f"{REC}/mic", lambda: Answer(error=errno.EACCES))

    with pytest.raises(SourceRefused, match="mic") as caught:
        interface(lab).ingest(source_dir=drive.point / REC)

    assert caught.value.recording == REC
    assert lab.everything() == before


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own without a free byte."""
    with sized_disk(tmp_path / "full", "64k") as point:
        with (point / "ballast").open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space left"):
            while True:
                stream.write(bytes(4096))
        yield point


@HASHED_OR_SENT
@pytest.mark.parametrize("bandwidth", [None, "1GB/s"], ids=["uncapped", "capped"])
def test_fault_28_a_full_scratch_disk_stops_no_ingest(
    lab: Lab,
    detour: Detour,
    full_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    bandwidth: str | None,
    manifest: bool,
):
    """Digests found before, and the cap that processes share, are kept in the state directory."""
    write_recording(lab.nas, REC, SMALL_FILES, manifest=manifest)
    profile = yaml.safe_load(detour.config.read_text())
    profile["settings"]["bandwidth"] = bandwidth
    detour.config.write_text(yaml.safe_dump(profile))

    with monkeypatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(full_disk / ".ursa" / "dagster"))
        data = detour.interface()
        assert data.state.is_relative_to(full_disk)
        result = data.ingest(source_dir=lab.nas / REC)

    assert (result.outcome, result.files_uploaded) == ("created", len(SMALL_FILES))
    assert [path.name for path in full_disk.rglob("*") if path.is_file() and path.stat().st_size] == ["ballast"]
    lab.check_invariants()


@pytest.mark.parametrize("read_only", [True, False], ids=["mounted read-only", "every attempt counted"])
def test_fault_29_nothing_is_ever_written_to_a_source(lab: Lab, tmp_path: Path, read_only: bool):
    write_recording(lab.nas, REC, FILES, participant="A")
    write_recording(lab.nas, OTHER_REC, {MIC: b"other audio"}, participant="B", manifest=False)
    before = snapshot(lab.nas)
    data = interface(lab)

    with mounted(lab.nas, tmp_path / "drive", read_only=read_only) as drive:
        assert data.plan(drive.point / REC).files == len(FILES)
        for outcome in ("created", "unchanged"):
            items = data.ingest_many([drive.point / rec_id for rec_id in list_recordings(Source("nas", drive.point))])
            assert [item.outcome for item in items] == [outcome, outcome]
        assert drive.changes == []
        # An attempt would have been seen: the kernel keeps it from the drive only if that is mounted read-only.
        with pytest.raises(OSError, match="Read-only file system"):
            (drive.point / REC / "new").touch()
        assert bool(drive.changes) is not read_only

    assert snapshot(lab.nas) == before
    lab.check_invariants()
