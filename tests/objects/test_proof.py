"""An object counts as already there only on evidence of its bytes, taken from the cheapest rung that gives any."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.faults.proxy import Proxy
from tests.objects.distortion import Answer, Distort, Meanwhile, cut, distorted, short, with_etag, without_headers
from tests.objects.peers import LARGE, MIB, Target, aws_cp, boto3_client, put
from tests.recordings_on_disk import write_recording
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.errors import (
    ContentMismatch,
    ObjectConflict,
    ObjectNotFound,
    Retryable,
    SourceChanged,
    StoreUnavailable,
    UploadInterrupted,
)
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.proof import part_sizes, require_same_bytes, stored_digest, streamed_digest
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.objects.stored import Marker, read_marker, write_marker
from ursa_pipelines.recordings.inventory import Inventory, SourceFile, take_inventory

PATH = "mic/seg_0000.wav"
RIGHT, WRONG = b"right bytes", b"wrong bytes"
THREE_REQUESTS = 17 * MIB
"""As many bytes as a stream takes three requests for."""

Source = tuple[Inventory, SourceFile]


def test_another_size_needs_no_request_to_be_refused(target: Target, rec_id: str, proxied: Bucket, proxy: Proxy):
    info = _put_by_a_rig(target, RIGHT + b"!")

    with pytest.raises(ObjectConflict, match="12 bytes under this path, not 11"):
        _prove(proxied, rec_id, info, RIGHT)

    assert proxy.seen == []


def test_the_markers_evidence_needs_no_request(target: Target, rec_id: str, proxied: Bucket, proxy: Proxy):
    info = _put_by_a_rig(target, RIGHT)

    assert _prove(proxied, rec_id, info, RIGHT, marker=_marker(target, rec_id, info)) == info

    assert proxy.seen == []


@pytest.mark.parametrize("stale", ["etag", "sha256"])
def test_a_marker_that_speaks_of_another_version_proves_nothing(target: Target, rec_id: str, stale: str):
    info = _put_by_a_rig(target, WRONG)

    with pytest.raises(ObjectConflict):
        _prove(target.bucket, rec_id, info, RIGHT, marker=_marker(target, rec_id, info, **{stale: "another"}))


def test_a_marker_without_the_file_proves_nothing(target: Target, rec_id: str):
    info = _put_by_a_rig(target, WRONG)
    write_marker(target.bucket, rec_id, recording_hash="0" * 64, files={})

    with pytest.raises(ObjectConflict):
        _prove(target.bucket, rec_id, info, RIGHT, marker=read_marker(target.bucket, rec_id))


def test_wrong_bytes_under_a_lying_digest_are_found_by_the_stores_own(
    target: Target, rec_id: str, proxied: Bucket, proxy: Proxy
):
    target.bucket.create(target.key, WRONG, sha256=_sha256(RIGHT))

    with pytest.raises(ObjectConflict) as caught:
        _prove(proxied, rec_id, _listed(target), RIGHT)

    assert _sha256(RIGHT) in str(caught.value)
    assert _sha256(WRONG) in str(caught.value)
    assert _kinds(proxy) == ["HEAD"]
    assert stored_digest(target.bucket, target.key) == _sha256(WRONG)


@pytest.mark.parametrize("stated", ["0" * 64, _upper := hashlib.sha256(RIGHT).hexdigest().upper(), _upper[:-1], "x"])
def test_a_slip_in_the_metadata_is_no_conflict(target: Target, rec_id: str, stated: str):
    info = _put_by_a_rig(target, RIGHT, Metadata={"sha256": stated})

    assert _prove(target.bucket, rec_id, info, RIGHT) == info


@pytest.mark.parametrize("stated", ["A" * 64, "a" * 63, "x"])
def test_metadata_in_another_form_than_ours_is_no_digest(target: Target, stated: str):
    _put_by_a_rig(target, RIGHT, Metadata={"sha256": stated})

    assert stored_digest(target.bucket, target.key) == _sha256(RIGHT)


def test_a_digest_of_digests_is_no_digest_even_if_the_store_does_not_tell_it_apart(
    target: Target, rec_id: str, source: Callable[[bytes], Source]
):
    suffixes: set[str] = set()

    def unmarked(request: str, answer: Answer) -> Answer:
        status, headers, body = without_headers("x-amz-checksum-type")(request, answer)
        suffixes.update(value.partition("-")[2] for name, value in headers if name.lower() == "x-amz-checksum-sha256")
        return status, [(name, value.removesuffix("-2")) for name, value in headers], body

    content = _content(LARGE)
    info = _written(target, source(content), aws_cp(checksums=True, ChecksumAlgorithm="SHA256"))

    with distorted(target, unmarked) as (bucket, _):
        assert _prove(bucket, rec_id, info, content) == info
        assert stored_digest(bucket, info.key) == _sha256(content)

    assert suffixes == {"2"}


@pytest.mark.parametrize(
    "write", [put(checksums=True, ChecksumAlgorithm="CRC64NVME"), aws_cp(checksums=True, ChecksumAlgorithm="CRC64NVME")]
)
def test_crc64nvme_and_the_local_file_prove_where_the_etag_is_no_md5(
    target: Target, rec_id: str, source: Callable[[bytes], Source], write: Callable[[Target, Path], None]
):
    content = _content(LARGE)
    local = source(content)
    info = _written(target, local, write)

    with distorted(target, with_etag("opaque")) as (bucket, proxy):
        assert _prove(bucket, rec_id, info, content, source=local) == info

    assert _kinds(proxy) == ["HEAD"]


@pytest.mark.parametrize("etag", ["0" * 32, f"{'0' * 32}-3", "opaque", f"{'0' * 32}-99999", ""])
@pytest.mark.parametrize("stored", [RIGHT, WRONG])
def test_an_etag_that_is_no_md5_decides_nothing(
    target: Target, rec_id: str, source: Callable[[bytes], Source], etag: str, stored: bytes
):
    info = _put_by_a_rig(target, stored)

    with distorted(target, with_etag(etag)) as (bucket, proxy):
        if stored == RIGHT:
            assert _prove(bucket, rec_id, info, RIGHT, source=source(RIGHT)) == info
        else:
            with pytest.raises(ObjectConflict):
                _prove(bucket, rec_id, info, RIGHT, source=source(RIGHT))

    assert "GET" in _kinds(proxy)


def test_an_empty_file_is_proved(target: Target, rec_id: str, source: Callable[[bytes], Source]):
    info = _put_by_a_rig(target, b"")

    assert _prove(target.bucket, rec_id, info, b"", source=source(b"")) == info
    assert _prove(target.bucket, rec_id, info, b"") == info


def test_a_damaged_local_file_proves_nothing(target: Target, rec_id: str, source: Callable[[bytes], Source]):
    info = _put_by_a_rig(target, WRONG)

    with pytest.raises(ContentMismatch, match=f"its SHA-256 is {_sha256(WRONG)}, but {_sha256(RIGHT)} is") as caught:
        _prove(target.bucket, rec_id, info, RIGHT, source=source(WRONG))

    assert (caught.value.recording, caught.value.place) == (rec_id, PATH)


def test_a_local_file_that_was_rewritten_proves_nothing(target: Target, rec_id: str, source: Callable[[bytes], Source]):
    info = _put_by_a_rig(target, RIGHT)
    local = source(RIGHT)
    (local[0].directory / PATH).write_bytes(RIGHT)
    os.utime(local[0].directory / PATH)

    with pytest.raises(SourceChanged):
        _prove(target.bucket, rec_id, info, RIGHT, source=local)


def test_a_stop_ends_the_reading_of_the_local_file(
    target: Target, rec_id: str, source: Callable[[bytes], Source], proxied: Bucket, proxy: Proxy
):
    content = _content(LARGE)
    info = _put_by_a_rig(target, content)
    stop = _StopAt(3)

    with pytest.raises(UploadInterrupted):
        _prove(proxied, rec_id, info, content, source=source(content), check_stop=stop)

    assert stop.calls == 3
    assert _kinds(proxy) == ["HEAD"]


def test_a_stop_ends_the_stream(target: Target, rec_id: str, proxied: Bucket, proxy: Proxy):
    content = _content(THREE_REQUESTS)
    info = _put_by_a_rig(target, content)

    for read in (
        lambda stop: _prove(proxied, rec_id, info, content, check_stop=stop),
        lambda stop: stored_digest(proxied, info.key, check_stop=stop),
        lambda stop: streamed_digest(proxied, info.key, check_stop=stop),
    ):
        proxy.seen.clear()
        with pytest.raises(UploadInterrupted):
            read(_StopAt(2))
        assert _kinds(proxy).count("GET") in {1, 2}


def test_a_stop_is_heeded_before_the_first_request(target: Target, rec_id: str, proxied: Bucket, proxy: Proxy):
    info = _put_by_a_rig(target, RIGHT)

    with pytest.raises(UploadInterrupted):
        _prove(proxied, rec_id, info, RIGHT, check_stop=_StopAt(1))

    assert proxy.seen == []


def test_a_large_stream_has_the_digest_of_all_its_bytes_and_tells_of_each(target: Target):
    content, told = _content(THREE_REQUESTS), []
    _put_by_a_rig(target, content)

    assert streamed_digest(target.bucket, target.key, on_bytes=told.append) == _sha256(content)
    assert sum(told) == THREE_REQUESTS
    assert len(told) > 3


def test_the_bytes_decide_in_a_deep_verification_whatever_is_said_of_them(target: Target):
    _put_by_a_rig(target, WRONG, Metadata={"sha256": _sha256(RIGHT)})

    assert streamed_digest(target.bucket, target.key) == _sha256(WRONG)


@pytest.mark.parametrize("distort", [short, cut])
def test_fault_54_a_truncated_stream_gives_no_digest(target: Target, rec_id: str, distort: Distort):
    info = _put_by_a_rig(target, RIGHT)

    with distorted(target, distort) as (bucket, proxy):
        for read in (
            lambda: _prove(bucket, rec_id, info, RIGHT),
            lambda: stored_digest(bucket, info.key),
            lambda: streamed_digest(bucket, info.key),
        ):
            with pytest.raises(StoreUnavailable):
                read()

    assert "GET" in _kinds(proxy)


@pytest.mark.parametrize("becomes", [None, RIGHT[:-1], RIGHT + b"!"])
def test_fault_65_an_object_that_vanishes_or_changes_while_it_is_compared_gives_no_digest(
    target: Target, rec_id: str, proxied: Bucket, proxy: Proxy, becomes: bytes | None
):
    def change() -> None:
        client, where = boto3_client(target.store), {"Bucket": target.bucket.name, "Key": target.key}
        client.delete_object(**where) if becomes is None else client.put_object(**where, Body=becomes)

    for read in (
        lambda info: _prove(proxied, rec_id, info, RIGHT),
        lambda info: stored_digest(proxied, info.key),
        lambda info: streamed_digest(proxied, info.key),
    ):
        info = _put_by_a_rig(target, RIGHT)
        proxy.fault = Meanwhile("^GET ", change)

        with pytest.raises(StoreUnavailable):
            read(info)


def test_an_object_that_changed_since_it_was_listed_is_not_judged(target: Target, rec_id: str):
    info = _put_by_a_rig(target, RIGHT)
    put_again = _put_by_a_rig(target, WRONG + b"!", ChecksumAlgorithm="SHA256")

    with pytest.raises(StoreUnavailable):
        _prove(target.bucket, rec_id, info, RIGHT)
    with pytest.raises(ObjectConflict):
        _prove(target.bucket, rec_id, put_again, RIGHT)


def test_bytes_of_two_versions_give_no_digest(target: Target, rec_id: str, proxied: Bucket, proxy: Proxy):
    content = _content(THREE_REQUESTS)
    info = _put_by_a_rig(target, content)
    proxy.fault = Meanwhile("^GET ", lambda: _put_by_a_rig(target, content[::-1]), nth=3)

    with pytest.raises(Retryable):
        _prove(proxied, rec_id, info, content)


def test_an_object_that_is_not_there_has_no_digest(target: Target, rec_id: str):
    for read in (stored_digest, streamed_digest):
        with pytest.raises(ObjectNotFound):
            read(target.bucket, target.key)
    with pytest.raises(StoreUnavailable, match="vanished"):
        _prove(target.bucket, rec_id, ObjectInfo(target.key, len(RIGHT), '"x"'), RIGHT)


@pytest.mark.parametrize(
    ("client", "size", "part_size"),
    [
        ("rclone", 40 * 1024 * MIB, 5 * MIB),
        ("rclone, 10,000 parts of 5 MiB do not do", 48_829 * MIB, 5 * MIB),
        ("rclone, 10,000 parts of 5 MiB do not do", 60_001 * MIB + 7, 7 * MIB),
        ("aws cp, doubled once", 100_000 * MIB, 16 * MIB),
        ("AWS SDKs, the ten-thousandth", 60_000_000_001, 6_000_001),
        ("AWS SDKs, the ten-thousandth", 123_456_789_012, 12_345_679),
        ("s5cmd", 3 * 1024 * MIB, 50 * MIB),
        ("mc", 2 * 1024 * MIB + 1, 16 * MIB),
        ("s3cmd", 20_000_000_000, 15 * MIB),
        ("ours, doubled once", 200_000 * MIB, 32 * MIB),
        ("in decimal megabytes", 1_000_000_000, 100_000_000),
        ("exactly full parts", 40 * MIB, 8 * MIB),
        ("one byte more than full parts", 40 * MIB + 1, 8 * MIB),
        ("one part", 3 * MIB, 3 * MIB),
        ("one part of nothing", 0, 1),
    ],
)
def test_the_part_sizes_of_known_clients_are_thought_of(client: str, size: int, part_size: int):
    parts = max(1, -(-size // part_size))

    assert part_size in part_sizes(size, parts)


@pytest.mark.parametrize(("size", "parts"), [(LARGE, 2), (LARGE, 3), (3 * MIB, 2), (48_829 * MIB, 9_766), (5, 7)])
def test_every_part_size_thought_of_gives_that_many_parts(size: int, parts: int):
    found = part_sizes(size, parts)

    assert [-(-size // one) for one in found] == [parts] * len(found)
    assert len(found) <= 6


class _StopAt:
    """Raises at the given call."""

    def __init__(self, number: int) -> None:
        self.number, self.calls = number, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.number:
            raise UploadInterrupted("a stop was asked for")


@pytest.fixture
def target(bucket: Bucket, store_state: Path, rec_id: str) -> Target:
    return Target(bucket, open_store(store_state), raw_key(rec_id, PATH))


@pytest.fixture
def source(tmp_path: Path, rec_id: str) -> Callable[[bytes], Source]:
    """Writes the recording's file on this machine."""

    def write(content: bytes) -> Source:
        inventory = take_inventory(write_recording(tmp_path, rec_id, {PATH: content}))
        return inventory, inventory.files[PATH]

    return write


def _put_by_a_rig(target: Target, content: bytes, **arguments: Any) -> ObjectInfo:
    """In one request and without any checksum, so that the store knows no SHA-256 of it."""
    boto3_client(target.store, checksums=False).put_object(
        Bucket=target.bucket.name, Key=target.key, Body=bytearray(content), **arguments
    )
    return _listed(target)


def _written(target: Target, source: Source, write: Callable[[Target, Path], None]) -> ObjectInfo:
    write(target, source[0].directory / PATH)
    return _listed(target)


def _listed(target: Target) -> ObjectInfo:
    (info,) = target.bucket.list_objects(target.key.removesuffix(PATH))
    return info


def _marker(target: Target, rec_id: str, info: ObjectInfo, **stale: str) -> Marker | None:
    entry = {"size_bytes": info.size, "sha256": _sha256(RIGHT), "etag": info.etag} | stale
    write_marker(target.bucket, rec_id, recording_hash="0" * 64, files={PATH: entry})
    return read_marker(target.bucket, rec_id)


def _prove(bucket: Bucket, rec_id: str, info: ObjectInfo, content: bytes, **given: Any) -> ObjectInfo:
    return require_same_bytes(
        bucket, info, rec_id=rec_id, path=PATH, size=len(content), sha256=_sha256(content), **given
    )


def _kinds(proxy: Proxy) -> list[str]:
    return [seen.request.partition(" ")[0] for seen in proxy.seen]


@cache
def _content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@cache
def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
