"""What is read for the metrics, in four parts that fail, hang and take their time each on its own.

- `dagster`: totals and times of the instance's event log (`ledger`), the heartbeats of its daemons;
- `recordings`: the state of each, as `ursa report` counts them, and the backlog. Reads one column of the catalog while
  something has arrived that is not registered;
- `store`: how many marks and unfinished uploads it lists, two requests unless there are many;
- `sources`: whether each is mounted, by its first entry. Those of a site only a host there can see.

No part lists recordings on a source or in the bucket: what only that could tell is taken from the last reconciliation.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass

import dagster as dg

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.tail import read_tail
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.objects.keys import UPLOAD_RECORDS
from ursa_pipelines.objects.reading import DaemonExecutor
from ursa_pipelines.orchestration.backlog import age_in_hours, unregistered
from ursa_pipelines.orchestration.catalog_asset import CATALOG
from ursa_pipelines.orchestration.metrics.ledger import Ledger, Totals
from ursa_pipelines.orchestration.partitions import RECORDING, recordings
from ursa_pipelines.orchestration.reconciliation import RECONCILIATION
from ursa_pipelines.orchestration.report_data import STATES, state_of
from ursa_pipelines.orchestration.states import History

FINDINGS = ("lost", "drifted", "partial")

_SOURCE_SECONDS = 5.0


@dataclass(frozen=True)
class DagsterReading:
    """Times are seconds since 1970 UTC, of daemons by their names. `found` are the last reconciliation's `FINDINGS`;
    what no event tells yet is None or missing.
    """

    totals: Totals
    heartbeats: Mapping[str, float]
    reconciled_at: float | None = None
    found: Mapping[str, int] | None = None
    backlog_bytes: int | None = None
    catalog_bytes: int | None = None


@dataclass(frozen=True)
class RecordingsReading:
    """How many recordings are in each state, and how long ago the oldest was made that is not registered; 0 if all
    are.
    """

    states: Mapping[str, int]
    oldest_backlog_seconds: float


@dataclass(frozen=True)
class StoreReading:
    """How many catalog entries the tables may not hold yet, and how many uploads have begun and not ended."""

    tail_entries: int
    unfinished_uploads: int


class Readings:
    """Reads each part, of the sources those of one site; "" is what every host mounts.

    Each of the methods is called by one thread at a time, and raises what its reading raises.
    """

    def __init__(self, instance: dg.DagsterInstance, data: DataInterface, *, site: str = "") -> None:
        self._instance, self._data, self._site = instance, data, site
        self._looks: dict[str, tuple[DaemonExecutor, Future[bool]]] = {}
        self._ledger = Ledger(instance)
        self._complete: Ledger | None = None

    def dagster(self) -> DagsterReading:
        ledger = self._ledger
        try:
            totals = ledger.advance()
        except BaseException:
            # It may have taken in a part of what it read: the next one begins anew, so that nothing is counted twice.
            self._ledger = Ledger(self._instance)
            raise
        self._complete = ledger
        reconciliation = self._instance.get_latest_materialization_event(RECONCILIATION)
        told, catalog = _numbers(reconciliation), _numbers(self._instance.get_latest_materialization_event(CATALOG))
        return DagsterReading(
            totals,
            self._heartbeats(),
            reconciliation.timestamp if reconciliation else None,
            {name: told[name] for name in FINDINGS if name in told},
            told.get("backlog_bytes"),
            catalog.get("bytes"),
        )

    def recordings(self) -> RecordingsReading:
        """Raises `LookupError` before `dagster` has once been read."""
        if self._complete is None:
            raise LookupError("the event log has not been read yet")
        arrived = self._instance.get_dynamic_partitions(str(recordings.name))
        registered, histories = self._complete.standing()
        known = sorted({*arrived, *registered, *histories})
        colours = self._instance.get_status_by_partition(RECORDING, known, recordings) or {} if known else {}
        backlog = unregistered(arrived, colours, self._catalog())
        states: Counter[str] = Counter()
        for rec_id in known:
            history = histories.get(rec_id) or History(rec_id)
            states[state_of(history, colours.get(rec_id), is_in_backlog=rec_id in backlog)] += 1
        waiting = [rec_id for rec_id in backlog if rec_id not in histories or not histories[rec_id].is_held]
        oldest = max(map(age_in_hours, waiting), default=0.0)
        return RecordingsReading({state: states[state] for state in STATES}, oldest * 3600)

    def store(self) -> StoreReading:
        catalog = self._catalog()
        marked = {name for mark in read_tail(catalog.assets, catalog.prefix) for name in mark.names}
        return StoreReading(len(marked), sum(1 for _ in catalog.assets.list_objects(UPLOAD_RECORDS)))

    def sources(self) -> dict[str, bool]:
        """Whether each source of the site is mounted. One that hangs is not: it is not asked again before it has
        answered.
        """
        for source in self._data.sources:
            if source.site != self._site:
                continue
            thread, look = self._looks.get(source.name) or (DaemonExecutor(1, "source"), None)
            if look is None or look.done():
                self._looks[source.name] = thread, thread.submit(_is_mounted, source)
        wait([look for _, look in self._looks.values()], timeout=_SOURCE_SECONDS)
        return {name: look.done() and look.result() for name, (_, look) in self._looks.items()}

    def _catalog(self) -> Catalog:
        # The pointer is read each time: a cutover moves it while this process lives.
        return Catalog.open(self._data.catalog.assets, prefix=self._data.profile.catalog_prefix)

    def _heartbeats(self) -> dict[str, float]:
        told = self._instance.get_daemon_heartbeats()
        # One that is not required any more does not beat any more either.
        required = self._instance.get_required_daemon_types()
        return {name.lower(): told[name].timestamp for name in required if name in told}


def _is_mounted(source: Source) -> bool:
    try:
        with os.scandir(source.root) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _numbers(event: dg.EventLogEntry | None) -> dict[str, int]:
    materialization = event.asset_materialization if event else None
    told = materialization.metadata if materialization else {}
    return {name: value.value or 0 for name, value in told.items() if isinstance(value, dg.IntMetadataValue)}
