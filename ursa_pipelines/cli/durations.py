"""`ursa durations fix`: ends of recordings, derived anew from their segments. Dry until `--commit`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.options import EXIT_FAILED, AsJson, Commit, Config, Profile, Yes, confirm, open_data, writing
from ursa_pipelines.cli.printing import counted, counts_of, line, show_applied, show_table

if TYPE_CHECKING:
    from ursa_pipelines.maintenance.durations import DurationFix
    from ursa_pipelines.maintenance.many import Applied

durations_app = typer.Typer(no_args_is_help=True, help="Durations of recordings.")

_TOLD = {
    "fix": "corrected",
    "unflag": "right; flag goes",
    "indeterminate": "no derivable end; flagged",
    "unread": "could not be read",
}


@durations_app.callback()
def durations() -> None:
    """Durations of recordings."""


@durations_app.command()
def fix(
    profile: Profile = None,
    config: Config = None,
    min_delta_seconds: Annotated[
        float, typer.Option(min=0, max=1e9, help="Rows that differ by no more are right.")
    ] = 60,
    max_indeterminate: Annotated[int, typer.Option(min=0, help="Refuse if more rows have no derivable end.")] = 0,
    commit: Commit = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Correct when recordings ended, by the times of their segments; a start is never changed.

    A row of which nothing tells when it ended gets duration_known_wrong in its metadata.
    """
    from ursa_pipelines.maintenance.durations import apply_durations, indeterminate, plan_durations

    data = open_data(profile, config)
    context = data.reading_context
    with counted("Reading manifests") as progress:
        min_delta = timedelta(seconds=min_delta_seconds)
        fixes = plan_durations(context.raw, context.catalog, min_delta=min_delta, progress=progress)
    if not as_json:
        _show_fixes(fixes)
    unknown = len(indeterminate(fixes))
    if commit and unknown > max_indeterminate:
        raise typer.BadParameter(
            f"{unknown} rows have no derivable end, more than --max-indeterminate {max_indeterminate}; nothing written"
        )
    to_write = [one for one in fixes if one.is_to_write]
    applied: list[Applied] = []
    if commit and to_write:
        confirm(data, f"Write {len(to_write)} rows in {data.profile.buckets.assets}?", yes)
        context = writing(data)
        with counted("Writing rows") as progress:
            applied = apply_durations(
                context.catalog, fixes, context.writer, max_indeterminate=max_indeterminate, progress=progress
            )
    failed = any(one.state == "unread" for one in fixes) or any(one.outcome == "failed" for one in applied)
    exit_code = EXIT_FAILED if failed else 0
    if as_json:
        outcomes = {one.recording_hash: one for one in applied}
        items = [_as_json(one, outcomes.get(one.seen.recording_hash)) for one in fixes]
        print_answer(items, summary=counts_of(applied), exit_code=exit_code)
    else:
        show_applied(applied, is_dry=bool(to_write) and not commit)
    raise typer.Exit(exit_code)


def _show_fixes(fixes: Sequence[DurationFix]) -> None:
    show_table(
        "Durations",
        {"recording": True, "duration": True, "derived": True, "": True},
        [(one.seen.rec_id, str(one.seen.duration), str(one.duration or ""), _TOLD[one.state]) for one in fixes],
    )
    for one in fixes:
        if one.problem:
            line(f"{one.seen.rec_id}: {one.problem}")
    if not fixes:
        line("Every duration is right.")


def _as_json(fix: DurationFix, applied: Applied | None) -> dict[str, Any]:
    return {
        "recording_hash": fix.seen.recording_hash,
        "rec_id": fix.seen.rec_id,
        "state": fix.state,
        "ended_at": fix.seen.ended_at,
        "duration_seconds": fix.seen.duration.total_seconds(),
        "derived_ended_at": fix.ended_at,
        "derived_duration_seconds": fix.duration.total_seconds() if fix.duration is not None else None,
        "outcome": applied.outcome if applied else None,
        "problem": (applied.problem if applied else "") or fix.problem,
    }
