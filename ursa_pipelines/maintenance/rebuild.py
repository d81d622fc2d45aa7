"""The catalog made anew under a fresh prefix, from what the raw bucket holds (DESIGN section 6, Rebuild).

1. `CATALOG.json` and `REBUILD.json`; what the store says of the latter's age is the start of the rebuild.
2. Claims and edits of participants are copied, so that hashes and names given by hand survive.
3. Every recording of the bucket goes through the steps of Path B. No byte is read that a manifest attests, no raw
   object is written; a recording without its manifest or objects is told, never invented. The live catalog decides
   which hash a rec_id has: where no manifest states one and nobody has claimed the rec_id yet, it is claimed there
   first, so that who registers it meanwhile comes to the same one. Nothing else is written outside the prefix.
4. In the same compare-and-swap comes what only the live catalog knows of it: modalities that were processed, a length
   that no manifest tells, corrections, participants named by hand, and its history.

Running it again passes over what is there, so that it can be interrupted; shards can run on several machines. Rows
whose bytes are not in the bucket are not copied: `catalog.diff` tells which ones.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice

from pydantic import BaseModel, ConfigDict, ValidationError

from ursa_pipelines import failpoints
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.claims import claim, read_claim
from ursa_pipelines.catalog.corrections import keep_corrections
from ursa_pipelines.catalog.cutover import carry_claim, for_each_below
from ursa_pipelines.catalog.edits import carry_edit
from ursa_pipelines.catalog.entries import Entry, LogItem, Writer, read_entry
from ursa_pipelines.catalog.pointer import create_catalog, read_pointer, require_current_version, require_prefix
from ursa_pipelines.catalog.policies import Resolve
from ursa_pipelines.catalog.tables import fold
from ursa_pipelines.catalog.writing import Change, Registration, ResolveFor, write_entry
from ursa_pipelines.errors import (
    CatalogError,
    CatalogUpgradeNeeded,
    CatalogVersionUnknown,
    ManifestNotFound,
    ObjectExists,
    RecordingNotSettled,
    RecordingRefused,
    StoreDenied,
    UploadInterrupted,
    UrsaError,
)
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.discover import discover_in_bucket, require_manifest
from ursa_pipelines.ingest.reconstruct_manifest import complete_manifest
from ursa_pipelines.ingest.register import Outcome, register
from ursa_pipelines.ingest.upload import Uploaded, upload
from ursa_pipelines.objects.keys import RECORDINGS
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.identity import is_rec_id
from ursa_pipelines.recordings.manifest import UtcTime
from ursa_pipelines.recordings.rows import IngestionStatus, Rows

logger = logging.getLogger("ursa.catalog.rebuild")

_AT_ONCE = 16
_CHUNK = 256

Shard = tuple[int, int]
"""Which one, from 1, and of how many."""


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild, or one shard of it, came to.

    `waiting` are recordings without a usable manifest, `failed` those with the reason. `not_carried` are claims and
    edits, by name, that could not be copied; `without_live` recordings whose live entry or claim could not be read,
    which were rebuilt from the bucket alone. `paused` means that it was stopped before its end.
    """

    prefix: str
    started_at: datetime
    recordings: int = 0
    created: int = 0
    changed: int = 0
    unchanged: int = 0
    waiting: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    not_carried: tuple[tuple[str, str], ...] = ()
    without_live: tuple[tuple[str, str], ...] = ()
    folded: bool = False
    paused: bool = False

    @property
    def ok(self) -> bool:
        return not (self.failed or self.not_carried or self.paused)


class RebuildDocument(BaseModel):
    """The content of `<prefix>/REBUILD.json`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    live: str
    started_at: UtcTime
    started_by: str = ""


def rebuild(
    context: IngestContext,
    live: Catalog,
    prefix: str,
    *,
    shard: Shard | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_pause: Callable[[], bool] | None = None,
) -> Rebuilt:
    """Rebuilds the catalog of the context's raw bucket under `prefix`; the tables too, unless this is a shard.

    `progress` is told how many recordings are done, and of how many. Raises `CatalogError` for a prefix that is or was
    live, lies within the live one, or holds something else than a rebuild of it, `StoreDenied`, `StoreUnavailable`, and
    `ValueError` for a shard that does not exist.
    """
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"shard={shard}: it is (which one, of how many), from 1")
    assets, writer = live.assets, context.writer
    started_at = _begin(assets, live, prefix, writer)
    failpoints.reached("rebuild.begun")
    in_shard = _in_shard(shard)
    not_carried = [*_carry_over(assets, live.prefix, prefix, in_shard, writer)]
    failpoints.reached("rebuild.carried_over")
    staging = _Staging(assets, prefix, follows_pointer=False, live=live, without_live={})
    rec_ids = [name for name in context.raw.list_directories(RECORDINGS) if is_rec_id(name) and in_shard(name)]
    outcomes: dict[str, Outcome | UrsaError] = {}
    watch = Watch(should_pause=should_pause)
    for rec_id, outcome in _each(context, staging, rec_ids, watch):
        failpoints.reached("rebuild.recording_done")
        outcomes[rec_id] = outcome
        if progress is not None:
            progress(len(outcomes), len(rec_ids))
    failpoints.reached("rebuild.recordings_done")
    paused = any(isinstance(one, UploadInterrupted) for one in outcomes.values())
    if shard is None and not paused:
        fold.refold(assets, prefix, by=writer.by)
        failpoints.reached("rebuild.folded")
    waits = (ManifestNotFound, RecordingNotSettled)
    errors = {
        rec_id: one
        for rec_id, one in outcomes.items()
        if isinstance(one, UrsaError) and not isinstance(one, UploadInterrupted)
    }
    values = list(outcomes.values())
    return Rebuilt(
        prefix,
        started_at,
        recordings=len(rec_ids),
        created=values.count("created"),
        changed=values.count("changed"),
        unchanged=values.count("unchanged"),
        waiting=tuple(rec_id for rec_id, error in errors.items() if isinstance(error, waits)),
        failed=tuple((rec_id, str(error)) for rec_id, error in errors.items() if not isinstance(error, waits)),
        not_carried=tuple(not_carried),
        without_live=tuple(sorted(staging.without_live.items())),
        folded=shard is None and not paused,
        paused=paused,
    )


@dataclass(frozen=True)
class _Staging(Catalog):
    """The catalog that is being rebuilt: what is registered is joined with what only the live one knows.

    `history` are the live one's writes that the bucket's listing cannot have missed. Of what was registered after it
    the rows say nothing, and so it must count as unknown here, for the cutover to bring it.
    """

    live: Catalog = field(kw_only=True)
    without_live: dict[str, str] = field(kw_only=True)
    history: tuple[LogItem, ...] = field(default=(), kw_only=True)

    def before_listing(self, rec_id: str) -> _Staging:
        """This one for a recording that is about to be listed."""
        known = None
        # What is damaged is told, or raised, when the recording is written.
        with suppress(CatalogError):
            known = self.live.entry_of_rec_id(rec_id)
        return replace(self, history=tuple(known.log) if known else ())

    def write(
        self,
        recording_hash: str,
        resolve_for: ResolveFor,
        *,
        rec_id: str | None,
        hash_is_stated: bool,
        op: str,
        writer: Writer,
    ) -> Registration:
        meant = recording_hash
        if rec_id is not None and not hash_is_stated:
            meant = read_claim(self.assets, self.prefix, rec_id) or self._claimed_in_live(recording_hash, rec_id)
        known = self._known(meant, rec_id)

        def resolve_again(now_meant: str) -> Resolve:
            if now_meant != meant:
                raise CatalogError("it is being rebuilt by somebody else too", recording=rec_id, remedy="Run it again.")
            derive = resolve_for(meant)

            def resolve(existing: Rows | None) -> Rows:
                rows = derive(None)
                for other in (existing, known.rows if known else None):
                    if other and other.recording.rec_id not in {None, rows.recording.rec_id}:
                        # Refused as it is in an ingest: the same content under another name.
                        return derive(other)
                rebuilt = _with_what_is_known(rows, known.rows) if known else rows
                return existing if existing and _comparable(existing) == _comparable(rebuilt) else rebuilt

            return resolve

        change = Change(meant, hash_is_stated, rec_id, resolve_again, "rebuild", writer, history=self.history)
        return write_entry(self.assets, self.prefix, change, follow_pointer=False)

    def _claimed_in_live(self, recording_hash: str, rec_id: str) -> str:
        """The hash that the rec_id has in the live catalog; this one, if nobody has claimed it there yet."""
        live, prefix = self.live.assets, self.live.prefix
        try:
            require_current_version(live, prefix)
            if owner := read_claim(live, prefix, rec_id):
                return owner
            for found in (read_entry(live, under, recording_hash) for under in (prefix, self.prefix)):
                if found and found[0].recording.rec_id not in {None, rec_id}:
                    # It will be refused, as it is in an ingest: the claim would be left over.
                    return recording_hash
            owner, _ = claim(live, prefix, rec_id, recording_hash, secrets.token_hex(8))
        except (CatalogVersionUnknown, CatalogUpgradeNeeded):
            raise
        except CatalogError as error:
            self.without_live[rec_id] = str(error)
            return recording_hash
        failpoints.reached("rebuild.claimed_in_live")
        return owner

    def _known(self, recording_hash: str, rec_id: str | None) -> Entry | None:
        try:
            found = read_entry(self.live.assets, self.live.prefix, recording_hash)
        except CatalogVersionUnknown:
            raise
        except CatalogError as error:
            self.without_live[rec_id or recording_hash] = str(error)
            return None
        return found[0] if found else None


def _begin(assets: Bucket, live: Catalog, prefix: str, writer: Writer) -> datetime:
    """The start of the rebuild under this prefix, by the store's clock; from now on if it is a new one."""
    require_prefix(prefix)
    place = f"{assets.name}/{prefix}"
    pointer = read_pointer(assets)
    if prefix in {live.prefix, pointer.prefix, *pointer.previous}:
        # Rows that were written there by hand would be derived anew.
        raise CatalogError("this catalog is live, or was", place=place, remedy="Name a fresh prefix.")
    if any(f"{one}/".startswith(f"{other}/") for one, other in ((prefix, live.prefix), (live.prefix, prefix))):
        raise CatalogError("it and the live catalog lie within one another", place=place, remedy="Name another prefix.")
    key = f"{prefix}/REBUILD.json"
    if assets.head(key) is None and next(iter(assets.list_objects(f"{prefix}/")), None) is not None:
        raise CatalogError("something else lies under this prefix", place=place, remedy="Name a fresh prefix.")
    with suppress(ObjectExists):
        document = RebuildDocument(live=live.prefix, started_at=datetime.now(UTC), started_by=writer.by)
        assets.create(key, document.model_dump_json().encode())
    raw, info = assets.get(key)
    try:
        of = RebuildDocument.model_validate_json(raw).live
    except ValidationError as error:
        raise CatalogError(f"it is damaged: {error.errors()[0]['msg']}", place=f"{assets.name}/{key}") from None
    if of != live.prefix:
        raise CatalogError(f"it is a rebuild of {of}", place=place, remedy="Name a fresh prefix.")
    create_catalog(assets, prefix, by=writer.by)
    require_current_version(assets, prefix)
    return datetime.fromtimestamp(info.modified, UTC)


def _in_shard(shard: Shard | None) -> Callable[[str], bool]:
    if shard is None:
        return lambda name: True
    number, count = shard
    return lambda name: int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % count == number - 1


def _carry_over(
    assets: Bucket, source: str, target: str, in_shard: Callable[[str], bool], writer: Writer
) -> Iterator[tuple[str, str]]:
    """Copies claims and edits; those that could not be copied, with the reason."""

    def carried(carry: Callable[[], bool], name: str) -> tuple[str, str] | None:
        try:
            carry()
        except (CatalogError, RecordingRefused) as error:
            return name, str(error)
        return None

    def claimed(name: str) -> tuple[str, str] | None:
        return carried(lambda: carry_claim(assets, source, target, name), name) if in_shard(name) else None

    def edited(name: str) -> tuple[str, str] | None:
        if not in_shard(name):
            return None
        return carried(lambda: carry_edit(assets, source, target, name, op="rebuild", writer=writer), name)

    for directory, work in (("rec_ids", claimed), ("participants", edited)):
        yield from (one for one in for_each_below(assets, f"{source}/{directory}", work) if one is not None)


def _each(
    context: IngestContext, staging: _Staging, rec_ids: Sequence[str], watch: Watch
) -> Iterator[tuple[str, Outcome | UrsaError]]:
    def outcome_of(rec_id: str) -> tuple[str, Outcome | UrsaError]:
        try:
            watch.check_stop()
            return rec_id, _register(replace(context, catalog=staging.before_listing(rec_id)), rec_id, watch)
        except StoreDenied:
            raise
        except UrsaError as error:
            return rec_id, error
        except Exception as error:
            # One recording must not stop the others.
            logger.exception("unforeseen failure", extra={"recording": rec_id})
            # Its text is in the log only: nobody has made sure that it holds no name.
            return rec_id, CatalogError(
                f"unforeseen {type(error).__name__}", recording=rec_id, remedy="Look at the log of this run."
            )

    remaining = iter(rec_ids)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="rebuild") as pool:
        while chunk := list(islice(remaining, _CHUNK)):
            yield from pool.map(outcome_of, chunk)


def _register(context: IngestContext, rec_id: str, watch: Watch) -> Outcome:
    discovery = discover_in_bucket(context, rec_id)
    require_manifest(discovery)
    recording = complete_manifest(context, discovery, {}, watch.check_stop)
    uploaded = upload(context, recording, watch)
    return register(context, replace(uploaded, verification=_level(uploaded))).outcome


def _level(uploaded: Uploaded) -> str:
    """What the commit marker proves without reading a byte."""
    stored, files = uploaded.recording.discovery.stored, uploaded.recording.merged.files
    is_proved = stored.marker is not None and all(
        stored.marker.proves(path, stored.objects[path], files[path].sha256 or "") for path in uploaded.present
    )
    return "sha256" if is_proved else uploaded.verification


def _with_what_is_known(rebuilt: Rows, live: Rows) -> Rows:
    processed = {
        (row.primary_key, row.raw_storage_uri): row
        for row in live.modalities
        if row.ingestion_status is not IngestionStatus.RAW
    }
    recording, before = keep_corrections(live.recording, rebuilt.recording), live.recording
    if not recording.duration:
        recording = recording.model_copy(update={"duration": before.duration, "ended_at": before.ended_at})
    participants = {row.participant_id: row for row in (*live.participants, *rebuilt.participants)}
    named = {*before.participant_ids, *rebuilt.recording.participant_ids}
    return Rows(
        recording.model_copy(update={"participant_ids": sorted(named)}),
        tuple(processed.get((row.primary_key, row.raw_storage_uri), row) for row in rebuilt.modalities),
        tuple(participants[key] for key in sorted(participants)),
    )


def _comparable(rows: Rows) -> list[dict]:
    return [row.comparable() for row in (rows.recording, *rows.modalities, *rows.participants)]
