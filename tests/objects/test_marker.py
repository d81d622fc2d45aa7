"""The commit marker: written last, changed by compare-and-swap, only gains files, and never replaces a rig's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.faults.proxy import Fault, LoseAnswer, Proxy
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.objects.keys import marker_key, own_marker_key
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.stored import MARKER_FORMAT, read_marker, write_marker

REC = "rec_20260520_195628_b1dd"
HASH = "0" * 64


class Meanwhile(Fault):
    """Does something else before the first request that matches goes on."""

    def __init__(self, pattern: str, action: Callable[[], object]) -> None:
        self._pattern, self._actions = re.compile(pattern), iter([action])

    def before(self, request: str) -> None:
        if self._pattern.search(request):
            next(self._actions, lambda: None)()


def test_an_ingest_leaves_a_marker_that_holds_every_segment_as_list_shows_it(lab: Lab):
    files = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}

    result = lab.data.ingest(source_dir=write_recording(lab.nas, REC, files, participant="Aria Lin"))

    marker = read_marker(lab.raw, REC)
    assert marker is not None and result.recording is not None
    assert marker.document["recording_hash"] == result.recording.recording_hash
    assert {path: entry["etag"] for path, entry in marker.document["files"].items()} == {
        path: lab.objects(REC)[path] for path in files
    }


def test_a_recording_whose_files_are_not_all_there_has_no_marker_yet(lab: Lab):
    files = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}
    directory = write_recording(lab.nas, REC, files)
    (directory / "mic/seg_0000.wav").unlink()

    lab.data.ingest(source_dir=directory, allow_partial=True)
    assert read_marker(lab.raw, REC) is None

    lab.data.ingest(source_dir=write_recording(lab.nas, REC, files))
    marker = read_marker(lab.raw, REC)
    assert marker is not None
    assert marker.document["files"].keys() == files.keys()


def test_the_marker_only_gains_files(bucket: Bucket, rec_id: str):
    assert _write(bucket, rec_id, {"mic/a": _entry("a")})
    assert _write(bucket, rec_id, {"mic/b": _entry("b")})
    assert _write(bucket, rec_id, {"mic/c": _entry("c"), "mic/a": _entry("other")})

    assert _files(bucket, rec_id) == {"mic/a": _entry("a"), "mic/b": _entry("b"), "mic/c": _entry("c")}


@pytest.mark.parametrize("again", [{"mic/a": "a"}, {"mic/a": "other"}, {}], ids=["same", "other-evidence", "nothing"])
def test_a_marker_that_gains_nothing_is_not_written(bucket: Bucket, rec_id: str, again: dict[str, str]):
    _write(bucket, rec_id, {"mic/a": _entry("a")})
    before = bucket.get(marker_key(rec_id))

    assert not _write(bucket, rec_id, {path: _entry(etag) for path, etag in again.items()})

    assert bucket.get(marker_key(rec_id)) == before


def test_writers_at_the_same_time_lose_nothing(bucket: Bucket, rec_id: str):
    def write(number: int) -> bool:
        return _write(bucket, rec_id, {f"mic/{number}": _entry(str(number))})

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(write, range(4)))

    assert _files(bucket, rec_id) == {f"mic/{number}": _entry(str(number)) for number in range(4)}


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_a_marker_that_another_ingest_made_meanwhile_is_not_taken_for_a_rigs(
    bucket: Bucket, rec_id: str, proxied: Bucket, proxy: Proxy, method: str
):
    proxy.fault = Meanwhile(f"^{method} .*/manifests/", lambda: _write(bucket, rec_id, {"mic/a": _entry("a")}))

    _write(proxied, rec_id, {"mic/b": _entry("b")})
    _write(bucket, rec_id, {"mic/a": _entry("a")})

    assert _files(bucket, rec_id) == {"mic/a": _entry("a"), "mic/b": _entry("b")}
    assert [info.key for info in bucket.list_objects(f"manifests/{rec_id}/")] == [marker_key(rec_id)]


COMPLETE = {"recording_id": "rec", "recording_hash": HASH, "files": {"mic/a": {"etag": "a", "sha256": HASH}}}


@pytest.mark.parametrize(
    "of_the_rig",
    [
        json.dumps(COMPLETE).encode(),
        json.dumps(COMPLETE | {"format": "rig/1"}).encode(),
        b"[]",
        b"",
        b"\xff\xfe not JSON",
    ],
    ids=["no-format", "other-format", "list", "empty", "binary"],
)
def test_a_rigs_marker_is_no_evidence_and_never_replaced(bucket: Bucket, rec_id: str, of_the_rig: bytes):
    rigs = bucket.create(marker_key(rec_id), of_the_rig)
    assert read_marker(bucket, rec_id) is None

    _write(bucket, rec_id, {"mic/a": _entry("a")})
    _write(bucket, rec_id, {"mic/b": _entry("b")})

    assert bucket.get(marker_key(rec_id)) == (of_the_rig, rigs)
    marker = read_marker(bucket, rec_id)
    assert marker is not None
    assert (marker.key, marker.document["files"].keys()) == (own_marker_key(rec_id), {"mic/a", "mic/b"})


def test_a_damaged_marker_in_our_format_is_no_evidence_either(bucket: Bucket, rec_id: str):
    bucket.create(marker_key(rec_id), json.dumps({"format": MARKER_FORMAT, "files": ["mic/a"]}).encode())

    assert read_marker(bucket, rec_id) is None
    assert _write(bucket, rec_id, {"mic/a": _entry("a")})
    assert _files(bucket, rec_id) == {"mic/a": _entry("a")}


@pytest.mark.parametrize("exists", [False, True], ids=["create", "replace"])
def test_a_lost_answer_does_not_lose_or_double_the_marker(
    bucket: Bucket, rec_id: str, proxied: Bucket, proxy: Proxy, exists: bool
):
    if exists:
        _write(bucket, rec_id, {"mic/a": _entry("a")})
    proxy.fault = fault = LoseAnswer("^PUT .*/manifests/")

    _write(proxied, rec_id, {"mic/b": _entry("b")})

    assert fault.lost
    assert _files(bucket, rec_id) == ({"mic/a": _entry("a")} if exists else {}) | {"mic/b": _entry("b")}
    assert [info.key for info in bucket.list_objects(f"manifests/{rec_id}/")] == [marker_key(rec_id)]


def _entry(etag: str) -> dict[str, Any]:
    return {"size_bytes": 1, "sha256": HASH, "etag": etag}


def _write(bucket: Bucket, rec_id: str, files: dict[str, dict[str, Any]]) -> bool:
    return write_marker(bucket, rec_id, recording_hash=HASH, files=files)


def _files(bucket: Bucket, rec_id: str) -> dict[str, Any]:
    marker = read_marker(bucket, rec_id)
    assert marker is not None
    return marker.document["files"]
