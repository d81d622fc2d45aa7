"""Fault 62: no request has a shape that R2 is known to refuse (studies: transfer, facts 10 to 13, traps T1 and T2)."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.faults.detour import PART_SIZE, Detour, make_detour
from tests.faults.proxy import Seen
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.embedded.store import open_store

REC = "rec_20260520_195628_b1dd"
FILES = {
    "camera_a/seg_0000.mp4": b"video frame;" * ((3 * PART_SIZE + 1000) // 12),
    "camera_b/seg_0000.mp4": b"video frame;" * ((PART_SIZE + 4 * 1024**2) // 12),
    "mic/seg_0000.wav": b"audio" * 100,
    "notes/empty.txt": b"",
}
SIGNED = {"authorization", "host", "x-amz-content-sha256", "x-amz-date"}
BY_BOTO3 = SIGNED | {"accept-encoding", "amz-sdk-invocation-id", "amz-sdk-request", "user-agent"}
BY_OBSTORE = SIGNED | {"accept", "user-agent"}
BY_WIRE = SIGNED | {"accept-encoding", "user-agent"}
GOLDEN = {
    r"^POST /raw.*\?uploads$": BY_BOTO3
    | {"content-length", "x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-meta-sha256"},
    r"^PUT /raw.*\?partNumber=": BY_WIRE | {"content-length", "x-amz-checksum-crc64nvme"},
    r"^POST /raw.*\?uploadId=": BY_BOTO3
    | {"content-length", "if-none-match", "x-amz-checksum-crc64nvme", "x-amz-checksum-type"},
    r"^PUT /raw.*/(mic|notes)/": BY_OBSTORE
    | {"content-length", "if-none-match", "x-amz-checksum-sha256", "x-amz-meta-sha256"},
    r"^PUT /assets.*/ursa/uploads/": BY_OBSTORE | {"content-length", "if-none-match", "x-amz-checksum-sha256"},
    r"^DELETE /assets.*/ursa/uploads/": BY_WIRE,
    r"^GET /raw[^/]*\?.*list-type=2": BY_WIRE,
}


@pytest.fixture(params=["http", "https"])
def detour(
    lab: Lab, store_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Detour]:
    """A way to the store by http, and by https, where clients shape their requests in another way."""
    tls = None
    if request.param == "https":
        authority = trustme.CA()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        trusted = tmp_path / "trusted.pem"
        authority.cert_pem.write_to_path(trusted)
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(trusted))
    detour = make_detour(lab, open_store(store_state), tmp_path, tls)
    monkeypatch.setenv("PATH", f"{detour.programs}{os.pathsep}{os.environ['PATH']}")
    yield detour
    detour.close()


@pytest.fixture
def seen(lab: Lab, detour: Detour) -> list[Seen]:
    """The requests of an ingest of small, medium and large files, each sent and asked for in every way there is."""
    directory = write_recording(lab.nas, REC, FILES)
    detour.interface().ingest(source_dir=directory)
    lab.check_invariants()
    return detour.proxy.seen


def test_fault_62_requests_have_the_headers_they_are_known_to_have(seen: list[Seen]):
    for pattern, names in GOLDEN.items():
        matching = [one for one in seen if one.matches(pattern)]
        assert matching, pattern
        for one in matching:
            assert set(one.headers) - {"connection"} == names, one.request


def test_fault_62_no_request_has_a_shape_that_is_refused(seen: list[Seen]):
    for one in seen:
        assert not {"transfer-encoding", "content-encoding", "expect", "x-amz-trailer"} & set(one.headers), one
        assert one.headers["x-amz-content-sha256"] in {"UNSIGNED-PAYLOAD", one.body_sha256.hex()}, one
        if one.matches("^(PUT|POST) "):
            assert one.headers["content-length"].isdigit(), one
        # The signed SHA-256 of a body together with its MD5 is reported to hang.
        assert "content-md5" not in one.headers, one
        assert "attributes" not in one.query, one


def test_every_object_that_is_put_carries_its_sha256_and_every_part_its_crc64nvme(seen: list[Seen]):
    for one in seen:
        if one.matches("^PUT .*partNumber="):
            assert len(base64.b64decode(one.headers["x-amz-checksum-crc64nvme"])) == 8
        elif one.matches("^PUT "):
            assert base64.b64decode(one.headers["x-amz-checksum-sha256"]) == one.body_sha256, one


def test_fault_25_parts_but_the_last_are_equal(seen: list[Seen]):
    parts = sorted(
        (one for one in seen if one.matches("^PUT .*camera_a.*partNumber=")),
        key=lambda one: int(one.query["partNumber"]),
    )

    lengths = [int(one.headers["content-length"]) for one in parts]

    assert lengths[:-1] == [PART_SIZE] * 3
    assert 0 < lengths[-1] <= PART_SIZE
