"""Whoever wrote the object: the same bytes are proved by what is cheapest, and wrong ones are always found."""

from __future__ import annotations

import hashlib
import random
from functools import cache
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.objects.peers import PEERS, Peer, Target
from tests.recordings_on_disk import write_recording
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.errors import ObjectConflict
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.proof import require_same_bytes, stored_digest
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.recordings.inventory import Inventory, SourceFile, take_inventory

PATH = "camera_a/seg_0000.mp4"
each_peer = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name.replace(" ", "-"))


@each_peer
def test_the_same_bytes_are_proved_by_the_cheapest_evidence(
    peer: Peer, proxied: Bucket, proxy: Proxy, target: Target, tmp_path: Path, rec_id: str
):
    source = _on_disk(tmp_path, rec_id, _content(peer.size))
    info = _written(peer, target, source)
    if peer.by == "head":
        # Were the local file read, it would be missed.
        (source[0].directory / PATH).unlink()

    assert _prove(proxied, info, rec_id, source) == info

    assert "GET" in _kinds(proxy) if peer.by == "bytes" else _kinds(proxy) == ["HEAD"]
    proxy.seen.clear()
    assert stored_digest(proxied, info.key) == _sha256(_content(peer.size))
    assert ("GET" in _kinds(proxy)) == (peer.by != "head")


@each_peer
def test_wrong_bytes_of_the_same_size_are_found(
    peer: Peer, proxied: Bucket, target: Target, tmp_path: Path, rec_id: str
):
    right = _on_disk(tmp_path, rec_id, _content(peer.size))
    info = _written(peer, target, _on_disk(tmp_path / "damaged", rec_id, _damaged(peer.size)))

    for source in (right, None):
        with pytest.raises(ObjectConflict) as caught:
            _prove(proxied, info, rec_id, source)

        assert (caught.value.recording, caught.value.place) == (rec_id, PATH)
        assert _sha256(_content(peer.size)) in str(caught.value)
        assert _sha256(_damaged(peer.size)) in str(caught.value)


@pytest.fixture
def target(bucket: Bucket, store_state: Path, rec_id: str) -> Target:
    return Target(bucket, open_store(store_state), raw_key(rec_id, PATH))


def _on_disk(root: Path, rec_id: str, content: bytes) -> tuple[Inventory, SourceFile]:
    inventory = take_inventory(write_recording(root, rec_id, {PATH: content}))
    return inventory, inventory.files[PATH]


def _written(peer: Peer, target: Target, source: tuple[Inventory, SourceFile]) -> ObjectInfo:
    peer.write(target, source[0].directory / PATH)
    (info,) = target.bucket.list_objects(target.key.removesuffix(PATH))
    return info


def _prove(bucket: Bucket, info: ObjectInfo, rec_id: str, source: tuple[Inventory, SourceFile] | None) -> ObjectInfo:
    size = info.size
    return require_same_bytes(
        bucket, info, rec_id=rec_id, path=PATH, size=size, sha256=_sha256(_content(size)), source=source
    )


def _kinds(proxy: Proxy) -> list[str]:
    return [seen.request.partition(" ")[0] for seen in proxy.seen]


@cache
def _content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@cache
def _damaged(size: int) -> bytes:
    content = bytearray(_content(size))
    content[-1] ^= 1
    return bytes(content)


@cache
def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
