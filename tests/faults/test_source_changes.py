"""Faults 12 to 16 and 19: files that change while they are read, rot, or are misread.

What changes does so at a byte of the file, on a real file system that the test commands (`mounts.py`).
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.faults.final_state import final_state
from tests.faults.mounts import Answer, Fault, Mount, Trickles, Upon
from tests.faults.on_a_drive import (
    BOTH_SIZES,
    CAMERA,
    FILES,
    HASHED_OR_SENT,
    IN_THE_SECOND_PART,
    MIB,
    MIC,
    REC,
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
from tests.recordings_on_disk import set_age, write_recording
from tests.snapshot import snapshot
from ursa_pipelines.errors import ContentMismatch, Retryable, SourceChanged, SourceUnavailable, UrsaError

Change = Callable[[Path], None]

HIDDEN_OR_NOT = pytest.mark.parametrize("hidden", [False, True], ids=["with its time", "behind its old time"])


def grow(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"more")


def shrink(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def edit(file: Path, *, hidden: bool = False) -> None:
    """Other content of the same size; `hidden`, with the times that it had before."""
    status = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\xff")
    if hidden:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_another(file: Path) -> None:
    """A file of the same size and times, which is not the one that was listed."""
    status, other = file.stat(), file.with_name("other")
    other.write_bytes(bytes(status.st_size))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)


def replace_by_a_link(file: Path) -> None:
    secret = file.parents[2] / "secret.txt"
    secret.write_bytes(b"s" * file.stat().st_size)
    file.unlink()
    file.symlink_to(secret)


def ingest_disturbed(
    lab: Lab,
    drive: Mount,
    disturbance: Upon,
    *,
    path: str,
    manifest: bool,
    error: type[UrsaError] = SourceChanged,
) -> UrsaError:
    """What an ingest raises that is disturbed once at the file `path`; nothing of that is to be seen in the bucket."""
    directory = write_recording(lab.nas, REC, FILES, participant="A", manifest=manifest)
    before = snapshot(directory)
    drive.fault = disturbance
    with pytest.raises(error) as caught:
        interface(lab).ingest(source_dir=drive.point / REC)
    assert disturbance.happened == 1
    assert (caught.value.recording, caught.value.place) == (REC, path)
    require_nothing_registered(lab, without=path)
    assert open_uploads(lab) == []
    after, changed = snapshot(directory), {str(directory / path), str((directory / path).parent)}
    assert {name: state for name, state in after.items() if name not in changed} == {
        name: state for name, state in before.items() if name not in changed
    }
    drive.fault = Fault()
    return caught.value


def ingest_mended(lab: Lab, drive: Mount, uninterrupted: States, *, manifest: bool) -> None:
    """With the files as they were, an ingest comes to the state of one that nothing disturbed."""
    for path in FILES:
        (lab.nas / REC / path).unlink()
    write_recording(lab.nas, REC, FILES, participant="A", manifest=manifest)
    # What the kernel still knows of a file that was replaced goes with the mount.
    repair(drive)
    interface(lab).ingest(source_dir=drive.point / REC)
    assert final_state(lab) == uninterrupted[manifest]
    lab.check_invariants()


@HASHED_OR_SENT
@BOTH_SIZES
def test_fault_12_a_file_that_grows_while_it_is(
    lab: Lab, drive: Mount, uninterrupted: States, path: str, offset: int, manifest: bool
):
    growing = Upon("read", f"{REC}/{path}", partial(grow, lab.nas / REC / path), offset=offset)

    error = ingest_disturbed(lab, drive, growing, path=path, manifest=manifest)

    assert isinstance(error, Retryable)
    ingest_mended(lab, drive, uninterrupted, manifest=manifest)


@HASHED_OR_SENT
@pytest.mark.parametrize(
    ("change", "path", "offset"),
    [(shrink, CAMERA, IN_THE_SECOND_PART), (empty, MIC, 0)],
    ids=["to half in parts", "to nothing in one request"],
)
def test_fault_13_a_file_that_shrinks_while_it_is(
    lab: Lab,
    drive: Mount,
    uninterrupted: States,
    change: Change,
    path: str,
    offset: int,
    manifest: bool,
):
    shrinking = Upon("read", f"{REC}/{path}", partial(change, lab.nas / REC / path), offset=offset)

    error = ingest_disturbed(lab, drive, shrinking, path=path, manifest=manifest)

    assert isinstance(error, Retryable)
    ingest_mended(lab, drive, uninterrupted, manifest=manifest)


@HIDDEN_OR_NOT
@BOTH_SIZES
def test_fault_14_a_file_edited_between_hash_and_upload_is_sent_as_it_is_then(
    lab: Lab, drive: Mount, path: str, offset: int, hidden: bool
):
    editing = Upon("open", f"{REC}/{path}", partial(edit, lab.nas / REC / path, hidden=hidden), nth=2)

    error = ingest_disturbed(lab, drive, editing, path=path, manifest=False)

    assert isinstance(error, Retryable)
    interface(lab).ingest(source_dir=drive.point / REC)
    assert lab.raw.get(f"recordings/{REC}/{path}")[0] == FILES[path][:-1] + b"\xff"
    lab.check_invariants()


@pytest.mark.parametrize(
    ("manifest", "hidden"), [(True, False), (True, True), (False, True)], ids=["seen", "hidden", "hidden, unattested"]
)
@BOTH_SIZES
def test_fault_14_a_file_edited_while_it_is_sent(
    lab: Lab, drive: Mount, uninterrupted: States, path: str, offset: int, manifest: bool, hidden: bool
):
    """Without a manifest the first read is for the digest; behind its old time only a digest can tell."""
    editing = Upon(
        "read",
        f"{REC}/{path}",
        partial(edit, lab.nas / REC / path, hidden=hidden),
        offset=offset,
        nth=1 if manifest else 2,
    )
    expected = ContentMismatch if manifest and hidden else SourceChanged

    ingest_disturbed(lab, drive, editing, path=path, manifest=manifest, error=expected)

    ingest_mended(lab, drive, uninterrupted, manifest=manifest)


@HIDDEN_OR_NOT
def test_fault_14_parts_of_a_file_that_was_edited_since_are_not_used(lab: Lab, drive: Mount, hidden: bool):
    """The upload is one of those that are kept when they are interrupted; the edit is in its second part."""
    write_recording(lab.nas, REC, FILES, manifest=False)
    failure = partial(break_down, drive, errno.EIO)
    failing = drive.fault = Upon("read", f"{REC}/{CAMERA}", failure, offset=IN_THE_SECOND_PART, nth=2)
    data = interface(lab, resume_above=5 * MIB)
    with pytest.raises(SourceUnavailable):
        data.ingest(source_dir=drive.point / REC)
    assert failing.happened == 1
    assert len(open_uploads(lab)) == 1
    edit(lab.nas / REC / CAMERA, hidden=hidden)
    set_age(lab.nas / REC, 3600)
    drive.fault = Fault()

    data.ingest(source_dir=drive.point / REC)

    content, info = lab.raw.get(f"recordings/{REC}/{CAMERA}")
    assert content == FILES[CAMERA][:-1] + b"\xff"
    assert info.sha256 == hashlib.sha256(content).hexdigest()
    assert open_uploads(lab) == []
    assert list(lab.assets.list_objects("ursa/uploads/")) == []
    lab.check_invariants()


@BOTH_SIZES
def test_fault_15_a_bit_that_rots_after_the_manifest_was_written(
    lab: Lab, drive: Mount, uninterrupted: States, path: str, offset: int
):
    rot = Upon("read", f"{REC}/{path}", lambda: Answer(flip=offset), offset=offset, times=1000)

    write_recording(lab.nas, REC, FILES, participant="A")
    drive.fault = rot
    for _ in range(2):
        with pytest.raises(ContentMismatch, match="SHA-256") as caught:
            interface(lab).ingest(source_dir=drive.point / REC)
        assert (caught.value.recording, caught.value.place) == (REC, path)
        require_nothing_registered(lab, without=path)
    assert rot.happened == 2

    drive.fault = Fault()
    ingest_mended(lab, drive, uninterrupted, manifest=True)


@pytest.mark.parametrize(
    ("manifest", "nth", "error"),
    [(True, 1, ContentMismatch), (False, 1, SourceChanged), (False, 2, SourceChanged)],
    ids=["sent as attested", "hashed", "sent as hashed"],
)
@BOTH_SIZES
def test_fault_16_a_misread_that_is_given_as_success_while_a_file_is(
    lab: Lab,
    drive: Mount,
    uninterrupted: States,
    path: str,
    offset: int,
    manifest: bool,
    nth: int,
    error: type[UrsaError],
):
    """One wrong bit in one read. The next ingest reads again, and does not go by what was misread."""
    misread = Upon("read", f"{REC}/{path}", lambda: Answer(flip=offset), offset=offset, nth=nth)

    ingest_disturbed(lab, drive, misread, path=path, manifest=manifest, error=error)

    interface(lab).ingest(source_dir=drive.point / REC)
    assert final_state(lab) == uninterrupted[manifest]
    lab.check_invariants()


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param("manifest.json", id="attested there"),
        pytest.param(
            None,
            id="as bytes only",
        ),
    ],
)
@BOTH_SIZES
def test_fault_16_a_misread_of_a_file_that_is_in_the_bucket_already(
    lab: Lab, drive: Mount, path: str, offset: int, stored: str | None
):
    """The object is the rig's; what is misread must not make a conflict of it for good."""
    directory = write_recording(lab.nas, REC, FILES)
    upload_as_rig(lab, directory, except_for=None if stored else "manifest.json")
    (directory / "manifest.json").unlink()
    there = lab.objects(REC)
    drive.fault = Upon("read", f"{REC}/{path}", lambda: Answer(flip=offset), offset=offset)
    with pytest.raises(UrsaError, match=path):
        interface(lab).ingest(source_dir=drive.point / REC)
    assert lab.objects(REC) == there
    assert lab.data.list_recordings() == []

    result = interface(lab).ingest(source_dir=drive.point / REC)

    assert (result.outcome, result.files_uploaded) == ("created", 0)
    lab.check_invariants()


@HASHED_OR_SENT
def test_a_drive_that_gives_few_bytes_at_a_time_is_read_to_the_end(
    lab: Lab, drive: Mount, uninterrupted: States, manifest: bool
):
    write_recording(lab.nas, REC, FILES, participant="A", manifest=manifest)
    drive.fault = Trickles(at_most=99_999)

    interface(lab).ingest(source_dir=drive.point / REC)

    assert final_state(lab) == uninterrupted[manifest]
    lab.check_invariants()


@HASHED_OR_SENT
@pytest.mark.parametrize(
    ("kind", "path", "offset"), [("open", MIC, 0), ("read", CAMERA, IN_THE_SECOND_PART)], ids=["opened", "read"]
)
@pytest.mark.parametrize("change", [replace_by_another, replace_by_a_link], ids=["another file", "a link"])
def test_fault_19_a_file_that_is_replaced_after_it_was_listed(
    lab: Lab,
    drive: Mount,
    uninterrupted: States,
    change: Change,
    kind: str,
    path: str,
    offset: int,
    manifest: bool,
):
    replacing = Upon(kind, f"{REC}/{path}", partial(change, lab.nas / REC / path), offset=offset)

    error = ingest_disturbed(lab, drive, replacing, path=path, manifest=manifest, error=Retryable)

    if kind == "open" or change is replace_by_another:
        # A link in place of an open file is a failing drive to the kernel, here as on NFS.
        assert type(error) is SourceChanged
    ingest_mended(lab, drive, uninterrupted, manifest=manifest)
