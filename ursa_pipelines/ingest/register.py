"""Step 5: the rows. They are written only for bytes that were proved to be in the bucket (DESIGN section 6)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ursa_pipelines.catalog import policies
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.ingest.discover import IngestPath
from ursa_pipelines.ingest.media import media_bookkeeping, warn_of_media
from ursa_pipelines.ingest.results_shown import Shown, size_shown
from ursa_pipelines.ingest.upload import Uploaded
from ursa_pipelines.objects.keys import recording_prefix, uri
from ursa_pipelines.recordings.rows import RecordingRow, Rows, rows_of_recording

Outcome = Literal["created", "changed", "unchanged", "paused"]


@dataclass(frozen=True, repr=False)
class IngestResult(Shown):
    """What an ingest came to. `recording` is None only if it was `paused`; then nothing was registered.

    Files are segments; bytes are those sent by this call. `outcome` tells what happened to the rows.
    """

    rec_id: str
    recording: RecordingRow | None
    files_uploaded: int
    files_skipped: int
    bytes_uploaded: int
    paused: bool = False
    path: IngestPath | None = None
    outcome: Outcome = "paused"
    verification: str | None = None

    def _shown(self) -> dict[str, str]:
        return {
            "recording": self.rec_id,
            "outcome": self.outcome,
            "path": self.path or "",
            "files uploaded": f"{self.files_uploaded:,}",
            "files skipped": f"{self.files_skipped:,}",
            "uploaded": size_shown(self.bytes_uploaded),
            "verified by": self.verification or "",
            "recording_hash": self.recording.recording_hash[:12] if self.recording else "",
        }


def register(
    context: IngestContext,
    uploaded: Uploaded,
    *,
    overwrite: bool = False,
    display_names: Collection[str] | None = None,
) -> IngestResult:
    """Writes the recording's rows in one compare-and-swap and returns the row as it stands.

    `display_names` are the participants' if not those of the directory that was uploaded.
    Raises `CatalogRowExists` if a different row exists and `overwrite` is False, `RecordingConflict` if the rec_id
    or the content belongs to another recording.
    """
    recording, discovery = uploaded.recording, uploaded.recording.discovery

    def rows_for(recording_hash: str) -> Rows:
        return rows_of_recording(
            recording.merged,
            recording_hash=recording_hash,
            present=uploaded.present,
            display_names=discovery.display_names if display_names is None else display_names,
            uri_of_worker=lambda worker: uri(context.raw.name, f"{recording_prefix(discovery.rec_id)}{worker}/"),
            bookkeeping={
                "verification": uploaded.verification,
                "ingested_from": "r2" if discovery.inventory is None else "nas",
                "registered_at": datetime.now(UTC).isoformat(),
                "registered_by": context.writer.by,
                **media_bookkeeping(discovery.media),
            },
        )

    here = discovery.inventory.files if discovery.inventory else uploaded.present
    files = recording.merged.files
    source_nodes = {node for path in here if path in files and (node := files[path].node)}
    registration = context.catalog.write(
        recording.recording_hash,
        lambda recording_hash: policies.ingest(
            rows_for(recording_hash), overwrite=overwrite, source_nodes=source_nodes
        ),
        rec_id=discovery.rec_id,
        hash_is_stated=recording.hash_is_stated,
        op="ingest:overwrite" if overwrite else "ingest",
        writer=context.writer,
    )
    warn_of_media(discovery.rec_id, discovery.media)
    return IngestResult(
        rec_id=discovery.rec_id,
        recording=registration.entry.recording,
        files_uploaded=uploaded.files_uploaded,
        files_skipped=uploaded.files_skipped,
        bytes_uploaded=uploaded.bytes_uploaded,
        path=discovery.path,
        outcome=registration.outcome,
        verification=uploaded.verification,
    )
