"""`ursa doctor`: what an ingest needs, checked one thing after another, each failure with its remedy."""

from __future__ import annotations

import secrets
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.options import EXIT_FAILED, AsJson, Config, Profile, Yes, confirm, open_data, writing

if TYPE_CHECKING:
    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.maintenance.checkup.check import Check, State

app = typer.Typer(help="Attached to `ursa`.")

_RACERS = 64
_STATES: dict[State, str] = {"ok": "ok   ", "warning": "warn ", "failed": "FAIL ", "skipped": "skip "}
_COLOURS = {
    "ok": typer.colors.GREEN,
    "warning": typer.colors.YELLOW,
    "failed": typer.colors.RED,
    "skipped": typer.colors.BRIGHT_BLACK,
}


@app.command(rich_help_panel="Look")
def doctor(
    profile: Profile = None,
    config: Config = None,
    clean: Annotated[
        bool, typer.Option("--clean-uploads", help="End unfinished uploads of ours that were idle for --idle-hours.")
    ] = False,
    idle_hours: Annotated[float, typer.Option(min=0, help="How long nothing must have been sent.")] = 24,
    release: Annotated[
        str | None, typer.Option("--release-claim", help="Give a REC_ID free that was claimed and never registered.")
    ] = None,
    race: Annotated[
        bool, typer.Option("--race-writes", help="Let 64 writers create one object at once: exactly one must win.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Check this machine, the credentials, the store and its clock, the catalog and the sources.

    Each line tells one check, with what to do below it. Only reads, unless an option says otherwise. Exit code 1 if a
    check failed.
    """
    from ursa_pipelines.maintenance.checkup.examination import examine

    data = open_data(profile, config)
    if clean:
        question = f"End uploads into {data.profile.buckets.raw} that were idle for {idle_hours:g} h?"
        confirm(data, question, yes)
        data.enable_writes(roles=("assets_rw", "raw_rw"))
        _clean_uploads(data, timedelta(hours=idle_hours), as_json)
    if race:
        confirm(data, f"Write a probe into {data.profile.buckets.assets}?", yes)
        race_writes(data)
        typer.echo(f"ok    conditional writes: one of {_RACERS} won", err=as_json)
    if release:
        confirm(data, f"Release the claim of {release} in {data.profile.buckets.assets}?", yes)
        data.enable_writes()
        typer.echo(f"{release} is free again; it was claimed for {data.release_claim(release)}", err=as_json)
    checks = []
    for check in examine(data.profile, data.state):
        checks.append(check)
        if not as_json:
            _show(check)
    counts = Counter(check.state for check in checks)
    exit_code = EXIT_FAILED if counts["failed"] else 0
    if as_json:
        print_answer(map(asdict, checks), summary={state: counts[state] for state in _STATES}, exit_code=exit_code)
    else:
        told = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
        typer.echo(f"{len(checks)} checks: {told}")
    if exit_code:
        raise typer.Exit(exit_code)


def _show(check: Check) -> None:
    typer.secho(_STATES[check.state], nl=False, fg=_COLOURS[check.state], bold=check.state == "failed")
    typer.secho(f" {check.name}: {check.told}", fg=typer.colors.RED if check.state == "failed" else None)
    if check.remedy:
        typer.echo(f"      To do: {check.remedy}")


def race_writes(data: DataInterface) -> None:
    """Lets 64 writers create one object at once and removes it; raises `CatalogError` unless exactly one has won.

    The catalog stands on this (DESIGN section 6), and not every store that takes `If-None-Match` keeps its word.
    """
    from ursa_pipelines.errors import CatalogError, ObjectExists

    assets = writing(data).catalog.assets
    key = f"ursa/doctor/tail/{secrets.token_hex(8)}"

    def create(number: int) -> bool:
        try:
            assets.create(key, str(number).encode())
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(_RACERS) as pool:
        winners = sum(pool.map(create, range(_RACERS)))
    assets.remove(key)
    if winners != 1:
        raise CatalogError(
            f"of {_RACERS} writers that created one object at once, {winners} were told that they had",
            place=f"{assets.name}/{key}",
            remedy="Try once more; if it is so again, this store must not hold a catalog.",
        )


def _clean_uploads(data: DataInterface, idle: timedelta, as_json: bool) -> None:
    """Ends the uploads that were idle for so long and prints each, beside the document if one was asked for."""
    ended = data.clean_uploads(idle)
    for one in ended:
        typer.echo(
            f"ended {one.record.key}, begun on {one.record.host}, {one.stored_bytes / 1e6:,.1f} MB stored", err=as_json
        )
    typer.echo(f"{len(ended)} unfinished uploads ended", err=as_json)
