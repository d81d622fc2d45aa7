"""What the Dagster instance's event log comes to, kept up to date without reading it again from its beginning.

The first reading takes in everything that ever happened, about 3,000 events a second; each after it only what is new.
So all totals are those of the instance's whole life and do not begin anew when whoever keeps them is started again.

An event may be stored after one with a higher id: another machine's transaction ended later. Reading therefore begins
where everything is older than `_LATE_SECONDS`, and passes by what it has had.
"""

from __future__ import annotations

import inspect
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import merge

import dagster as dg

from ursa_pipelines import errors
from ursa_pipelines.orchestration.partitions import RECORDING
from ursa_pipelines.orchestration.states import History, after_event, mark_of

OTHER, UNFORESEEN, UNTOLD = "other", "unforeseen", "untold"

JOBS = frozenset({"ingest", "register_only", "verify", "scrub", "nightly", "fold", "release", "assets", OTHER})
"""Those of our definitions; `assets` is what the UI and the automation launch without a job."""

OUTCOMES = frozenset({"created", "changed", "unchanged", OTHER})
REASONS = frozenset(
    name for name, one in vars(errors).items() if inspect.isclass(one) and issubclass(one, errors.UrsaError)
) | {"NotTold", UNFORESEEN, UNTOLD}
"""The closed set of what a failure may be called: a class in `errors`, or one of those that have none."""

RUN_SECONDS = (10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0)
"""Upper bounds of the histogram of runs."""

_ENDS = {
    dg.DagsterEventType.RUN_SUCCESS: "success",
    dg.DagsterEventType.RUN_FAILURE: "failure",
    dg.DagsterEventType.RUN_CANCELED: "canceled",
}
_PAGE = 1_000
_LATE_SECONDS = 60.0


@dataclass
class Durations:
    """How many runs took at most each of `RUN_SECONDS`, the last number those that took longer; and all their
    seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(RUN_SECONDS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(RUN_SECONDS, seconds)] += 1
        self.seconds += seconds


@dataclass
class Totals:
    """Of the whole life of the instance. `ingested` by outcome, `failures` by reason, `runs` by job and outcome."""

    ingested: Counter[str] = field(default_factory=Counter)
    uploaded_bytes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    runs: dict[tuple[str, str], Durations] = field(default_factory=dict)


class Ledger:
    """Follows the events of `recording` and the ends of runs. What it hands out is not changed any more."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._totals = Totals()
        self._lock = threading.Lock()
        # Of most recordings nothing is to be known but that they are registered.
        self._registered: set[str] = set()
        self._told: dict[str, History] = {}
        self._materializations, self._observations = _Place(), _Place()
        self._ends = {kind: _Place() for kind in _ENDS}

    def advance(self) -> Totals:
        """Takes in what is new, and returns the totals with it. One thread at a time calls this."""
        wanted = dg.AssetRecordsFilter
        by_recording = merge(
            self._materializations.fresh(
                lambda after: self._instance.fetch_materializations(
                    wanted(RECORDING, after_storage_id=after), limit=_PAGE, ascending=True
                )
            ),
            self._observations.fresh(
                lambda after: self._instance.fetch_observations(
                    wanted(RECORDING, after_storage_id=after), limit=_PAGE, ascending=True
                )
            ),
            key=lambda record: record.storage_id,
        )
        for record in by_recording:
            self._take(record)
        for kind, place in self._ends.items():
            self._take_ends(kind, list(place.fresh(self._ends_after(kind))))
        told = self._totals
        runs = {name: Durations(list(one.counts), one.seconds) for name, one in told.runs.items()}
        return Totals(Counter(told.ingested), told.uploaded_bytes, Counter(told.failures), runs)

    def standing(self) -> tuple[set[str], dict[str, History]]:
        """The rec_ids that a run has registered, and the histories of those of which more is to be known."""
        with self._lock:
            return set(self._registered), dict(self._told)

    def _take(self, record: dg.EventLogRecord) -> None:
        rec_id = record.partition_key
        if rec_id is None:
            return
        if record.asset_materialization is not None:
            told = {name: value.value for name, value in record.asset_materialization.metadata.items()}
            self._totals.ingested[_one_of(OUTCOMES, told.get("outcome"), OTHER)] += 1
            sent = told.get("bytes_uploaded")
            self._totals.uploaded_bytes += max(sent, 0) if isinstance(sent, int) else 0
        elif (mark := mark_of(record)) is not None and mark.kind == "failed":
            reason = _one_of(REASONS, mark.error_type, UNFORESEEN) if mark.error_type else UNTOLD
            self._totals.failures[reason] += 1
        with self._lock:
            before = self._told.pop(rec_id, None) or History(rec_id)
            if rec_id in self._registered and before.registered_at is None:
                before = History(rec_id, registered_at=0.0)
            history = after_event(before, record)
            if history.registered_at is not None:
                self._registered.add(rec_id)
            if history.last is not None or history.is_held:
                self._told[rec_id] = history

    def _ends_after(self, kind: dg.DagsterEventType) -> Callable[[int | None], dg.EventRecordsResult]:
        def fetch(after: int | None) -> dg.EventRecordsResult:
            wanted = dg.RunStatusChangeRecordsFilter(kind, after_storage_id=after)  # type: ignore[arg-type] # one of them
            return self._instance.fetch_run_status_changes(wanted, limit=_PAGE, ascending=True)

        return fetch

    def _take_ends(self, kind: dg.DagsterEventType, ends: list[dg.EventLogRecord]) -> None:
        for start in range(0, len(ends), _PAGE):
            ended_at = {record.run_id: record.timestamp for record in ends[start : start + _PAGE]}
            for run in self._instance.get_run_records(dg.RunsFilter(run_ids=list(ended_at))):
                # One that was ended before it began has run for no time.
                began = run.start_time or ended_at[run.dagster_run.run_id]
                name = run.dagster_run.job_name
                job = "assets" if name.startswith("__") else _one_of(JOBS, name, OTHER)
                seconds = max(ended_at[run.dagster_run.run_id] - began, 0.0)
                self._totals.runs.setdefault((job, _ENDS[kind]), Durations()).add(seconds)


@dataclass
class _Place:
    """How far one kind of event has been read: all up to the id `after`, and those `seen` behind it."""

    after: int | None = None
    seen: set[int] = field(default_factory=set)

    def fresh(self, fetch_after: Callable[[int | None], dg.EventRecordsResult]) -> Iterator[dg.EventLogRecord]:
        """The events that were not returned before, in their order."""
        settled = time.time() - _LATE_SECONDS
        page, may_be_late = self.after, False
        while records := fetch_after(page).records:
            for record in records:
                may_be_late = may_be_late or record.timestamp > settled
                is_new = record.storage_id not in self.seen
                if may_be_late:
                    self.seen.add(record.storage_id)
                else:
                    self.after = record.storage_id
                if is_new:
                    yield record
            page = records[-1].storage_id
            if len(records) < _PAGE:
                break
        self.seen = {one for one in self.seen if self.after is None or one > self.after}


def _one_of(known: frozenset[str], name: object, otherwise: str) -> str:
    return name if isinstance(name, str) and name in known else otherwise
