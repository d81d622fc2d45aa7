"""Whether the rows, the manifests and the objects of a recording agree (DESIGN section 8, asset checks)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from ursa_pipelines.catalog.entries import Entry
from ursa_pipelines.errors import CatalogRowNotFound
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.stored import StoredRecording, read_stored
from ursa_pipelines.recordings.layout import split_worker, worker_of
from ursa_pipelines.recordings.merge import MergedManifest, merge_manifests


@dataclass(frozen=True)
class Verification:
    """What was found. `level` says how the bytes were looked at; no `problems` means that all agree."""

    rec_id: str
    recording_hash: str
    level: Literal["size", "sha256"]
    files: int
    bytes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(context: IngestContext, rec_id: str, *, deep: bool = False) -> Verification:
    """Compares rows, manifests and objects: sizes by LIST, with `deep` every byte by its SHA-256.

    Raises `CatalogRowNotFound` if the recording is not registered.
    """
    entry = context.catalog.entry_of_rec_id(rec_id)
    if entry is None:
        raise CatalogRowNotFound("it is not in the catalog", recording=rec_id, remedy="Ingest it first.")
    stored = read_stored(context.raw, rec_id)
    merged = merge_manifests(rec_id, stored.manifests)
    if merged is None:
        problems = ["the bucket has no usable manifest"]
    else:
        problems = [*_objects_against_manifest(merged, stored, entry), *_rows_against_objects(entry, stored, merged)]
        if deep:
            problems += _bytes_against_manifest(context.raw, merged, stored)
    segments = stored.segments.values()
    return Verification(
        rec_id,
        entry.recording.recording_hash,
        "sha256" if deep else "size",
        len(segments),
        sum(info.size for info in segments),
        tuple(problems),
    )


def _objects_against_manifest(merged: MergedManifest, stored: StoredRecording, entry: Entry) -> list[str]:
    missing_nodes = set((entry.recording.metadata or {}).get("nodes_missing", ()))
    problems = []
    for path, file in merged.files.items():
        info = stored.objects.get(path)
        if info is None:
            if not missing_nodes:
                problems.append(f"{path} is listed but not in the bucket")
        elif info.size != file.size_bytes:
            problems.append(f"{path} has {info.size:,} bytes in the bucket, but {file.size_bytes:,} are listed")
    unlisted = [path for path in stored.segments if path not in merged.files]
    return problems + [f"{path} is in the bucket but in no manifest" for path in unlisted]


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


def _bytes_against_manifest(raw: Bucket, merged: MergedManifest, stored: StoredRecording) -> list[str]:
    problems = []
    for path, file in merged.files.items():
        if path not in stored.objects or not file.sha256:
            continue
        state = hashlib.sha256()
        for chunk in raw.stream(raw_key(stored.rec_id, path)):
            state.update(chunk)
        if state.hexdigest() != file.sha256:
            problems.append(f"{path} has SHA-256 {state.hexdigest()} in the bucket, but {file.sha256} is listed")
    return problems
