"""Sending files: visible only when whole and right, never over anything, and nothing left behind by a failure."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.proxy import BreakOff, Proxy, Refuse
from tests.lab import Lab
from tests.objects.desk import MIB, PART_SIZE, Desk, content_of
from tests.recordings_on_disk import write_recording
from ursa_pipelines.errors import (
    ContentMismatch,
    ObjectConflict,
    ObjectExists,
    SourceChanged,
    UploadInterrupted,
    UrsaError,
)
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.transfers import Buffers, TransferLimits
from ursa_pipelines.objects.upload import Outgoing, Uploader

REC = "rec_20260520_195628_b1dd"
SMALL, LARGE = "mic/seg_0000.wav", "camera_a/seg_0000.mp4"
THREE_PARTS = 11 * MIB
BOTH_SIZES = pytest.mark.parametrize(
    ("path", "size"), [(SMALL, 1000), (LARGE, THREE_PARTS)], ids=["single", "multipart"]
)


def test_files_of_every_size_arrive_whole_with_their_digest(desk: Desk):
    sizes = [0, 1, *(limit * MIB + more for limit in (8, 16) for more in (-1, 0, 1)), 32 * MIB + 1]
    files = {f"camera_a/{size}.mp4": content_of(size) for size in sizes}
    outgoing = desk.outgoing(files)

    stored = desk.send_all(outgoing)

    assert stored.keys() == files.keys()
    for path, content in files.items():
        body, info = desk.bucket.get(desk.key(path))
        assert body == content
        assert info == stored[path]
        assert info.sha256 == hashlib.sha256(content).hexdigest()
    assert desk.open_uploads() == []


def test_on_bytes_is_told_of_every_byte_once(desk: Desk):
    files = {SMALL: content_of(1000), LARGE: content_of(THREE_PARTS)}
    told: Counter[str] = Counter()
    uploader = desk.uploader(on_bytes=lambda path, count: told.update({path: count}))

    for one in desk.outgoing(files):
        uploader.send(one)

    assert told == {path: len(content) for path, content in files.items()}


def test_every_part_but_the_last_has_the_same_size(desk: Desk):
    content = content_of(THREE_PARTS)
    (one,) = desk.outgoing({LARGE: content})

    stored = desk.uploader().send(one).info

    parts = [hashlib.md5(content[start : start + PART_SIZE]).digest() for start in range(0, THREE_PARTS, PART_SIZE)]
    assert stored.etag == f'"{hashlib.md5(b"".join(parts)).hexdigest()}-3"'


@pytest.mark.parametrize(
    ("size", "part_size"),
    [(1, 16), (9_000 * 16 * MIB, 16), (9_000 * 16 * MIB + 1, 32), (5 * 1024**4, 1024)],
)
def test_parts_double_until_there_are_at_most_nine_thousand(size: int, part_size: int):
    found = TransferLimits().part_size_for(size)

    assert found == part_size * MIB
    assert -(-size // found) <= 9_000


@BOTH_SIZES
def test_a_file_that_is_not_what_is_attested_leaves_nothing(desk: Desk, path: str, size: int):
    (one,) = desk.outgoing({path: content_of(size)}, sha256="0" * 64)

    with pytest.raises(ContentMismatch) as caught:
        desk.uploader().send(one)

    assert (caught.value.recording, caught.value.place) == (desk.rec_id, path)
    assert "0" * 64 in str(caught.value)
    assert hashlib.sha256(content_of(size)).hexdigest() in str(caught.value)
    desk.require_nothing_left()


@BOTH_SIZES
def test_a_key_that_is_taken_keeps_its_object(desk: Desk, path: str, size: int):
    (one,) = desk.outgoing({path: content_of(size)})
    desk.bucket.create(desk.key(path), b"first")

    with pytest.raises(ObjectExists):
        desk.uploader().send(one)

    assert desk.bucket.get(desk.key(path))[0] == b"first"
    assert desk.open_uploads() == []


@BOTH_SIZES
def test_the_same_bytes_under_the_key_are_proved_and_not_sent_again(lab: Lab, path: str, size: int):
    desk = Desk(lab.raw, REC, lab.nas)
    directory = write_recording(lab.nas, REC, {path: content_of(size)})
    desk.put_as_a_rig(path, content_of(size))
    before = lab.objects(REC)[path]

    result = lab.data.ingest(source_dir=directory)

    assert (result.files_uploaded, result.files_skipped, result.bytes_uploaded) == (0, 1, 0)
    assert lab.objects(REC)[path] == before
    lab.check_invariants()


@BOTH_SIZES
def test_other_bytes_under_the_key_are_kept_and_nothing_is_registered(lab: Lab, path: str, size: int):
    desk = Desk(lab.raw, REC, lab.nas)
    directory = write_recording(lab.nas, REC, {path: content_of(size), "eeg/seg_0000.edf": b"eeg"})
    desk.put_as_a_rig(path, content_of(size, seed="other"))

    with pytest.raises(ObjectConflict, match=path):
        lab.data.ingest(source_dir=directory)

    assert lab.raw.get(desk.key(path))[0] == content_of(size, seed="other")
    assert "manifest.json" not in lab.objects(REC)
    assert lab.data.list_recordings() == []
    assert desk.open_uploads() == []


@BOTH_SIZES
def test_two_uploaders_of_one_key_leave_one_whole_object(desk: Desk, path: str, size: int):
    (one,) = desk.outgoing({path: content_of(size)})
    barrier = threading.Barrier(2)

    def send(_: int) -> UrsaError | None:
        barrier.wait(60)
        try:
            desk.uploader().send(one)
        except UrsaError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        errors = [error for error in pool.map(send, range(2)) if error]

    assert {type(error) for error in errors} <= {ObjectExists}
    # SeaweedFS lets two conditional Completes that meet both win; what each would make visible was proved before.
    assert len(errors) == 1 or (path == LARGE and not errors)
    body, info = desk.bucket.get(desk.key(path))
    assert (body, info.sha256) == (content_of(size), one.sha256)
    assert desk.open_uploads() == []


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_a_stop_between_chunks_leaves_nothing(desk: Desk, chunks: int):
    (one,) = desk.outgoing({LARGE: content_of(THREE_PARTS)})
    calls = iter(range(100))

    def stop() -> None:
        if next(calls) >= chunks:
            raise UploadInterrupted("a pause was asked for")

    with pytest.raises(UploadInterrupted):
        desk.uploader(check_stop=stop).send(one)

    desk.require_nothing_left()


def _append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _rewrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size - 1)
        stream.write(b"\xff")


@pytest.mark.parametrize("edit", [_append, _cut, _empty, _rewrite])
@pytest.mark.parametrize("path", [SMALL, LARGE], ids=["single", "multipart"])
def test_a_file_that_changes_before_it_is_read_is_not_made_visible(desk: Desk, path: str, edit: Callable[[Path], None]):
    (one,) = desk.outgoing({path: content_of(1000 if path == SMALL else THREE_PARTS)})
    edit(desk.directory / path)

    with pytest.raises(SourceChanged) as caught:
        desk.uploader().send(one)

    assert (caught.value.recording, caught.value.place) == (desk.rec_id, path)
    desk.require_nothing_left()


@pytest.mark.parametrize("edit", [_append, _cut, _empty, _rewrite])
@pytest.mark.parametrize("sent", [1, PART_SIZE, THREE_PARTS], ids=["first part", "second part", "last part"])
def test_a_file_that_changes_while_it_is_sent_is_not_made_visible(desk: Desk, sent: int, edit: Callable[[Path], None]):
    (one,) = desk.outgoing({LARGE: content_of(THREE_PARTS)})
    left, edited = [sent], threading.Event()

    def on_bytes(path: str, count: int) -> None:
        left[0] -= count
        if left[0] <= 0 and not edited.is_set():
            edited.set()
            edit(desk.directory / path)

    with pytest.raises(SourceChanged) as caught:
        desk.uploader(on_bytes=on_bytes).send(one)

    assert (caught.value.recording, caught.value.place) == (desk.rec_id, LARGE)
    desk.require_nothing_left()


@BOTH_SIZES
def test_an_edit_that_hides_behind_its_old_times_is_found_by_the_digest(desk: Desk, path: str, size: int):
    (one,) = desk.outgoing({path: content_of(size)})
    target = desk.directory / path
    edited = threading.Event()

    def edit() -> None:
        if not edited.is_set():
            edited.set()
            times = target.stat()
            _rewrite(target)
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(ContentMismatch):
        desk.uploader(check_stop=edit).send(one)

    desk.require_nothing_left()


def test_a_file_that_is_gone_or_was_replaced_is_a_changed_source(desk: Desk):
    gone, replaced = desk.outgoing({SMALL: b"audio", LARGE: b"video"})
    if gone.file.path != SMALL:
        gone, replaced = replaced, gone
    (desk.directory / SMALL).unlink()
    (desk.directory / "copy").write_bytes(b"video")
    (desk.directory / "copy").replace(desk.directory / LARGE)

    for one in (gone, replaced):
        with pytest.raises(SourceChanged, match=one.file.path):
            desk.uploader().send(one)

    desk.require_nothing_left()


def test_the_first_error_is_the_one_that_is_told_and_stops_the_rest(desk: Desk):
    files = {SMALL: b"audio", LARGE: content_of(THREE_PARTS)}
    outgoing = desk.outgoing(files)
    uploader = desk.uploader()
    under_way = threading.Event()
    uploader.check_stop = under_way.set

    def send(one: Outgoing):
        if one.file.path == LARGE:
            return uploader.send(one).info
        assert under_way.wait(60)
        raise ContentMismatch("the copy is damaged", recording=desk.rec_id, place=one.file.path)

    with pytest.raises(ContentMismatch, match=SMALL):
        uploader.send_all(outgoing, send)

    assert desk.open_uploads() == []


def test_an_error_is_not_hidden_by_an_upload_that_cannot_be_aborted(desk: Desk, proxied: Bucket, proxy: Proxy):
    """R2 ends an upload whose conditional Complete fails, so that there is nothing left to abort."""
    proxy.fault = Refuse("^DELETE .*uploadId", 404, "NoSuchUpload")
    (one,) = desk.outgoing({LARGE: content_of(THREE_PARTS)}, sha256="0" * 64)

    with pytest.raises(ContentMismatch):
        replace(desk, bucket=proxied).uploader().send(one)


@pytest.mark.parametrize(
    ("path", "size", "request_"),
    [(SMALL, 1000, "^PUT .*/mic/"), (SMALL, MIB, "^PUT .*/mic/"), (LARGE, THREE_PARTS, "^PUT .*partNumber=2")],
    ids=["tiny", "single", "part"],
)
def test_fault_53_a_connection_that_breaks_within_a_body_is_tried_again(
    desk: Desk, proxied: Bucket, proxy: Proxy, path: str, size: int, request_: str
):
    (one,) = desk.outgoing({path: content_of(size)})
    fault = proxy.fault = BreakOff(request_)

    replace(desk, bucket=proxied).uploader().send(one)

    assert fault.broken
    assert desk.bucket.get(one.key)[0] == content_of(size)


def test_an_error_of_the_callers_own_passes_through_the_http_client_as_it_is(desk: Desk):
    (one,) = desk.outgoing({LARGE: content_of(THREE_PARTS)})

    def on_bytes(path: str, count: int) -> None:
        raise BrokenPipeError("the caller's pipe")

    with pytest.raises(BrokenPipeError, match="the caller's pipe"):
        desk.uploader(on_bytes=on_bytes).send(one)

    desk.require_nothing_left()


def test_the_memory_of_uploads_is_shared_and_used_again():
    buffers = Buffers(limit=10 * MIB)
    first, second = (buffers.take(5 * MIB, lambda: None, to_keep=True) for _ in range(2))
    buffers.give_back(first)

    assert buffers.take(5 * MIB, lambda: None, to_keep=True) is first

    def stop() -> None:
        raise UploadInterrupted("there is no room")

    with pytest.raises(UploadInterrupted):
        buffers.take(1, stop)
    buffers.write_off(second)
    assert len(buffers.take(3 * MIB, stop)) == 3 * MIB
    buffers.give_back(second)
    assert buffers.take(2 * MIB, stop) is not second


def test_an_empty_recording_needs_no_request():
    assert Uploader(None, None, REC).send_all([], lambda one: None) == {}  # type: ignore[arg-type]
