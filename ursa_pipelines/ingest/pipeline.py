"""The steps in their order, for one recording."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ursa_pipelines import failpoints
from ursa_pipelines.errors import UploadInterrupted
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.discover import Discovery, discover, discover_in_bucket, require_manifest
from ursa_pipelines.ingest.reconstruct_manifest import complete_manifest, hash_unattested
from ursa_pipelines.ingest.register import IngestResult, register
from ursa_pipelines.ingest.upload import upload

if TYPE_CHECKING:
    from ursa_pipelines.ingest.batch import BatchItem

logger = logging.getLogger("ursa.register.orchestrator")


def ingest(
    context: IngestContext,
    source_dir: Path,
    *,
    manifest_path: Path | None = None,
    participant: str | None = None,
    overwrite: bool = False,
    allow_partial: bool = False,
    watch: Watch | None = None,
) -> IngestResult:
    """Paths A and C from a directory: upload what the bucket lacks, then register (runbook, Path A).

    A pause asked for through `watch` ends in a result with `paused` True and nothing registered.
    """
    watch = watch or Watch()
    discovery = discover(
        context,
        source_dir,
        manifest_path=manifest_path,
        participant=participant,
        allow_partial=allow_partial,
    )
    failpoints.reached("ingest.discovered")
    try:
        return _finish(context, discovery, watch, overwrite=overwrite)
    except UploadInterrupted:
        return IngestResult(discovery.rec_id, None, 0, 0, 0, paused=True, path=discovery.path)


def ingest_from_bucket(
    context: IngestContext, rec_id: str, *, participant: str | None = None, overwrite: bool = False
) -> IngestResult:
    """Path B: registers a recording whose bytes and manifest are in the bucket; writes no raw object.

    Raises `ManifestNotFound` if it has no usable manifest.
    """
    discovery = discover_in_bucket(context, rec_id, participant=participant)
    require_manifest(discovery)
    return _finish(context, discovery, Watch(), overwrite=overwrite)


def log_ended(told: IngestResult | BatchItem) -> None:
    """Logs what the ingest of a recording came to, with the numbers as attributes of the line."""
    logger.info(
        "%s: %s by path %s, %d uploaded, %d skipped",
        told.rec_id,
        told.outcome,
        told.path,
        told.files_uploaded,
        told.files_skipped,
        extra={
            "recording": told.rec_id,
            "outcome": told.outcome,
            "ingest_path": told.path,
            "bytes_uploaded": told.bytes_uploaded,
            "files_uploaded": told.files_uploaded,
            "files_skipped": told.files_skipped,
        },
    )


def _finish(context: IngestContext, discovery: Discovery, watch: Watch, *, overwrite: bool) -> IngestResult:
    digests = hash_unattested(context, discovery, watch)
    failpoints.reached("ingest.hashed")
    recording = complete_manifest(context, discovery, digests, watch.check_stop)
    failpoints.reached("ingest.manifest_made")
    uploaded = upload(context, recording, watch)
    failpoints.reached("ingest.uploaded")
    result = register(context, uploaded, overwrite=overwrite)
    log_ended(result)
    return result
