"""When Dagster tells people of something, over the profile's webhook; without one, nothing here does anything.

A large ingest is announced once, by the earliest run of its backfill, as soon as that has looked at its recordings. Of
how ingests ended a sensor tells, one notice for a backfill whatever the number of its runs, and one for all single runs
that ended since the tick before; a small ingest that went well is not worth one. No run can do that: the last to end
does not know that it is, and one that was killed says nothing.
"""

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from ursa_pipelines.announcing import begins
from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.notifications import Trouble, ingest_ended, post, quarantined, sources_stale
from ursa_pipelines.orchestration.partitions import RECORDING, arrival_asset, recordings
from ursa_pipelines.orchestration.resources import UrsaResource, require_profile
from ursa_pipelines.orchestration.states import History, Mark, read_histories
from ursa_pipelines.profiles import Profile
from ursa_pipelines.profiles.timetable import Bandwidth

_BACKFILL, _PARTITION = "dagster/backfill", "dagster/partition"
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]

# The daemon looks at a backfill every 30 s, and may launch more runs of it then.
_QUIET_SECONDS = 75.0
# An end may be written a little later than its time says.
_LOOK_BACK_SECONDS = 600.0
_BACKFILLS_PER_TICK = 2


def begin(context: dg.OpExecutionContext, data: DataInterface, items: Sequence[BatchItem]) -> bool:
    """Announces the ingest of this run's backfill, or of this run, if it is large; True if a notice was taken.

    `items` are this run's recordings after `discover`.
    """
    profile = data.profile
    if profile.notifications.webhook is None:
        return False
    tags = context.run.tags
    targets, going = len(items), [item for item in items if item.state == "going"]
    if backfill := tags.get(_BACKFILL):
        runs = dg.RunsFilter(tags={_BACKFILL: backfill})
        (earliest,) = context.instance.get_run_records(runs, limit=1, ascending=True)
        if earliest.dagster_run.run_id != context.run_id:
            return False
        targets = len(set(_targets(context.instance, context.instance.get_run_records(runs)))) or targets
    count = targets - (len(items) - len(going))
    if not going or count < profile.notifications.announce_from:
        return False
    text = begins(
        profile,
        tags.get("ursa/by") or data.writer.by,
        count,
        sum(item.bytes for item in going),
        measured=len(going),
        sources=_sources(context.instance, profile, going),
        timetable=Bandwidth(profile.settings.bandwidth, data.state).in_force(),
    )
    return post(profile, text)


def quarantine(data: DataInterface, marks: Iterable[Mark]) -> bool:
    """Tells of recordings that were put into quarantine, those among these marks; True if a notice was taken."""
    troubles = [_trouble(mark) for mark in marks if mark.kind == "quarantined"]
    return bool(troubles) and post(data.profile, quarantined(data.profile.name, troubles))


def stale(data: DataInterface, unavailable: Mapping[str, str], waiting: Mapping[str, float]) -> bool:
    """Tells of sources that cannot be read (name: why) and of recordings that have waited too long.

    `waiting` is hours by rec_id, of all that wait; those past the profile's `stale_after_hours` are told of.
    """
    limit = data.profile.notifications.stale_after_hours
    late = {rec_id: hours for rec_id, hours in waiting.items() if hours >= limit}
    return bool(unavailable or late) and post(data.profile, sources_stale(data.profile.name, unavailable, late))


def notices_sensors(
    profile: Profile, jobs: Collection[str], *, quiet_seconds: float = _QUIET_SECONDS
) -> list[dg.SensorDefinition]:
    """The sensor that tells how runs over `recording` and runs of these jobs ended; none without a webhook.

    It runs from the start: to configure a webhook is to switch it on.
    """
    if profile.notifications.webhook is None:
        return []

    @dg.sensor(
        name="notices",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Posts to the profile's webhook how backfills and runs ended, failures by cause. Launches nothing.",
    )
    def _sensor(context: dg.SensorEvaluationContext, ursa: UrsaResource):
        profile = ursa.data().profile
        require_profile(context.instance, profile)
        now = time.time()
        cursor = _Cursor(**json.loads(context.cursor)) if context.cursor else None
        ended = _ended(context.instance, jobs, (cursor.at if cursor else now) - _LOOK_BACK_SECONDS)
        if cursor is None:
            # What ended before there was a webhook is no news.
            return dg.SensorResult(
                cursor=_Cursor(now, list(ended), []).dumped(), skip_reason="looked for the first time"
            )
        fresh = [record for run_id, record in ended.items() if run_id not in cursor.seen]
        backfills = [tags[_BACKFILL] for record in fresh if _BACKFILL in (tags := record.dagster_run.tags)]
        due: list[Sequence[dg.RunRecord]] = []
        open_ones: list[str] = []
        for backfill in dict.fromkeys([*cursor.open, *backfills]):
            records = context.instance.get_run_records(dg.RunsFilter(tags={_BACKFILL: backfill}))
            over = all(record.dagster_run.is_finished for record in records)
            if over and len(due) < _BACKFILLS_PER_TICK and now - max(map(_end, records), default=0) >= quiet_seconds:
                due.append(records)
            else:
                open_ones.append(backfill)
        singles = [record for record in fresh if _BACKFILL not in record.dagster_run.tags]
        told = sum(_tell(context.instance, profile, records) for records in (*due, singles) if records)
        return dg.SensorResult(
            cursor=_Cursor(now, list(ended), open_ones).dumped(),
            skip_reason=f"{len(due)} backfills and {len(singles)} single runs have ended, {len(open_ones)} backfills "
            f"are under way; {told} notices were sent",
        )

    return [_sensor]


@dataclass(frozen=True)
class _Cursor:
    """When the last tick was, the runs that it saw ended, and the backfills of which some may still be to come."""

    at: float
    seen: list[str]
    open: list[str]

    def dumped(self) -> str:
        return json.dumps(vars(self))


def _ended(instance: dg.DagsterInstance, jobs: Collection[str], since: float) -> dict[str, dg.RunRecord]:
    """The runs over recordings that ended since then, by id."""
    runs = dg.RunsFilter(statuses=_ENDED, updated_after=datetime.fromtimestamp(since, UTC))
    return {
        record.dagster_run.run_id: record
        for record in instance.get_run_records(runs)
        if _end(record) > since and _ingests(record.dagster_run, jobs)
    }


def _ingests(run: dg.DagsterRun, jobs: Collection[str]) -> bool:
    if '"dry_run": true' in json.dumps(run.run_config):
        return False
    # A job that is run as it is has no selection.
    return RECORDING in run.asset_selection if run.asset_selection else run.job_name in jobs


def _end(record: dg.RunRecord) -> float:
    return record.end_time or record.update_timestamp.timestamp()


def _tell(instance: dg.DagsterInstance, profile: Profile, records: Sequence[dg.RunRecord]) -> bool:
    """Posts one notice of how the recordings of these runs came out, if it is worth one."""
    targets = set(_targets(instance, records))
    # What was there before the first of the runs is not of their doing.
    since = min(record.create_timestamp.timestamp() for record in records)
    histories = read_histories(instance, targets)
    registered, waiting, failed = 0, 0, []
    for rec_id in sorted(targets):
        history = histories.get(rec_id, History(rec_id))
        last = history.last if history.last and history.last.at >= since else None
        if last is not None and last.kind in {"failed", "quarantined"}:
            failed.append(_trouble(last))
        elif last is not None and last.kind == "waiting":
            waiting += 1
        elif history.registered_at is not None and history.registered_at >= since:
            registered += 1
    unknown = len(targets) - registered - waiting - len(failed)
    if not failed and not unknown and len(targets) < profile.notifications.announce_from:
        return False
    return post(
        profile,
        ingest_ended(profile.name, registered, failed, waiting=waiting, unknown=unknown, runs=len(records)),
    )


def _targets(instance: dg.DagsterInstance, records: Iterable[dg.RunRecord]) -> Iterator[str]:
    """The recordings that these runs were launched for."""
    order: Sequence[str] = ()
    for record in records:
        tags = record.dagster_run.tags
        if _PARTITION in tags:
            yield tags[_PARTITION]
        elif _RANGE_START in tags and _RANGE_END in tags:
            order = order or instance.get_dynamic_partitions(str(recordings.name))
            if tags[_RANGE_START] in order and tags[_RANGE_END] in order:
                yield from order[order.index(tags[_RANGE_START]) : order.index(tags[_RANGE_END]) + 1]


def _sources(instance: dg.DagsterInstance, profile: Profile, items: Sequence[BatchItem]) -> list[str]:
    """The sources on which one of these was reported. They are not looked at again: one of them may hang."""
    local = [item.rec_id for item in items if item.directories]
    found = [
        source.name
        for source in profile.sources
        if local
        and instance.fetch_materializations(
            dg.AssetRecordsFilter(arrival_asset(source.name), asset_partitions=local), limit=1
        ).records
    ]
    return [*found, "the bucket"] if len(local) < len(items) else found


def _trouble(mark: Mark) -> Trouble:
    return Trouble(mark.rec_id, mark.reason, mark.error_type, mark.retryable and mark.kind == "failed")
