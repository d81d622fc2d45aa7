"""What people are told of a recording: its state, the evidence for it, the reason, and the one thing to do next.

The table of the asset `reconciliation` and `ursa status` show these texts. People are told of more states than there
are colours of partitions: where bucket and catalog contradict one another, that is the state, unless something else
has to be settled first.

- `lost`: the catalog has it, the bucket has no bytes of it, or fewer where they were counted; or a run registered it,
  and neither has it any more. A waiver accepts what a recording lacks, never that its bytes are gone;
- `contradiction`: registered twice, or ingested from a source without a commit marker;
- `unknown`: it is nowhere that can be read, though somebody named it or a run had it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from ursa_pipelines.maintenance.overview import told_bytes
from ursa_pipelines.maintenance.reconciliation import Sighted, Standing
from ursa_pipelines.orchestration.cases import Case

ToldState = Literal[
    "lost",
    "quarantined",
    "failed",
    "contradiction",
    "unknown",
    "partial",
    "waiting",
    "running",
    "waived",
    "registered",
]
TOLD_STATES: tuple[ToldState, ...] = get_args(ToldState)
"""The worst first."""

NEEDS_A_PERSON = frozenset[ToldState]({"lost", "quarantined", "failed", "contradiction", "unknown"})


@dataclass(frozen=True, slots=True)
class StatusLine:
    """A recording as a person is told of it. `bytes` is its size, 0 if it is not known; `rank` 0 is the worst. `where`
    are the names of sources, `bucket`, `catalog`.
    """

    rec_id: str
    state: ToldState
    where: tuple[str, ...]
    evidence: str
    reason: str
    next_step: str
    attempts: int
    bytes: int
    rank: int


def status_line(case: Case, *, is_automatic: bool) -> StatusLine:
    """`is_automatic` is whether a Dagster that is running takes up by itself what has arrived or is due."""
    state, outlook, found = _state(case), case.outlook, problems(case)
    # Of an error that a run had, its recording and directory: the line says which it is.
    told = re.sub(rf"(?:/[^:;()]*/)?{outlook.rec_id}: ", "", outlook.reason)
    reason = "; ".join(part for part in (*found, told) if part)
    # What may pass by itself comes after what does not.
    rank = 2 * TOLD_STATES.index(state) + (state == "failed" and outlook.retryable)
    return StatusLine(
        rec_id=outlook.rec_id,
        state=state,
        where=case.standing.places,
        evidence=evidence(case.standing),
        reason="it is on no source, not in the bucket, and not in the catalog" if state == "unknown" else reason,
        next_step=_next_step(case, state, is_automatic),
        attempts=outlook.attempts,
        bytes=case.standing.bytes,
        rank=rank,
    )


def problems(case: Case) -> tuple[str, ...]:
    """In what bucket and catalog contradict one another, or what was registered here."""
    standing, history = case.standing, case.history
    if not standing.rows and not standing.stored and history.registered_at is not None:
        return ("registered by a run, but neither in the catalog nor in the bucket any more",)
    return standing.problems


def is_lost(case: Case) -> bool:
    """Whether the problem is that bytes are gone."""
    standing = case.standing
    return standing.is_lost or standing.is_short or (not standing.rows and bool(problems(case)))


def evidence(standing: Standing) -> str:
    """Where it is, such as `nas 5 files 12 MB · bucket, marker · catalog sha256 · 1 of 2 nodes`."""
    return " · ".join(_evidence(standing)) or "nowhere"


def _evidence(standing: Standing) -> Iterator[str]:
    for one in standing.on_sources:
        yield _on_source(one)
    if not standing.stored or not standing.rows:
        told = {one.source for one in standing.on_sources}
        yield from (f"{name} cannot be read" for name in standing.unknown_on if name not in told)
    if standing.stored:
        yield "bucket, marker" if standing.marked else "bucket"
    elif standing.marked:
        yield "bucket: a marker without bytes"
    row = standing.row
    if row is None:
        return
    yield f"catalog {row.verification}".rstrip() if len(standing.rows) == 1 else f"catalog {len(standing.rows)} times"
    if row.nodes_missing:
        yield f"{len(row.nodes)} of {len(row.nodes) + len(row.nodes_missing)} nodes"


def _on_source(one: Sighted) -> str:
    if one.unread:
        return f"{one.source} unreadable"
    if one.refused:
        return f"{one.source} (would be refused)"
    return f"{one.source} {one.files:,} {'file' if one.files == 1 else 'files'} {told_bytes(one.bytes)}"


def _state(case: Case) -> ToldState:
    standing, outlook = case.standing, case.outlook
    if outlook.state == "running":
        return outlook.state
    if is_lost(case):
        return "lost"
    if outlook.state in {"quarantined", "failed", "waived"}:
        return outlook.state
    if problems(case):
        return "contradiction"
    is_nowhere = not (standing.rows or standing.stored or standing.marked or standing.on_sources)
    if is_nowhere and case.history.last is None and outlook.state == "waiting":
        return "unknown"
    return outlook.state


def _next_step(case: Case, state: ToldState, is_automatic: bool) -> str:
    """One command or deed; begins with `Nothing` if nobody needs to do anything."""
    standing, outlook = case.standing, case.outlook
    if state == "running":
        return "Nothing: wait for the run."
    if state in {"registered", "waived"}:
        return "Nothing."
    if state == "unknown":
        return f"{_mount(standing) or 'Mount the drive that has it'}, or check the id."
    if state == "lost":
        return _bring_back(standing, _again(case))
    if state == "contradiction":
        return _settle(standing)
    if state == "partial":
        row = standing.row
        missing = ", ".join(row.nodes_missing) if row else ""
        waive = f'`ursa waive {outlook.rec_id} --reason "..."`'
        return f"Bring the drive of {missing}, then `ursa ingest {outlook.rec_id}`; or {waive}."
    again = _again(case)
    blocked = next((one for one in standing.on_sources if one.blocked), None)
    if state == "quarantined":
        return f"Mend it, then {again}."
    if blocked and is_automatic:
        return f"Nothing: Dagster takes it up once it is whole on {blocked.source}."
    if blocked:
        return f"Wait until it is whole on {blocked.source}, then {again}."
    if outlook.due == "arrive" and is_automatic and not _will_be_refused(standing):
        return "Nothing: Dagster takes it up by itself."
    return _take_up(standing, again)


def _again(case: Case) -> str:
    rec_id, state, last = case.outlook.rec_id, case.outlook.state, case.history.last
    if state in {"failed", "quarantined"}:
        return f"`ursa retry {rec_id}`"
    # What waits by Dagster's record only a run of Dagster's settles there: to an ingest it may be nothing new.
    is_recorded = bool(case.standing.rows) or (last is not None and last.kind == "retried")
    return f"`ursa backfill {rec_id}`" if state == "waiting" and is_recorded else f"`ursa ingest {rec_id}`"


def _take_up(standing: Standing, again: str) -> str:
    """Of what waits for somebody: it is there, or its drive has to be brought first."""
    if _will_be_refused(standing):
        return f"Mend the directory, then {again}."
    if _copies(standing):
        return f"{again}."
    if standing.unknown_on:
        # What the bucket has may be the beginning of an upload.
        return f"{_mount(standing)}, then {again}."
    return f"{again}." if standing.stored else f"Bring the drive that has it, then {again}."


def _bring_back(standing: Standing, again: str) -> str:
    if standing.stored:
        return f"`ursa verify {standing.rec_id}` names the files that are gone."
    if copies := _copies(standing):
        return f"{again} sends the copy on {copies[0].source}."
    return f"{_mount(standing) or 'Find the drive that has it and mount it'}, then {again}."


def _settle(standing: Standing) -> str:
    if len(standing.rows) > 1:
        return f"`ursa verify {standing.rec_id}` tells which row the files are of."
    if _copies(standing):
        return f"`ursa ingest {standing.rec_id}` writes the marker."
    return f"`ursa verify {standing.rec_id} --deep` settles it if every byte is right."


def _mount(standing: Standing) -> str:
    return f"Mount {' or '.join(standing.unknown_on)}" if standing.unknown_on else ""


def _copies(standing: Standing) -> list[Sighted]:
    return [one for one in standing.on_sources if not (one.blocked or one.refused or one.unread)]


def _will_be_refused(standing: Standing) -> bool:
    return not _copies(standing) and any(one.refused for one in standing.on_sources)
