"""All that is known of each recording, for the reconciliation and for `ursa status`: where it is, what became of it,
and what it has come to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

import dagster as dg

from ursa_pipelines.maintenance.narrowing import EVERYTHING, Only
from ursa_pipelines.maintenance.reconciliation import Reconciliation, Standing
from ursa_pipelines.orchestration.outlook import Outlook, look_ahead
from ursa_pipelines.orchestration.partitions import PARTITIONS_PER_REQUEST, RECORDING, recordings
from ursa_pipelines.orchestration.states import History, read_histories

_RUNS_OF_LATE = timedelta(days=30)
_STANDINGS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Case:
    """All that is known of a recording."""

    standing: Standing
    history: History
    outlook: Outlook


@dataclass(frozen=True)
class Events:
    """What the instance has on recordings: the colours of partitions that a run has or had, green ones left out; when
    the newest run of each that failed was created (seconds since 1970 UTC); the partitions that are `known`; and all
    `histories` if they were read at once, else None.
    """

    instance: dg.DagsterInstance
    statuses: Mapping[str, dg.AssetPartitionStatus]
    failed_runs: Mapping[str, float]
    known: frozenset[str]
    histories: Mapping[str, History] | None

    @classmethod
    def read(cls, instance: dg.DagsterInstance, now: float, only: Only = EVERYTHING) -> Events:
        """Histories last: what ends meanwhile has its registration in them, and what begins is found running or due."""
        partitions = instance.get_dynamic_partitions(str(recordings.name))
        keys = [key for key in partitions if only.covers(key)]
        statuses = _statuses(instance, keys)
        has_failed = dg.AssetPartitionStatus.FAILED in statuses.values()
        runs = _failed_runs(instance, partitions, now) if has_failed else {}
        histories = read_histories(instance) if only.is_everything else None
        return cls(instance, statuses, runs, frozenset(keys), histories)

    def of(self, standings: Iterable[Standing]) -> Iterator[tuple[Standing, History]]:
        """Each with its history; some at a time, unless all histories are there."""
        if self.histories is not None:
            for standing in standings:
                yield standing, self.histories.get(standing.rec_id) or History(standing.rec_id)
            return
        rest = iter(standings)
        while some := list(islice(rest, _STANDINGS_AT_ONCE)):
            found = read_histories(self.instance, [standing.rec_id for standing in some])
            for standing in some:
                yield standing, found.get(standing.rec_id) or History(standing.rec_id)


def cases(found: Reconciliation, events: Events | None, began: float) -> Iterator[Case]:
    """Every recording that is anywhere; then those of which only the instance knows. `began` is when the catalog was
    read; without `events` nothing is known but where each is.
    """
    if events is None:
        for standing in found:
            history = History(standing.rec_id)
            yield Case(standing, history, look_ahead(standing, history, since=began))
        return
    seen: set[str] = set()

    def noted() -> Iterator[Standing]:
        for standing in found:
            if standing.rec_id in elsewhere:
                seen.add(standing.rec_id)
            yield standing

    def case_of(standing: Standing, history: History) -> Case:
        status, run_began = events.statuses.get(standing.rec_id), events.failed_runs.get(standing.rec_id, 0.0)
        return Case(standing, history, look_ahead(standing, history, status, since=began, run_began=run_began))

    elsewhere = events.known | (events.histories or {}).keys()
    for standing, history in events.of(noted()):
        yield case_of(standing, history)
    only_there = (Standing(rec_id, unknown_on=tuple(found.unavailable)) for rec_id in sorted(elsewhere - seen))
    for standing, history in events.of(only_there):
        if standing.rec_id in events.statuses or history != History(standing.rec_id):
            yield case_of(standing, history)


def as_of_now(instance: dg.DagsterInstance, some: Sequence[Case], began: float) -> Iterator[Case]:
    """The cases, with what became of them while the sources were read, which may take hours."""
    for start in range(0, len(some), PARTITIONS_PER_REQUEST):
        asked = some[start : start + PARTITIONS_PER_REQUEST]
        histories = read_histories(instance, [case.standing.rec_id for case in asked])
        for case in asked:
            history = histories.get(case.standing.rec_id) or History(case.standing.rec_id)
            if history == case.history:
                yield case
            else:
                yield Case(case.standing, history, look_ahead(case.standing, history, since=began))


def _statuses(instance: dg.DagsterInstance, keys: Sequence[str]) -> dict[str, dg.AssetPartitionStatus]:
    """Of every partition that a run has, or had; green ones are left out."""
    found = instance.get_status_by_partition(RECORDING, keys, recordings) or {} if keys else {}
    wanted = {dg.AssetPartitionStatus.IN_PROGRESS, dg.AssetPartitionStatus.FAILED}
    return {key: status for key, status in found.items() if status in wanted}


def _failed_runs(instance: dg.DagsterInstance, order: Sequence[str], now: float) -> dict[str, float]:
    """When the newest run of each recording that failed was created, in seconds since 1970 UTC."""
    number = {rec_id: index for index, rec_id in enumerate(order)}
    lately = datetime.fromtimestamp(now, UTC) - _RUNS_OF_LATE
    newest: dict[str, float] = {}
    for record in instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], created_after=lately)):
        tags = record.dagster_run.tags
        first = tags.get("dagster/partition") or tags.get("dagster/asset_partition_range_start", "")
        last = tags.get("dagster/asset_partition_range_end", first)
        if first in number and last in number:
            # Records come newest first.
            for rec_id in order[number[first] : number[last] + 1]:
                newest.setdefault(rec_id, record.create_timestamp.timestamp())
    return newest
