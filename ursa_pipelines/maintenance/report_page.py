"""The page that `ursa report` writes: one HTML file that needs nothing else, for a browser, a mail or a printer.

Everything on it is escaped, whoever wrote it. Names of participants are on it nowhere, nor are secrets.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from ursa_pipelines.maintenance.overview import Overview, told_bytes

_NONE = "-"

Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Concern:
    """A recording that somebody should look at, or that waits. `reason` holds the remedy; `at` is when it was found."""

    rec_id: str
    reason: str
    by: str = ""
    attempts: int = 0
    at: datetime | None = None


@dataclass(frozen=True)
class Cause:
    """Recordings that failed for the same reason. `more` of them are not listed."""

    error: str
    retryable: bool
    recordings: tuple[Concern, ...]
    more: int = 0

    @property
    def count(self) -> int:
        return len(self.recordings) + self.more


@dataclass(frozen=True)
class SourceState:
    """A source of the profile. `problem` says why it cannot be read; `arrivals` counts the recordings that arrived."""

    name: str
    place: str
    recordings: int | None = None
    problem: str = ""
    last_arrival: datetime | None = None


@dataclass(frozen=True)
class RunLine:
    """One of the last runs; `what` is what it worked on."""

    run_id: str
    job: str
    status: str
    what: str
    started: datetime | None
    seconds: float | None


@dataclass(frozen=True)
class Reconciled:
    """What the newest reconciliation told: its counts by their labels, and its table."""

    at: datetime
    counts: Mapping[str, Cell]
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    more: int = 0


@dataclass(frozen=True)
class Operations:
    """What the Dagster instance knows. Lists are cut; `counts` are of all recordings, by state."""

    counts: Mapping[str, int] = field(default_factory=dict)
    causes: tuple[Cause, ...] = ()
    quarantined: tuple[Concern, ...] = ()
    waiting: tuple[Concern, ...] = ()
    waived: tuple[Concern, ...] = ()
    runs: tuple[RunLine, ...] = ()
    reconciled: Reconciled | None = None


@dataclass(frozen=True)
class Report:
    """All that the page shows. Without `operations`, `no_operations` says why there are none."""

    profile: str
    family: str
    buckets: Mapping[str, str]
    prefix: str
    generated_at: datetime
    overview: Overview
    plots: Mapping[str, bytes]
    sources: Sequence[SourceState] = ()
    operations: Operations | None = None
    no_operations: str = ""

    @property
    def attention(self) -> str:
        """What needs it, in a few words; empty if nothing is known to."""
        counts = self.operations.counts if self.operations else {}
        told = [f"{counts[state]:,} {state}" for state in ("failed", "quarantined", "waiting") if counts.get(state)]
        told += [f"the source {one.name} cannot be read" for one in self.sources if one.problem]
        return ", ".join(told)


def render(report: Report) -> str:
    """The page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"size": told_bytes, "time": _told_time, "span": _told_span, "cell": _told_cell}
    template = resources.files("ursa_pipelines.maintenance").joinpath("report.html.jinja").read_text(encoding="utf-8")
    pictures = {title: base64.b64encode(png).decode() for title, png in report.plots.items()}
    return environment.from_string(template).render(report=report, overview=report.overview, pictures=pictures)


def write_page(html: str, target: Path) -> None:
    """Writes the file; it is there whole or, if that fails, as it was before. Raises `OSError`."""
    part = target.with_name(f".{target.name}-{secrets.token_hex(4)}.part")
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(html)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _told_time(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if moment else _NONE


def _told_span(seconds: float | None) -> str:
    if seconds is None:
        return _NONE
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def _told_cell(value: Cell) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value or "")
