"""Step 4: the bytes, each proved, then the manifests, then the commit marker (DESIGN section 5, rules 1 to 5)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial

from ursa_pipelines import failpoints
from ursa_pipelines.errors import (
    ClockWrong,
    ETagMismatch,
    ObjectConflict,
    ObjectExists,
    StoreDenied,
)
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.discover import Discovery, look_again
from ursa_pipelines.ingest.reconstruct_manifest import Recording, complete_manifest
from ursa_pipelines.ingest.segments import place_segments, prove_elsewhere
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.store import ObjectInfo
from ursa_pipelines.objects.stored import (
    PARTICIPANT_BYTES_LIMIT,
    StoredRecording,
    is_manifest,
    list_recording,
    write_marker,
)
from ursa_pipelines.recordings.inventory import Inventory, SourceFile, read_source
from ursa_pipelines.recordings.layout import (
    MANIFEST,
    NODE_MANIFESTS,
    NODE_PARTICIPANTS,
    PARTICIPANT,
    UNNAMED_NODE,
    node_of_file,
)
from ursa_pipelines.recordings.merge import NamedManifest


@dataclass(frozen=True)
class Uploaded:
    """What the bucket has now. `present` are the paths proved there; `verification` is how: `sha256` or `size`."""

    recording: Recording
    files_uploaded: int
    files_skipped: int
    bytes_uploaded: int
    present: tuple[str, ...]
    verification: str


def upload(context: IngestContext, recording: Recording, watch: Watch) -> Uploaded:
    """Brings the recording's bytes into the bucket, or proves that they are there.

    Raises `ObjectConflict` where other bytes stand, `ContentMismatch` or `SourceChanged` where a file is not what
    its manifest attests, `UploadInterrupted` on a stop, `StoreDenied` when a credential that was fetched again is
    refused too. Until the last file is there no manifest is written.
    """
    buckets, sent = (context.raw, context.catalog.assets), dict[str, int]()
    before = [bucket.renewals for bucket in buckets]
    try:
        return _upload(context, recording, watch, sent)
    except ClockWrong:
        raise
    except StoreDenied:
        # The credential may have expired on the way.
        renewed = [bucket.renew(since) for bucket, since in zip(buckets, before, strict=True)]
        if not any(renewed):
            raise
        recording = replace(recording, discovery=look_again(context, recording.discovery))
        return _upload(context, recording, watch, sent)


def has_participants(discovery: Discovery) -> bool:
    """Whether the bucket is known to hold the participant files of the directory, so that `upload` stores none."""
    return all(
        _is_known_there(discovery.stored, _participant_names(discovery, file, raw), raw)
        for file, raw in discovery.participants
        if raw.strip()
    )


def _upload(context: IngestContext, recording: Recording, watch: Watch, sent: dict[str, int]) -> Uploaded:
    discovery, inventory = recording.discovery, recording.discovery.inventory
    if inventory is None:
        present = tuple(path for path in recording.merged.files if path not in discovery.absent)
        return Uploaded(recording, 0, len(present), 0, present, "size")
    watch.expect(files=len(inventory.files), total_bytes=inventory.total_bytes)
    placed = place_segments(context, recording, inventory, watch, sent)
    placed |= prove_elsewhere(context, recording, placed, watch)
    watch.check_stop()
    failpoints.reached("upload.segments_stored")
    _store_participants(context, recording, inventory)
    failpoints.reached("upload.participants_stored")
    stored_as = {_store_manifest(context, discovery.stored, manifest) for manifest in recording.to_store} - {None}
    failpoints.reached("upload.manifests_stored")
    if (stored_as or discovery.absent) and _other_half_came(context, recording, stored_as):
        digests = _digests_of(recording, inventory)
        recording = complete_manifest(context, look_again(context, discovery), digests, watch.check_stop)
        placed |= prove_elsewhere(context, recording, placed, watch)
    if not recording.discovery.absent:
        _mark_complete(context, recording, placed)
        failpoints.reached("upload.marked_complete")
    return Uploaded(
        recording, len(sent), len(inventory.files) - len(sent), sum(sent.values()), tuple(sorted(placed)), "sha256"
    )


def _other_half_came(context: IngestContext, recording: Recording, own_manifests: set[str | None]) -> bool:
    """Whether another ingest of this recording has brought its files since `discover` looked.

    Two halves that are sent at once each store their manifest and look then, so that at least the later one sees
    both and registers them together.
    """
    discovery, files = recording.discovery, recording.merged.files
    before, now = discovery.stored.objects, list_recording(context.raw, discovery.rec_id)
    new_manifests = {path for path, info in now.items() if is_manifest(path) and before.get(path) != info}
    absent_came = [path in now and now[path].size == files[path].size_bytes for path in discovery.absent]
    return bool(new_manifests - own_manifests) or (bool(absent_came) and all(absent_came))


def _digests_of(recording: Recording, inventory: Inventory) -> dict[str, str]:
    files = recording.merged.files
    return {path: digest for path in inventory.files if (digest := files[path].sha256)}


def _mark_complete(context: IngestContext, recording: Recording, placed: dict[str, ObjectInfo]) -> None:
    files = {
        path: {"size_bytes": info.size, "sha256": recording.merged.files[path].sha256, "etag": info.etag}
        for path, info in placed.items()
    }
    write_marker(context.raw, recording.discovery.rec_id, recording_hash=recording.recording_hash, files=files)


def _store_participants(context: IngestContext, recording: Recording, inventory: Inventory) -> None:
    for file in (inventory.participant, *inventory.node_participants):
        if file is None:
            continue
        read = partial(read_source, inventory, file, limit=PARTICIPANT_BYTES_LIMIT)
        raw = context.reading(inventory.rec_id, file.path, read)
        if raw.strip():
            _store_once(context, recording.discovery.stored, _participant_names(recording.discovery, file, raw), raw)


def _participant_names(discovery: Discovery, file: SourceFile, raw: bytes) -> tuple[str, ...]:
    this_node = next((one.node for one in discovery.manifests if one.node), None) or UNNAMED_NODE
    node = this_node if file.path == PARTICIPANT else node_of_file(file.path.rpartition("/")[2])
    beside = (f"{NODE_PARTICIPANTS}/{node}.txt", f"{NODE_PARTICIPANTS}/{node}.{_short_digest(raw)}.txt")
    return (file.path, *(name for name in beside if name != file.path))


def _is_known_there(stored: StoredRecording, names: tuple[str, ...], raw: bytes) -> bool:
    for name in names:
        if name not in stored.objects:
            return False
        if stored.objects[name].etag == _etag_of(raw):
            return True
    return False


def _store_manifest(context: IngestContext, stored: StoredRecording, one: NamedManifest) -> str | None:
    """Sees to it that the bucket has the manifest; the name it has there, or None if it was known to be there."""
    if any(_says_the_same(one, there) for there in stored.manifests):
        return None
    node = one.node or UNNAMED_NODE
    beside = (f"{NODE_MANIFESTS}/{node}.json", f"{NODE_MANIFESTS}/{node}.{_short_digest(one.raw)}.json")
    if one.name == MANIFEST and stored.stub is not None:
        key = raw_key(stored.rec_id, MANIFEST)
        try:
            context.raw.replace(key, one.raw, stored.stub.etag)
        except (ETagMismatch, StoreDenied):
            # It may have been replaced by us, with the answer lost; or the bucket lock keeps the stub.
            if context.raw.get(key)[0] != one.raw:
                return _store_once(context, stored, beside, one.raw)
        return MANIFEST
    return _store_once(context, stored, (one.name, *(name for name in beside if name != one.name)), one.raw)


def _store_once(context: IngestContext, stored: StoredRecording, names: tuple[str, ...], raw: bytes) -> str:
    """Creates the document under the first name that is free or holds the same bytes already; that name."""
    for name in names:
        if name in stored.objects and stored.objects[name].etag == _etag_of(raw):
            return name
        key = raw_key(stored.rec_id, name)
        try:
            context.raw.create(key, raw, sha256=hashlib.sha256(raw).hexdigest())
        except ObjectExists:
            if context.raw.get(key)[0] == raw:
                return name
        else:
            return name
    raise ObjectConflict(
        "other documents stand under every name it could have", recording=stored.rec_id, place=names[0]
    )


def _says_the_same(one: NamedManifest, there: NamedManifest) -> bool:
    if one.raw == there.raw:
        return True
    reconstructed = one.manifest.reconstruction and there.manifest.reconstruction
    return bool(reconstructed) and one.manifest.files == there.manifest.files


def _etag_of(raw: bytes) -> str:
    return f'"{hashlib.md5(raw, usedforsecurity=False).hexdigest()}"'


def _short_digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:8]
