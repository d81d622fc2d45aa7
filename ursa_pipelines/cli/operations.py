"""`ursa backfill`: recordings are ingested through the running Dagster, or in this process if none runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from ursa_pipelines.cli.answers import note_summary, print_answer
from ursa_pipelines.cli.options import EXIT_FAILED, AsJson, Config, Profile, Yes, confirm, open_data
from ursa_pipelines.cli.printing import console, line, show_table

if TYPE_CHECKING:
    from pathlib import Path

    import dagster as dg

    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.orchestration.backfills import Candidate, Selection
    from ursa_pipelines.orchestration.launches import DaemonBackfill, Outcome, Progress
    from ursa_pipelines.orchestration.webserver import Webserver

app = typer.Typer(help="Attached to `ursa`.")

_SHOWN = 50

Named = Annotated[list[str] | None, typer.Argument(metavar="[REC_ID]...", help="Recordings by id.")]
DEFAULT_URL = "http://127.0.0.1:3000"


def _require_url(given: str | None) -> str | None:
    if given is None:
        return None
    try:
        parts = urlsplit(given)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise typer.BadParameter(f"{given!r} is no URL; write it as {DEFAULT_URL}")
    return given


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        callback=_require_url,
        show_default=DEFAULT_URL,
        help="Where the Dagster webserver of this profile is, if one runs.",
    ),
]


def url_or_default(url: str | None) -> str:
    """Where to look for the webserver."""
    return url or DEFAULT_URL


@app.command(rich_help_panel="Decide")
def backfill(
    rec_ids: Named = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="All recorded on this day or later, by their ids.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed, and those to be tried again.")] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="All on a source or in the bucket that the catalog lacks.")
    ] = False,
    profile: Profile = None,
    config: Config = None,
    url: Url = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Do it here, whatever runs; the runs are in the UI all the same.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once Dagster has taken it on.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which recordings it would take.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Ingest recordings again or for the first time: through the running Dagster, or here if none runs.

    Quarantined and waived recordings are passed by unless they are named. A Dagster named with --url must answer.
    """
    from ursa_pipelines.errors import ProfileInvalid
    from ursa_pipelines.orchestration.backfills import Wanted, select
    from ursa_pipelines.orchestration.instance import open_instance
    from ursa_pipelines.orchestration.webserver import find_webserver

    wanted = Wanted(tuple(dict.fromkeys(rec_ids or ())), since.date() if since else None, failed, missing)
    if wanted.is_nothing:
        raise typer.BadParameter("name recordings, or say --since DAY, --failed or --missing")
    if in_process and no_wait:
        raise typer.BadParameter("--no-wait needs a running Dagster, and --in-process does without")
    data = open_data(profile, config)
    with open_instance(data.profile) as instance:
        webserver = None if in_process else find_webserver(url_or_default(url), instance, data.profile)
        if url and not webserver and not in_process:
            remedy = "Start it, name the right URL, or say --in-process to do without."
            raise ProfileInvalid("no Dagster answers there", place=url, remedy=remedy)
        if no_wait and webserver is None:
            raise typer.BadParameter(f"no Dagster answers at {DEFAULT_URL}, so --no-wait would do nothing")
        selection = select(data, instance, wanted)
        note_summary(backfill=None, url=None)
        if not as_json:
            _show_selection(selection)
        outcomes: list[Outcome] = []
        if selection.chosen and not dry_run:
            where = f"through Dagster at {webserver.url}" if webserver else "in this process"
            typer.echo(f"It runs {where}.", err=as_json)
            question = f"Ingest {len(selection.chosen):,} recordings into {data.profile.buckets.raw}, {where}?"
            confirm(data, question, yes)
            if webserver:
                launched = _launch(data, instance, webserver, selection.rec_ids)
                note_summary(backfill=launched.backfill_id, url=webserver.page_of(launched.backfill_id))
                if not as_json:
                    line(f"Backfill {launched.backfill_id}: {webserver.page_of(launched.backfill_id)}")
                    _warn_of_no_daemon(webserver)
                outcomes = [] if no_wait else _follow(launched, as_json=as_json)
            else:
                outcomes = _run_here(data, instance, profile, config, selection.rec_ids, as_json=as_json)
    failed = bool(selection.unknown or selection.problems) or any(one.status != "OK" for one in outcomes)
    exit_code = EXIT_FAILED if failed else 0
    if as_json:
        _answer(selection, outcomes, exit_code)
    elif outcomes:
        _show_outcomes(outcomes)
    raise typer.Exit(exit_code)


def _launch(
    data: DataInterface, instance: dg.DagsterInstance, webserver: Webserver, rec_ids: Sequence[str]
) -> DaemonBackfill:
    from ursa_pipelines.orchestration.launches import DaemonBackfill, tags_of
    from ursa_pipelines.orchestration.resources import require_profile

    require_profile(instance, data.profile)
    return DaemonBackfill.launch(instance, webserver, rec_ids, tags=tags_of("backfill", data.writer.by))


def _follow(launched: DaemonBackfill, *, as_json: bool) -> list[Outcome]:
    try:
        with _progress(len(launched.rec_ids), as_json) as tell:
            return launched.follow(tell)
    except KeyboardInterrupt:
        page = launched.webserver.page_of(launched.backfill_id)
        typer.secho(f"Nobody watches it any more, but the backfill goes on; end it at {page}", err=True)
        raise


def _run_here(
    data: DataInterface,
    instance: dg.DagsterInstance,
    profile: str | None,
    config: Path | None,
    rec_ids: Sequence[str],
    *,
    as_json: bool,
) -> list[Outcome]:
    from ursa_pipelines.orchestration.launches import run_in_process, tags_of

    tags = tags_of("backfill", data.writer.by)
    named = profile if profile or config else data.profile.name
    with _progress(len(rec_ids), as_json) as tell:
        return run_in_process(instance, named, config, rec_ids, tags=tags, tell=tell)


def _warn_of_no_daemon(webserver: Webserver) -> None:
    if not webserver.is_healthy("BACKFILL"):
        told = "No daemon seems to run beside this webserver: the backfill waits until one does."
        typer.secho(told, err=True, fg=typer.colors.YELLOW)


def _show_selection(selection: Selection) -> None:
    _show_candidates("Backfill", selection.chosen)
    _show_candidates("Passed by; name them to take them all the same", selection.held)
    for rec_id in selection.unknown:
        told = "no recording of this id is on a mounted source, in the bucket or in the catalog"
        typer.secho(f"{rec_id}: {told}", err=True, fg=typer.colors.RED)
    for problem in selection.problems:
        typer.secho(f"Not looked at: {problem}", err=True, fg=typer.colors.YELLOW)
    count = len(selection.chosen)
    line(f"{count:,} recording{'' if count == 1 else 's'} to ingest" if count else "No recording to ingest.")


def _show_candidates(title: str, candidates: Sequence[Candidate]) -> None:
    rows = [(one.rec_id, ", ".join(one.places), one.state) for one in candidates[:_SHOWN]]
    show_table(title, {"recording": True, "where": True, "state": True}, rows)
    for one in candidates[:_SHOWN]:
        if one.reason:
            line(_about(one.rec_id, one.reason))
    if len(candidates) > _SHOWN:
        line(f"and {len(candidates) - _SHOWN:,} more; --dry-run --json tells all")


def _about(rec_id: str, reason: str) -> str:
    return reason if reason.startswith(rec_id) else f"{rec_id}: {reason}"


def _show_outcomes(outcomes: Sequence[Outcome]) -> None:
    counts = {status: sum(one.status == status for one in outcomes) for status in ("OK", "FAIL", "SKIP")}
    others = [one for one in outcomes if one.status != "OK"]
    for one in others[:_SHOWN]:
        line(f"{one.status} {_about(one.rec_id, one.reason)}")
    if len(others) > _SHOWN:
        line(f"and {len(others) - _SHOWN:,} more; --json tells all")
    line(f"{counts['OK']:,} done, {counts['FAIL']:,} failed, {counts['SKIP']:,} wait")


def _answer(selection: Selection, outcomes: Sequence[Outcome], exit_code: int) -> None:
    came = {one.rec_id: asdict(one) for one in outcomes}
    print_answer(
        ({**asdict(one), **_became(came.get(one.rec_id))} for one in selection.chosen),
        summary={
            "passed_by": selection.held,
            "unknown": selection.unknown,
            "problems": selection.problems,
        },
        exit_code=exit_code,
    )


def _became(came: dict[str, Any] | None) -> dict[str, Any]:
    return {"status": came["status"], "outcome": came["outcome"], "reason": came["reason"]} if came else {}


@contextmanager
def _progress(total: int, as_json: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, else a line whenever a count has changed; nothing where JSON is printed."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    said: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True, disable=as_json or not console.is_terminal) as bars:
        task = bars.add_task("waits for Dagster", total=total)

        def tell(progress: Progress) -> None:
            told = f"{progress.done:,} done, {progress.failed:,} not, {progress.running:,} running"
            bars.update(task, description=told, completed=progress.done + progress.failed)
            if not (as_json or console.is_terminal or said[-1:] == [told]):
                said.append(told)
                line(f"{told} of {total:,}")

        yield tell
