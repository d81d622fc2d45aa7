"""An object counts as already there only on evidence of its bytes, taken from the cheapest rung that gives any."""

from __future__ import annotations

import hashlib

import pytest

from tests.faults.proxy import Proxy
from ursa_pipelines.errors import ObjectConflict
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.proof import require_same_bytes, stored_digest
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.objects.stored import Marker, read_marker, write_marker

PATH = "mic/seg_0000.wav"
RIGHT, WRONG = b"right bytes", b"wrong bytes"
DIGEST = hashlib.sha256(RIGHT).hexdigest()


@pytest.mark.parametrize("has_metadata", [True, False], ids=["with-metadata", "without-metadata"])
def test_the_same_bytes_are_proved(bucket: Bucket, rec_id: str, has_metadata: bool):
    info = _put(bucket, rec_id, RIGHT, has_metadata)

    assert _prove(bucket, rec_id, info) == info


@pytest.mark.parametrize("has_metadata", [True, False], ids=["with-metadata", "without-metadata"])
def test_wrong_bytes_of_the_same_size_are_found(bucket: Bucket, rec_id: str, has_metadata: bool):
    info = _put(bucket, rec_id, WRONG, has_metadata)

    with pytest.raises(ObjectConflict) as caught:
        _prove(bucket, rec_id, info)

    assert (caught.value.recording, caught.value.place) == (rec_id, PATH)
    assert DIGEST in str(caught.value)
    assert hashlib.sha256(WRONG).hexdigest() in str(caught.value)


def test_another_size_needs_no_request_to_be_refused(bucket: Bucket, rec_id: str, proxied: Bucket, proxy: Proxy):
    info = _put(bucket, rec_id, RIGHT + b"!", True)

    with pytest.raises(ObjectConflict, match="12 bytes under this path, not 11"):
        _prove(proxied, rec_id, info)

    assert proxy.seen == []


def test_the_markers_evidence_needs_no_request(bucket: Bucket, rec_id: str, proxied: Bucket, proxy: Proxy):
    info = _put(bucket, rec_id, RIGHT, True)

    assert _prove(proxied, rec_id, info, _marker(bucket, rec_id, info)) == info

    assert proxy.seen == []


def test_stated_metadata_is_asked_before_the_bytes(bucket: Bucket, rec_id: str, proxied: Bucket, proxy: Proxy):
    info = _put(bucket, rec_id, RIGHT, True)

    _prove(proxied, rec_id, info)

    assert [seen.request.partition(" ")[0] for seen in proxy.seen] == ["HEAD"]


@pytest.mark.parametrize("stale", ["etag", "sha256"])
def test_a_marker_that_speaks_of_another_version_proves_nothing(bucket: Bucket, rec_id: str, stale: str):
    info = _put(bucket, rec_id, WRONG, False)
    entry = {"size_bytes": info.size, "sha256": DIGEST, "etag": info.etag} | {stale: "another"}
    write_marker(bucket, rec_id, recording_hash="0" * 64, files={PATH: entry})

    with pytest.raises(ObjectConflict):
        _prove(bucket, rec_id, info, read_marker(bucket, rec_id))


def test_a_marker_without_the_file_proves_nothing(bucket: Bucket, rec_id: str):
    info = _put(bucket, rec_id, WRONG, False)
    write_marker(bucket, rec_id, recording_hash="0" * 64, files={})

    with pytest.raises(ObjectConflict):
        _prove(bucket, rec_id, info, read_marker(bucket, rec_id))


def test_the_digest_of_a_large_object_without_metadata_is_that_of_all_its_bytes(bucket: Bucket, rec_id: str):
    content = bytes(range(256)) * 80_000
    info = _put(bucket, rec_id, content, False)

    assert stored_digest(bucket, info.key) == hashlib.sha256(content).hexdigest()


def _put(bucket: Bucket, rec_id: str, content: bytes, has_metadata: bool) -> ObjectInfo:
    digest = hashlib.sha256(content).hexdigest() if has_metadata else None
    bucket.create(raw_key(rec_id, PATH), content, sha256=digest)
    (info,) = bucket.list_objects(raw_key(rec_id, ""))
    return info


def _marker(bucket: Bucket, rec_id: str, info: ObjectInfo) -> Marker | None:
    entry = {"size_bytes": info.size, "sha256": DIGEST, "etag": info.etag}
    write_marker(bucket, rec_id, recording_hash="0" * 64, files={PATH: entry})
    return read_marker(bucket, rec_id)


def _prove(bucket: Bucket, rec_id: str, info: ObjectInfo, marker: Marker | None = None) -> ObjectInfo:
    return require_same_bytes(bucket, info, rec_id=rec_id, path=PATH, size=len(RIGHT), sha256=DIGEST, marker=marker)
