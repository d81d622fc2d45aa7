"""The asset `reconciliation`: sources, bucket and catalog compared, what was missed or is due reported as arrived.

Its metadata is described in `reconciled`.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import dagster as dg
from pydantic import Field

from ursa_pipelines.embedded.sources import ensure_local_sources
from ursa_pipelines.errors import Retryable, UrsaError
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.maintenance.reconciliation import reconcile
from ursa_pipelines.orchestration import notices
from ursa_pipelines.orchestration.cases import Case, Events, as_of_now, cases
from ursa_pipelines.orchestration.outlook import STATES, UNTOLD
from ursa_pipelines.orchestration.partitions import RECORDING, add_partitions, bring_back
from ursa_pipelines.orchestration.rearrivals import Rearrivals
from ursa_pipelines.orchestration.reconciled import CHECKS, Reconciled, Tally, check_results, metadata_of
from ursa_pipelines.orchestration.resources import UrsaResource, require_profile
from ursa_pipelines.orchestration.sites import ALONE, CENTRAL, SITE, sites_of, sources_at
from ursa_pipelines.orchestration.states import Mark
from ursa_pipelines.profiles import Profile

RECONCILIATION = dg.AssetKey("reconciliation")
NIGHTLY_JOB = "nightly"
ARRIVALS_AT_MOST = 2_000
"""Dagster stores about 100 events a second, and what one night does not report, the next does."""

_ARRIVALS_AT_ONCE = 100


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


def nightly_schedule(profile: Profile, site: str = CENTRAL) -> dg.ScheduleDefinition:
    """Runs that job at the profile's `reconcile_at`. On `local` it is on, elsewhere off until it is turned on.

    With sites in the profile each has one of its own, which reads the sources that are mounted there, and waits for no
    other site's.
    """
    is_local = profile.family == "local"
    tags = {SITE: site} if sites_of(profile) else {}
    if site != CENTRAL:
        tags[ALONE] = f"upkeep-{site}"
    return dg.ScheduleDefinition(
        name="nightly" if site == CENTRAL else f"nightly_{site.replace('-', '_')}",
        job_name=NIGHTLY_JOB,
        cron_schedule=profile.settings.reconcile_at,
        tags=tags,
        default_status=dg.DefaultScheduleStatus.RUNNING if is_local else dg.DefaultScheduleStatus.STOPPED,
        description="Finds what sensors missed and what is due for a retry; sets aside what needs a person.",
    )


def run(context: dg.AssetExecutionContext, data: DataInterface, *, only_look: bool = False) -> Reconciled:
    """Compares, derives, and reports; returns what it came to. Raises `CatalogError`, `StoreUnavailable`."""
    began = time.time()
    here = sources_at(data.sources, context.run.tags)
    elsewhere = {source.name for source in data.sources} - {source.name for source in here}
    found = reconcile(data.reading_context, data.sources, elsewhere=elsewhere)
    # The sources are read after the events: who acts on a history reads it again.
    events = Events.read(context.instance, began)
    tally = Tally(data.profile.notifications.stale_after_hours)
    to_quarantine: list[Case] = []
    for case in cases(found, events, began):
        if case.outlook.due == "quarantine":
            to_quarantine.append(case)
        else:
            tally.count(case)
    for case in as_of_now(context.instance, to_quarantine, began):
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
    bring_back(context.instance, [case.standing.rec_id for case, _ in arrivals])
    now = as_of_now(context.instance, [case for case, _ in arrivals], began)
    for (before, arrival), case in zip(arrivals, now, strict=True):
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
