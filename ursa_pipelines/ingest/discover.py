"""Step 1: what is there, in the directory and in the bucket, and whether it may be ingested (DESIGN section 4).

Nothing is written. Every refusal that does not need the content of segments is made here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from ursa_pipelines.errors import (
    ContentMismatch,
    ManifestConflict,
    ManifestInvalid,
    ManifestNotFound,
    ObjectsMissing,
    RecordingConflict,
    RecordingIncomplete,
    RecordingNotSettled,
    SourceChanged,
    SourceNotFound,
)
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.ingest.media import look_at_media
from ursa_pipelines.objects.stored import PARTICIPANT_BYTES_LIMIT, StoredRecording, read_participants, read_stored
from ursa_pipelines.recordings.identity import clean_display_name, parse_rec_id, read_display_name
from ursa_pipelines.recordings.inventory import Inventory, SourceFile, read_source, take_inventory
from ursa_pipelines.recordings.layout import MANIFEST, shown, some, worker_of
from ursa_pipelines.recordings.manifest import MANIFEST_BYTES_LIMIT, parse_manifest
from ursa_pipelines.recordings.media import MediaReport
from ursa_pipelines.recordings.merge import MergedManifest, NamedManifest, merge_manifests
from ursa_pipelines.recordings.settling import blocked_by_writer

IngestPath = Literal["A", "B", "C+A", "C+B"]


@dataclass(frozen=True)
class Discovery:
    """A recording as found. `inventory` is None where only the bucket has it.

    `attested` is what the directory's own manifests say, `merged` what these and the bucket's say together, both
    None without a usable manifest. `absent` are listed paths that are nowhere, because another node has them
    still or the operator allowed it. `path` is the way of the runbook that the recording goes. `media` is what the
    media files say that were not proved there, or None if they were not asked. `participants` are the participant
    files of the directory, as far as they count: the file and its content.
    """

    rec_id: str
    inventory: Inventory | None
    manifests: tuple[NamedManifest, ...]
    stored: StoredRecording
    attested: MergedManifest | None
    merged: MergedManifest | None
    absent: tuple[str, ...]
    display_names: tuple[str, ...] = field(repr=False)
    path: IngestPath
    media: MediaReport | None = None
    participants: tuple[tuple[SourceFile, bytes], ...] = field(default=(), repr=False)

    @property
    def unattested(self) -> list[SourceFile]:
        """The files in the directory whose digest its own manifests do not state."""
        known = self.attested.files if self.attested else {}
        files = self.inventory.files if self.inventory else {}
        return [file for path, file in files.items() if path not in known or known[path].sha256 is None]


def discover(
    context: IngestContext,
    source_dir: Path,
    *,
    manifest_path: Path | None = None,
    participant: str | None = None,
    allow_partial: bool = False,
) -> Discovery:
    """Looks at a recording directory and at what the bucket has of it.

    `participant` is the operator's word; without it participant.txt counts. Raises `RecordingNotSettled` while it
    is being written, `RecordingIncomplete` for files that are nowhere, `ContentMismatch` or `SourceChanged` for a
    wrong size, `RecordingConflict` if the bucket's manifests say otherwise, `MediaTruncated` if the profile refuses
    files that are cut off, and what inventory and manifests raise.
    """
    source_dir = Path(source_dir)
    inventory = context.listing(
        source_dir.name, shown(str(source_dir)), lambda gets_on: take_inventory(source_dir, gets_on)
    )
    rec_id = inventory.rec_id
    blocked = blocked_by_writer(inventory)
    if blocked:
        raise RecordingNotSettled(blocked, recording=rec_id, place=str(inventory.directory))
    manifests = context.reading(rec_id, MANIFEST, lambda: read_manifests(inventory, manifest_path))
    attested = merge_manifests(rec_id, manifests)
    if attested is None and not inventory.files:
        raise SourceNotFound("the directory holds no data", recording=rec_id, place=str(inventory.directory))
    for path, listed in (attested.files if attested else {}).items():
        if path in inventory.files and inventory.files[path].size != listed.size_bytes:
            raise mismatch(
                context,
                inventory.files[path],
                rec_id,
                f"it has {inventory.files[path].size:,} bytes, but its manifest lists {listed.size_bytes:,}",
            )
    stored = read_stored(context.raw, rec_id)
    participants = _read_participants(context, inventory) if participant is None else ()
    merged = _merged(rec_id, manifests, stored)
    absent = _absent(merged, set(inventory.files), stored)
    if absent and not allow_partial and not _belong_to_other_nodes(merged, absent, set(inventory.files)):
        raise RecordingIncomplete(
            f"{len(absent)} listed file(s) are neither here nor in the bucket: {some(absent)}", recording=rec_id
        )
    return Discovery(
        rec_id,
        inventory,
        tuple(one for one in manifests if not one.manifest.is_stub),
        stored,
        attested,
        merged,
        absent,
        _display_names(context, rec_id, participant, [raw for _, raw in participants], stored),
        "A" if attested else "C+A",
        look_at_media(context, inventory, manifests, merged, stored),
        participants,
    )


def discover_in_bucket(context: IngestContext, rec_id: str, *, participant: str | None = None) -> Discovery:
    """Looks at a recording that only the bucket has (Path B). A manifest's `participant` is never read.

    Raises `SourceNotFound` if there is nothing, `ObjectsMissing` for listed files that are not there whole.
    """
    parse_rec_id(rec_id)
    stored = read_stored(context.raw, rec_id)
    if not stored.objects:
        raise SourceNotFound("neither a source nor the bucket has it", recording=rec_id)
    merged = merge_manifests(rec_id, stored.manifests)
    absent = _absent(merged, set(), stored)
    if absent and not _belong_to_other_nodes(merged, absent, set(stored.segments)):
        raise ObjectsMissing(
            f"{len(absent)} listed file(s) are not in the bucket whole: {some(absent)}", recording=rec_id
        )
    names = _display_names(context, rec_id, participant, (), stored)
    return Discovery(rec_id, None, (), stored, None, merged, absent, names, "B" if merged else "C+B")


def look_again(context: IngestContext, discovery: Discovery) -> Discovery:
    """The discovery with what the bucket holds now. Raises `RecordingConflict` as `discover` does."""
    stored = read_stored(context.raw, discovery.rec_id)
    merged = _merged(discovery.rec_id, discovery.manifests, stored)
    here = set(discovery.inventory.files) if discovery.inventory else set()
    return replace(discovery, stored=stored, merged=merged, absent=_absent(merged, here, stored))


def require_manifest(discovery: Discovery) -> MergedManifest:
    """The merged manifest. Raises `ManifestNotFound` if the recording has no usable one."""
    if discovery.merged is None:
        raise ManifestNotFound("it has no manifest that lists files", recording=discovery.rec_id)
    return discovery.merged


def mismatch(context: IngestContext, file: SourceFile, rec_id: str, problem: str) -> Exception:
    """The error for content that is not as attested: within the quiet period the file may still be written."""
    if time.time() - file.mtime_ns / 1e9 < context.quiet_period:
        return SourceChanged(problem, recording=rec_id, place=file.path)
    return ContentMismatch(problem, recording=rec_id, place=file.path)


def read_manifests(inventory: Inventory, manifest_path: Path | None = None) -> tuple[NamedManifest, ...]:
    """The directory's manifests, parsed; one at `manifest_path` takes the place of the top-level one.

    Raises `ManifestNotFound` if that does not exist, `ManifestInvalid`, and what reading a source raises.
    """
    rec_id = inventory.rec_id
    files = [file for file in (inventory.manifest, *inventory.node_manifests) if file is not None]
    for file in files:
        if file.size > MANIFEST_BYTES_LIMIT:
            raise ManifestInvalid(
                f"it has {file.size:,} bytes; at most {MANIFEST_BYTES_LIMIT:,} are read",
                recording=rec_id,
                place=file.path,
            )
    found = [(file.path, read_source(inventory, file, limit=MANIFEST_BYTES_LIMIT)) for file in files]
    if manifest_path is not None and Path(manifest_path).absolute() != inventory.directory / MANIFEST:
        if not Path(manifest_path).is_file():
            raise ManifestNotFound("there is no such file", recording=rec_id, place=str(manifest_path))
        found = [(name, raw) for name, raw in found if name != MANIFEST]
        with Path(manifest_path).open("rb") as stream:
            found.append((MANIFEST, stream.read(MANIFEST_BYTES_LIMIT + 1)))
    elif manifest_path is not None and inventory.manifest is None:
        raise ManifestNotFound("there is no such file", recording=rec_id, place=str(manifest_path))
    return tuple(NamedManifest(name, parse_manifest(raw, rec_id=rec_id, place=name), raw) for name, raw in found)


def _merged(rec_id: str, manifests: tuple[NamedManifest, ...], stored: StoredRecording) -> MergedManifest | None:
    known = {one.raw for one in manifests}
    try:
        return merge_manifests(rec_id, (*manifests, *(one for one in stored.manifests if one.raw not in known)))
    except ManifestConflict as error:
        raise RecordingConflict(
            f"the bucket's manifests say otherwise: {error.problem}", recording=rec_id, place=error.place
        ) from None


def _absent(merged: MergedManifest | None, here: set[str], stored: StoredRecording) -> tuple[str, ...]:
    def is_stored(path: str, size: int) -> bool:
        return path in stored.objects and stored.objects[path].size == size

    files = merged.files if merged else {}
    return tuple(path for path, file in files.items() if path not in here and not is_stored(path, file.size_bytes))


def _belong_to_other_nodes(merged: MergedManifest | None, absent: tuple[str, ...], here: set[str]) -> bool:
    """Whether manifests say so of every absent path: of the file itself, or of its worker as a whole."""
    if merged is None or not here:
        return False
    others = merged.workers_by_other_nodes(here)
    nodes_here = {merged.files[path].node for path in here if path in merged.files}
    return all(worker_of(path) in others or merged.files[path].node not in {None, *nodes_here} for path in absent)


def _read_participants(context: IngestContext, inventory: Inventory) -> tuple[tuple[SourceFile, bytes], ...]:
    def read(file: SourceFile) -> bytes:
        look = partial(read_source, inventory, file, limit=PARTICIPANT_BYTES_LIMIT)
        return context.reading(inventory.rec_id, file.path, look)

    return tuple((file, read(file)) for file in (inventory.participant, *inventory.node_participants) if file)


def _display_names(
    context: IngestContext,
    rec_id: str,
    participant: str | None,
    contents: Sequence[bytes],
    stored: StoredRecording,
) -> tuple[str, ...]:
    if participant is not None:
        name = clean_display_name(participant, recording=rec_id)
        return (name,) if name else ()
    names = (read_display_name(raw, recording=rec_id) for raw in contents or read_participants(context.raw, stored))
    return tuple(sorted({name for name in names if name}))
