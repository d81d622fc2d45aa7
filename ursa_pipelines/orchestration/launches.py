"""Backfills of chosen recordings: under a running daemon, or in this process; and how far they have come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import dagster as dg

from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.orchestration.assets import RECORDINGS_PER_RUN
from ursa_pipelines.orchestration.in_process import ingest_in_process
from ursa_pipelines.orchestration.partitions import RECORDING, add_partitions, partitions_in_order
from ursa_pipelines.orchestration.states import read_histories
from ursa_pipelines.orchestration.webserver import Webserver

_POLL_SECONDS = 1.0
_PAGE = 1_000
_ENDED = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class Outcome:
    """What became of one recording: OK, SKIP (it waits, or was left) or FAIL with the reason."""

    rec_id: str
    status: Literal["OK", "SKIP", "FAIL"]
    outcome: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Progress:
    """How many of a backfill's recordings are done, not done although their run has ended, and in a run now."""

    total: int
    done: int = 0
    failed: int = 0
    running: int = 0


def tags_of(trigger: str, by: str) -> dict[str, str]:
    """The tags that tell on a run's page what launched it, and who."""
    return {"ursa/trigger": trigger, "ursa/by": by}


def run_in_process(
    instance: dg.DagsterInstance,
    profile: str | None,
    config_path: Path | None,
    rec_ids: Sequence[str],
    *,
    tags: Mapping[str, str],
    tell: Callable[[Progress], None],
) -> list[Outcome]:
    """Ingests these recordings here, run after run, and tells how far it has come after each."""
    came: list[BatchItem] = []

    def tell_of(items: Sequence[BatchItem]) -> None:
        came.extend(items)
        done = sum(item.status == "OK" for item in came)
        rest = len(rec_ids) - len(came)
        tell(Progress(len(rec_ids), done, len(came) - done, min(rest, RECORDINGS_PER_RUN)))

    tell(Progress(len(rec_ids), running=min(len(rec_ids), RECORDINGS_PER_RUN)))
    items = ingest_in_process(instance, profile, config_path, rec_ids, tags=tags, tell=tell_of)
    return [Outcome(item.rec_id, item.status, item.outcome, item.reason) for item in items]


@dataclass
class DaemonBackfill:
    """A backfill that the daemon carries out, followed in the instance's runs and events.

    Dagster's own counts come up to half a minute later. `order` is that of all partitions.
    """

    instance: dg.DagsterInstance
    webserver: Webserver
    backfill_id: str
    rec_ids: Sequence[str]
    order: Sequence[str]
    since: float
    _cursor: str | None
    _registered: dict[tuple[str, str], str] = field(default_factory=dict)
    _keys_of: dict[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def launch(
        cls, instance: dg.DagsterInstance, webserver: Webserver, rec_ids: Sequence[str], *, tags: Mapping[str, str]
    ) -> DaemonBackfill:
        """Adds the partitions that are missing and asks for the backfill. Raises `UrsaError` if it is refused."""
        since = time.time()
        cursor = instance.fetch_materializations(RECORDING, limit=1).cursor
        add_partitions(instance, rec_ids)
        order = partitions_in_order(instance)
        title = f"ursa backfill, {len(rec_ids):,} recordings"
        backfill_id = webserver.launch_backfill(rec_ids, tags, title)
        return cls(instance, webserver, backfill_id, rec_ids, order, since, cursor)

    def follow(self, tell: Callable[[Progress], None]) -> list[Outcome]:
        """Waits until the run of every recording has ended, or the backfill itself has; what became of each.

        Raises `StoreUnavailable` if the webserver ends meanwhile; the backfill goes on when it is back.
        """
        while True:
            status, problem = self.webserver.backfill(self.backfill_id)
            runs = self._runs()
            # After the runs: one that has ended by then has registered what it ever will.
            self._read_registrations()
            ended: dict[str, str] = {}
            running: set[str] = set()
            for run in runs:
                # They are looked for among all partitions, and never change.
                if (keys := self._keys_of.get(run.run_id)) is None:
                    keys = self._keys_of[run.run_id] = self._keys(run)
                if run.is_finished:
                    ended.update(dict.fromkeys(keys, run.run_id))
                else:
                    running.update(keys)
            done = {key: self._registered[run, key] for key, run in ended.items() if (run, key) in self._registered}
            tell(Progress(len(self.rec_ids), len(done), len(ended) - len(done), len(running)))
            if status in _ENDED or (not running and ended.keys() >= set(self.rec_ids)):
                return self._outcomes(done, ended, f"the backfill is {status}{f': {problem}' if problem else ''}")
            time.sleep(_POLL_SECONDS)

    def _read_registrations(self) -> None:
        while True:
            page = self.instance.fetch_materializations(RECORDING, limit=_PAGE, cursor=self._cursor, ascending=True)
            self._cursor = page.cursor
            for record in page.records:
                if (made := record.asset_materialization) and record.partition_key:
                    outcome = made.metadata.get("outcome")
                    self._registered[record.run_id, record.partition_key] = str(outcome.value) if outcome else ""
            if not page.has_more:
                return

    def _runs(self) -> list[dg.DagsterRun]:
        ours = dg.RunsFilter(tags={"dagster/backfill": self.backfill_id})
        return [record.dagster_run for record in self.instance.get_run_records(ours)]

    def _keys(self, run: dg.DagsterRun) -> Sequence[str]:
        if key := run.tags.get("dagster/partition"):
            return [key]
        first, last = run.tags.get(_RANGE_START), run.tags.get(_RANGE_END)
        if first is None or last is None:
            return []
        return self.order[self.order.index(first) : self.order.index(last) + 1]

    def _outcomes(self, done: Mapping[str, str], ended: Mapping[str, str], otherwise: str) -> list[Outcome]:
        histories = read_histories(self.instance, [rec_id for rec_id in self.rec_ids if rec_id not in done])
        outcomes = []
        for rec_id in self.rec_ids:
            history = histories.get(rec_id)
            mark = history.last if history and history.last and history.last.at >= self.since else None
            if rec_id in done:
                outcomes.append(Outcome(rec_id, "OK", done[rec_id]))
            elif history and history.registered_at is not None and history.registered_at >= self.since:
                outcomes.append(Outcome(rec_id, "OK"))
            elif mark is not None:
                outcomes.append(Outcome(rec_id, "SKIP" if mark.kind == "waiting" else "FAIL", mark.kind, mark.reason))
            else:
                told = f"its run {ended[rec_id]} did not register it" if rec_id in ended else otherwise
                outcomes.append(Outcome(rec_id, "FAIL", "failed", f"{rec_id}: {told}. Look at it in the Dagster UI."))
        return outcomes
