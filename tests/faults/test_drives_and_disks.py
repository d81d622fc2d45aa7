"""Faults 9, 10, 11 and 28 beside the ingest: planning, looking into media, downloading, and what is kept for a host."""

from __future__ import annotations

import errno
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.detour import Detour
from tests.faults.killed import REBUILT
from tests.faults.mounts import Fault, Hangs, Mount, Upon, sized_disk
from tests.faults.on_a_drive import (
    CAMERA,
    FILES,
    MIB,
    MIC,
    OTHER_REC,
    REC,
    SMALL_FILES,
    break_down,
    interface,
    repair,
    require_nothing_registered,
)
from tests.faults.on_a_drive import drive as drive
from tests.faults.wire_faults import Times
from tests.lab import Lab
from tests.media_files import mp4, wav
from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot
from ursa_pipelines import DataInterface
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.tables.fold import refold
from ursa_pipelines.errors import DestinationFull, DestinationUnusable, Retryable, SourceUnavailable
from ursa_pipelines.ingest.plan_file import write_plan
from ursa_pipelines.maintenance.rebuild import rebuild
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.profiles.timetable import set_override
from ursa_pipelines.recordings.media_probe import MediaProbe

MEDIA = {CAMERA: mp4(), MIC: wav()}
needs_a_reader = pytest.mark.skipif(not MediaProbe.is_installed(), reason="the extra [probe] is not installed")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for 16 MiB."""
    with sized_disk(tmp_path / "small", "16m") as point:
        yield point


class _Before(Times):
    """Does a deed before the `nth` request that matches."""

    def __init__(self, pattern: str, nth: int, deed: Callable[[], None]) -> None:
        super().__init__(pattern, nth)
        self._nth, self._deed = nth, deed

    def before(self, request: str) -> None:
        if self.strikes(request) and self.struck == self._nth:
            self._deed()


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space left"):
        while True:
            stream.write(bytes(64 * 1024))


@pytest.mark.parametrize("kind", ["list", "open", "read"])
def test_fault_11_a_plan_gives_up_a_drive_that_hangs_and_plans_the_rest(lab: Lab, drive: Mount, kind: str):
    write_recording(lab.nas, REC, SMALL_FILES)
    write_recording(lab.nas, OTHER_REC, {MIC: b"other audio"})
    hang = drive.fault = Hangs(f"{REC}/mic" if kind == "list" else f"{REC}/manifest.json", kind=kind)
    data = interface(lab, read_timeout=1)

    try:
        plans = {plan.rec_id: plan for plan in data.plan_many([drive.point / REC, drive.point / OTHER_REC])}
    finally:
        hang.released.set()

    assert hang.reached.is_set()
    assert plans[OTHER_REC].action == "ingest"
    assert plans[REC].action != "ingest"
    assert "for 1 s. Check the cable or the mount" in str(plans[REC])
    assert lab.data.list_recordings() == []


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_fault_9_a_plan_of_a_drive_that_fails_is_an_error_that_passes(lab: Lab, drive: Mount, error: int):
    write_recording(lab.nas, REC, SMALL_FILES)
    data = interface(lab)
    drive.fault = Upon("read", f"{REC}/manifest.json", lambda: break_down(drive, error))

    with pytest.raises(SourceUnavailable):
        data.plan(drive.point / REC)

    repair(drive)
    assert data.plan(drive.point / REC).files == len(SMALL_FILES)


@needs_a_reader
@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
@pytest.mark.parametrize("kind", ["open", "read"])
def test_fault_9_a_drive_that_fails_while_media_are_looked_at_is_not_blamed_on_the_files(
    lab: Lab, drive: Mount, kind: str, error: int
):
    write_recording(lab.nas, REC, MEDIA)
    before = snapshot(lab.nas)
    with closing(interface(lab, media_probe=True, truncated="refuse")) as data:
        drive.fault = Upon(kind, f"{REC}/{CAMERA}", lambda: break_down(drive, error))

        with pytest.raises(SourceUnavailable):
            data.ingest(source_dir=drive.point / REC)

        assert lab.objects(REC) == {}
        require_nothing_registered(lab)
        repair(drive)
        assert data.ingest(source_dir=drive.point / REC).outcome == "created"
    assert "media_problems" not in (lab.data.list_recordings()[0].metadata or {})
    assert snapshot(lab.nas) == before


@needs_a_reader
def test_fault_11_a_drive_that_hangs_while_media_are_looked_at_is_given_up(lab: Lab, drive: Mount):
    write_recording(lab.nas, REC, MEDIA)
    with closing(interface(lab, media_probe=True, read_timeout=2)) as data:
        hang = drive.fault = Hangs(f"{REC}/{CAMERA}")
        try:
            with pytest.raises(SourceUnavailable):
                data.ingest(source_dir=drive.point / REC)
        finally:
            hang.released.set()

        assert hang.reached.is_set()
        require_nothing_registered(lab)
        drive.fault = Fault()
        assert data.ingest(source_dir=drive.point / REC).outcome == "created"
    lab.check_invariants()


def test_fault_28_a_download_to_a_disk_that_fills_up_keeps_what_came(lab: Lab, detour: Detour, small_disk: Path):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    data, ballast = detour.interface(), small_disk / "ballast"
    found = data.query()
    detour.proxy.fault = _Before(rf"^GET /raw.*/{CAMERA}$", 2, lambda: _fill(ballast))

    with pytest.raises(DestinationFull):
        data.download(found, small_disk / "there")

    ballast.unlink()
    came = sum(path.stat().st_size for path in (small_disk / "there").rglob("*") if path.is_file())
    assert came >= 8 * MIB
    paths = data.download(found, small_disk / "there")
    assert {path.read_bytes() for path in paths} == set(FILES.values())


def test_fault_28_a_download_to_a_disk_that_is_too_small_writes_nothing(lab: Lab, small_disk: Path):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    (small_disk / "ballast").write_bytes(bytes(12 * MIB))

    with pytest.raises(DestinationFull):
        lab.data.download(lab.data.query(), small_disk / "there")

    assert not any(path.is_file() for path in (small_disk / "there").rglob("*"))


def test_fault_29_a_download_to_a_disk_that_is_mounted_read_only_is_told(lab: Lab, small_disk: Path):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, SMALL_FILES))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with pytest.raises(DestinationUnusable):
        lab.data.download(lab.data.query(), small_disk / "there")


ON_A_SCRATCH_DISK: dict[str, Callable[[DataInterface], object]] = {
    "fold": lambda data: data.fold(),
    "fold anew": lambda data: refold(data.catalog.assets, data.catalog.prefix, by="test"),
    "rebuild": lambda data: rebuild(data.ingest_context(), data.catalog, REBUILT),
    "reconstruct": lambda data: data.reconstruct_manifest(OTHER_REC),
    "ingest": lambda data: data.ingest(source_dir=data.sources[0].root / OTHER_REC),
}
NEEDS_ROOM = {"fold anew", "rebuild"}
"""Whose rows wait on the local disk; the digests that the others keep there only save time."""


@pytest.mark.parametrize("step", ON_A_SCRATCH_DISK)
def test_fault_28_a_full_scratch_disk_stops_no_step_in_the_middle(
    lab: Lab, detour: Detour, small_disk: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    """It is done, or ends with the system's own word for it; the same again with room comes to the end."""
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, SMALL_FILES))
    lab.data.fold()
    source = write_recording(lab.nas, OTHER_REC, {MIC: b"other audio" * 1000}, manifest=False)
    if step == "reconstruct":
        lab.raw.create(raw_key(OTHER_REC, MIC), b"other audio" * 1000)
    elif step != "ingest":
        lab.data.ingest(source_dir=source)
    before, sources = lab.data.list_recordings(), snapshot(lab.nas)
    ballast = small_disk / "ballast"
    _fill(ballast)

    def do() -> None:
        with monkeypatch.context() as patch:
            patch.setenv("DAGSTER_HOME", str(small_disk / ".ursa" / "dagster"))
            patch.setattr("tempfile.tempdir", str(small_disk))
            with closing(detour.interface()) as data:
                assert data.state.is_relative_to(small_disk)
                ON_A_SCRATCH_DISK[step](data)

    if step in NEEDS_ROOM:
        with pytest.raises(OSError, match="No space left") as caught:
            do()
        assert caught.value.errno == errno.ENOSPC
    else:
        do()

    assert [path for path in small_disk.rglob("*") if path.is_file() and path.stat().st_size] == [ballast]
    assert lab.interface().list_recordings()[: len(before)] == before
    lab.check_invariants()
    ballast.unlink()
    do()
    if step == "reconstruct":
        assert lab.data.ingest_from_r2(rec_id=OTHER_REC).outcome == "created"
    prefix = REBUILT if step == "rebuild" else None
    assert len(Catalog.open(lab.assets, prefix=prefix).list_recordings()) == 2
    assert snapshot(lab.nas) == sources
    lab.check_invariants()


def test_fault_28_what_is_kept_for_a_host_is_there_as_a_whole_or_as_it_was(lab: Lab, small_disk: Path):
    """The upload cap and a plan, in files of this machine."""
    planned = lab.data.plan_file(lab.data.plan_many([write_recording(lab.nas, REC, SMALL_FILES)]))
    state, plan = small_disk / "state", small_disk / "plan.json"
    kept: dict[Path, Callable[[], object]] = {
        state / "bandwidth": lambda: set_override(state, "1MB/s"),
        plan: lambda: write_plan(planned, plan),
    }
    for write in kept.values():
        write()
    before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    assert before.keys() == kept.keys()
    _fill(small_disk / "ballast")

    for write in (lambda: set_override(state, "2MB/s"), *kept.values()):
        with pytest.raises(OSError, match="No space left") as caught:
            write()
        assert caught.value.errno == errno.ENOSPC

    (small_disk / "ballast").unlink()
    assert {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == before


def test_fault_10_a_drive_that_is_unmounted_while_it_is_ingested_loses_nothing(lab: Lab, drive: Mount):
    write_recording(lab.nas, REC, FILES, participant="A")
    before, pulled = snapshot(lab.nas), threading.Event()

    def pull() -> None:
        drive.unmount()
        pulled.set()

    drive.fault = Upon("open", f"{REC}/{MIC}", pull)

    # What is open stays so after a lazy unmount; what is opened afterwards must not be taken for empty.
    with pytest.raises(Retryable):
        interface(lab).ingest(source_dir=drive.point / REC)

    assert pulled.is_set()
    require_nothing_registered(lab)
    repair(drive)
    assert interface(lab).ingest(source_dir=drive.point / REC).outcome == "created"
    assert snapshot(lab.nas) == before
    lab.check_invariants()
