"""What a reconciliation comes to: counted while recordings pass, shown as metadata, judged by checks.

Metadata of a materialization, for plots, notices and `ursa report`:

- numbers of recordings: `recordings` (known anywhere), one per state (`waiting`, `running`, `registered`, `partial`,
  `failed`, `quarantined`, `waived`), `lost` and `drifted` (bucket and catalog contradict one another);
- `backlog` (not registered; waived and quarantined ones not counted), `backlog_bytes` (as far as sources show them),
  `oldest_backlog_hours` (since it was recorded; 0.0 without a backlog);
- `arrivals` (reported by this run), `arrivals_left` (due, left to the next), `quarantined_now`;
- `seconds`; `sources_unavailable` (JSON: source to reason); `on_sources` (JSON: source to number of directories);
- `attention`: the table of those that need it, the worst first: recording, state (see `status_lines`), next, reason,
  evidence, attempts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import dagster as dg

from ursa_pipelines.orchestration.backlog import age_in_hours
from ursa_pipelines.orchestration.cases import Case
from ursa_pipelines.orchestration.states import Mark
from ursa_pipelines.orchestration.status_lines import StatusLine, is_lost, problems, status_line
from ursa_pipelines.profiles import Profile

CHECKS = {
    "nothing_lost": "Of everything that the catalog has registered, the bucket has bytes.",
    "nothing_drifted": "Every recording is registered once, and what was ingested from a source is marked complete.",
    "everything_registered": "Nothing that was recorded waits for longer than the profile's `stale_after_hours`.",
    "nothing_quarantined": "No recording waits for a person to mend it.",
    "sources_available": "Every source of the profile could be read to its end.",
}

_CASES_KEPT = 10_000
_ROWS_SHOWN = 500
_NAMES_SHOWN = 20
_COLUMNS = {
    "recording": "string",
    "state": "string",
    "next": "string",
    "reason": "string",
    "evidence": "string",
    "attempts": "int",
}


@dataclass(frozen=True)
class Reconciled:
    """What a reconciliation found and did. `states` and the rest are as in the docstring of the module.

    `marks` are those written by this run, `waiting_hours` the ages by rec_id of what is not registered, `stale` those
    past the profile's `stale_after_hours`. `attention` is what the table shows.
    """

    seconds: float
    recordings: int
    states: Mapping[str, int]
    backlog_bytes: int
    unavailable: Mapping[str, str]
    on_sources: Mapping[str, int]
    lost: Mapping[str, str]
    drifted: Mapping[str, str]
    waiting_hours: Mapping[str, float]
    stale: Sequence[str]
    held: Sequence[str]
    marks: Sequence[Mark]
    arrivals: int
    arrivals_left: int
    attention: Sequence[StatusLine] = field(repr=False)


class Tally:
    """Counts cases as they pass, and keeps those that are due, and the worst."""

    def __init__(self, stale_after_hours: float) -> None:
        self._stale_after_hours, self._now = stale_after_hours, datetime.now(UTC)
        self._shown: dict[int, list[StatusLine]] = {}
        self.recordings = self.backlog_bytes = self.arrivals = self.arrivals_left = 0
        self.states: Counter[str] = Counter()
        self.lost: dict[str, str] = {}
        self.drifted: dict[str, str] = {}
        self.waiting_hours: dict[str, float] = {}
        self.stale: list[str] = []
        self.held: list[str] = []
        self.to_quarantine: list[Case] = []
        self.to_report: list[Case] = []

    def count(self, case: Case) -> None:
        standing, outlook = case.standing, case.outlook
        self.recordings += 1
        self.states[outlook.state] += 1
        found = problems(case)
        if is_lost(case):
            self.lost[standing.rec_id] = "; ".join(found)
        elif found and outlook.state != "waived":
            self.drifted[standing.rec_id] = "; ".join(found)
        if outlook.state == "quarantined":
            self.held.append(standing.rec_id)
        if outlook.due == "quarantine":
            self.to_quarantine.append(case)
        if not standing.rows and outlook.state in {"waiting", "running", "failed"}:
            hours = age_in_hours(standing.rec_id, self._now)
            self.waiting_hours[standing.rec_id] = hours
            self.backlog_bytes += max((one.bytes for one in standing.on_sources), default=0)
            if hours >= self._stale_after_hours:
                self.stale.append(standing.rec_id)
        if outlook.due != "arrive":
            self.show(case)
        elif len(self.to_report) < _CASES_KEPT:
            self.to_report.append(case)
        else:
            self.leave(case)

    def leave(self, case: Case) -> None:
        """Counts a case as due and left to the next time."""
        self.arrivals_left += 1
        self.show(case)

    def show(self, case: Case) -> None:
        """Keeps a case for the table, if it is one of those that it would show."""
        # What arrives is taken up by the automation sensor, as the check `everything_registered` says.
        line = status_line(case, is_automatic=True)
        needs_attention = line.state not in {"registered", "waived", "running"}
        if needs_attention and len(self._shown.setdefault(line.rank, [])) < _ROWS_SHOWN:
            self._shown[line.rank].append(line)

    def worst(self) -> list[StatusLine]:
        return [line for rank in sorted(self._shown) for line in self._shown[rank]][:_ROWS_SHOWN]


def metadata_of(reconciled: Reconciled) -> dict[str, dg.MetadataValue]:
    """What the materialization shows."""
    value = dg.MetadataValue
    return {
        "attention": value.table(
            records=[_record(line) for line in reconciled.attention],
            schema=dg.TableSchema([dg.TableColumn(name, kind) for name, kind in _COLUMNS.items()]),
        ),
        "recordings": value.int(reconciled.recordings),
        **{state: value.int(count) for state, count in reconciled.states.items()},
        "lost": value.int(len(reconciled.lost)),
        "drifted": value.int(len(reconciled.drifted)),
        "backlog": value.int(len(reconciled.waiting_hours)),
        "backlog_bytes": value.int(reconciled.backlog_bytes),
        "oldest_backlog_hours": value.float(round(max(reconciled.waiting_hours.values(), default=0.0), 1)),
        "arrivals": value.int(reconciled.arrivals),
        "arrivals_left": value.int(reconciled.arrivals_left),
        "quarantined_now": value.int(len(reconciled.marks)),
        "seconds": value.float(reconciled.seconds),
        "on_sources": value.json(dict(reconciled.on_sources)),
        "sources_unavailable": value.json(dict(reconciled.unavailable)),
    }


def check_results(reconciled: Reconciled, profile: Profile) -> Iterator[dg.AssetCheckResult]:
    """The verdicts, each with what to do."""
    warn, hours = dg.AssetCheckSeverity.WARN, profile.notifications.stale_after_hours
    yield _verdict(
        "nothing_lost",
        reconciled.lost,
        dg.AssetCheckSeverity.ERROR,
        "Where a copy is left on a drive, `ursa retry REC_ID` sends it again. Else look for the drive, and find out in "
        "the bucket's log who removed it.",
    )
    yield _verdict(
        "nothing_drifted",
        reconciled.drifted,
        warn,
        "`ursa verify REC_ID` tells more. Another ingest of the same files writes a marker that is missing; of two "
        "rows one is wrong: compare them with `ursa query`.",
    )
    yield _verdict(
        "everything_registered",
        reconciled.stale,
        warn,
        f"These were recorded more than {hours:g} h ago. The table says why each waits; see whether ingest_automation "
        "is on, or run `ursa backfill --missing`.",
    )
    yield _verdict(
        "nothing_quarantined",
        reconciled.held,
        warn,
        "The table says why. Mend each, then `ursa retry REC_ID`; or accept it with `ursa waive REC_ID`.",
    )
    yield _verdict(
        "sources_available",
        reconciled.unavailable,
        warn,
        "Mount them, or take those that are gone for good out of the profile. What lies on them is unknown until then.",
    )


def _verdict(
    name: str, found: Mapping[str, str] | Sequence[str], severity: dg.AssetCheckSeverity, what_to_do: str
) -> dg.AssetCheckResult:
    shown = list(found)[:_NAMES_SHOWN]
    told = [f"{one}: {found[one]}" for one in shown] if isinstance(found, Mapping) else shown
    metadata: dict[str, dg.MetadataValue] = {"count": dg.MetadataValue.int(len(found))}
    if found:
        more = [f"and {len(found) - len(shown):,} more"] if len(found) > len(shown) else []
        metadata |= {
            "what_to_do": dg.MetadataValue.text(what_to_do),
            "found": dg.MetadataValue.md("\n".join(f"- {line}" for line in [*told, *more])),
        }
    return dg.AssetCheckResult(
        check_name=name,
        passed=not found,
        severity=severity,
        description=f"{len(found):,}: {'; '.join(shown[:3])}{' ...' if len(found) > 3 else ''}. {what_to_do}"
        if found
        else None,
        metadata=metadata,
    )


def _record(line: StatusLine) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "recording": line.rec_id,
            "state": line.state,
            "next": line.next_step,
            "reason": line.reason,
            "evidence": line.evidence,
            "attempts": line.attempts,
        }
    )
