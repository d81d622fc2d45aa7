"""What people decide about recordings: to set one aside, to leave it as it is, to have it tried again; and the record.

A decision is a mark in the instance (`states`), told with who took it and why. It changes no byte and no row.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import dagster as dg

from ursa_pipelines.errors import Retryable, SourceUnavailable
from ursa_pipelines.ingest.bucket_watch import BucketWatch
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.ingest.watch import UNREAD, look_at
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.objects.keys import recording_prefix, uri
from ursa_pipelines.orchestration.backfills import BUCKET, Whereabouts
from ursa_pipelines.orchestration.partitions import (
    R2_RECORDING,
    RECORDING,
    add_partitions,
    arrival_asset,
    bring_back,
    recordings,
)
from ursa_pipelines.orchestration.resources import require_profile
from ursa_pipelines.orchestration.states import Mark, read_histories
from ursa_pipelines.recordings.identity import is_rec_id

REASON_LIMIT = 500
"""Characters of a reason that are kept."""

_MOST = 1_000
"""So many of the newest events of a kind are told."""

_UNKNOWN = (
    "no recording of this id is on a mounted source, in the bucket, in the catalog, or among the partitions. Check the "
    "id with `ursa status`, and mount the drive that has it."
)
_NOWHERE = "it is neither on a mounted source nor in the bucket, so there is nothing to try again"


@dataclass(frozen=True)
class Decided:
    """A decision about one recording: where its arrival was reported anew, or the `problem` that kept it from it."""

    rec_id: str
    arrivals: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Happening:
    """One line of a recording's record: when (UTC), what, by whom, why."""

    at: datetime
    what: str
    by: str = ""
    why: str = ""


def clean_reason(text: str) -> str:
    """The reason without the space around it. Raises `ValueError` if it is empty, too long or not printable."""
    reason = text.strip()
    if not reason:
        raise ValueError("say why")
    if len(reason) > REASON_LIMIT:
        raise ValueError(f"{len(reason)} characters are too many; at most {REASON_LIMIT} are kept")
    if not reason.isprintable():
        raise ValueError("write it in one line, without control characters")
    return reason


def decide(
    data: DataInterface,
    instance: dg.DagsterInstance,
    rec_ids: Collection[str],
    kind: Literal["quarantined", "waived"],
    reason: str,
) -> list[Decided]:
    """Marks each recording that is known. Raises `ValueError` for a reason that `clean_reason` refuses."""
    reason = clean_reason(reason)
    known = _known(data, instance, rec_ids)
    decided = []
    for rec_id in rec_ids:
        if rec_id in known:
            _report(data, instance, Mark(rec_id, kind, reason, by=data.writer.by))
        decided.append(Decided(rec_id, problem="" if rec_id in known else _UNKNOWN))
    return decided


def retry(data: DataInterface, instance: dg.DagsterInstance, rec_ids: Collection[str]) -> list[Decided]:
    """Lifts quarantine and waiver, forgets past attempts, and reports the arrival of each recording again.

    The automation sensor then takes it up, if a daemon runs and that sensor is on.
    """
    known = _known(data, instance, rec_ids)
    decided = []
    for rec_id in rec_ids:
        try:
            decided.append(_retry(data, instance, rec_id, known))
        except Retryable as error:
            decided.append(Decided(rec_id, problem=str(error)))
    # A new partition is taken up by itself. Were it added before its arrival, it might be taken up twice.
    add_partitions(instance, [one.rec_id for one in decided if not one.problem])
    return decided


def held(instance: dg.DagsterInstance, *, failed: bool, quarantined: bool) -> list[str]:
    """The recordings that failed and are not held, and those in quarantine; waived ones must be named."""
    found = []
    for rec_id, history in read_histories(instance).items():
        has_failed = history.last is not None and history.last.kind == "failed" and not history.is_held
        is_quarantined = history.quarantined is not None and history.waived is None
        if (failed and has_failed) or (quarantined and is_quarantined):
            found.append(rec_id)
    return sorted(found)


def audit(data: DataInterface, instance: dg.DagsterInstance, rec_id: str) -> list[Happening]:
    """The record of a recording, oldest first: arrivals, registrations, marks, and what the catalog's entry tells."""
    runs: set[str] = set()
    happened = [*_registrations(instance, rec_id, runs), *_marks(instance, rec_id), *_arrivals(data, instance, rec_id)]
    entry = data.catalog.entry_of_rec_id(rec_id) if is_rec_id(rec_id) else None
    for item in entry.log if entry else []:
        if item.run_id not in runs:
            happened.append(Happening(item.at, f"catalog: {item.op}", item.by))
    return sorted(happened, key=lambda one: one.at)


def _known(data: DataInterface, instance: dg.DagsterInstance, rec_ids: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Of the recordings that there are, where they are."""
    valid = sorted({rec_id for rec_id in rec_ids if is_rec_id(rec_id)})
    places = Whereabouts(data).of(valid)
    others = set(read_histories(instance, valid))
    others.update(rec_id for rec_id in valid if instance.has_dynamic_partition(str(recordings.name), rec_id))
    return {rec_id: places[rec_id] for rec_id in valid if places[rec_id] or rec_id in others}


def _retry(
    data: DataInterface, instance: dg.DagsterInstance, rec_id: str, known: dict[str, tuple[str, ...]]
) -> Decided:
    if rec_id not in known:
        return Decided(rec_id, problem=_UNKNOWN)
    places = known[rec_id]
    arrivals = [_arrived_on(data, source, rec_id) for source in data.sources if source.name in places]
    if not arrivals and BUCKET in places:
        arrivals = [_arrived_in_bucket(data, rec_id)]
    if not arrivals:
        return Decided(rec_id, problem=_NOWHERE)
    bring_back(instance, [rec_id])
    _report(data, instance, Mark(rec_id, "retried", by=data.writer.by))
    for arrival in arrivals:
        instance.report_runless_asset_event(arrival)
    return Decided(rec_id, tuple(arrival.asset_key.to_user_string() for arrival in arrivals))


def _report(data: DataInterface, instance: dg.DagsterInstance, mark: Mark) -> None:
    require_profile(instance, data.profile)
    instance.report_runless_asset_event(mark.observation())


def _arrived_on(data: DataInterface, source: Source, rec_id: str) -> dg.AssetMaterialization:
    directory, settings = source.root / rec_id, data.profile.settings
    periods = {"quiet_period": settings.quiet_period, "reconstruct_after": settings.reconstruct_after}
    look = data.reading_context.listing(
        rec_id, source.name, lambda gets_on: look_at(directory, None, now=time.time(), gets_on=gets_on, **periods)
    )
    if look.fingerprint == UNREAD:
        raise SourceUnavailable(look.reason, recording=rec_id, place=str(directory))
    place = dg.MetadataValue.path(str(directory))
    return _arrival(arrival_asset(source.name), rec_id, look.fingerprint, data.writer.by, directory=place)


def _arrived_in_bucket(data: DataInterface, rec_id: str) -> dg.AssetMaterialization:
    context, settings = data.reading_context, data.profile.settings
    watch = BucketWatch(context.raw, context.catalog, settings.quiet_period, settings.reconstruct_after_bucket)
    look = watch.look(rec_id, None, None, None, now=time.time())
    place = dg.MetadataValue.text(uri(context.raw.name, recording_prefix(rec_id)))
    # Of what the catalog covers no sensor would report any fingerprint.
    version = look.fingerprint if look else "registered"
    return _arrival(R2_RECORDING, rec_id, version, data.writer.by, prefix=place)


def _arrival(
    asset: dg.AssetKey, rec_id: str, fingerprint: str, by: str, **metadata: dg.MetadataValue
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        asset,
        partition=rec_id,
        tags={"dagster/data_version": fingerprint},
        metadata={**metadata, "by": dg.MetadataValue.text(by)},
    )


def _registrations(instance: dg.DagsterInstance, rec_id: str, runs: set[str]) -> Iterator[Happening]:
    wanted = dg.AssetRecordsFilter(RECORDING, asset_partitions=[rec_id])
    for record in instance.fetch_materializations(wanted, limit=_MOST).records:
        runs.add(record.run_id)
        run = instance.get_run_by_id(record.run_id)
        tags = run.tags if run else {}
        told = _told(record.asset_materialization)
        outcome = told.get("outcome", "")
        by = tags.get("ursa/by") or tags.get("user") or "Dagster"
        why = told.get("note") or f"{tags.get('ursa/trigger', 'launched')}, run {record.run_id}"
        yield Happening(_time(record), f"registered ({outcome})" if outcome else "registered", by, why)


def _marks(instance: dg.DagsterInstance, rec_id: str) -> Iterator[Happening]:
    wanted = dg.AssetRecordsFilter(RECORDING, asset_partitions=[rec_id])
    for record in instance.fetch_observations(wanted, limit=_MOST).records:
        told = _told(record.event_log_entry.asset_observation)
        if "mark" in told:
            yield Happening(_time(record), told["mark"], told.get("by", ""), told.get("reason", ""))


def _arrivals(data: DataInterface, instance: dg.DagsterInstance, rec_id: str) -> Iterator[Happening]:
    places = {source.name: arrival_asset(source.name) for source in data.sources} | {BUCKET: R2_RECORDING}
    for place, asset in places.items():
        wanted = dg.AssetRecordsFilter(asset, asset_partitions=[rec_id])
        for record in instance.fetch_materializations(wanted, limit=_MOST).records:
            by = _told(record.asset_materialization).get("by", "sensor")
            yield Happening(_time(record), f"arrived on {place}", by)


def _told(event: dg.AssetMaterialization | dg.AssetObservation | None) -> dict[str, str]:
    return {name: str(value.value) for name, value in event.metadata.items()} if event else {}


def _time(record: dg.EventLogRecord) -> datetime:
    return datetime.fromtimestamp(record.timestamp, UTC)
