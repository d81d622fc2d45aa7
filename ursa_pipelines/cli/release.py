"""`ursa release`: room on the sources, for what the bucket is proved to have. Dry until `--commit`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.options import EXIT_FAILED, AsJson, Config, Profile, Yes, confirm, open_data
from ursa_pipelines.cli.printing import counted, line, show_table

if TYPE_CHECKING:
    from ursa_pipelines.errors import UrsaError
    from ursa_pipelines.ingest.context import Watch
    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.maintenance.narrowing import Only
    from ursa_pipelines.maintenance.release.ledger import Release

release_app = typer.Typer(no_args_is_help=True)

_DAY = ["%Y-%m-%d"]
_SHOWN = 50


def _real_id(rec_ids: list[str] | None) -> list[str]:
    from ursa_pipelines.recordings.identity import is_rec_id

    for rec_id in rec_ids or ():
        if not is_rec_id(rec_id):
            raise typer.BadParameter(f"{rec_id!r} is no recording id rec_<YYYYMMDD>_<HHMMSS>_<hex>")
    return rec_ids or []


Named = Annotated[
    list[str] | None, typer.Argument(metavar="[REC_ID]...", callback=_real_id, help="Recordings by id; else all.")
]
OneOrMore = Annotated[list[str], typer.Argument(metavar="REC_ID", callback=_real_id, help="Recordings by id.")]
From = Annotated[str | None, typer.Option("--source", metavar="NAME", help="Only on this source of the profile.")]
Commit = Annotated[bool, typer.Option("--commit", help="Do what is shown; without it nothing is changed.")]


@release_app.callback()
def release() -> None:
    """Free room on the sources, of recordings whose every byte is proved in the bucket.

    `move` certifies directories and moves them into the trash of their source; `purge` removes what has waited there
    long enough; `restore` brings one back; `list` shows all. The profile has to allow it: `release: {enabled: true}`.
    """


@release_app.command()
def move(
    rec_ids: Named = None,
    source: From = None,
    since: Annotated[
        datetime | None, typer.Option(formats=_DAY, metavar="DATE", help="Recorded on this day (UTC) or later.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=_DAY, metavar="DATE", help="Recorded before this day (UTC).")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read the bucket's bytes, whatever checksums it has.")] = False,
    prove: Annotated[bool, typer.Option("--prove", help="Read and compare every byte without --commit, too.")] = False,
    commit: Commit = False,
    profile: Profile = None,
    config: Config = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Show which directories may leave their sources, and why others may not; with --commit move them to the trash.

    With --commit every byte is read again and proved in the bucket first, and a certificate of that is stored.
    """
    from ursa_pipelines.maintenance.narrowing import Only
    from ursa_pipelines.maintenance.release import desk as releasing

    data = _opened(profile, config, commit)
    only = Only(frozenset(rec_ids or ()), *(moment.date() if moment else None for moment in (since, until)))
    desk = data.release_desk(commit=commit)
    look = partial(releasing.release, by_bytes=deep, held=_objections(data, only))
    with counted("Looking at directories") as tell:
        wanted = releasing.wanted_of(desk, only, source, on_unavailable=_tell_unavailable)
        found = list(look(desk, wanted, commit=False, proving=prove, watch=_watch(tell)))
    chosen = [(one.source, one.rec_id) for one in found if one.state == "eligible"]
    if not as_json:
        _show("Would leave their source" if not commit else "Leave their source", found)
    failed = False
    if commit and chosen:
        size = sum(one.bytes for one in found if one.state == "eligible")
        names = ", ".join(sorted({name for name, _ in chosen}))
        confirm(data, f"Move {_directories(len(chosen))} ({_told(size)}) into the trash of {names}?", yes)
        sources = {one.name: one for one in desk.sources}
        again = ((sources[name], rec_id) for name, rec_id in chosen)
        with counted("Reading and comparing") as tell:
            moved = list(look(desk, again, commit=True, watch=_watch(tell)))
        if not as_json:
            _show("Moved", moved)
        found = [*(one for one in found if one.state != "eligible"), *moved]
        failed = any(not one.is_fine for one in moved)
    if not as_json and chosen and not commit:
        told = "" if prove else " Their bytes are read and compared then, or now with --prove."
        line(f"Nothing was moved; --commit moves it.{told}")
    # Of those that nobody named it is usual that some have to stay.
    failed = failed or any(one.rec_id in only.rec_ids and not one.is_fine for one in found)
    _end(found, failed=failed, as_json=as_json)


@release_app.command()
def purge(
    rec_ids: Named = None,
    source: From = None,
    commit: Commit = False,
    profile: Profile = None,
    config: Config = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Show what has waited long enough in the trash; with --commit remove it for good.

    Only files that are exactly as their certificate lists them, and whose objects are still those that were proved;
    clutter goes with them. What is quarantined, or waits for anything else, stays.
    """
    from ursa_pipelines.maintenance.narrowing import Only
    from ursa_pipelines.maintenance.release.desk import purge_released, purge_these

    data = _opened(profile, config, commit)
    desk = data.release_desk(commit=commit)
    found = list(purge_released(desk, rec_ids or (), source, commit=False))
    waited = frozenset(one.rec_id for one in found if one.state == "due")
    # What was found wrong in the bucket meanwhile may be right in the trash.
    held = _objections(data, Only(waited)) if waited else {}
    found = [_held(one, held) for one in found]
    due, failed = [one for one in found if one.state == "due"], False
    if not as_json:
        _show("In the trash", found)
    if commit and due:
        size = sum(one.bytes for one in due)
        confirm(data, f"Remove {_directories(len(due))} ({_told(size)}) from the trash for good?", yes)
        gone = list(purge_these(desk, due, _objections(data, Only(waited))))
        if not as_json:
            _show("Removed", gone)
        failed = any(one.state != "purged" for one in gone)
        found = [*(one for one in found if one.state != "due"), *gone]
    if not as_json and due and not commit:
        line("Nothing was removed; --commit removes it.")
    _end(found, failed=failed or any(one.state == "stopped" for one in found), as_json=as_json)


@release_app.command()
def restore(
    rec_ids: OneOrMore,
    source: From = None,
    commit: Commit = False,
    profile: Profile = None,
    config: Config = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Show what would come back from the trash; with --commit move it to where it was."""
    from ursa_pipelines.maintenance.release.desk import restore_released, restore_these

    data = _opened(profile, config, commit)
    desk = data.release_desk(commit=commit)
    found = list(restore_released(desk, rec_ids, source, commit=False))
    there = [one for one in found if one.is_fine]
    if not as_json:
        _show("In the trash", found)
    if commit and there:
        confirm(data, f"Move {_directories(len(there))} from the trash back to their place?", yes)
        back = list(restore_these(desk, there))
        if not as_json:
            _show("Restored", back)
        found = [*(one for one in found if not one.is_fine), *back]
    if not as_json and there and not commit:
        line("Nothing was moved; --commit moves it.")
    _end(found, failed=any(not one.is_fine for one in found), as_json=as_json)


@release_app.command("list")
def list_(
    rec_ids: Named = None,
    source: From = None,
    profile: Profile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show every release there was, and where its directory is now."""
    from ursa_pipelines.maintenance.release.ledger import releases

    data = open_data(profile, config)
    found = list(releases(data.release_desk(commit=False), rec_ids or (), source))
    if not as_json:
        _show("Releases", found)
    _end(found, failed=any(one.state == "stopped" for one in found), as_json=as_json)


def _opened(profile: str | None, config: Path | None, commit: bool) -> DataInterface:
    data = open_data(profile, config)
    if commit:
        data.enable_writes(roles=("source_rw", "assets_rw"))
    return data


def _tell_unavailable(error: UrsaError) -> None:
    typer.secho(f"Passed by: {error}", err=True, fg=typer.colors.YELLOW)


def _objections(data: DataInterface, only: Only) -> dict[str, str]:
    """Why recordings may not leave by what `ursa status` says of them: only what is registered may, or waived."""
    from ursa_pipelines.maintenance.reconciliation import reconcile
    from ursa_pipelines.orchestration.cases import Events, cases
    from ursa_pipelines.orchestration.report_data import instance_of
    from ursa_pipelines.orchestration.status_lines import status_line

    began = time.time()
    with instance_of(data.profile) as (instance, why_not), counted("Comparing sources, bucket and catalog"):
        found = reconcile(data.reading_context, data.sources, only)
        events = Events.read(instance, began, only) if instance is not None else None
        told = [status_line(case, is_automatic=False) for case in cases(found, events, began)]
    if why_not:
        typer.secho(why_not, err=True, fg=typer.colors.YELLOW)
    return {
        one.rec_id: f"it is {one.state}{f': {one.reason}' if one.reason else ''}"
        for one in told
        if one.state not in {"registered", "waived"}
    }


def _held(one: Release, held: dict[str, str]) -> Release:
    """What is due and objected to stays in the trash."""
    if one.state != "due" or one.rec_id not in held:
        return one
    return replace(
        one,
        state="refused",
        reason=f"{one.rec_id}: {held[one.rec_id]}",
        remedy="It stays in the trash until that is settled.",
    )


def _watch(tell: Callable[[int, int | None], None]) -> Watch:
    from ursa_pipelines.ingest.context import Watch

    return Watch(lambda progress: tell(progress.bytes_uploaded, progress.bytes_total))


def _show(title: str, found: Sequence[Release]) -> None:
    shown = [one for one in found if one.is_fine]
    rows = [
        (one.rec_id, one.source, one.state, f"{one.files:,}", _told(one.bytes), _proof(one), _until(one))
        for one in shown[:_SHOWN]
    ]
    names = ("recording", "source", "state", "files", "bytes", "proved by", "purge from")
    show_table(title, dict.fromkeys(names, True), rows)
    others = [one for one in found if not one.is_fine]
    for one in others[:_SHOWN]:
        told = one.reason.removeprefix(f"{one.rec_id}: ").rstrip(".")
        line(f"{one.rec_id or 'the trash'} on {one.source or 'no source'} {one.state}: {told}. {one.remedy}")
    left = max(len(shown) - _SHOWN, 0) + max(len(others) - _SHOWN, 0)
    if left:
        line(f"and {left:,} more; --json tells all")


def _end(found: Sequence[Release], *, failed: bool, as_json: bool) -> None:
    exit_code = EXIT_FAILED if failed else 0
    counts, sizes = Counter(one.state for one in found), Counter[str]()
    for one in found:
        sizes[one.state] += one.bytes
    if as_json:
        summary = {"states": {state: {"directories": counts[state], "bytes": sizes[state]} for state in counts}}
        print_answer(map(asdict, found), summary=summary, exit_code=exit_code)
    else:
        size = {state: f" ({_told(sizes[state])})" if sizes[state] else "" for state in counts}
        told = [f"{state} {counts[state]:,}{size[state]}" for state in counts]
        line(f"{_directories(len(found))}{': ' if told else ''}{' · '.join(told)}")
    if exit_code:
        raise typer.Exit(exit_code)


def _proof(one: Release) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in sorted(one.evidence.items()))


def _until(one: Release) -> str:
    return f"{one.until:%Y-%m-%d %H:%M} UTC" if one.until else ""


def _directories(count: int) -> str:
    return f"{count:,} {'directory' if count == 1 else 'directories'}"


def _told(size: int) -> str:
    from ursa_pipelines.maintenance.overview import told_bytes

    return told_bytes(size)
