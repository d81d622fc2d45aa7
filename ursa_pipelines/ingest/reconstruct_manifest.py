"""Steps 2 and 3: digests that nobody attested, and the manifests to store (DESIGN section 3, Reconstruction).

A recording that has a usable manifest keeps it byte for byte; files it does not list go into a supplement. Without
one, a manifest is made from the files, whether they lie in a directory or in the bucket. The source directory is
never written to.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Literal

from ursa_pipelines import failpoints
from ursa_pipelines.errors import (
    ContentMismatch,
    ETagMismatch,
    ObjectExists,
    ObjectNotFound,
    RecordingConflict,
    RecordingNotSettled,
    SourceNotFound,
    SourceRefused,
    StoreDenied,
)
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.discover import Discovery
from ursa_pipelines.ingest.media import is_end_by_media, length_in_bucket
from ursa_pipelines.objects.digests import Recall, digests_in_bucket, marked_digest
from ursa_pipelines.objects.hashing import hash_files
from ursa_pipelines.objects.keys import raw_key, recording_prefix
from ursa_pipelines.objects.parts import has_open_uploads
from ursa_pipelines.objects.stored import StoredRecording, list_recording, read_participants, read_stored
from ursa_pipelines.recordings.identity import (
    UNKNOWN_PARTICIPANT,
    derive_recording_hash,
    parse_rec_id,
    read_display_name,
)
from ursa_pipelines.recordings.layout import (
    MANIFEST,
    NODE_MANIFESTS,
    SESSION_LOCK,
    UNNAMED_NODE,
    is_clutter,
    is_partial_copy,
    refusal_of_path,
    shown,
)
from ursa_pipelines.recordings.manifest import Manifest, ManifestFile, Reconstruction, manifest_bytes
from ursa_pipelines.recordings.merge import MergedManifest, NamedManifest, merge_manifests


@dataclass(frozen=True)
class Recording:
    """A recording with every digest known. `to_store` are the manifests that the bucket shall have, top one last."""

    discovery: Discovery
    merged: MergedManifest
    recording_hash: str
    hash_is_stated: bool
    to_store: tuple[NamedManifest, ...]


def hash_unattested(context: IngestContext, discovery: Discovery, watch: Watch) -> dict[str, str]:
    """The SHA-256 of each file in the directory that its own manifests do not attest, by path.

    What an earlier try has hashed is not read again, unless the bucket says otherwise of it.
    """
    inventory, files = discovery.inventory, discovery.unattested
    if inventory is None:
        return {}
    cache, read_timeout = context.digests, context.transfers.limits.read_timeout
    recall = (
        cache.recall(inventory, files, read_timeout=read_timeout, check_stop=watch.check_stop) if cache else Recall()
    )
    known = {path: sha256 for path, sha256 in recall.digests.items() if _agrees(discovery, path, sha256)}
    try:
        return known | hash_files(
            inventory,
            [file for file in files if file.path not in known],
            workers=context.hash_workers,
            read_timeout=read_timeout,
            check_stop=watch.check_stop,
            on_digest=recall.keep,
        )
    finally:
        if cache is not None:
            cache.flush()


def complete_manifest(
    context: IngestContext,
    discovery: Discovery,
    digests: dict[str, str],
    check_stop: Callable[[], None] = lambda: None,
) -> Recording:
    """Joins inventory, manifests and digests to a recording. Writes nothing.

    Objects whose digest no manifest states may have to be read; `check_stop` is then called between chunks. Raises
    `RecordingConflict` if a file here has another digest than the bucket's manifests state, `ContentMismatch` if it is
    to take the place of an object that is gone and is not what our commit marker says that was.
    """
    known = discovery.merged.files if discovery.merged else {}
    marker, objects = discovery.stored.marker, discovery.stored.objects
    added = []
    for file in discovery.inventory.files.values() if discovery.inventory else ():
        digest, listed = digests.get(file.path), known.get(file.path)
        if listed is None:
            added.append(ManifestFile(path=file.path, size_bytes=file.size, sha256=digest))
        elif digest and (listed.size_bytes != file.size or listed.sha256 not in {None, digest}):
            raise RecordingConflict(
                f"it has SHA-256 {digest}, but the bucket's manifest lists {listed.sha256}",
                recording=discovery.rec_id,
                place=file.path,
            )
        before = marker.digest_of(file.path) if marker and file.path not in objects else None
        if digest and before not in {None, digest}:
            raise ContentMismatch(
                f"its SHA-256 is {digest}, but that of the object it had in the bucket was {before}",
                recording=discovery.rec_id,
                place=file.path,
            )
    manifests = list(discovery.manifests)
    if added:
        manifests.append(_manifest_of_files(discovery, added))
    merged = merge_manifests(discovery.rec_id, [*manifests, *discovery.stored.manifests])
    if merged is None:
        raise AssertionError("a discovery without manifests has files to make one of")
    merged = _with_digests(context, discovery, merged, digests, check_stop)
    digest_of_files = [file.sha256 for file in merged.files.values() if file.sha256]
    return Recording(
        discovery,
        merged,
        merged.stated_hash or derive_recording_hash(digest_of_files),
        merged.stated_hash is not None,
        tuple(sorted(manifests, key=lambda one: one.name == MANIFEST)),
    )


def reconstruct_in_bucket(context: IngestContext, rec_id: str, watch: Watch) -> Manifest | None:
    """Makes and stores manifest.json for a recording whose bytes are in the bucket (runbook, Path C).

    Returns the manifest, or None if a usable one is there already: then nothing is written. After an interruption
    the objects that were finished are not read again. Raises `SourceNotFound` if the bucket has none of its bytes,
    `RecordingNotSettled` if it is still being written, `SourceRefused` for an object with an unsafe name,
    `UploadInterrupted` on a stop, and `RecordingConflict` if somebody else wrote a manifest meanwhile that says
    otherwise.
    """
    parse_rec_id(rec_id)
    stored = read_stored(context.raw, rec_id)
    if merge_manifests(rec_id, stored.manifests) is not None:
        return None
    paths = reconstructible(rec_id, stored)
    watch.expect(files=len(paths), total_bytes=sum(stored.objects[path].size for path in paths))
    try:
        digests = digests_in_bucket(
            context.raw,
            stored,
            paths,
            context.digests,
            check_stop=watch.check_stop,
            on_bytes=watch.sent,
            on_done=watch.done,
        )
    except ObjectNotFound as error:
        raise RecordingNotSettled(
            "it vanished while the recording was read", recording=rec_id, place=error.place
        ) from None
    failpoints.reached("reconstruct.hashed")
    ended_after = length_in_bucket(context, stored, paths, watch.check_stop)
    _require_unchanged(context, stored)
    files = [
        ManifestFile(path=path, size_bytes=stored.objects[path].size, sha256=digests[path]) for path in sorted(paths)
    ]
    names = [read_display_name(raw, recording=rec_id) for raw in read_participants(context.raw, stored)]
    manifest = _reconstructed(rec_id, files, next((name for name in names if name), None), "r2", ended_after)
    _store_reconstructed(context, rec_id, manifest, stub_etag=stored.stub.etag if stored.stub else None)
    failpoints.reached("reconstruct.manifest_stored")
    return manifest


def reconstructible(rec_id: str, stored: StoredRecording) -> list[str]:
    """The paths in the bucket of which a manifest would be made.

    Raises `SourceNotFound` if there are none, `RecordingNotSettled` if it is still being written, `SourceRefused` for
    an object with an unsafe name.
    """
    paths = []
    for path in stored.segments:
        if path == SESSION_LOCK or is_partial_copy(path):
            raise RecordingNotSettled("it is still being written", recording=rec_id, place=raw_key(rec_id, path))
        if is_clutter(path):
            continue
        refusal = refusal_of_path(path, rec_id=rec_id)
        if refusal:
            raise SourceRefused(f"the object's name {refusal}", recording=rec_id, place=shown(path))
        paths.append(path)
    if not paths:
        raise SourceNotFound("the bucket has no data of it", recording=rec_id, place=recording_prefix(rec_id))
    return paths


def require_quiet_in_bucket(context: IngestContext, stored: StoredRecording) -> None:
    """Raises `RecordingNotSettled` unless nothing under the prefix changed for `reconstruct_after_bucket` seconds.

    A manifest goes last, so a recording without one may just be on its way; a manifest that is made meanwhile would
    stand for good (DESIGN section 4, Settled). For an operator's explicit word `reconstruct_in_bucket` does not ask.
    """
    newest = max((info.modified for info in stored.objects.values()), default=0.0)
    quiet = time.time() - newest
    if quiet < context.reconstruct_after_bucket or has_open_uploads(context.raw, recording_prefix(stored.rec_id)):
        raise RecordingNotSettled(
            f"the bucket has no manifest of it, and is left alone for {quiet:.0f} s of "
            f"{context.reconstruct_after_bucket:.0f} s before one is made",
            recording=stored.rec_id,
            remedy="If its upload is over, say so with `ursa reconstruct`; else bring its drive back.",
        )


def _manifest_of_files(discovery: Discovery, files: list[ManifestFile]) -> NamedManifest:
    """The manifest.json of a recording that has none, or a supplement for files that no manifest lists."""
    name = next(iter(discovery.display_names), None)
    # Where a rig's manifest is, it is known from that how long the recording was.
    is_by_media = is_end_by_media((*discovery.manifests, *discovery.stored.manifests))
    ended_after = discovery.media.ended_after if discovery.media and is_by_media else None
    manifest = _reconstructed(discovery.rec_id, sorted(files, key=lambda file: file.path), name, "nas", ended_after)
    if discovery.merged is None:
        return NamedManifest(MANIFEST, manifest, manifest_bytes(manifest))
    node = next((one.node for one in discovery.manifests if one.node), None)
    supplement = manifest.model_copy(
        update={
            "node": node,
            "participant": None,
            "recording_hash": None,
            "reconstruction": manifest.reconstruction.model_copy(update={"added_files": [file.path for file in files]})
            if manifest.reconstruction
            else None,
        }
    )
    raw = manifest_bytes(supplement)
    return NamedManifest(f"{NODE_MANIFESTS}/{node or UNNAMED_NODE}.json", supplement, raw)


def _reconstructed(
    rec_id: str,
    files: list[ManifestFile],
    display_name: str | None,
    source: Literal["nas", "r2"],
    ended_after: float | None = None,
) -> Manifest:
    started_at, ended_at = _times(rec_id, ended_after)
    return Manifest(
        recording_id=rec_id,
        recording_hash=derive_recording_hash(file.sha256 for file in files if file.sha256),
        started_at=started_at,
        ended_at=ended_at,
        participant=display_name or UNKNOWN_PARTICIPANT,
        files=files,
        reconstruction=Reconstruction(
            reconstructed_at=datetime.now(UTC),
            tool_version=version("ursa-pipelines"),
            reconstructed_participant=display_name is None,
            source=source,
            ended_at_source="media" if ended_at else None,
        ),
    )


def _times(rec_id: str, ended_after: float | None) -> tuple[datetime | None, datetime | None]:
    """When it began and ended, by its id and what media files told; nothing is said without the latter."""
    if not ended_after:
        return None, None
    started_at = parse_rec_id(rec_id)
    try:
        return started_at, started_at + timedelta(seconds=round(ended_after, 3))
    except OverflowError:
        return None, None


def _with_digests(
    context: IngestContext,
    discovery: Discovery,
    merged: MergedManifest,
    digests: dict[str, str],
    check_stop: Callable[[], None],
) -> MergedManifest:
    """Fills in the digests that no manifest states: from the files here, else from the objects in the bucket."""
    unknown = [path for path, file in merged.files.items() if not file.sha256 and path not in discovery.absent]
    in_bucket = [path for path in unknown if path not in digests]
    found = digests | digests_in_bucket(
        context.raw, discovery.stored, in_bucket, context.digests, check_stop=check_stop
    )
    return replace(
        merged, files=merged.files | {path: replace(merged.files[path], sha256=found[path]) for path in unknown}
    )


def _agrees(discovery: Discovery, path: str, sha256: str) -> bool:
    """Whether nothing in the bucket speaks against a digest that was found at another time."""
    listed = discovery.merged.files[path].sha256 if discovery.merged and path in discovery.merged.files else None
    return {listed, marked_digest(discovery.stored, path)} <= {None, sha256}


def _require_unchanged(context: IngestContext, stored: StoredRecording) -> None:
    """A manifest stands for good: none is made of objects that came, went or changed while they were read."""
    now = replace(stored, objects=list_recording(context.raw, stored.rec_id)).segments
    changed = {path for path, _ in now.items() ^ stored.segments.items()}
    if changed:
        raise RecordingNotSettled(
            "it changed while the recording was read",
            recording=stored.rec_id,
            place=raw_key(stored.rec_id, min(changed)),
        )


def _store_reconstructed(context: IngestContext, rec_id: str, manifest: Manifest, *, stub_etag: str | None) -> None:
    key, raw = raw_key(rec_id, MANIFEST), manifest_bytes(manifest)
    sha256 = hashlib.sha256(raw).hexdigest()
    try:
        if stub_etag is None:
            context.raw.create(key, raw, sha256=sha256)
        else:
            context.raw.replace(key, raw, stub_etag, sha256=sha256)
    except StoreDenied:
        # A bucket lock keeps the stub; the manifest goes beside it, where it counts the same.
        context.raw.create(raw_key(rec_id, f"{NODE_MANIFESTS}/{UNNAMED_NODE}.json"), raw, sha256=sha256)
    except (ObjectExists, ETagMismatch):
        there = merge_manifests(rec_id, read_stored(context.raw, rec_id).manifests)
        theirs = {path: (file.size_bytes, file.sha256) for path, file in there.files.items()} if there else {}
        mine = {file.path: (file.size_bytes, file.sha256) for file in manifest.files}
        unattested = {path: (size, None) for path, (size, _) in mine.items()}
        if theirs.keys() != mine.keys() or any(
            one not in (mine[path], unattested[path]) for path, one in theirs.items()
        ):
            raise RecordingConflict("another manifest was stored meanwhile", recording=rec_id, place=key) from None
