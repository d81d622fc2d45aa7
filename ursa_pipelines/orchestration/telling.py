"""What a run tells of its recordings: numbers on each partition, a table of the batch, marks, and how it gets on."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import dagster as dg

from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.ingest.context import UploadProgress
from ursa_pipelines.objects.keys import marker_key, raw_key, recording_prefix, uri
from ursa_pipelines.orchestration.partitions import RECORDING
from ursa_pipelines.orchestration.states import Mark
from ursa_pipelines.recordings.layout import MANIFEST

_OBSERVED_EVERY_SECONDS, _LOGGED_EVERY_SECONDS = 60.0, 10.0

_COLUMNS = {
    "recording": "string",
    "status": "string",
    "reason": "string",
    "path": "string",
    "files": "int",
    "bytes": "int",
    "sent": "int",
    "seconds": "float",
    "outcome": "string",
}


def materialization(item: BatchItem, bucket: str) -> dg.AssetMaterialization:
    """That a recording is registered, with what its ingest came to."""
    return dg.AssetMaterialization(
        asset_key=RECORDING,
        partition=item.rec_id,
        tags={"dagster/data_version": item.recording_hash},
        metadata=_metadata(item, bucket),
    )


def mark(item: BatchItem, run_id: str) -> Mark:
    """That a recording failed, or waits."""
    return Mark(
        item.rec_id,
        "waiting" if item.state == "waiting" else "failed",
        reason=item.reason,
        remedy=item.remedy,
        error_type=item.error_type,
        retryable=item.retryable,
        by=f"run {run_id[:8]}",
        fingerprint=item.fingerprint,
    )


def table(items: Sequence[BatchItem]) -> dg.TableMetadataValue:
    """The batch, a line for each recording."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "recording": item.rec_id,
                    "status": item.status,
                    "reason": item.reason,
                    "path": item.path,
                    "files": item.files,
                    "bytes": item.bytes,
                    "sent": item.files_uploaded,
                    "seconds": round(item.seconds, 2),
                    "outcome": item.outcome,
                }
            )
            for item in items
        ],
        schema=dg.TableSchema([dg.TableColumn(name, kind) for name, kind in _COLUMNS.items()]),
    )


class Progress:
    """Tells, now and then, how far long uploads have come: on a recording's partition, and in the run's log."""

    def __init__(self, context: dg.OpExecutionContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._logged_at = time.monotonic()
        self._begun: dict[str, float] = {}
        self._observed_at: dict[str, float] = {}

    def tell(self, rec_id: str, progress: UploadProgress) -> None:
        """Takes note of a recording's progress. Safe to call from several threads."""
        now = time.monotonic()
        with self._lock:
            begun = self._begun.setdefault(rec_id, now)
            is_to_observe = now - self._observed_at.setdefault(rec_id, now) >= _OBSERVED_EVERY_SECONDS
            is_to_log = now - self._logged_at >= _LOGGED_EVERY_SECONDS
            if is_to_observe:
                self._observed_at[rec_id] = now
            if is_to_log:
                self._logged_at = now
        speed = progress.bytes_uploaded / 1e6 / (now - begun) if now > begun else 0.0
        if is_to_log:
            self._context.log.info(
                "%s: %s of %s bytes, %.1f MB/s",
                rec_id,
                f"{progress.bytes_uploaded:,}",
                f"{progress.bytes_total:,}",
                speed,
            )
        if is_to_observe:
            self._context.log_event(
                dg.AssetObservation(
                    RECORDING,
                    partition=rec_id,
                    description="Upload under way",
                    metadata={
                        "bytes_so_far": dg.MetadataValue.int(progress.bytes_uploaded),
                        "bytes": dg.MetadataValue.int(progress.bytes_total),
                        "MB/s": dg.MetadataValue.float(round(speed, 3)),
                    },
                )
            )


def _metadata(item: BatchItem, bucket: str) -> dict[str, dg.MetadataValue]:
    value = dg.MetadataValue
    speed = item.bytes_uploaded / 1e6 / item.seconds if item.bytes_uploaded and item.seconds else 0.0
    return {
        "path": value.text(item.path),
        "outcome": value.text(item.outcome),
        "files": value.int(item.files),
        "bytes": value.int(item.bytes),
        "files_uploaded": value.int(item.files_uploaded),
        "files_skipped": value.int(item.files_skipped),
        "bytes_uploaded": value.int(item.bytes_uploaded),
        "seconds": value.float(round(item.seconds, 3)),
        "MB/s": value.float(round(speed, 3)),
        "verification": value.text(item.verification),
        "nodes": value.text(", ".join(item.nodes)),
        **({"nodes_missing": value.text(", ".join(item.nodes_missing))} if item.nodes_missing else {}),
        "manifest": value.text(uri(bucket, raw_key(item.rec_id, MANIFEST))),
        "commit_marker": value.text(uri(bucket, marker_key(item.rec_id))),
        "dagster/uri": value.text(uri(bucket, recording_prefix(item.rec_id))),
        "recording_hash": value.text(item.recording_hash),
        "fingerprint": value.text(item.fingerprint),
    }
