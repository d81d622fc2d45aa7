"""`DataInterface`, the Python door: each method hands over to a room below (runbook; DESIGN section 7)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ursa_pipelines.announcing import ingest_announced, needs_announcement
from ursa_pipelines.catalog.pointer import init_catalog
from ursa_pipelines.catalog.policies import ModalityPolicy, RecordingPolicy
from ursa_pipelines.catalog.results import QueryResult, QueryResultList, QueryStatus, Where
from ursa_pipelines.catalog.upgrade import CatalogFormat, Upgraded, format_of, upgrade
from ursa_pipelines.errors import (
    CatalogRowNotFound,
    UrsaError,
)
from ursa_pipelines.ingest import pipeline
from ursa_pipelines.ingest.batch import BatchItem, BatchItems
from ursa_pipelines.ingest.context import UploadProgress, Watch
from ursa_pipelines.ingest.fetch import MAX_BYTES, read_data
from ursa_pipelines.ingest.plan import IngestPlan, IngestPlans, plan_ingest, plan_many, targets_of
from ursa_pipelines.ingest.plan_file import PlanFile, require_profile, require_same_place
from ursa_pipelines.ingest.reconstruct_manifest import reconstruct_in_bucket
from ursa_pipelines.ingest.register import IngestResult
from ursa_pipelines.ingest.results_shown import Shown
from ursa_pipelines.ingest.targets import Targets, find_targets
from ursa_pipelines.ingest.verify import Verification, verify
from ursa_pipelines.ingest.wanted import wanted_files
from ursa_pipelines.maintenance.narrowing import Only
from ursa_pipelines.maintenance.release.desk import purge_released, release, restore_released, wanted_of
from ursa_pipelines.maintenance.release.ledger import Release, releases
from ursa_pipelines.objects.data import Data
from ursa_pipelines.objects.destination import Layout
from ursa_pipelines.objects.download import DownloadProgress, download_files
from ursa_pipelines.objects.unfinished import UnfinishedUpload, UnfinishedUploads
from ursa_pipelines.profiles.timetable import Bandwidth, Estimate, Timetable, clear_override, estimate, set_override
from ursa_pipelines.recordings.identity import is_rec_id
from ursa_pipelines.recordings.manifest import Manifest
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, StorageFormat, end_of
from ursa_pipelines.rooms import WRITE_ROLES, Rooms

if TYPE_CHECKING:
    import pyarrow as pa

    from ursa_pipelines.catalog.tables.fold import Folded
    from ursa_pipelines.catalog.tables.schemas import TableName


class DataInterface(Rooms, Shown):
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

    def _shown(self) -> dict[str, str]:
        # Only what is known already: showing it opens nothing and asks nobody.
        opened = next((self.__dict__[name] for name in ("catalog", "_rw_catalog") if name in self.__dict__), None)
        return {
            "profile": self.profile.name,
            "family": self.profile.family,
            "raw": self.profile.buckets.raw,
            "assets": self.profile.buckets.assets,
            "catalog": opened.prefix if opened else "",
            "may write": " and ".join(sorted(self._enabled)) or "nothing, before enable_writes()",
        }

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
        self,
        what: Iterable[Path | str | IngestPlan] | None,
        *,
        overwrite: bool = False,
        allow_partial: bool = False,
        as_planned: bool = False,
        progress: Callable[[str, UploadProgress], None] | None = None,
        on_ended: Callable[[BatchItem], None] | None = None,
        should_pause: Callable[[], bool] | None = None,
    ) -> BatchItems:
        """Ingests each recording on its own: OK, SKIP (not ready) or FAIL with the reason; none stops the rest.

        `what` are recording directories, directories that hold such, rec_ids, or plans that `plan_many` made; None
        means all recordings on the sources. With `as_planned`, one that is not as its plan says any more fails with
        `PlanDrifted` before anything of it is written. From `notifications.announce_from` recordings on it is announced
        before the first byte. `progress` (told the rec_id) and `on_ended` (once for each recording) are called from
        threads.
        """
        items = ingest_announced(
            self.ingest_context(),
            self.profile,
            what if what is None else list(what),
            timetable=self._timetable,
            overwrite=overwrite,
            allow_partial=allow_partial,
            as_planned=as_planned,
            progress=progress,
            on_ended=on_ended,
            should_pause=should_pause,
        )
        return BatchItems(items)

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
        """What `ingest` would do with a directory; writes nothing, and reads of segments at most the headers of media.

        Raises what that would."""
        return plan_ingest(self.reading_context, Path(source_dir))

    def find_targets(self, what: Sequence[Path | str] = ()) -> Targets:
        """The recordings that `what` names, as for `plan_many`, and the sources that could not be read."""
        return find_targets(self.reading_context, self.sources, what)

    def plan_many(
        self,
        what: Sequence[Path | str] | Targets = (),
        *,
        overwrite: bool = False,
        allow_partial: bool = False,
        on_planned: Callable[[IngestPlan], None] | None = None,
    ) -> IngestPlans:
        """What `ingest_many` would do with each recording; without `what` with all on the sources.

        Never raises for one recording; raises `SourceNotFound` and `SourceUnavailable` for `what` names nothing.
        `on_planned` is called from threads.
        """
        targets = what if isinstance(what, Targets) else self.find_targets(what)
        plans = plan_many(
            self.reading_context, targets, overwrite=overwrite, allow_partial=allow_partial, on_planned=on_planned
        )
        return IngestPlans(plans)

    def plan_file(
        self,
        plans: Sequence[IngestPlan],
        *,
        overwrite: bool = False,
        allow_partial: bool = False,
        unavailable: Mapping[str, str] | None = None,
    ) -> PlanFile:
        """The plans with what they hold for, as `write_plan` and `drift` take them. `unavailable` is `Targets`'."""
        profile = self.profile
        # What is no rec_id is refused, has no directory that could be its own, and may be named more than once.
        named = {one.rec_id: one if is_rec_id(one.rec_id) else replace(one, directories=()) for one in plans}
        where = f"{profile.store}\n{profile.endpoint or self.state}\n{profile.region}"
        return PlanFile(
            profile=profile.name,
            family=profile.family,
            buckets=profile.buckets.model_dump(),
            endpoint=hashlib.sha256(where.encode()).hexdigest()[:16],
            catalog_prefix=self.catalog.prefix,
            made_at=datetime.now(UTC),
            made_by=self.writer.by,
            overwrite=overwrite,
            allow_partial=allow_partial,
            unavailable=dict(unavailable or {}),
            recordings=list(named.values()),
        )

    def plan_again(self, before: PlanFile, *, on_planned: Callable[[IngestPlan], None] | None = None) -> PlanFile:
        """What a plan from a file would ingest, planned anew for `drift`. Raises `PlanDrifted` for another place."""
        overwrite, allow_partial = before.overwrite, before.allow_partial
        require_profile(before, self.profile.name)
        require_same_place(before, self.plan_file([]))
        plans = self.plan_many(
            targets_of(before.to_ingest), overwrite=overwrite, allow_partial=allow_partial, on_planned=on_planned
        )
        return self.plan_file(plans, overwrite=overwrite, allow_partial=allow_partial)

    def estimate(self, plans: Sequence[IngestPlan]) -> Estimate:
        """How long sending what these plans would send takes under the cap in force, from now on."""
        size = sum(plan.bytes_to_send for plan in plans if plan.action == "ingest")
        return estimate(self._timetable, size, datetime.now(UTC).astimezone())

    def needs_announcement(self, plans: Sequence[IngestPlan]) -> str:
        """The text that a person must post before this ingest, or "" where none need; see `announcing`."""
        return needs_announcement(self.profile, plans, by=self.writer.by, timetable=self._timetable)

    @property
    def _timetable(self) -> Timetable:
        return Bandwidth(self.profile.settings.bandwidth, self.state).in_force()

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
        for role in WRITE_ROLES:
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

    # Room on the sources

    def release(
        self,
        rec_ids: Iterable[str] = (),
        *,
        source: str | None = None,
        commit: bool = False,
        deep: bool = False,
        held: Mapping[str, str] | None = None,
    ) -> list[Release]:
        """Which directories may leave their sources; with `commit` they are certified and moved into the trash there.

        Of these recordings, or of all, on all sources or one. `held` tells by rec_id why somebody objects, as a
        quarantine does, of which only Dagster knows: `commit` needs it, if it is empty, and the roles source_rw and
        assets_rw. `deep` reads the bucket's bytes, too.
        """
        desk = self.release_desk(commit=commit)
        wanted = wanted_of(desk, Only(frozenset(rec_ids)), source)
        return list(release(desk, wanted, commit=commit, by_bytes=deep, held=held))

    def purge_released(
        self, rec_ids: Iterable[str] = (), *, commit: bool = False, held: Mapping[str, str] | None = None
    ) -> list[Release]:
        """What waits in the trash of a source; with `commit` what has waited long enough goes. `held` as above."""
        return list(purge_released(self.release_desk(commit=commit), list(rec_ids), commit=commit, held=held))

    def restore_released(self, rec_ids: Iterable[str], *, commit: bool = False) -> list[Release]:
        """What would come back from the trash to its place; with `commit` it does."""
        return list(restore_released(self.release_desk(commit=commit), list(rec_ids), commit=commit))

    def releases(self, rec_ids: Iterable[str] = ()) -> list[Release]:
        """Every release there was, of these recordings or of all, and where its directory is now."""
        return list(releases(self.release_desk(commit=False), list(rec_ids)))

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
        Raises `CatalogRowExists` or `CatalogConflict`, and `ValueError` for values that no row can have, such as a
        duration that ends after the year 9999.
        """
        row = RecordingRow(
            recording_hash=recording_hash,
            participant_ids=sorted(set(participant_ids)),
            start_time=start_time,
            duration=duration,
            ended_at=ended_at or (end_of(start_time, duration) if duration else None),
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
        What it returns can be taken further: `data.query(modalities=["eeg"])[:3].download("out")`.
        """
        found = self.catalog.query(
            recording_hash=recording_hash,
            participants=participants,
            modalities=modalities,
            status=status,
            started_after=started_after,
            started_before=started_before,
            metadata=metadata,
        )
        return found.delivered_by(self)

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

        `layout` is "by_recording", "by_modality" or "flat". Several files come at once. After an interruption the same
        call goes on where it was; what is there and right is kept. `progress` is told of six phases, in the calling
        thread: start, plan_done, modality_start, file_done, modality_done, finish.
        Raises `ContentMismatch`, `ObjectsMissing`, `DestinationFull`, `DestinationUnusable`; a file that exists with
        other content is `DestinationConflict`, which is a `FileExistsError`.
        """
        results = [target] if isinstance(target, QueryResult) else list(target)
        raw = self._bucket("raw_ro")
        return download_files(
            raw,
            lambda: wanted_files(raw, results),
            Path(dest),
            layout=layout,
            progress=progress,
            workers=self.profile.settings.upload_workers,
        )

    @overload
    def get(self, target: QueryResult, *, max_bytes: int = MAX_BYTES) -> Data: ...

    @overload
    def get(self, target: Iterable[QueryResult], *, max_bytes: int = MAX_BYTES) -> list[Data]: ...

    def get(self, target: QueryResult | Iterable[QueryResult], *, max_bytes: int = MAX_BYTES) -> Data | list[Data]:
        """The raw segments of query results in memory, verified as a download is; `Data` for each.

        `data.get(result).modalities["eeg"].segments` are (key, bytes), sorted by key. Raises `DataTooLarge` before
        anything is read if they are more than `max_bytes` (1 GiB) together, and what `download` raises.
        """
        results = [target] if isinstance(target, QueryResult) else list(target)
        workers = self.profile.settings.upload_workers
        found = read_data(self._bucket("raw_ro"), results, max_bytes=max_bytes, workers=workers)
        return found[0] if isinstance(target, QueryResult) else found

    def catalog_format(self, prefix: str | None = None) -> CatalogFormat:
        """Of which format the catalog is, live or under `prefix`, and what `upgrade_catalog` would do."""
        return format_of(self._bucket("assets_ro"), prefix or self.catalog.prefix)

    def upgrade_catalog(self, prefix: str | None = None, *, progress: Callable[[int], None] | None = None) -> Upgraded:
        """Brings a catalog of an older format, live or under `prefix`, to ours; older builds then refuse it.

        Every entry is read for the tables: `progress` is told how many were so far. Interrupted, call it again.
        """
        self._require_role("assets_rw", "upgrading the catalog")
        under = prefix or self.catalog.prefix
        return upgrade(self._bucket("assets_rw"), under, by=self.writer.by, progress=progress)

    def init_catalog(self) -> str:
        """Creates an empty catalog and the buckets' identity objects where they are missing; the live prefix."""
        for role in WRITE_ROLES:
            self._require_identity(role, may_create=True)
        return init_catalog(self._bucket("assets_rw"), by=self.writer.by).prefix
