"""Downloads: planned first, told in six phases, verified, and never over a file with other content."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.proxy import Answer, Fault, Hold, Proxy, RequestRefused
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DownloadProgress
from ursa_pipelines.errors import (
    ContentMismatch,
    DestinationConflict,
    DestinationFull,
    DestinationUnusable,
    ObjectsMissing,
    SourceRefused,
    UrsaError,
)
from ursa_pipelines.objects import destination, part_files
from ursa_pipelines.objects.destination import Layout, Planned, WantedFile, lay_out, target_of
from ursa_pipelines.objects.download import download_files
from ursa_pipelines.objects.keys import marker_key, raw_key
from ursa_pipelines.objects.store import Bucket

REC = "rec_20260520_195628_b1dd"
RANGE = 8 * 1024**2
LARGE = hashlib.shake_256(b"large").digest(RANGE + 2 * 1024**2)
FILES = {
    "camera_a/seg_0000.mp4": b"video a",
    "camera_b/seg_0000.mp4": b"video b",
    "mic/deep/seg_0000.wav": b"audio 0",
    "mic/seg_0001.wav": b"audio 1",
}


def test_six_phases_are_told_in_order_with_what_is_done(lab: Lab, tmp_path: Path):
    events: list[DownloadProgress] = []
    _ingest(lab)

    lab.data.download(lab.data.query(), tmp_path / "out", progress=events.append)

    assert [(event.phase, event.modality, event.current_file) for event in events] == [
        ("start", None, None),
        ("plan_done", None, None),
        ("modality_start", "camera_a", None),
        ("file_done", "camera_a", "camera_a/seg_0000.mp4"),
        ("modality_done", "camera_a", None),
        ("modality_start", "camera_b", None),
        ("file_done", "camera_b", "camera_b/seg_0000.mp4"),
        ("modality_done", "camera_b", None),
        ("modality_start", "mic", None),
        ("file_done", "mic", "mic/deep/seg_0000.wav"),
        ("file_done", "mic", "mic/seg_0001.wav"),
        ("modality_done", "mic", None),
        ("finish", None, None),
    ]
    assert (events[0].files_total, events[0].bytes_total) == (0, 0)
    assert {(event.files_total, event.bytes_total) for event in events[1:]} == {(4, 28)}
    assert [event.files_done for event in events if event.phase == "file_done"] == [1, 2, 3, 4]
    assert (events[-1].files_done, events[-1].bytes_done) == (4, 28)


@pytest.mark.parametrize(
    ("layout", "places"),
    [
        ("by_recording", [f"{REC}/{path}" for path in FILES]),
        (
            "by_modality",
            [
                f"camera_a/{REC}/camera_a/seg_0000.mp4",
                f"camera_b/{REC}/camera_b/seg_0000.mp4",
                f"mic/{REC}/mic/deep/seg_0000.wav",
                f"mic/{REC}/mic/seg_0001.wav",
            ],
        ),
        ("flat", [f"{REC}__{path.replace('/', '__')}" for path in FILES]),
    ],
)
def test_each_layout_has_its_places_and_all_bytes(lab: Lab, tmp_path: Path, layout: Layout, places: list[str]):
    _ingest(lab)

    written = lab.data.download(lab.data.query()[0], tmp_path / "out", layout=layout)

    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == places
    assert [path.read_bytes() for path in written] == list(FILES.values())
    assert _files_below(tmp_path / "out") == sorted(places)


def test_an_unknown_layout_is_refused_before_anything_is_written(lab: Lab, tmp_path: Path):
    _ingest(lab)

    with pytest.raises(ValueError, match="by_recording, by_modality or flat"):
        lab.data.download(lab.data.query(), tmp_path / "out", layout="nested")  # type: ignore[arg-type]

    assert not (tmp_path / "out").exists()


def test_only_the_modalities_that_were_asked_for_come(lab: Lab, tmp_path: Path):
    _ingest(lab)

    written = lab.data.download(lab.data.query(modalities=["camera"], status="raw"), tmp_path)

    assert [path.name for path in written] == ["seg_0000.mp4", "seg_0000.mp4"]


def test_corrupted_bytes_are_found_and_no_file_is_left(lab: Lab, tmp_path: Path):
    _ingest(lab)
    _corrupt(lab, "camera_b/seg_0000.mp4")

    with pytest.raises(ContentMismatch) as caught:
        lab.data.download(lab.data.query(), tmp_path / "out")

    assert (caught.value.recording, caught.value.place) == (REC, "camera_b/seg_0000.mp4")
    assert _files_below(tmp_path / "out" / REC / "camera_b") == []


def test_a_second_download_keeps_what_is_right_and_brings_the_rest(lab: Lab, tmp_path: Path):
    _ingest(lab)
    first = lab.data.download(lab.data.query(), tmp_path)
    first[0].unlink()
    kept = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in first[1:]]

    again = lab.data.download(lab.data.query(), tmp_path)

    assert again == first
    assert [path.read_bytes() for path in again] == list(FILES.values())
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in first[1:]] == kept


@pytest.mark.parametrize("content", [b"video ?", b"longer than it should be"], ids=["same-size", "other-size"])
def test_a_file_with_other_content_is_refused_and_kept(lab: Lab, tmp_path: Path, content: bytes):
    _ingest(lab)
    mine = tmp_path / REC / "camera_a/seg_0000.mp4"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(content)

    with pytest.raises(FileExistsError, match="other content"):
        lab.data.download(lab.data.query(), tmp_path)

    assert mine.read_bytes() == content


def test_a_segment_that_the_bucket_lost_is_told_before_anything_is_written(lab: Lab, tmp_path: Path):
    _ingest(lab)
    lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=raw_key(REC, "mic/seg_0001.wav"))

    with pytest.raises(ObjectsMissing, match=r"mic/seg_0001\.wav"):
        lab.data.download(lab.data.query(), tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_file_that_no_manifest_attests_can_be_downloaded_again(bucket: Bucket, rec_id: str, tmp_path: Path):
    bucket.create(raw_key(rec_id, "mic/a"), b"audio")
    plan = [WantedFile(rec_id, "mic", "mic/a", 5, None)]

    first = download_files(bucket, lambda: plan, tmp_path, layout="flat", progress=None)
    again = download_files(bucket, lambda: plan, tmp_path, layout="flat", progress=None)

    assert first == again
    assert first[0].read_bytes() == b"audio"


def test_where_the_manifest_states_no_digest_the_commit_marker_does_and_then_the_metadata(lab: Lab, tmp_path: Path):
    (path, content), key = ("mic/a.wav", b"audio 0"), raw_key(REC, "mic/a.wav")
    stated = hashlib.sha256(content).hexdigest()
    manifest = {"files": [{"path": path, "size_bytes": len(content)}]}
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, {path: content}, manifest=manifest))
    client, results = lab.raw.multipart_client, lab.data.query()
    events: list[DownloadProgress] = []

    client.put_object(Bucket=lab.raw.name, Key=key, Body=bytearray(b"noise 0"))
    for read in (lambda: lab.data.download(results, tmp_path / "marker"), lambda: lab.data.get(results)):
        with pytest.raises(ContentMismatch, match=r"mic/a\.wav"):
            read()
    client.delete_object(Bucket=lab.raw.name, Key=marker_key(REC))
    lab.data.download(results, tmp_path / "nothing", progress=events.append)
    (data,) = lab.data.get(results)
    client.put_object(Bucket=lab.raw.name, Key=key, Body=bytearray(b"noise 1"), Metadata={"sha256": stated})
    with pytest.raises(ContentMismatch, match=r"mic/a\.wav"):
        lab.data.download(results, tmp_path / "metadata")

    assert (events[-1].files_done, events[-1].files_unproved) == (1, 1)
    assert data.modalities["mic"].unproved == (key,)
    client.put_object(Bucket=lab.raw.name, Key=key, Body=bytearray(content), Metadata={"sha256": stated})
    lab.data.download(results, tmp_path / "metadata", progress=events.append)
    assert (events[-1].files_done, events[-1].files_unproved) == (1, 0)


def test_segments_of_a_row_that_names_no_rec_id_are_missing_and_not_brought(lab: Lab, tmp_path: Path):
    given = {"recording_hash": "a" * 64}
    lab.data.register_recording(**given, start_time=datetime(2026, 1, 1, tzinfo=UTC), duration=timedelta(seconds=5))
    lab.data.register_modality(
        **given, modality="mic", format="raw_audio", raw_storage_uri="r2://raw/mic/", segment_count=3
    )

    for read in (lambda: lab.data.download(lab.data.query(), tmp_path), lambda: lab.data.get(lab.data.query())):
        with pytest.raises(ObjectsMissing, match=r"3 segments are catalogued.*manifest_recording_id"):
            read()


def test_an_object_that_goes_while_it_is_fetched_is_named_with_its_recording(
    bucket: Bucket, rec_id: str, tmp_path: Path
):
    wanted = _store(bucket, rec_id, "mic/a", b"audio")

    def remove(event: DownloadProgress) -> None:
        bucket.multipart_client.delete_object(Bucket=bucket.name, Key=wanted.key)

    with pytest.raises(ObjectsMissing) as caught:
        _download(bucket, [wanted], tmp_path, progress=remove)

    assert (caught.value.recording, caught.value.place) == (rec_id, "mic/a")


def test_two_files_that_would_share_a_flat_name_are_refused_before_anything_is_written(
    bucket: Bucket, rec_id: str, tmp_path: Path
):
    plan = [WantedFile(rec_id, "mic", path, 1, None) for path in ("mic/a__b", "mic/a/b")]
    assert target_of(plan[0], tmp_path, "flat") == target_of(plan[1], tmp_path, "flat")

    with pytest.raises(ValueError, match="flat"):
        download_files(bucket, lambda: plan, tmp_path / "out", layout="flat", progress=None)

    assert not (tmp_path / "out").exists()


def test_after_a_kill_only_the_rest_is_asked_for(bucket: Bucket, proxied: Bucket, proxy: Proxy, rec_id: str, tmp_path):
    wanted = _store(bucket, rec_id, "camera_a/a.mp4", LARGE)
    hold = Hold(r"GET .*/camera_a/a\.mp4", 2)
    proxy.fault = hold
    process = subprocess.Popen([sys.executable, "-c", _DOWNLOAD, repr(_opened(proxied)), repr(wanted), str(tmp_path)])
    assert hold.reached.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hold.ended.set()
    proxy.fault = Fault()
    (part,) = _files_below(tmp_path)
    came = (tmp_path / part).stat().st_size

    told, asked = _ranges(proxy, lambda: _download(proxied, [wanted], tmp_path))

    assert came == RANGE
    assert asked == [(RANGE, len(LARGE) - 1)]
    assert told[0].read_bytes() == LARGE
    assert _files_below(tmp_path) == [f"{rec_id}/camera_a/a.mp4"]


def test_a_broken_stream_goes_on_where_it_broke(bucket: Bucket, proxied: Bucket, proxy: Proxy, rec_id: str, tmp_path):
    wanted = _store(bucket, rec_id, "camera_a/a.mp4", LARGE[:RANGE])
    proxy.fault = _CutShort(RANGE // 2)

    (written,), asked = _ranges(proxy, lambda: _download(proxied, [wanted], tmp_path))

    (first, again) = asked
    assert (first, again[1]) == ((0, RANGE - 1), RANGE - 1)
    assert RANGE // 2 - 1024**2 < again[0] <= RANGE // 2
    assert {seen.condition for seen in proxy.seen} == {wanted.etag}
    assert written.read_bytes() == LARGE[:RANGE]


@pytest.mark.parametrize("there", [b"!" * RANGE, LARGE + b"too long"], ids=["other-bytes", "too-long"])
def test_a_damaged_part_is_fetched_anew(bucket: Bucket, rec_id: str, tmp_path: Path, there: bytes):
    wanted = _store(bucket, rec_id, "camera_a/a.mp4", LARGE)
    _leave_part(wanted, tmp_path, there)
    told: list[int] = []

    (written,) = _download(bucket, [wanted], tmp_path, on_bytes=told.append)

    assert written.read_bytes() == LARGE
    assert told[-1] == len(LARGE)
    assert _files_below(tmp_path) == [f"{rec_id}/camera_a/a.mp4"]


def test_bytes_that_nothing_attests_are_not_continued(
    bucket: Bucket, proxied: Bucket, proxy: Proxy, rec_id: str, tmp_path
):
    wanted = WantedFile(rec_id, "mic", "mic/a", 5, None, bucket.create(raw_key(rec_id, "mic/a"), b"audio").etag)
    _leave_part(wanted, tmp_path, b"???")

    (written,), asked = _ranges(proxy, lambda: _download(proxied, [wanted], tmp_path))

    assert asked == [(0, 4)]
    assert written.read_bytes() == b"audio"


def test_an_object_that_was_replaced_is_begun_anew(bucket: Bucket, rec_id: str, tmp_path: Path):
    before = _store(bucket, rec_id, "mic/a", b"before")
    _leave_part(before, tmp_path, b"bef")
    info = bucket.replace(before.key, b"after!", before.etag)
    after = WantedFile(rec_id, "mic", "mic/a", 6, hashlib.sha256(b"after!").hexdigest(), info.etag)

    listed_before = _download(bucket, [WantedFile(**vars(after) | {"etag": before.etag})], tmp_path / "late")
    _leave_part(before, tmp_path, b"bef")
    listed_after = _download(bucket, [after], tmp_path)

    assert listed_before[0].read_bytes() == listed_after[0].read_bytes() == b"after!"
    assert _files_below(tmp_path) == sorted([f"{rec_id}/mic/a", f"late/{rec_id}/mic/a"])
    with pytest.raises(ContentMismatch):
        _download(bucket, [before], tmp_path / "never")


def test_a_conflict_is_told_before_anything_is_fetched(bucket: Bucket, rec_id: str, tmp_path: Path):
    plan = [_store(bucket, rec_id, path, path.encode()) for path in ("mic/a", "mic/b")]
    mine = tmp_path / rec_id / "mic/b"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine!")

    with pytest.raises(DestinationConflict, match="Move it away") as caught:
        _download(bucket, plan, tmp_path)

    assert caught.value.place == str(mine)
    assert _files_below(tmp_path) == [f"{rec_id}/mic/b"]


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    bucket: Bucket, rec_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wanted = _store(bucket, rec_id, "mic/a", b"x" * 5000)
    _leave_part(wanted, tmp_path, b"x" * 1000)
    _free(monkeypatch, 3000)

    with pytest.raises(DestinationFull, match=r"4\.0 kB are still to come and 3\.0 kB are free: 1\.0 kB are missing"):
        _download(bucket, [wanted], tmp_path)

    _free(monkeypatch, 4000)
    assert _download(bucket, [wanted], tmp_path)


def test_a_disk_that_fills_up_is_one_clear_error_and_what_came_is_kept(
    bucket: Bucket, rec_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wanted = _store(bucket, rec_id, "mic/a", LARGE)
    with monkeypatch.context() as patch:
        patch.setattr(part_files, "_write", _disk_with_room_for(1024**2))
        with pytest.raises(DestinationFull, match="the disk is full"):
            _download(bucket, [wanted], tmp_path)
    (part,) = _files_below(tmp_path)

    assert (tmp_path / part).stat().st_size >= 1024**2
    assert _download(bucket, [wanted], tmp_path)[0].read_bytes() == LARGE


def test_two_at_once_bring_each_byte_once(bucket: Bucket, proxied: Bucket, proxy: Proxy, rec_id: str, tmp_path: Path):
    wanted = _store(bucket, rec_id, "camera_a/a.mp4", LARGE)

    with ThreadPoolExecutor(2) as pool:
        both, asked = _ranges(proxy, lambda: list(pool.map(lambda _: _download(proxied, [wanted], tmp_path), range(2))))

    assert both[0] == both[1]
    assert both[0][0].read_bytes() == LARGE
    assert sorted(asked) == [(0, RANGE - 1), (RANGE, len(LARGE) - 1)]
    assert _files_below(tmp_path) == [f"{rec_id}/camera_a/a.mp4"]


def test_files_come_at_once_and_are_told_in_order_by_one_thread(
    bucket: Bucket, proxied: Bucket, proxy: Proxy, rec_id: str, tmp_path: Path
):
    plan = [_store(bucket, rec_id, path, path.encode()) for path in ("eeg/a", "mic/a", "mic/b")]
    proxy.fault = _FirstComesLast(r"/eeg/a", r"/mic/b")
    told: list[tuple[str, str | None, int]] = []

    def tell(event: DownloadProgress) -> None:
        told.append((event.phase, event.current_file or event.modality, threading.get_ident()))

    written = _download(proxied, plan, tmp_path, progress=tell)

    assert [path.name for path in written] == ["a", "a", "b"]
    assert {thread for *_, thread in told} == {threading.get_ident()}
    assert [event[:2] for event in told] == [
        ("start", None),
        ("plan_done", None),
        ("modality_start", "eeg"),
        ("file_done", "eeg/a"),
        ("modality_done", "eeg"),
        ("modality_start", "mic"),
        ("file_done", "mic/a"),
        ("file_done", "mic/b"),
        ("modality_done", "mic"),
        ("finish", None),
    ]


def test_an_interrupt_leaves_whole_files_and_parts_and_nothing_else(
    bucket: Bucket, proxied: Bucket, proxy: Proxy, rec_id: str, tmp_path: Path
):
    small, large = _store(bucket, rec_id, "mic/a", b"small"), _store(bucket, rec_id, "mic/b", LARGE)
    hold = Hold(r"GET .*/mic/b", 2)
    proxy.fault = hold

    def interrupt(event: DownloadProgress) -> None:
        if event.phase == "file_done":
            assert hold.reached.wait(60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _download(proxied, [small, large], tmp_path, progress=interrupt)
    whole, part = sorted(_files_below(tmp_path), key=len)
    hold.ended.set()
    proxy.fault = Fault()

    assert (whole, (tmp_path / part).name[0]) == (f"{rec_id}/mic/a", ".")
    assert len(_download(proxied, [small, large], tmp_path)) == 2
    assert _files_below(tmp_path) == [f"{rec_id}/mic/a", f"{rec_id}/mic/b"]


def test_a_recording_that_fails_does_not_stop_the_others_if_somebody_is_told(bucket: Bucket, rec_id: str, tmp_path):
    good, bad = _store(bucket, rec_id, "mic/a", b"good"), _store(bucket, f"{rec_id}00", "mic/a", b"bad!")
    wrong = WantedFile(**vars(bad) | {"sha256": "0" * 64})
    told: list[tuple[str, UrsaError]] = []

    written = _download(bucket, [wrong, good], tmp_path, on_failed=lambda *failed: told.append(failed))

    assert [path.read_bytes() for path in written] == [b"good"]
    assert [(failed, type(error)) for failed, error in told] == [(f"{rec_id}00", ContentMismatch)]


def test_a_file_that_the_disk_does_not_take_fails_with_its_recording_alone(bucket: Bucket, rec_id: str, tmp_path: Path):
    good, bad = _store(bucket, rec_id, "mic/a", b"good"), _store(bucket, f"{rec_id}00", "mic/a", LARGE)
    told: list[tuple[str, UrsaError]] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024**2, limits[1]))
    try:
        written = _download(bucket, [bad, good], tmp_path, on_failed=lambda *failed: told.append(failed))
        with pytest.raises(DestinationUnusable, match=r"File too large.*Choose a directory"):
            _download(bucket, [bad, good], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert [path.read_bytes() for path in written] == [b"good"]
    ((failed, error),) = told
    assert (failed, error.recording, error.place) == (f"{rec_id}00", f"{rec_id}00", str(tmp_path / f"{rec_id}00/mic/a"))
    assert isinstance(error, DestinationUnusable)


def test_a_name_that_is_too_long_for_the_disk_is_refused_when_it_is_laid_out(tmp_path: Path):
    wanted = WantedFile(REC, "mic", f"mic/{'n' * 150}/{'m' * 100}", 1, None)

    with pytest.raises(DestinationUnusable, match=f"{REC}.*283 bytes.*by_recording"):
        lay_out([wanted], tmp_path, "flat")
    assert lay_out([wanted], tmp_path, "by_recording")


def test_what_was_brought_before_the_disk_was_full_is_told(
    bucket: Bucket, rec_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = [_store(bucket, rec_id, path, path.encode()) for path in ("mic/a", "mic/b")]
    events: list[DownloadProgress] = []
    first = target_of(plan[0], tmp_path, "by_recording")

    def write(stream: Any, chunk: memoryview) -> None:
        if chunk == b"mic/b":
            deadline = time.monotonic() + 60
            while not first.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            raise OSError(errno.ENOSPC, "No space left on device")
        stream.write(chunk)

    monkeypatch.setattr(part_files, "_write", write)
    with pytest.raises(DestinationFull):
        _download(bucket, plan, tmp_path, progress=events.append)

    assert [event.current_file for event in events if event.phase == "file_done"] == ["mic/a"]


@pytest.mark.parametrize(
    ("rec_id", "modality", "path"),
    [
        (REC, "mic", "../a"),
        (REC, "mic", "mic/../../../a"),
        (REC, "mic", "/a"),
        ("..", "mic", "mic/a"),
        (REC, "..", "mic/a"),
        (REC, "mic", "mic/.ursa-0123456789abcdef-0123456789abcdef.part"),
    ],
)
def test_no_name_leads_out_of_the_directory(rec_id: str, modality: str, path: str, tmp_path: Path):
    with pytest.raises(SourceRefused, match="Nothing of it was fetched"):
        target_of(WantedFile(rec_id, modality, path, 1, None), tmp_path, "by_modality")


def test_no_link_below_the_directory_is_followed(bucket: Bucket, rec_id: str, tmp_path: Path):
    wanted = _store(bucket, rec_id, "mic/a", b"audio")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out" / rec_id).mkdir(parents=True)
    (tmp_path / "out" / rec_id / "mic").symlink_to(elsewhere)
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / f"{rec_id}__mic__a").symlink_to(elsewhere / "a")

    with pytest.raises(DestinationConflict, match="is a link"):
        _download(bucket, [wanted], tmp_path / "out")
    with pytest.raises(DestinationConflict):
        _download(bucket, [wanted], tmp_path / "flat", layout="flat")

    assert list(elsewhere.iterdir()) == []


def test_a_link_that_appears_after_planning_is_not_followed(bucket: Bucket, rec_id: str, tmp_path: Path):
    (planned,) = lay_out([_store(bucket, rec_id, "mic/a", b"audio")], tmp_path, "by_recording")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / rec_id).symlink_to(elsewhere)

    with pytest.raises(DestinationConflict, match="is a link"):
        part_files.bring(bucket, planned, tmp_path, stop=threading.Event(), on_bytes=lambda count: None)

    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "make",
    [lambda part, victim: os.link(victim, part), lambda part, _: os.mkfifo(part), lambda part, _: part.mkdir()],
    ids=["hard-link", "fifo", "directory"],
)
def test_a_part_that_is_no_file_of_ours_alone_is_a_conflict(
    bucket: Bucket, rec_id: str, tmp_path: Path, make: Callable[[Path, Path], None]
):
    wanted, victim = _store(bucket, rec_id, "mic/a", b"audio"), tmp_path / "victim"
    victim.write_bytes(b"precious")
    part = Planned(wanted, target_of(wanted, tmp_path, "by_recording")).part
    part.parent.mkdir(parents=True)
    make(part, victim)

    with pytest.raises(DestinationConflict) as caught:
        _download(bucket, [wanted], tmp_path)

    assert (caught.value.recording, caught.value.place) == (rec_id, str(part))
    assert victim.read_bytes() == b"precious"


_DOWNLOAD = """
import sys
from pathlib import Path
from ursa_pipelines.objects.destination import WantedFile
from ursa_pipelines.objects.download import download_files
from ursa_pipelines.objects.store import Bucket, Endpoint
name, url, access, secret = eval(sys.argv[1])
bucket = Bucket(name, Endpoint(url, "auto", lambda: (access, secret, None)))
plan = [eval(sys.argv[2])]
download_files(bucket, lambda: plan, Path(sys.argv[3]), layout="by_recording", progress=None)
"""


class _CutShort(Fault):
    """Ends the connection after so many bytes of the first answer that is longer, and refuses the request after it.

    Without that refusal the client would go on by itself.
    """

    def __init__(self, at_most: int) -> None:
        self._at_most, self._refuses = at_most, False

    def before(self, request: str) -> None:
        if self._refuses:
            self._refuses = False
            raise RequestRefused(400, "Unforeseen")

    def answered(self, request: str, answer: Answer) -> Answer:
        status, headers, content = answer
        if len(content) <= self._at_most:
            return answer
        cut, self._at_most, self._refuses = content[: self._at_most], sys.maxsize, True
        return status, [*headers, ("Connection", "close")], cut


class _FirstComesLast(Fault):
    """Holds what matches the one until the other has been answered."""

    def __init__(self, held: str, other: str) -> None:
        self._held, self._other, self._answered = held, other, threading.Event()

    def after(self, request: str) -> None:
        if re.search(self._other, request):
            self._answered.set()
        elif re.search(self._held, request):
            assert self._answered.wait(60)


def _download(bucket: Bucket, plan: list[WantedFile], dest: Path, **options: Any) -> list[Path]:
    return download_files(bucket, lambda: plan, dest, **{"layout": "by_recording", "progress": None, **options})


def _store(bucket: Bucket, rec_id: str, path: str, content: bytes) -> WantedFile:
    etag = bucket.create(raw_key(rec_id, path), content).etag
    return WantedFile(rec_id, path.partition("/")[0], path, len(content), hashlib.sha256(content).hexdigest(), etag)


def _leave_part(wanted: WantedFile, dest: Path, content: bytes) -> None:
    part = Planned(wanted, target_of(wanted, dest, "by_recording")).part
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(content)


def _opened(bucket: Bucket) -> tuple[str, str, str, str]:
    access_key_id, secret_access_key, _ = bucket._endpoint.secret()
    return bucket.name, bucket._endpoint.url, access_key_id, secret_access_key


def _ranges(proxy: Proxy, call: Any) -> tuple[Any, list[tuple[int, int]]]:
    """What the call gives, and the ranges that it asked the store for."""
    proxy.seen.clear()
    given = call()
    asked = [seen.headers["range"] for seen in proxy.seen if seen.request.startswith("GET") and "range" in seen.headers]
    return given, [tuple(map(int, one.removeprefix("bytes=").split("-"))) for one in asked]  # type: ignore[misc]


def _free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda place: usage)


def _disk_with_room_for(size: int) -> Any:
    def write(stream: Any, chunk: memoryview) -> None:
        if os.fstat(stream.fileno()).st_size >= size:
            raise OSError(errno.ENOSPC, "No space left on device")
        stream.write(chunk)

    return write


def _ingest(lab: Lab) -> None:
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))


def _corrupt(lab: Lab, path: str) -> None:
    info = lab.raw.head(raw_key(REC, path))
    assert info is not None
    lab.raw.replace(info.key, FILES[path][::-1], info.etag, sha256=info.sha256)


def _files_below(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
