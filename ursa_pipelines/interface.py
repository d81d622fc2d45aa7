"""`DataInterface`, the Python door: each method hands over to a room below (runbook; DESIGN section 7)."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.pointer import init_catalog, require_known_version
from ursa_pipelines.catalog.policies import ModalityPolicy, RecordingPolicy
from ursa_pipelines.catalog.results import QueryResult, QueryResultList, QueryStatus, Where
from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.errors import (
    BucketMismatch,
    CatalogRowNotFound,
    ObjectExists,
    ObjectNotFound,
    RoleNotEnabled,
    UrsaError,
    WritesNotEnabled,
)
from ursa_pipelines.ingest import pipeline
from ursa_pipelines.ingest.batch import BatchItem, ingest_many
from ursa_pipelines.ingest.context import IngestContext, UploadProgress, Watch
from ursa_pipelines.ingest.plan import IngestPlan, plan_ingest
from ursa_pipelines.ingest.reconstruct_manifest import reconstruct_in_bucket
from ursa_pipelines.ingest.register import IngestResult
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.ingest.verify import Verification, verify
from ursa_pipelines.ingest.wanted import wanted_files
from ursa_pipelines.objects.digests import DigestCache
from ursa_pipelines.objects.download import DownloadProgress, Layout, download_files
from ursa_pipelines.objects.keys import BUCKET_IDENTITY
from ursa_pipelines.objects.line import Line
from ursa_pipelines.objects.store import Bucket, Endpoint
from ursa_pipelines.objects.transfers import TransferLimits, Transfers
from ursa_pipelines.objects.unfinished import UnfinishedUpload, UnfinishedUploads
from ursa_pipelines.profiles import CredentialSource, Role, load_profile
from ursa_pipelines.profiles.timetable import Bandwidth, clear_override, set_override
from ursa_pipelines.recordings.manifest import Manifest
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, StorageFormat

if TYPE_CHECKING:
    import pyarrow as pa

    from ursa_pipelines.catalog.tables.fold import Folded
    from ursa_pipelines.catalog.tables.schemas import TableName
    from ursa_pipelines.profiles import Profile

_PURPOSES = {"raw_ro": "raw", "raw_rw": "raw", "assets_ro": "assets", "assets_rw": "assets"}


class DataInterface:
    """Reads the catalog and the recordings of a profile; writes after `enable_writes()`.

    `profile` is "local", "r2" or "r2-test"; `config_path` names a YAML file that is a profile of its own, or
    overrides fields of `profile`. No environment variable selects either. Credentials are fetched on first use
    and stay in memory. Raises `ProfileInvalid`.

    >>> data = DataInterface(profile="local")
    >>> data.enable_writes(roles=("assets_rw", "raw_rw"))
    >>> result = data.ingest(source_dir=rec_dir)
    >>> recording = data.get_recording(result.recording.recording_hash)
    >>> recording.metadata["manifest_recording_id"] == rec_dir.name
    True
    >>> results = data.query(recording_hash=recording.recording_hash, modalities=["camera"], status="raw")
    >>> [path.name for path in data.download(results, dest)]
    ['seg_0000.mp4']
    >>> sum(batch.num_rows for batch in data.scan("modalities", {"modality": "camera"}, ["recording_hash"]))
    1
    """

    def __init__(self, profile: str | None = None, *, config_path: Path | str | None = None, run_id: str | None = None):
        self.profile: Profile = load_profile(profile, Path(config_path) if config_path else None)
        self._credentials = CredentialSource(self.profile)
        self._enabled: frozenset[Role] = frozenset()
        self._buckets: dict[Role, Bucket] = {}
        self.writer = Writer(by=f"{_user()}@{socket.gethostname()}", run_id=run_id)

    def __repr__(self) -> str:
        return f"DataInterface(profile={self.profile.name!r})"

    def close(self) -> None:
        """Lets go of all connections. It may be used again, and then opens new ones.

        A process that makes many interfaces closes each of them: see `Bucket.close`.
        """
        for bucket in self._buckets.values():
            bucket.close()

    def enable_writes(self, roles: Sequence[Role] = ("assets_rw",)) -> None:
        """Allows writes with these roles; `ingest` needs `("assets_rw", "raw_rw")`.

        Before the first write each bucket's identity object must name this profile's family and the bucket's
        purpose, else `BucketMismatch`: test code cannot write to production, nor the reverse.
        """
        for role in roles:
            if role not in {"assets_rw", "raw_rw"}:
                raise ValueError(f"{role!r} is no write role; there are assets_rw and raw_rw")
            if role not in self._enabled:
                self._require_identity(self._bucket(role), _PURPOSES[role])
        self._enabled |= frozenset(roles)

    @property
    def sources(self) -> list[Source]:
        """The NAS shares and drives that the profile names."""
        return [Source(source.name, source.path) for source in self.profile.sources]

    # Ingest

    def ingest(
        self,
        *,
        source_dir: Path | str,
        manifest_path: Path | str | None = None,
        participant: str | None = None,
        overwrite: bool = False,
        allow_partial: bool = False,
        progress: Callable[[UploadProgress], None] | None = None,
        should_pause: Callable[[], bool] | None = None,
    ) -> IngestResult:
        """Uploads what the bucket lacks of a recording directory, then registers it (runbook, Paths A and C).

        Without `manifest_path` the directory's manifests are found, or one is reconstructed; without `participant`
        participant.txt counts. Running it again is cheap and changes nothing. Raises the errors of
        `ursa_pipelines.errors`; none leaves a row without its bytes.
        """
        return pipeline.ingest(
            self.ingest_context(),
            Path(source_dir),
            manifest_path=Path(manifest_path) if manifest_path is not None else None,
            participant=participant,
            overwrite=overwrite,
            allow_partial=allow_partial,
            watch=Watch(progress, should_pause),
        )

    def ingest_from_r2(self, rec_id: str, participant: str | None = None, overwrite: bool = False) -> IngestResult:
        """Registers a recording whose bytes are in the bucket (runbook, Path B); needs only assets_rw.

        A manifest's `participant` is never read; without the argument the bucket's participant.txt counts.
        Raises `ObjectsMissing`, `ManifestNotFound`.
        """
        return pipeline.ingest_from_bucket(
            self.ingest_context(raw_role="raw_ro"), rec_id, participant=participant, overwrite=overwrite
        )

    def ingest_many(
        self, directories: Iterable[Path | str], *, overwrite: bool = False, allow_partial: bool = False
    ) -> list[BatchItem]:
        """Ingests each directory on its own: OK, SKIP (not ready) or FAIL with the reason; none stops the rest."""
        return ingest_many(
            self.ingest_context(),
            [Path(directory) for directory in directories],
            overwrite=overwrite,
            allow_partial=allow_partial,
        )

    def reconstruct_manifest(
        self,
        rec_id: str,
        progress: Callable[[UploadProgress], None] | None = None,
        should_pause: Callable[[], bool] | None = None,
    ) -> Manifest | None:
        """Makes manifest.json from the bytes in the bucket (runbook, Path C); None if a usable one is there.

        Needs raw_rw. Raises `SourceNotFound` if the bucket has no bytes of the recording, `UploadInterrupted` on a
        pause; digests computed by then are kept for the next call.
        """
        self._require_role("raw_rw", "storing a manifest")
        context = self._context(self._bucket("raw_rw"), self.catalog)
        return reconstruct_in_bucket(context, rec_id, Watch(progress, should_pause))

    def plan(self, source_dir: Path | str) -> IngestPlan:
        """What `ingest` would do with a directory; reads no segment and writes nothing."""
        return plan_ingest(self.reading_context, Path(source_dir))

    def verify(
        self,
        rec_id: str,
        deep: bool = False,
        *,
        progress: Callable[[UploadProgress], None] | None = None,
        should_pause: Callable[[], bool] | None = None,
    ) -> Verification:
        """Whether rows, manifests and objects agree; with `deep` every byte is read and hashed.

        If assets_rw is enabled, a deep look that finds nothing wrong raises the row's verification level to `sha256`.
        Raises `UploadInterrupted` on a pause.
        """
        record = deep and "assets_rw" in self._enabled
        context = self.ingest_context(raw_role="raw_ro") if record else self.reading_context
        return verify(context, rec_id, deep=deep, record=record, watch=Watch(progress, should_pause))

    def unfinished_uploads(self) -> list[UnfinishedUpload]:
        """Large files whose upload was interrupted; the next ingest of their recordings sends only what is missing.

        Uploads of others, such as a rig's, are not among them.
        """
        return UnfinishedUploads(self._bucket("raw_ro"), self._bucket("assets_ro")).survey()

    def clean_uploads(self, idle: timedelta = timedelta(days=1)) -> list[UnfinishedUpload]:
        """Ends the unfinished uploads into which nothing was sent for so long, and returns them.

        What is stored of them is lost; an ingest of their recordings begins these files anew. Needs both write roles.
        """
        for role in ("raw_rw", "assets_rw"):
            self._require_role(role, "ending uploads")
        uploads = UnfinishedUploads(self._bucket("raw_rw"), self._bucket("assets_rw"))
        before = datetime.now(UTC) - idle
        orphaned = [one for one in uploads.survey() if one.idle_since is None or one.idle_since <= before]
        return [one for one in orphaned if uploads.remove(one)]

    def set_bandwidth(self, timetable: str | None) -> None:
        """Caps the uploads of this host, running ones too, such as "08:00-19:00 5MB/s, 25MB/s" (local time).

        It holds for everything that shares `state`, in place of the profile's setting; None returns to that. Raises
        `ValueError`.
        """
        if timetable is None:
            clear_override(self.state)
        else:
            set_override(self.state, timetable)

    # Rows

    def register_recording(
        self,
        *,
        recording_hash: str,
        start_time: datetime,
        duration: timedelta,
        participant_ids: Sequence[str] = (),
        ended_at: datetime | None = None,
        device_info: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_conflict: RecordingPolicy = "error",
    ) -> RecordingRow:
        """Registers a recording row; returns it as it stands. `ended_at` defaults to start plus a duration above 0.

        `on_conflict` is "error", "extend", "merge_participants" or "overwrite" (runbook, Conflict policies).
        Raises `CatalogRowExists` or `CatalogConflict`.
        """
        row = RecordingRow(
            recording_hash=recording_hash,
            participant_ids=sorted(set(participant_ids)),
            start_time=start_time,
            duration=duration,
            ended_at=ended_at or (start_time + duration if duration else None),
            device_info=dict(device_info) if device_info else None,
            metadata=dict(metadata) if metadata else None,
        )
        return self._write_catalog.register_recording(row, on_conflict, self.writer).entry.recording

    def register_recordings(
        self, rows: Sequence[RecordingRow], on_conflict: RecordingPolicy = "error"
    ) -> list[RecordingRow | UrsaError]:
        """Registers many recording rows at once; each as it stands, or why it was refused. None stops the others."""
        outcomes = self._write_catalog.register_recordings(rows, on_conflict, self.writer)
        return [one if isinstance(one, UrsaError) else one.entry.recording for one in outcomes]

    def release_claim(self, rec_id: str) -> str:
        """Gives a rec_id free that was claimed more than 24 h ago and never registered; the hash that had owned it.

        Raises `CatalogError` if it is in use.
        """
        return self._write_catalog.release_claim(rec_id, self.writer)

    def fold(self) -> Folded:
        """Brings the tables that other engines read up to date. Reads by this interface do not depend on it."""
        return self._write_catalog.fold(self.writer)

    def register_modality(
        self,
        *,
        recording_hash: str,
        modality: str,
        format: StorageFormat | str,
        raw_storage_uri: str | None = None,
        worker_id: str | None = None,
        on_conflict: ModalityPolicy = "error",
        **fields: Any,
    ) -> ModalityRow:
        """Adds a modality row to an existing recording; `on_conflict` is "error" or "overwrite", nothing else."""
        row = ModalityRow(
            recording_hash=recording_hash,
            modality=modality,
            worker_id=worker_id,
            format=StorageFormat(format),
            raw_storage_uri=raw_storage_uri,
            **fields,
        )
        entry = self._write_catalog.register_modality(row, on_conflict, self.writer).entry
        return next(one for one in entry.modalities if one.primary_key == row.primary_key)

    def get_recording(self, recording_hash: str) -> RecordingRow:
        """The recording's row: one request. Raises `CatalogRowNotFound`."""
        return self.catalog.entry(recording_hash).recording

    def get_participant(self, participant_id: str) -> ParticipantRow:
        """The participant's row. Raises `CatalogRowNotFound`."""
        rows = self.catalog.list_participants({"participant_id": participant_id})
        if not rows:
            raise CatalogRowNotFound(f"there is no participant {participant_id}")
        return rows[0]

    def list_recordings(self, where: Where | None = None) -> list[RecordingRow]:
        """Recordings that match `where`: equality, membership in a list, or half-open `("between", lo, hi)`."""
        return self.catalog.list_recordings(where)

    def list_modalities(self, where: Where | None = None) -> list[ModalityRow]:
        """Modalities that match `where`; one request if `recording_hash` is given."""
        return self.catalog.list_modalities(where)

    def list_participants(self, where: Where | None = None) -> list[ParticipantRow]:
        """Participants that match `where`."""
        return self.catalog.list_participants(where)

    def query(
        self,
        *,
        recording_hash: str | None = None,
        participants: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        status: QueryStatus | None = None,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> QueryResultList:
        """Recordings that pass every filter given, each with its modalities.

        `participants` takes names or ids, `modalities` families; recordings without a match are dropped when
        modalities are asked for. `status` is "raw", "ingested" or None for any. Times are half-open, UTC.
        """
        return self.catalog.query(
            recording_hash=recording_hash,
            participants=participants,
            modalities=modalities,
            status=status,
            started_after=started_after,
            started_before=started_before,
            metadata=metadata,
        )

    def scan(
        self, table: TableName, where: Where | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a table that match as Arrow, streamed, for millions of them; docs/catalog.md has the columns.

        Raises `ValueError` for a column that the table does not have.
        """
        return self.catalog.scan(table, where, columns)

    def download(
        self,
        target: QueryResult | Iterable[QueryResult],
        dest: Path | str,
        *,
        layout: Layout = "by_recording",
        progress: Callable[[DownloadProgress], None] | None = None,
    ) -> list[Path]:
        """Downloads the raw segments of query results, verified against their manifests; the paths written.

        `progress` is told of six phases: start, plan_done, modality_start, file_done, modality_done, finish.
        Raises `ContentMismatch`, `ObjectsMissing`; a file that exists with other content is `FileExistsError`.
        """
        results = [target] if isinstance(target, QueryResult) else list(target)
        raw = self._bucket("raw_ro")
        return download_files(raw, lambda: wanted_files(raw, results), Path(dest), layout=layout, progress=progress)

    def init_catalog(self) -> str:
        """Creates an empty catalog and the buckets' identity objects where they are missing; the live prefix."""
        for role in ("assets_rw", "raw_rw"):
            self._require_identity(self._bucket(role), _PURPOSES[role], may_create=True)
        return init_catalog(self._bucket("assets_rw"), by=self.writer.by).prefix

    # Rooms

    @property
    def state(self) -> Path:
        """The directory for what this host knows: digests of files, and the line that its uploads share.

        `.ursa` beside DAGSTER_HOME where that is set, so that all runs of the instance share it; in the working
        directory for the embedded store; else in the home directory.
        """
        if self.profile.store == "embedded" or os.environ.get("DAGSTER_HOME"):
            return state_directory()
        return Path.home() / ".ursa"

    @cached_property
    def line(self) -> Line:
        """The uplink that all uploads of this host share, with the profile's cap or the one set for the host."""
        return Line(Bandwidth(self.profile.settings.bandwidth, self.state), self.state)

    @cached_property
    def catalog(self) -> Catalog:
        """The live catalog, opened for reading at the prefix the pointer names."""
        if self.profile.family == "local":
            self._require_identity(self._bucket("assets_rw"), "assets")
            init_catalog(self._bucket("assets_rw"), by=self.writer.by)
        return Catalog.open(self._bucket("assets_ro"), prefix=self.profile.catalog_prefix)

    def ingest_context(self, raw_role: Role = "raw_rw") -> IngestContext:
        """What the steps of `ursa_pipelines.ingest` are handed; `raw_role` is raw_ro where no raw object is written.

        Raises `WritesNotEnabled`, or `RoleNotEnabled` if that role was not enabled.
        """
        catalog = self._write_catalog
        if raw_role == "raw_rw":
            self._require_role(raw_role, "uploading raw bytes")
        return self._context(self._bucket(raw_role), catalog)

    @property
    def reading_context(self) -> IngestContext:
        """What the steps and the maintenance of `ursa_pipelines` are handed where they only read."""
        return self._context(self._bucket("raw_ro"), self.catalog)

    @cached_property
    def _rw_catalog(self) -> Catalog:
        assets, prefix = self._bucket("assets_rw"), self.profile.catalog_prefix
        if self.profile.family == "local" and prefix is None:
            catalog = Catalog(assets, init_catalog(assets, by=self.writer.by).prefix)
        else:
            catalog = Catalog.open(assets, prefix=prefix)
        # Asked here as well as before the first row, so that no bytes are sent for a catalog that takes no rows.
        require_known_version(catalog.assets, catalog.prefix)
        return catalog

    @property
    def _write_catalog(self) -> Catalog:
        self._require_role("assets_rw", "writing rows")
        return self._rw_catalog

    def _require_role(self, role: Role, purpose: str) -> None:
        if not self._enabled:
            raise WritesNotEnabled("this interface only reads")
        if role not in self._enabled:
            raise RoleNotEnabled(f"{purpose} needs the role {role}")

    @cached_property
    def _transfers(self) -> Transfers:
        settings = self.profile.settings
        limits = TransferLimits(
            part_size=settings.part_size,
            workers=settings.upload_workers,
            resume_above=settings.resume_above,
            read_timeout=settings.read_timeout,
        )
        return Transfers(limits, self.line)

    @cached_property
    def _digests(self) -> DigestCache:
        return DigestCache(self.state)

    def _context(self, raw: Bucket, catalog: Catalog) -> IngestContext:
        settings = self.profile.settings
        return IngestContext(
            raw=raw,
            catalog=catalog,
            writer=self.writer,
            quiet_period=settings.quiet_period,
            reconstruct_after_bucket=settings.reconstruct_after_bucket,
            transfers=self._transfers,
            hash_workers=settings.hash_workers,
            digests=self._digests,
            recordings_at_once=settings.recordings_at_once,
        )

    def _bucket(self, role: Role) -> Bucket:
        if role not in self._buckets:
            name = getattr(self.profile.buckets, _PURPOSES[role])
            self._buckets[role] = Bucket(name, self._endpoint(role))
        return self._buckets[role]

    def _endpoint(self, role: Role) -> Endpoint:
        def secret() -> tuple[str, str, str | None]:
            credential = self._credentials.credential(role)
            return credential.access_key_id, credential.secret_access_key, credential.session_token

        def renew() -> bool:
            return self._credentials.renew(role)

        return Endpoint(self._credentials.endpoint(), self.profile.region, secret, renew)

    def _require_identity(self, bucket: Bucket, purpose: str, *, may_create: bool = False) -> None:
        expected = {"family": self.profile.family, "purpose": purpose}
        try:
            raw, _ = bucket.get(BUCKET_IDENTITY)
        except ObjectNotFound:
            if not may_create and self.profile.family != "local":
                raise BucketMismatch(
                    "the bucket has no identity object",
                    place=f"{bucket.name}/{BUCKET_IDENTITY}",
                    remedy=f"If {bucket.name} is this profile's bucket, run `ursa catalog init` once.",
                ) from None
            try:
                bucket.create(BUCKET_IDENTITY, json.dumps(expected).encode())
            except ObjectExists:
                self._require_identity(bucket, purpose)
            return
        try:
            document = json.loads(raw)
            found = {key: document[key] for key in expected}
        except (ValueError, KeyError, TypeError):
            found = {}
        if found != expected:
            raise BucketMismatch(
                f"the bucket says it is {found or 'unreadable'}, the profile says {expected}",
                place=f"{bucket.name}/{BUCKET_IDENTITY}",
            )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
