"""`ursa retry`, `quarantine`, `waive`, `history`: what an operator decides about recordings, and the record of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.operations import Named, Url, url_or_default
from ursa_pipelines.cli.options import EXIT_FAILED, AsJson, Config, Profile, Yes, confirm, open_data
from ursa_pipelines.cli.printing import line, show_table

if TYPE_CHECKING:
    from pathlib import Path

    import dagster as dg

    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.orchestration.decisions import Decided

app = typer.Typer(help="Attached to `ursa`.")

_AUTOMATION = "ingest_automation"

RecIds = Annotated[list[str], typer.Argument(metavar="REC_ID...", help="Recordings by id.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in a line; kept and shown. Never a participant's name.")]


@app.command(rich_help_panel="Decide")
def retry(
    rec_ids: Named = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="All in quarantine.")] = False,
    profile: Profile = None,
    config: Config = None,
    url: Url = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Lift quarantine or waiver of recordings, and report them as arrived, so that Dagster takes them up again."""
    from ursa_pipelines.orchestration import decisions
    from ursa_pipelines.orchestration.instance import open_instance

    if not (rec_ids or failed or quarantined):
        raise typer.BadParameter("name recordings, or say --failed or --quarantined")
    data = open_data(profile, config)
    with open_instance(data.profile) as instance:
        found = decisions.held(instance, failed=failed, quarantined=quarantined) if failed or quarantined else []
        chosen = list(dict.fromkeys([*(rec_ids or ()), *found]))
        decided: list[Decided] = []
        if chosen:
            confirm(data, f"Have {_counted(chosen)} tried again?", yes)
            decided = decisions.retry(data, instance, chosen)
        taken_up = _who_takes_up(url_or_default(url), instance, data)
    if as_json:
        print_answer(map(asdict, decided), summary={"next": taken_up}, exit_code=_exit_code(decided))
    else:
        _show_decided(decided, lambda one: f"is to be tried again; reported on {', '.join(one.arrivals)}")
        line(taken_up if any(not one.problem for one in decided) else "Nothing is to be tried again.")
    raise typer.Exit(_exit_code(decided))


@app.command(rich_help_panel="Decide")
def quarantine(
    rec_ids: RecIds,
    reason: Reason,
    profile: Profile = None,
    config: Config = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Set recordings aside: nothing but `ursa retry` or a launch by hand takes them up."""
    _decide(rec_ids, "quarantined", reason, profile, config, yes=yes, as_json=as_json)


@app.command(rich_help_panel="Decide")
def waive(
    rec_ids: RecIds,
    reason: Reason,
    profile: Profile = None,
    config: Config = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Accept recordings as they stand: no retries, and no warnings about what they lack."""
    _decide(rec_ids, "waived", reason, profile, config, yes=yes, as_json=as_json)


@app.command(rich_help_panel="Look")
def history(
    rec_id: Annotated[str, typer.Argument(help="A recording by id.")],
    profile: Profile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show what has happened to a recording: arrivals, registrations, failures, decisions; when, by whom and why."""
    from ursa_pipelines.orchestration.decisions import audit
    from ursa_pipelines.orchestration.instance import open_instance
    from ursa_pipelines.recordings.identity import is_rec_id

    if not is_rec_id(rec_id):
        raise typer.BadParameter(f"{rec_id!r} is no recording id rec_<YYYYMMDD>_<HHMMSS>_<hex>")
    data = open_data(profile, config)
    with open_instance(data.profile) as instance:
        happened = audit(data, instance, rec_id)
    if as_json:
        print_answer(map(asdict, happened), exit_code=0 if happened else EXIT_FAILED)
    else:
        rows = [(f"{one.at.astimezone():%Y-%m-%d %H:%M:%S}", one.what, one.by, one.why) for one in happened]
        show_table(f"History of {rec_id}", {"when": True, "what": True, "by": True, "why": False}, rows)
    if not happened:
        typer.secho(f"{rec_id}: nothing has happened to it here.", err=True)
        raise typer.Exit(EXIT_FAILED)


def _decide(
    rec_ids: Sequence[str],
    kind: Literal["quarantined", "waived"],
    reason: str,
    profile: str | None,
    config: Path | None,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    from ursa_pipelines.orchestration import decisions
    from ursa_pipelines.orchestration.instance import open_instance

    try:
        reason = decisions.clean_reason(reason)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--reason") from None
    chosen = list(dict.fromkeys(rec_ids))
    data = open_data(profile, config)
    with open_instance(data.profile) as instance:
        confirm(data, f"Mark {_counted(chosen)} as {kind}?", yes)
        decided = decisions.decide(data, instance, chosen, kind, reason)
    if as_json:
        print_answer(map(asdict, decided), summary={"kind": kind, "reason": reason}, exit_code=_exit_code(decided))
    else:
        _show_decided(decided, lambda one: f"is {kind}")
    raise typer.Exit(_exit_code(decided))


def _counted(rec_ids: Sequence[str]) -> str:
    return rec_ids[0] if len(rec_ids) == 1 else f"{len(rec_ids):,} recordings"


def _show_decided(decided: Sequence[Decided], told: Callable[[Decided], str]) -> None:
    for one in decided:
        if one.problem:
            typer.secho(f"{one.rec_id}: {one.problem}", err=True, fg=typer.colors.RED)
        else:
            line(f"{one.rec_id} {told(one)}")


def _exit_code(decided: Sequence[Decided]) -> int:
    return EXIT_FAILED if any(one.problem for one in decided) else 0


def _who_takes_up(url: str, instance: dg.DagsterInstance, data: DataInterface) -> str:
    from ursa_pipelines.errors import UrsaError
    from ursa_pipelines.orchestration.webserver import find_webserver

    by_hand = "`ursa backfill --failed` takes them up now."
    try:
        webserver = find_webserver(url, instance, data.profile)
        if webserver is None:
            return f"No Dagster answers at {url}. One that runs elsewhere takes them up by itself; otherwise {by_hand}"
        if not webserver.is_healthy("SENSOR"):
            return f"No daemon seems to run beside the webserver at {url}: start it, or {by_hand}"
        if not webserver.is_on(_AUTOMATION):
            return f"The sensor {_AUTOMATION} is switched off: switch it on at {url}, or {by_hand}"
    except UrsaError as error:
        return f"{error} {by_hand}"
    return f"The Dagster at {url} takes them up within a minute."
