"""Whether the rows, the manifests and the objects of a recording agree (DESIGN section 8, asset checks).

By LIST the sizes are compared; deep, every byte by its SHA-256, whatever stands in metadata or markers. A deep look
that finds nothing wrong may raise the verification level in the row: bookkeeping, which nothing else depends on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ursa_pipelines import failpoints
from ursa_pipelines.catalog.entries import Entry
from ursa_pipelines.errors import CatalogRowNotFound, ObjectNotFound, StoreUnavailable, UrsaError
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.results_shown import Shown, size_shown, some_shown
from ursa_pipelines.ingest.several import several_at_once
from ursa_pipelines.objects.digests import SMALL_OBJECT_BYTES, digest_at_once, digest_objects, requests_to_digest
from ursa_pipelines.objects.proof import streamed_digest
from ursa_pipelines.objects.store import ObjectInfo
from ursa_pipelines.objects.stored import StoredRecording, is_manifest, list_recording, read_stored
from ursa_pipelines.recordings.identity import UNKNOWN_PARTICIPANT, derive_recording_hash
from ursa_pipelines.recordings.layout import split_worker, worker_of
from ursa_pipelines.recordings.merge import MergedFile, MergedManifest, merge_manifests

logger = logging.getLogger("ursa.register.orchestrator")

_LISTED_AT_ONCE = 1_000


@dataclass(frozen=True)
class WrongObject:
    """An object that is not as the manifests have it, and the evidence. Sizes are bytes, None where there is none.

    `bytes`: its SHA-256 is another than the one that is listed. `changed`: it was replaced or vanished while it was
    read. `manifest`: there is no manifest that lists anything; `path` is empty then.
    """

    path: str
    kind: Literal["missing", "size", "bytes", "unlisted", "changed", "manifest"]
    told: str
    expected_size: int | None = None
    expected_sha256: str | None = None
    found_size: int | None = None
    found_sha256: str | None = None
    etag: str | None = None


@dataclass(frozen=True, repr=False)
class Verification(Shown):
    """What was found; no `problems` means that all agree.

    `object_problems` are those of the objects beside the manifests, `row_problems` those of the rows beside both.
    `level` says what the bytes were compared by: `sha256` only if all are there in their sizes, each was read, and
    something attests it. `participants` is how many the row names, `nodes` whose files are there. `recorded` says
    whether this call has raised the level in the row. `wrong` are the object problems with their evidence.
    `bytes_read` and `requests` are what the look has cost, retries of the client aside. Of `unattested` files the bytes
    were read and could be compared with nothing.
    """

    rec_id: str
    recording_hash: str
    level: Literal["size", "sha256"]
    files: int
    bytes: int
    object_problems: tuple[str, ...]
    row_problems: tuple[str, ...]
    participants: int
    nodes: tuple[str, ...]
    nodes_missing: tuple[str, ...]
    recorded: bool = False
    wrong: tuple[WrongObject, ...] = ()
    bytes_read: int = 0
    requests: int = 0
    unattested: int = 0

    @property
    def problems(self) -> tuple[str, ...]:
        return self.object_problems + self.row_problems

    @property
    def ok(self) -> bool:
        return not self.problems

    def _shown(self) -> dict[str, str]:
        return {
            "recording": self.rec_id,
            "found": "ok" if self.ok else f"{len(self.problems):,} problem{'' if len(self.problems) == 1 else 's'}",
            "compared by": self.level,
            "files": f"{self.files:,}",
            "bytes": size_shown(self.bytes),
            "missing nodes": ", ".join(self.nodes_missing),
            "problems": some_shown(self.problems),
        }


def verify(
    context: IngestContext,
    rec_id: str,
    *,
    deep: bool = False,
    record: bool = False,
    among: Collection[str] | None = None,
    watch: Watch | None = None,
) -> Verification:
    """Compares rows, manifests and objects: sizes by LIST, with `deep` every byte by its SHA-256.

    With `among` only the bytes of these paths are read, and the level stays that of sizes. With `record` a deep look
    without problems raises the row's level to `sha256` in one compare-and-swap; a row that says so already, or has got
    further files meanwhile, stays. Raises `CatalogRowNotFound` if the recording is not registered,
    `RecordingIdInvalid` if this is no id, and `UploadInterrupted` on a stop.
    """
    entry = context.catalog.entry_of_rec_id(rec_id)
    if entry is None:
        raise CatalogRowNotFound("it is not in the catalog", recording=rec_id, remedy="Ingest it first.")
    stored = read_stored(context.raw, rec_id)
    merged = merge_manifests(rec_id, stored.manifests)
    all_attested, unattested, bytes_read, requests = False, 0, 0, requests_to_look(stored.objects, deep=False)
    of_rows: list[str] = []
    if merged is None:
        of_objects = [WrongObject("", "manifest", "the bucket has no usable manifest")]
    else:
        of_objects = _objects_against_manifest(merged, stored, entry)
        of_rows = _rows_against_objects(entry, stored, merged)
        if deep:
            infos = _to_be_read(merged, stored, among)
            of_bytes, unattested = _bytes_against_digests(context, merged, stored, entry, infos, watch or Watch())
            all_attested = not unattested and among is None and not of_objects
            of_objects += of_bytes
            bytes_read = sum(info.size for info in infos.values())
            requests = requests_to_look(stored.objects, deep=True)
            requests += sum(requests_to_digest(info.size) for info in infos.values())
    proved = all_attested and not of_objects and not of_rows
    failpoints.reached("verify.compared")
    segments = stored.segments.values()
    metadata = entry.recording.metadata or {}
    return Verification(
        rec_id,
        entry.recording.recording_hash,
        "sha256" if all_attested else "size",
        len(segments),
        sum(info.size for info in segments),
        tuple(one.told for one in of_objects),
        tuple(of_rows),
        len([one for one in entry.recording.participant_ids if one != UNKNOWN_PARTICIPANT]),
        tuple(metadata.get("nodes", ())),
        tuple(metadata.get("nodes_missing", ())),
        recorded=record and proved and context.catalog.record_verification(entry.rows, context.writer),
        wrong=tuple(of_objects),
        bytes_read=bytes_read,
        requests=requests,
        unattested=unattested,
    )


def requests_to_look(paths: Collection[str], *, deep: bool) -> int:
    """How many requests `verify` makes for a recording of these paths beside those that read segments: the row and its
    claim, the listing (twice if it is deep), the manifests, the markers.
    """
    listings = max(1, -(-len(paths) // _LISTED_AT_ONCE)) * (2 if deep else 1)
    return 2 + listings + sum(is_manifest(path) for path in paths) + 2


def verify_many(
    context: IngestContext,
    rec_ids: Iterable[str],
    *,
    deep: bool = False,
    record: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Verification | UrsaError]:
    """`verify` for several recordings at once; by recording what was found, or why it could not be looked at.

    Those that `should_stop` cuts off have `UploadInterrupted`. An interrupt of the calling thread stops all work.
    """
    interrupted = threading.Event()

    def one(rec_id: str) -> tuple[str, Verification | UrsaError]:
        watch = Watch(should_pause=lambda: interrupted.is_set() or should_stop())
        try:
            watch.check_stop()
            return rec_id, verify(context, rec_id, deep=deep, record=record, watch=watch)
        except UrsaError as error:
            return rec_id, error
        except Exception as error:
            # One recording must not stop the others.
            logger.exception("unforeseen failure", extra={"recording": rec_id})
            # Its text is in the log only: nobody has made sure that it holds no name.
            told = f"unforeseen {type(error).__name__}"
            return rec_id, UrsaError(told, recording=rec_id, remedy="Look at the log of this run and report it.")

    return dict(several_at_once(one, rec_ids, context.recordings_at_once, interrupted))


def _objects_against_manifest(merged: MergedManifest, stored: StoredRecording, entry: Entry) -> list[WrongObject]:
    problems = []
    for path, file in merged.files.items():
        info, sha256 = stored.objects.get(path), _listed_digest(merged, stored, path)
        if info is None:
            if not _is_awaited(file, stored, entry):
                told = f"{path} is listed but not in the bucket"
                problems.append(WrongObject(path, "missing", told, file.size_bytes, sha256))
        elif info.size != file.size_bytes:
            told = f"{path} has {info.size:,} bytes in the bucket, but {file.size_bytes:,} are listed"
            problems.append(
                WrongObject(path, "size", told, file.size_bytes, sha256, found_size=info.size, etag=info.etag)
            )
    for path, info in stored.segments.items():
        if path not in merged.files:
            told = f"{path} is in the bucket but in no manifest"
            problems.append(WrongObject(path, "unlisted", told, found_size=info.size, etag=info.etag))
    return problems


def _listed_digest(merged: MergedManifest, stored: StoredRecording, path: str) -> str | None:
    """A manifest attests a file's digest, else our commit marker."""
    marked = stored.marker.document["files"].get(path, {}).get("sha256") if stored.marker else None
    return merged.files[path].sha256 or marked


def _is_awaited(file: MergedFile, stored: StoredRecording, entry: Entry) -> bool:
    """Whether a file that is not in the bucket is one that a missing node has yet to bring."""
    missing_nodes = (entry.recording.metadata or {}).get("nodes_missing", ())
    if not missing_nodes or (stored.marker is not None and file.path in stored.marker.document["files"]):
        return False
    worker = worker_of(file.path)
    if file.node is None and worker is not None:
        # Nobody says whose it is: a worker of which the rows know has been here.
        return split_worker(worker) not in {(row.modality, row.worker_id) for row in entry.modalities}
    return file.node in missing_nodes


def _rows_against_objects(entry: Entry, stored: StoredRecording, merged: MergedManifest) -> list[str]:
    found: dict[tuple[str, str | None], tuple[int, int]] = {}
    for path, info in stored.segments.items():
        worker = worker_of(path)
        if worker is not None and path in merged.files:
            count, size = found.get(split_worker(worker), (0, 0))
            found[split_worker(worker)] = (count + 1, size + info.size)
    rows = {(row.modality, row.worker_id): (row.segment_count, row.bytes) for row in entry.modalities}
    return [
        f"the row of {modality}{'_' + worker_id if worker_id else ''} says {rows.get((modality, worker_id))} "
        f"(segments, bytes), the bucket {found.get((modality, worker_id))}"
        for modality, worker_id in sorted(found.keys() | rows.keys(), key=str)
        if found.get((modality, worker_id)) != rows.get((modality, worker_id))
    ]


def _to_be_read(
    merged: MergedManifest, stored: StoredRecording, among: Collection[str] | None
) -> dict[str, ObjectInfo]:
    """The objects whose bytes are compared, by path; what has another size is another content without being read."""
    return {
        path: stored.objects[path]
        for path, file in merged.files.items()
        if path in stored.objects and stored.objects[path].size == file.size_bytes and (among is None or path in among)
    }


def _bytes_against_digests(
    context: IngestContext,
    merged: MergedManifest,
    stored: StoredRecording,
    entry: Entry,
    infos: dict[str, ObjectInfo],
    watch: Watch,
) -> tuple[list[WrongObject], int]:
    """What is wrong with the bytes, and of how many files that were read nothing attests any.

    Files that neither a manifest nor our marker attests are attested all together by a recording_hash that was derived
    from them.
    """
    paths = {info.key: path for path, info in infos.items()}
    watch.expect(files=len(infos), total_bytes=sum(info.size for info in infos.values()))

    def read(info: ObjectInfo, check_stop: Callable[[], None]) -> str | None:
        path = paths[info.key]
        sha256 = _digest_if_there(context, info, check_stop, partial(watch.sent, path))
        watch.done(path, info.size)
        return sha256

    found = {paths[key]: sha256 for key, sha256 in digest_objects(infos.values(), read, watch.check_stop).items()}
    attested = {path: _listed_digest(merged, stored, path) for path in found}
    now = list_recording(context.raw, stored.rec_id)
    problems = []
    for path in sorted(found):
        info, listed, sha256 = infos[path], attested[path], found[path]
        told = ""
        if sha256 is None or path not in now:
            told = f"{path} vanished from the bucket while the recording was read"
        elif now[path] != info:
            told = f"{path} was replaced in the bucket while the recording was read"
        elif listed not in {None, sha256}:
            told = f"{path} has SHA-256 {sha256} in the bucket, but {listed} is listed"
            problems.append(WrongObject(path, "bytes", told, info.size, listed, info.size, sha256, info.etag))
            continue
        if told:
            problems.append(WrongObject(path, "changed", told, info.size, listed, etag=info.etag))
    derived = derive_recording_hash(sha256 for sha256 in found.values() if sha256)
    is_whole = entry.recording.recording_hash == derived
    return problems, 0 if is_whole else sum(not sha256 for sha256 in attested.values())


def _digest_if_there(
    context: IngestContext, info: ObjectInfo, check_stop: Callable[[], None], on_bytes: Callable[[int], None]
) -> str | None:
    """The SHA-256 of an object's bytes, or None if it is gone."""
    try:
        if info.size <= SMALL_OBJECT_BYTES:
            return digest_at_once(context.raw, info)
        return streamed_digest(context.raw, info.key, check_stop=check_stop, on_bytes=on_bytes)
    except ObjectNotFound:
        return None
    except StoreUnavailable:
        if context.raw.head(info.key) is None:
            return None
        raise
