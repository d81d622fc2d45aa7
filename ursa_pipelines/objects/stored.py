"""What the raw bucket holds of a recording: its objects, manifests and commit marker.

The commit marker lies outside the bucket lock, is changed only by compare-and-swap, only gains files, and alone
means that the recording is complete (DESIGN section 5, rule 4).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ursa_pipelines.errors import ETagMismatch, ManifestInvalid, ObjectExists, ObjectNotFound
from ursa_pipelines.objects.keys import marker_key, own_marker_key, raw_key, recording_prefix
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.recordings.layout import MANIFEST, NODE_MANIFESTS, NODE_PARTICIPANTS, PARTICIPANT
from ursa_pipelines.recordings.manifest import MANIFEST_BYTES_LIMIT, parse_manifest
from ursa_pipelines.recordings.merge import NamedManifest

MARKER_FORMAT = "ursa_pipelines/1"
PARTICIPANT_BYTES_LIMIT = 64 * 1024

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Marker:
    """Our commit marker: digest and ETag of each file when its bytes were proved."""

    key: str
    etag: str
    document: dict[str, Any]

    def proves(self, path: str, info: ObjectInfo, sha256: str) -> bool:
        """Whether the object LIST shows is the one this marker was written for, with this digest."""
        known = self.document["files"].get(path)
        return known is not None and known.get("etag") == info.etag and known.get("sha256") == sha256

    def digest_of(self, path: str) -> str | None:
        """The SHA-256 that a file's bytes had when they were proved, or None."""
        stated = self.document["files"].get(path, {}).get("sha256", "")
        return stated if _DIGEST.fullmatch(stated) else None


@dataclass(frozen=True)
class StoredRecording:
    """A recording's objects by path (sizes and ETags from LIST), its manifests, and the markers."""

    rec_id: str
    objects: dict[str, ObjectInfo]
    manifests: tuple[NamedManifest, ...]
    marker: Marker | None

    @property
    def segments(self) -> dict[str, ObjectInfo]:
        """The objects that are neither manifests nor participant files."""
        return {path: info for path, info in self.objects.items() if is_segment(path)}

    @property
    def stub(self) -> ObjectInfo | None:
        """manifest.json if it is there and lists no files."""
        is_stub = any(one.name == MANIFEST and one.manifest.is_stub for one in self.manifests)
        return self.objects[MANIFEST] if is_stub else None


def read_stored(bucket: Bucket, rec_id: str) -> StoredRecording:
    """Lists the recording's prefix and reads its manifests and marker. Raises `ManifestInvalid` for a bad one."""
    objects = list_recording(bucket, rec_id)
    manifests = tuple(_read_manifest(bucket, rec_id, path, info) for path, info in objects.items() if is_manifest(path))
    return StoredRecording(rec_id, objects, manifests, read_marker(bucket, rec_id))


def list_recording(bucket: Bucket, rec_id: str) -> dict[str, ObjectInfo]:
    """The recording's objects by path, 1,000 to a request."""
    prefix = recording_prefix(rec_id)
    return {info.key.removeprefix(prefix): info for info in bucket.list_objects(prefix)}


def is_manifest(path: str) -> bool:
    """Whether a manifest lies under this path: the top-level one, or a node's."""
    head, _, tail = path.partition("/")
    return path == MANIFEST or (head == NODE_MANIFESTS and tail.endswith(".json") and "/" not in tail)


def is_segment(path: str) -> bool:
    """Whether what lies under this path is neither a manifest nor a participant's file."""
    return path not in {MANIFEST, PARTICIPANT} and path.partition("/")[0] not in {NODE_MANIFESTS, NODE_PARTICIPANTS}


def read_participants(bucket: Bucket, stored: StoredRecording) -> list[bytes]:
    """The contents of participant.txt and `_node_participants/*.txt`; blank ones included."""
    paths = [path for path in stored.objects if path == PARTICIPANT or path.partition("/")[0] == NODE_PARTICIPANTS]
    return [
        bucket.get(raw_key(stored.rec_id, path))[0]
        for path in sorted(paths)
        if stored.objects[path].size <= PARTICIPANT_BYTES_LIMIT
    ]


def read_marker(bucket: Bucket, rec_id: str) -> Marker | None:
    """Our commit marker, or None. A rig's marker is no evidence and is passed over."""
    return _find_marker(bucket, rec_id)[1]


@retry(
    retry=retry_if_exception_type((ETagMismatch, ObjectExists)),
    wait=wait_random_exponential(0.05, max=2),
    stop=stop_after_attempt(20),
    reraise=True,
)
def write_marker(bucket: Bucket, rec_id: str, *, recording_hash: str, files: dict[str, dict[str, Any]]) -> bool:
    """Adds `files` (path to size_bytes, sha256, etag) to the recording's commit marker; False if all were there.

    A rig's marker under the usual key stays; ours then goes beside it.
    """
    key, marker = _find_marker(bucket, rec_id)
    if marker is None:
        bucket.create(key, _marker_bytes(rec_id, recording_hash, files))
        return True
    known = marker.document["files"]
    if files.keys() <= known.keys():
        return False
    merged = {**files, **known}
    bucket.replace(key, _marker_bytes(rec_id, marker.document["recording_hash"], merged), marker.etag)
    return True


def _find_marker(bucket: Bucket, rec_id: str) -> tuple[str, Marker | None]:
    """Where our marker is, or goes. Each key is looked at once: one made meanwhile is not taken for a rig's."""
    beside = own_marker_key(rec_id)
    for key in (marker_key(rec_id), beside):
        try:
            raw, info = bucket.get(key)
        except ObjectNotFound:
            return key, None
        document = _own_marker(raw)
        if document is not None:
            return key, Marker(key, info.etag, document)
    return beside, None


def _read_manifest(bucket: Bucket, rec_id: str, path: str, info: ObjectInfo) -> NamedManifest:
    key = raw_key(rec_id, path)
    if info.size > MANIFEST_BYTES_LIMIT:
        raise ManifestInvalid(
            f"it has {info.size:,} bytes; at most {MANIFEST_BYTES_LIMIT:,} are read", recording=rec_id, place=key
        )
    raw, now = bucket.get(key)
    if now.sha256 and _DIGEST.fullmatch(now.sha256) and hashlib.sha256(raw).hexdigest() != now.sha256:
        raise ManifestInvalid(
            f"its bytes are not those that were stored, whose SHA-256 was {now.sha256}",
            recording=rec_id,
            place=key,
            remedy="The stored copy is damaged: compare it with the one in the recording's directory.",
        )
    return NamedManifest(path, parse_manifest(raw, rec_id=rec_id, place=key), raw)


def _own_marker(raw: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("format") != MARKER_FORMAT:
        return None
    files = document.get("files")
    if not isinstance(files, dict) or not all(map(_is_evidence, files.values())):
        return None
    return document if isinstance(document.get("recording_hash"), str) else None


def _is_evidence(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(name, ""), str) for name in ("sha256", "etag"))


def _marker_bytes(rec_id: str, recording_hash: str, files: dict[str, dict[str, Any]]) -> bytes:
    document = {
        "format": MARKER_FORMAT,
        "recording_id": rec_id,
        "recording_hash": recording_hash,
        "files": dict(sorted(files.items())),
    }
    return json.dumps(document, ensure_ascii=False, indent=1).encode()
