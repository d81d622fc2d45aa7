"""Faults 16, 53 and 61 on the wire: bytes that arrive as others are found by the store or by us, never kept."""

from __future__ import annotations

from contextlib import suppress

import pytest
from awscrt.checksums import crc64nvme

from tests.faults.proxy import Damage, Fault, Proxy, WithoutChecksums
from tests.objects.desk import MIB, PART_SIZE, Desk, content_of
from ursa_pipelines.errors import ObjectExists, StoreUnavailable
from ursa_pipelines.objects.line import Line
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.transfers import TransferLimits, Transfers
from ursa_pipelines.objects.upload import Uploader
from ursa_pipelines.profiles.timetable import Bandwidth

SMALL, LARGE = "mic/seg_0000.wav", "camera_a/seg_0000.mp4"
CONTENT = {SMALL: content_of(1000), LARGE: content_of(3 * PART_SIZE + MIB)}


def test_fault_16_a_part_that_is_damaged_on_its_way_is_refused_and_sent_again(
    desk: Desk, proxied: Bucket, proxy: Proxy
):
    (one,) = desk.outgoing({LARGE: CONTENT[LARGE]})
    proxy.fault = Damage("^PUT .*partNumber=2")

    _uploader(desk, proxied).send(one)

    assert sum(seen.matches("^PUT .*partNumber=2") for seen in proxy.seen) == 2
    _require_sound(desk, LARGE)


@pytest.mark.parametrize("bandwidth", [None, "1GB/s"], ids=["uncapped", "capped"])
def test_fault_16_a_small_file_that_is_damaged_on_its_way_is_not_stored(
    desk: Desk, proxied: Bucket, proxy: Proxy, bandwidth: str | None
):
    (one,) = desk.outgoing({SMALL: CONTENT[SMALL]})
    proxy.fault = Damage("^PUT .*/mic/")

    with suppress(StoreUnavailable):
        _uploader(desk, proxied, bandwidth).send(one)
    with suppress(ObjectExists):
        _uploader(desk, proxied, bandwidth).send(one)

    _require_sound(desk, SMALL)


@pytest.mark.parametrize("refusing", [False, True], ids=["passes them over", "refuses them"])
def test_a_store_that_takes_no_checksum_proves_each_part_by_its_md5(
    desk: Desk, proxied: Bucket, proxy: Proxy, refusing: bool
):
    (one,) = desk.outgoing({LARGE: CONTENT[LARGE]})
    proxy.fault = WithoutChecksums(refusing=refusing)

    _uploader(desk, proxied).send(one)

    _require_sound(desk, LARGE)


def test_fault_16_damage_is_found_by_the_md5_where_the_store_takes_no_checksum(
    desk: Desk, proxied: Bucket, proxy: Proxy
):
    (one,) = desk.outgoing({LARGE: CONTENT[LARGE]})
    proxy.fault = WithoutChecksums(damage=Damage("^PUT .*partNumber=2"))

    with pytest.raises(StoreUnavailable, match="part 2"):
        _uploader(desk, proxied).send(one)

    assert desk.objects() == []
    proxy.fault = Fault()
    sent = _uploader(desk, proxied).send(one)
    assert PART_SIZE <= sent.bytes_sent < len(CONTENT[LARGE])
    _require_sound(desk, LARGE)


def test_an_object_in_parts_has_the_checksum_of_the_whole(desk: Desk):
    (one,) = desk.outgoing({LARGE: CONTENT[LARGE]})

    _uploader(desk, desk.bucket).send(one)

    evidence = desk.bucket.evidence(one.key)
    assert evidence is not None
    assert evidence.crc64nvme == crc64nvme(CONTENT[LARGE])


def _uploader(desk: Desk, bucket: Bucket, bandwidth: str | None = None) -> Uploader:
    limits = TransferLimits(part_size=PART_SIZE, resume_above=10 * MIB)
    return Uploader(bucket, bucket, desk.rec_id, Transfers(limits, Line(Bandwidth(bandwidth, None), None)))


def _require_sound(desk: Desk, path: str) -> None:
    assert desk.bucket.get(desk.key(path))[0] == CONTENT[path]
    assert desk.open_uploads() == []
    assert desk.unfinished.survey() == [] or all(
        found.record.key != desk.key(path) for found in desk.unfinished.survey()
    )
