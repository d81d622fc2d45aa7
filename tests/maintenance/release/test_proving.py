"""By what a file is proved to be in the bucket: bytes or the store's own checksum, never what somebody has stated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.lab import Lab
from tests.maintenance.release.rig import REC, allowing, ingested, only
from ursa_pipelines import DataInterface
from ursa_pipelines.maintenance.release.desk import release
from ursa_pipelines.maintenance.release.ledger import Release
from ursa_pipelines.objects.store import Bucket, Evidence

PARTS = {"camera_a/seg_0000.mp4": b"in parts" * (6 * 1024**2 // 8)}


def judged(data: DataInterface, *, deep: bool = False) -> Release:
    desk = data.release_desk(commit=True)
    return only(list(release(desk, [(data.sources[0], REC)], commit=False, proving=True, by_bytes=deep)))


def told(change: Callable[[Evidence], Evidence], patch: pytest.MonkeyPatch) -> None:
    """The store tells of its objects what `change` makes of it."""
    evidence = Bucket.evidence

    def changed(bucket: Bucket, key: str) -> Evidence | None:
        found = evidence(bucket, key)
        return found and change(found)

    patch.setattr(Bucket, "evidence", changed)


def test_each_rung_of_the_ladder(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    ingested(lab)
    data = allowing(lab)

    rungs: list[tuple[str, Callable[[Evidence], Evidence]]] = [
        ("store's sha256", lambda one: one),
        ("etag as md5", lambda one: replace(one, sha256=None)),
        ("bytes", lambda one: replace(one, sha256=None, crc64nvme=1)),
    ]
    for kind, change in rungs:
        with monkeypatch.context() as patch:
            told(change, patch)
            assert judged(data).evidence == {kind: 4}
            assert judged(data, deep=True).evidence == {"bytes": 4}


def test_a_store_whose_checksums_contradict_one_another_proves_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    ingested(lab)
    data = allowing(lab)
    told(lambda one: replace(one, sha256="0" * 64), monkeypatch)

    assert judged(data).state == "refused"
    assert judged(data, deep=True).evidence == {"bytes": 4}


def test_what_was_sent_in_parts_is_proved_too(lab: Lab):
    ingested(lab, files=PARTS)
    data = allowing(lab)

    found = judged(data)

    assert found.state == "eligible" and sum(found.evidence.values()) == 2
    assert judged(data, deep=True).evidence == {"bytes": 2}


def test_a_store_that_vouches_for_other_bytes_is_found_out_by_reading(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    directory = ingested(lab)
    data, key = allowing(lab), f"recordings/{REC}/mic/seg_0000.wav"
    right = lab.raw.evidence(key)
    assert right is not None
    lab.raw.wire.delete(key)
    lab.raw.create(key, b"AUDIO", sha256=right.stated_sha256)
    told(lambda one: replace(one, sha256=right.sha256) if one.size == right.size else one, monkeypatch)

    assert judged(data).state == "eligible"
    deep = judged(data, deep=True)

    assert deep.state == "refused" and "other bytes" in deep.reason
    assert directory.is_dir()


def test_what_the_store_changes_while_it_is_proved_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    ingested(lab)
    told(lambda one: replace(one, etag='"0"'), monkeypatch)

    found = judged(allowing(lab))

    assert found.state == "refused" and "changed or vanished" in found.reason
