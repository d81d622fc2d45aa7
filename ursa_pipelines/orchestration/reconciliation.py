"""The asset `reconciliation`: sources, bucket and catalog compared, what was missed or is due reported as arrived.

Its metadata is described in `reconciled`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from ursa_pipelines.embedded.sources import ensure_local_sources
from ursa_pipelines.errors import Retryable, UrsaError
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.maintenance.reconciliation import Reconciliation, Standing, reconcile
from ursa_pipelines.orchestration import notices
from ursa_pipelines.orchestration.outlook import STATES, UNTOLD, look_ahead
from ursa_pipelines.orchestration.partitions import PARTITIONS_PER_REQUEST, RECORDING, add_partitions, recordings
from ursa_pipelines.orchestration.rearrivals import Case, Rearrivals
from ursa_pipelines.orchestration.reconciled import CHECKS, Reconciled, Tally, check_results, metadata_of
from ursa_pipelines.orchestration.resources import UrsaResource, require_profile
from ursa_pipelines.orchestration.states import History, Mark, read_histories
from ursa_pipelines.profiles import Profile

RECONCILIATION = dg.AssetKey("reconciliation")
NIGHTLY_JOB = "nightly"
ARRIVALS_AT_MOST = 2_000
"""Dagster stores about 100 events a second, and what one night does not report, the next does."""

_ARRIVALS_AT_ONCE = 100
_RUNS_OF_LATE = timedelta(days=30)


class ReconciliationConfig(dg.Config):
    """What a run does besides looking."""

    only_look: bool = Field(default=False, description="Report no arrivals, quarantine nothing, send no notices.")


@dg.asset(
    key=RECONCILIATION,
    deps=[RECORDING],
    group_name="operations",
    kinds={"table"},
    check_specs=[dg.AssetCheckSpec(name, asset=RECONCILIATION, description=told) for name, told in CHECKS.items()],
    description="Compares sources, bucket and catalog, recording by recording, and with what became of each here. "
    "Reports as arrived what the sensors missed, what changed since it was registered, and what is due for a retry; "
    "the automation sensor launches it. Puts into quarantine what no retry helps. Its table shows what needs "
    "attention, the worst first.",
)
def reconciliation(
    context: dg.AssetExecutionContext, config: ReconciliationConfig, ursa: UrsaResource
) -> dg.MaterializeResult:
    data = ursa.data(run_id=context.run.run_id)
    require_profile(context.instance, data.profile)
    if data.profile.family == "local":
        ensure_local_sources(data.sources)
    try:
        reconciled = run(context, data, only_look=config.only_look)
    except UrsaError as error:
        raise dg.Failure(description=str(error), allow_retries=isinstance(error, Retryable)) from error
    if not config.only_look:
        notices.quarantine(data, reconciled.marks)
        notices.stale(data, reconciled.unavailable, reconciled.waiting_hours)
    return dg.MaterializeResult(
        metadata=metadata_of(reconciled), check_results=list(check_results(reconciled, data.profile))
    )


def nightly_schedule(profile: Profile) -> dg.ScheduleDefinition:
    """Runs that job at the profile's `reconcile_at`. On `local` it is on, elsewhere off until it is turned on."""
    is_local = profile.family == "local"
    return dg.ScheduleDefinition(
        name="nightly",
        job_name=NIGHTLY_JOB,
        cron_schedule=profile.settings.reconcile_at,
        default_status=dg.DefaultScheduleStatus.RUNNING if is_local else dg.DefaultScheduleStatus.STOPPED,
        description="Finds what sensors missed and what is due for a retry; sets aside what needs a person.",
    )


def run(context: dg.AssetExecutionContext, data: DataInterface, *, only_look: bool = False) -> Reconciled:
    """Compares, derives, and reports; returns what it came to. Raises `CatalogError`, `StoreUnavailable`."""
    began = time.time()
    found = reconcile(data.reading_context, data.sources)
    # Histories come last: what ends meanwhile has its registration in them, and what begins is found running or due.
    # The sources are read after that: who acts on a history reads it again.
    statuses = _statuses(context.instance)
    runs = _failed_runs(context.instance, began) if dg.AssetPartitionStatus.FAILED in statuses.values() else {}
    histories = read_histories(context.instance)
    tally = Tally(data.profile.notifications.stale_after_hours)
    to_quarantine: list[Case] = []
    for case in _cases(found, statuses, histories, began, runs):
        if case.outlook.due == "quarantine":
            to_quarantine.append(case)
        else:
            tally.count(case)
    for case in _as_of_now(context.instance, to_quarantine, began):
        tally.count(case)
    marks: list[Mark] = []
    if not only_look:
        marks = [_quarantine(case) for case in tally.to_quarantine]
        for mark in marks:
            context.log_event(mark.observation())
        _report_arrivals(context, data, tally, began)
    else:
        for case in tally.to_report:
            tally.leave(case)
    return Reconciled(
        seconds=round(time.time() - began, 2),
        recordings=tally.recordings,
        states={state: tally.states[state] for state in STATES},
        backlog_bytes=tally.backlog_bytes,
        unavailable=dict(found.unavailable),
        on_sources=dict(found.seen),
        lost=tally.lost,
        drifted=tally.drifted,
        waiting_hours=tally.waiting_hours,
        stale=tally.stale,
        held=tally.held,
        marks=marks,
        arrivals=tally.arrivals,
        arrivals_left=tally.arrivals_left,
        attention=tally.worst(),
    )


def _cases(
    found: Reconciliation,
    statuses: Mapping[str, dg.AssetPartitionStatus],
    histories: dict[str, History],
    began: float,
    runs: Mapping[str, float],
) -> Iterator[Case]:
    """Every recording that is anywhere; then those of which only Dagster knows."""

    def case_of(standing: Standing, history: History) -> Case:
        status, run_began = statuses.get(standing.rec_id), runs.get(standing.rec_id, 0.0)
        return Case(standing, history, look_ahead(standing, history, status, since=began, run_began=run_began))

    known = set(statuses)
    for standing in found:
        known.discard(standing.rec_id)
        history = histories.pop(standing.rec_id, None)
        yield case_of(standing, history or History(standing.rec_id))
    for rec_id in sorted(known | histories.keys()):
        standing = Standing(rec_id, unknown_on=tuple(found.unavailable))
        yield case_of(standing, histories.get(rec_id) or History(rec_id))


def _as_of_now(instance: dg.DagsterInstance, cases: Sequence[Case], began: float) -> Iterator[Case]:
    """The cases, with what became of them while the sources were read, which may take hours."""
    for start in range(0, len(cases), PARTITIONS_PER_REQUEST):
        some = cases[start : start + PARTITIONS_PER_REQUEST]
        histories = read_histories(instance, [case.standing.rec_id for case in some])
        for case in some:
            history = histories.get(case.standing.rec_id) or History(case.standing.rec_id)
            if history == case.history:
                yield case
            else:
                yield Case(case.standing, history, look_ahead(case.standing, history, since=began))


def _statuses(instance: dg.DagsterInstance) -> dict[str, dg.AssetPartitionStatus]:
    """Of every partition that a run has, or had; green ones are left out."""
    keys = instance.get_dynamic_partitions(str(recordings.name))
    found = instance.get_status_by_partition(RECORDING, keys, recordings) or {} if keys else {}
    wanted = {dg.AssetPartitionStatus.IN_PROGRESS, dg.AssetPartitionStatus.FAILED}
    return {key: status for key, status in found.items() if status in wanted}


def _failed_runs(instance: dg.DagsterInstance, now: float) -> dict[str, float]:
    """When the newest run of each recording that failed was created, in seconds since 1970 UTC."""
    order = instance.get_dynamic_partitions(str(recordings.name))
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


def _quarantine(case: Case) -> Mark:
    """Fingerprint and error of the failure are kept, so that its record tells why."""
    failed = case.history.last
    return Mark(
        case.standing.rec_id,
        "quarantined",
        reason=case.outlook.reason,
        error_type=failed.error_type if failed else "",
        remedy=failed.remedy if failed else "",
        by="ursa",
        fingerprint=case.standing.fingerprint,
    )


def _report_arrivals(context: dg.AssetExecutionContext, data: DataInterface, tally: Tally, now: float) -> None:
    due = tally.to_report
    arrivals: list[tuple[Case, dg.AssetMaterialization]] = []
    looked_at = 0
    for case, arrival in Rearrivals(data, context.instance, now=now).of(due):
        looked_at += 1
        if arrival is None:
            tally.show(case)
        else:
            arrivals.append((case, arrival))
        if len(arrivals) == ARRIVALS_AT_MOST:
            break
    for case in due[looked_at:]:
        tally.leave(case)
    for start in range(0, len(arrivals), _ARRIVALS_AT_ONCE):
        _report(context, tally, arrivals[start : start + _ARRIVALS_AT_ONCE], now)


def _report(
    context: dg.AssetExecutionContext,
    tally: Tally,
    arrivals: Sequence[tuple[Case, dg.AssetMaterialization]],
    began: float,
) -> None:
    reported: list[str] = []
    cases = _as_of_now(context.instance, [case for case, _ in arrivals], began)
    for (before, arrival), case in zip(arrivals, cases, strict=True):
        tally.show(case)
        if case is not before:
            # A person or a run was faster.
            continue
        rec_id = case.standing.rec_id
        if case.outlook.is_untold:
            # Without a mark it would never be counted that it failed.
            mark = Mark(rec_id, "failed", UNTOLD, retryable=True, by="ursa")
            context.log_event(replace(mark, fingerprint=case.standing.fingerprint).observation())
        # As an event of this run it would count among what that materialized.
        context.instance.report_runless_asset_event(arrival)
        reported.append(rec_id)
    # A new partition is taken up for that alone: were it added first, a tick in between would take it up twice.
    if reported:
        add_partitions(context.instance, reported)
    tally.arrivals += len(reported)
