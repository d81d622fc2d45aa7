"""`ursa status`: sources, bucket and catalog side by side, the worst first, each recording with what to do next."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.operations import Named, url_or_default
from ursa_pipelines.cli.options import EXIT_FAILED, AsJson, Config, Profile, open_data, tell_of_version
from ursa_pipelines.cli.printing import console, counted, line

if TYPE_CHECKING:
    import dagster as dg

    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.maintenance.narrowing import Only
    from ursa_pipelines.maintenance.reconciliation import Reconciliation
    from ursa_pipelines.orchestration.cases import Case
    from ursa_pipelines.orchestration.status_lines import StatusLine

app = typer.Typer(help="Attached to `ursa`.")

_DAY = ["%Y-%m-%d"]
_ROWS_OFF_A_TERMINAL, _ROWS_AT_LEAST = 50, 5
_LINES_OF_A_ROW = 3
_WIDE, _STEP_WIDTH, _STATE_WIDTH = 112, 38, 18
_TOLD_EVERY = 100
_AUTOMATION = "ingest_automation"
_COLOURS = {"lost": "red", "quarantined": "red", "failed": "red", "contradiction": "red", "unknown": "red"} | {
    "partial": "yellow",
    "waiting": "yellow",
    "running": "cyan",
}


@app.command(rich_help_panel="Look")
def status(
    rec_ids: Named = None,
    states: Annotated[
        list[str] | None, typer.Option("--state", metavar="STATE", help="Show only these; may be given several times.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=_DAY, metavar="DATE", help="Recorded on this day (UTC) or later.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=_DAY, metavar="DATE", help="Recorded before this day (UTC).")
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show registered ones too; else they are counted.")] = False,
    page: Annotated[int | None, typer.Option(min=1, help="Which page of the table to show.")] = None,
    profile: Profile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Compare sources, bucket and catalog: where each recording is, how it stands, and what to do next.

    The worst come first: lost, quarantined, failed, contradiction, unknown, partial, waiting, running, waived.
    Registered ones are only counted, unless they are named. With --json come all that are on any page, by their ids.

    Of those that are named the files in the bucket are counted, so that a loss of some is seen; of all others only
    whether there are any. Whether each byte is right `ursa verify --deep` tells.

    Exits with 1 if something needs a person, shown or not: what is lost, quarantined or failed, what bucket and
    catalog contradict one another in, a named recording that is nowhere, a source that cannot be read. Else with 0.
    """
    from ursa_pipelines.maintenance.narrowing import Only
    from ursa_pipelines.orchestration.report_data import instance_of

    if as_json and page:
        raise typer.BadParameter("a document has no pages", param_hint="--page")
    days = (moment.date() if moment else None for moment in (since, until))
    only = Only(frozenset(_real_ids(rec_ids or ())), *days)
    if rec_ids and not only.named:
        raise typer.BadParameter("none of these recordings is of those days", param_hint="--since, --until")
    wanted = _wanted(states or (), show_all=show_all or bool(rec_ids))
    data = open_data(profile, config)
    tell_of_version(data)
    rows = _rows_of_a_page()
    seen = Seen(wanted, kept=0 if as_json else (page or 1) * rows)
    with instance_of(data.profile) as (instance, why_not), counted("Comparing sources, bucket and catalog") as tell:
        found, cases = _compared(data, instance, only)
        is_automatic = instance is not None and _takes_up_by_itself(data, instance)
        lines = seen.passing(cases, is_automatic=is_automatic, tell=tell)
        if as_json:
            _answer(lines, seen, found, why_not)
        else:
            for _ in lines:
                pass
    if not as_json:
        shown = seen.page(page or 1, rows)
        _show(shown, seen, page or 1, rows, is_narrowed=not only.is_everything)
        for name, why in found.unavailable.items():
            line(f"{name} cannot be read, so what lies on it is not known: {why}")
        if why_not:
            line(why_not)
        chosen = [*(("--profile", profile) if profile else ()), *(("--config", str(config)) if config else ())]
        if chosen and any("`" in told.next_step for told in shown):
            line(f"Say {shlex.join(chosen)} with these commands too.")
    if code := _exit_code(seen, found):
        raise typer.Exit(code)


@dataclass
class Seen:
    """Counts recordings as they pass, and keeps the worst of those that are `wanted`, so many as there may be shown."""

    wanted: frozenset[str]
    kept: int
    counts: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    _by_rank: dict[int, list[StatusLine]] = field(default_factory=dict)

    def passing(
        self, cases: Iterable[Case], *, is_automatic: bool, tell: Callable[[int, int | None], None]
    ) -> Iterator[StatusLine]:
        """Those that are wanted, as they come."""
        from ursa_pipelines.orchestration.status_lines import status_line

        for number, case in enumerate(cases, start=1):
            told = status_line(case, is_automatic=is_automatic)
            self.counts[told.state] += 1
            self.bytes[told.state] += told.bytes
            if number % _TOLD_EVERY == 0:
                tell(number, None)
            if told.state not in self.wanted:
                continue
            if len(self._by_rank.setdefault(told.rank, [])) < self.kept:
                self._by_rank[told.rank].append(told)
            yield told

    def page(self, number: int, rows: int) -> list[StatusLine]:
        worst_first = [told for rank in sorted(self._by_rank) for told in self._by_rank[rank]]
        return worst_first[(number - 1) * rows : number * rows]

    @property
    def listed(self) -> int:
        """How many there are on all pages."""
        return sum(self.counts[state] for state in self.wanted)

    @property
    def needs_a_person(self) -> bool:
        from ursa_pipelines.orchestration.status_lines import NEEDS_A_PERSON

        return any(self.counts[state] for state in NEEDS_A_PERSON)

    def in_order(self) -> list[str]:
        """The states of which there are any, the worst first."""
        from ursa_pipelines.orchestration.status_lines import TOLD_STATES

        return [state for state in TOLD_STATES if self.counts[state]]


def _real_ids(rec_ids: Sequence[str]) -> Sequence[str]:
    from ursa_pipelines.recordings.identity import is_rec_id

    for rec_id in rec_ids:
        if not is_rec_id(rec_id):
            raise typer.BadParameter(f"{rec_id!r} is no recording id rec_<YYYYMMDD>_<HHMMSS>_<hex>")
    return rec_ids


def _wanted(states: Sequence[str], *, show_all: bool) -> frozenset[str]:
    from ursa_pipelines.orchestration.status_lines import TOLD_STATES

    if unknown := sorted(set(states) - set(TOLD_STATES)):
        raise typer.BadParameter(
            f"{unknown[0]!r} is no state; there are {', '.join(TOLD_STATES)}", param_hint="--state"
        )
    return frozenset(states) or frozenset(TOLD_STATES if show_all else TOLD_STATES[:-1])


def _compared(
    data: DataInterface, instance: dg.DagsterInstance | None, only: Only
) -> tuple[Reconciliation, Iterator[Case]]:
    from ursa_pipelines.maintenance.reconciliation import reconcile
    from ursa_pipelines.orchestration.cases import Events, cases

    began = time.time()
    found = reconcile(data.reading_context, data.sources, only)
    events = Events.read(instance, began, only) if instance is not None else None
    return found, cases(found, events, began)


def _takes_up_by_itself(data: DataInterface, instance: dg.DagsterInstance) -> bool:
    """Whether a Dagster runs here whose sensors are on. One that does not answer is taken for none."""
    from ursa_pipelines.errors import UrsaError
    from ursa_pipelines.orchestration.webserver import find_webserver

    try:
        webserver = find_webserver(url_or_default(None), instance, data.profile)
        return webserver is not None and webserver.is_healthy("SENSOR") and webserver.is_on(_AUTOMATION)
    except UrsaError:
        return False


def _exit_code(seen: Seen, found: Reconciliation) -> int:
    return EXIT_FAILED if seen.needs_a_person or found.unavailable else 0


def _answer(lines: Iterator[StatusLine], seen: Seen, found: Reconciliation, why_not: str) -> None:
    summary: dict[str, Any] = {}

    def items() -> Iterator[dict[str, Any]]:
        for told in lines:
            yield {
                "rec_id": told.rec_id,
                "state": told.state,
                "evidence": told.evidence,
                "reason": told.reason,
                "next": told.next_step,
                "attempts": told.attempts,
                "bytes": told.bytes,
                "where": told.where,
            }
        states = {state: {"recordings": seen.counts[state], "bytes": seen.bytes[state]} for state in seen.in_order()}
        summary.update(
            recordings=seen.counts.total(),
            bytes=seen.bytes.total(),
            states=states,
            sources_unavailable=dict(found.unavailable),
            not_known=why_not or None,
        )

    print_answer(items(), summary=summary, exit_code=lambda: _exit_code(seen, found))


def _show(lines: Sequence[StatusLine], seen: Seen, page: int, rows: int, *, is_narrowed: bool) -> None:
    from ursa_pipelines.maintenance.overview import told_bytes

    if lines and console.is_terminal:
        _show_table(lines)
    for told in () if console.is_terminal else lines:
        reason = f" ({told.reason})" if told.reason else ""
        line(f"{told.rec_id}  {told.state:<13}  {told.evidence}{reason}  {told.next_step}")
    total, pages = seen.counts.total(), -(-seen.listed // rows)
    counts = " · ".join(
        f"{state} {seen.counts[state]:,}" + (f" ({told_bytes(seen.bytes[state])})" if seen.bytes[state] else "")
        for state in reversed(seen.in_order())
    )
    what = f"{total:,} {'recording' if total == 1 else 'recordings'}"
    summary = f"{what}, {told_bytes(seen.bytes.total())}: {counts}" if total else f"{what}{' of these' * is_narrowed}."
    console.print(summary, highlight=False, markup=False, soft_wrap=not console.is_terminal)
    if page > max(pages, 1):
        line(f"There is no page {page}: {pages:,} {'page' if pages == 1 else 'pages'} of {rows}.")
    elif pages > 1:
        more = f"; `--page {page + 1}` shows the next" if page < pages else ""
        line(f"Page {page:,} of {pages:,}{more}.")


def _rows_of_a_page() -> int:
    return max(_ROWS_AT_LEAST, (console.height - 8) // _LINES_OF_A_ROW) if console.is_terminal else _ROWS_OFF_A_TERMINAL


def _show_table(lines: Sequence[StatusLine]) -> None:
    """Four columns, or two where the terminal is too narrow for them to be read."""
    from rich.markup import escape

    from ursa_pipelines.cli.printing import new_table

    is_wide = console.width >= _WIDE
    commands = (part for told in lines for part in told.next_step.split("`")[1::2])
    step_width = max([_STEP_WIDTH, *map(len, commands)]) if is_wide else console.width - _STATE_WIDTH
    table = new_table(None, *(("recording", "state") if is_wide else ("state",)))
    if is_wide:
        table.add_column("where it is, and why", overflow="fold")
        table.add_column("what to do", width=step_width)
    else:
        table.add_column("recording, where it is, why, and what to do", overflow="fold")
    for told in lines:
        colour = _COLOURS.get(told.state, "default")
        state = f"[{colour}]{told.state}[/]"
        reason = f"\n[dim]{escape(told.reason)}[/dim]" if told.reason else ""
        where, step = f"{escape(told.evidence)}{reason}", _laid_out(told.next_step, step_width)
        if is_wide:
            table.add_row(told.rec_id, state, where, step)
        else:
            table.add_row(state, f"{told.rec_id}  {where}\n{step}")
    console.print(table)


def _laid_out(step: str, width: int) -> str:
    """The text in lines of this width, with commands bold, so that none is broken and each can be copied as it is."""
    from rich.markup import escape

    lines: list[list[str]] = [[]]
    used = 0
    for number, part in enumerate(step.split("`")):
        is_command = number % 2 == 1
        for token in [part] if is_command else part.removesuffix("." if number else "").split():
            if used and used + 1 + len(token) > width:
                lines.append([])
                used = 0
            lines[-1].append(f"[bold]{escape(token)}[/bold]" if is_command else escape(token))
            used += len(token) + bool(used)
    return "\n".join(" ".join(one) for one in lines)
