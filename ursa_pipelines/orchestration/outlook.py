"""What a recording has come to, and what is to be done about it, from where it is and what became of it.

A pure function of a `Standing` (sources, bucket, catalog) and a `History` (Dagster's events), so that the
reconciliation and commands say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import dagster as dg

from ursa_pipelines.maintenance.reconciliation import Sighted, Standing
from ursa_pipelines.orchestration.states import AUTOMATIC_RETRIES, History, Mark

State = Literal["waiting", "running", "registered", "partial", "failed", "quarantined", "waived"]
STATES: tuple[State, ...] = get_args(State)

Due = Literal["", "arrive", "quarantine"]

ATTEMPTS = 1 + AUTOMATIC_RETRIES
_NOT_NOW = " (not now: "
UNTOLD = "The run that had it ended without telling why: it was killed, or its machine went down."


@dataclass(frozen=True, slots=True)
class Outlook:
    """A recording's state with its reason, and what is due: that it arrives again, or is put into quarantine.

    `attempts` are failed runs in a row. `retryable` tells of a failed one whether time alone may help. `is_untold` is
    set if the last run left no mark of its own, so that nothing counts it yet.
    """

    rec_id: str
    state: State
    reason: str = ""
    due: Due = ""
    attempts: int = 0
    retryable: bool = False
    is_untold: bool = False


def look_ahead(
    standing: Standing,
    history: History,
    status: dg.AssetPartitionStatus | None = None,
    *,
    since: float = 0.0,
    run_began: float = 0.0,
) -> Outlook:
    """The outlook of a recording. `status` is the colour of its partition.

    Times are seconds since 1970 UTC. `since` is when the catalog was read: what was registered after that is
    registered. `run_began` is when the newest of its runs that failed was created, if that is known.
    """
    rec_id, row, last, quarantined = standing.rec_id, standing.row, history.last, history.quarantined
    if last and row and row.registered_at > last.at:
        # Somebody registered it since, without Dagster.
        last = None
    if quarantined and row and row.registered_at > quarantined.at:
        quarantined = None
    if status == dg.AssetPartitionStatus.IN_PROGRESS:
        return Outlook(rec_id, "running", "a run has it", attempts=history.attempts)
    if history.waived is not None and not (quarantined and quarantined.at > history.waived.at):
        return Outlook(rec_id, "waived", history.waived.reason, attempts=history.attempts)
    if quarantined is not None:
        return Outlook(rec_id, "quarantined", quarantined.reason, attempts=history.attempts)
    if status == dg.AssetPartitionStatus.FAILED and (_is_blank(history) or run_began > last_event(history)):
        untold = Mark(rec_id, "failed", UNTOLD, retryable=True)
        told = replace(history, last=untold, attempts=history.attempts + 1)
        return replace(_after_failure(standing, told, untold), is_untold=True)
    if last and last.kind == "failed":
        return _after_failure(standing, history, last)
    if row or (history.registered_at or 0.0) > since > 0:
        return _registered(standing, history)
    return _unregistered(standing, history, last)


def last_event(history: History) -> float:
    """When the newest of its events happened, in seconds since 1970 UTC; 0 without any."""
    return max(history.registered_at or 0.0, history.last.at if history.last else 0.0)


def _is_blank(history: History) -> bool:
    return history.last is None and history.registered_at is None


def changed_directories(standing: Standing, fingerprint: str) -> list[Sighted]:
    """The directories that are otherwise than when this fingerprint was taken, which is of all of them, joined.

    That one of them is gone, or on a drive that is not plugged in, is no change.
    """
    known = set(fingerprint.split("+"))
    return [one for one in standing.on_sources if one.fingerprint and one.fingerprint not in known]


def _after_failure(standing: Standing, history: History, failed: Mark) -> Outlook:
    rec_id, attempts = standing.rec_id, history.attempts
    if failed.retryable:
        told = f"attempt {attempts} of {ATTEMPTS}: {failed.reason}"
        if not history.may_be_retried:
            return Outlook(rec_id, "quarantined", told, "quarantine", attempts, retryable=True)
        due: Due = "arrive" if _ingestible(standing) else ""
        told += _why_not_now(standing, due)
        return Outlook(rec_id, "failed", told, due, attempts, retryable=True)
    if _changed_since(standing, failed):
        due = "arrive" if _ingestible(standing) else ""
        told = f"{failed.reason} The source has changed since.{_why_not_now(standing, due)}"
        return Outlook(rec_id, "failed", told, due, attempts)
    if not standing.on_sources and (standing.unknown_on or not standing.stored):
        # It cannot be seen whether somebody has mended it.
        return Outlook(rec_id, "failed", failed.reason + _why_not_now(standing, ""), attempts=attempts)
    return Outlook(rec_id, "quarantined", failed.reason, "quarantine", attempts)


def _registered(standing: Standing, history: History) -> Outlook:
    rec_id, row = standing.rec_id, standing.row
    changed = changed_directories(standing, history.fingerprint) if history.fingerprint is not None else []
    if changed:
        free = next((one for one in changed if not one.blocked), None)
        told = "changed since it was registered" if free else changed[0].blocked
        return Outlook(rec_id, "waiting", told, "arrive" if free else "")
    if row and row.nodes_missing:
        count = len(row.nodes) + len(row.nodes_missing)
        told = f"{len(row.nodes)} of {count} nodes; missing: {', '.join(row.nodes_missing)}"
        return Outlook(rec_id, "partial", told)
    return Outlook(rec_id, "registered")


def _unregistered(standing: Standing, history: History, last: Mark | None) -> Outlook:
    rec_id = standing.rec_id
    due: Due = "arrive" if _ingestible(standing) else ""
    if last and last.kind in {"retried", "waiting"}:
        told = "retry asked for" if last.kind == "retried" else last.reason
        why_not = _why_not_now(standing, due)
        # A run that found it blocked gave that as its reason.
        return Outlook(rec_id, "waiting", told if _bare(why_not) in told else told + why_not, due)
    blocked = next((one.blocked for one in standing.on_sources if one.blocked), "")
    free = [one for one in standing.on_sources if _is_free(one)]
    if due and free:
        told = "not ingested yet"
        if all(one.refused for one in free):
            told += f"; an ingest will refuse it: {free[0].refused.removeprefix(f'{rec_id}: ')}"
    elif blocked:
        told = blocked
    elif standing.stored:
        told = "in the bucket, not registered"
    elif standing.marked:
        told = "a commit marker is in the bucket, but no bytes yet"
    elif history.registered_at is not None:
        told = "registered by a run once, but it is in no catalog, and no bytes of it are in the bucket"
    else:
        told = "known, but nothing of it is there"
    return Outlook(rec_id, "waiting", told + ("" if blocked else _why_not_now(standing, due)), due)


def _ingestible(standing: Standing) -> bool:
    """Whether a run would find something to begin with. What only the bucket has may lie on an absent drive, whole."""
    if any(one.blocked for one in standing.on_sources):
        return False
    return any(_is_free(one) for one in standing.on_sources) or (standing.stored and not standing.unknown_on)


def _is_free(one: Sighted) -> bool:
    return not one.blocked and not one.unread


def _why_not_now(standing: Standing, due: Due) -> str:
    if due:
        return ""
    if blocked := next((one.blocked for one in standing.on_sources if one.blocked), ""):
        return f"{_NOT_NOW}{blocked})"
    if standing.unknown_on:
        return f"{_NOT_NOW}{', '.join(standing.unknown_on)} cannot be read)"
    return ""


def _bare(why_not: str) -> str:
    return why_not.removeprefix(_NOT_NOW).removesuffix(")")


def _changed_since(standing: Standing, failed: Mark) -> bool:
    if failed.fingerprint:
        return bool(changed_directories(standing, failed.fingerprint))
    # The run failed before it had taken one.
    return any(one.changed_at > failed.at for one in standing.on_sources)
