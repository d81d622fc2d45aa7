"""`ursa scrub`: reads what was verified longest ago again, as the job `scrub` does."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.options import EXIT_FAILED, AsJson, Config, Profile, Yes, confirm, open_data
from ursa_pipelines.cli.printing import line, show_table

if TYPE_CHECKING:
    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.maintenance.scrub.queue import Due
    from ursa_pipelines.maintenance.scrub.run import Scrub
    from ursa_pipelines.orchestration.scrub import Told
    from ursa_pipelines.orchestration.scrub_failures import Handled

app = typer.Typer(help="Attached to `ursa`.")

_SHOWN = 50


@app.command(rich_help_panel="Look")
def scrub(
    size: Annotated[
        str | None, typer.Option("--bytes", metavar="SIZE", help="What may be read today, such as 50GB, by all runs.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="How many requests that may take.")] = None,
    rest_days: Annotated[
        float | None, typer.Option(min=0, help="What was read within so many days is not due; 0: everything is.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="When this time is up it ends.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show whose turn it would be.")] = False,
    profile: Profile = None,
    config: Config = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Read stored recordings again, what was verified longest ago first, as much as a day's budget allows.

    What is not right is quarantined with the evidence; a missing object is sent again from a source whose copy is good.
    """
    from ursa_pipelines.orchestration.scrub import make_scrub, size_of

    try:
        limit = size_of(size) if size else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--bytes") from None
    data = open_data(profile, config)
    deadline = time.monotonic() + minutes * 60 if minutes is not None else float("inf")
    given = {"bytes_per_day": limit, "requests_per_day": requests, "rest_days": rest_days}
    run = secrets.token_hex(8)
    if dry_run:
        dues = make_scrub(data, run, only_look=True, **given).preview()  # type: ignore[arg-type]
        _show_dues(dues, as_json=as_json)
        return
    confirm(data, f"Read recordings in {data.profile.buckets.raw} again, and quarantine what is not right?", yes)
    data.enable_writes()
    work = make_scrub(data, run, should_stop=lambda: time.monotonic() >= deadline, **given)  # type: ignore[arg-type]
    _run(data, work, as_json=as_json)


def _run(data: DataInterface, work: Scrub, *, as_json: bool) -> None:
    from ursa_pipelines.orchestration import notices
    from ursa_pipelines.orchestration.instance import open_instance
    from ursa_pipelines.orchestration.resources import require_profile
    from ursa_pipelines.orchestration.scrub import Told, run_scrub, teller_without_a_run

    told = Told()
    summary: dict[str, Any] = {}

    def exit_code() -> int:
        return EXIT_FAILED if told.counts["failed"] else 0

    with open_instance(data.profile) as instance:
        require_profile(instance, data.profile)

        def handled() -> Iterator[Handled]:
            with closing(run_scrub(work, data, instance, data.sources, teller_without_a_run(instance))) as all_of:
                for one in all_of:
                    told.add(one)
                    yield one
            summary.update(_summary(work, told))

        try:
            if as_json:
                print_answer(map(_item, handled()), summary=summary, exit_code=exit_code)
            else:
                for one in handled():
                    _show(one)
                line(
                    f"{told.counts['sound']:,} sound, {told.counts['mended']:,} mended, {told.counts['failed']:,} "
                    f"failed, {told.counts['part']:,} read in part; {work.spent.bytes:,} bytes in "
                    f"{work.spent.requests:,} requests. It ended: {work.ended}."
                )
        finally:
            notices.quarantine(data, told.new)
    raise typer.Exit(exit_code())


def _summary(work: Scrub, told: Told) -> dict[str, Any]:
    return {
        **{name: told.counts[name] for name in ("sound", "part", "failed", "mended", "unread", "settling")},
        "bytes": work.spent.bytes,
        "requests": work.spent.requests,
        "oldest_before": _moment(work.oldest_before),
        "oldest_after": _moment(work.oldest_after),
        "ended": work.ended,
    }


def _item(one: Handled) -> dict[str, Any]:
    finding = one.finding
    return {
        "rec_id": finding.rec_id,
        "outcome": one.outcome,
        "verified_before": _moment(finding.due.sound_at),
        "bytes": finding.cost.bytes,
        "requests": finding.cost.requests,
        "problems": [*finding.problems, *finding.remarks],
        "wrong": finding.wrong,
        "copies": one.copies,
        "remedy": one.mark.remedy if one.mark and not one.is_mended else "",
    }


def _show(one: Handled) -> None:
    finding = one.finding
    line(f"{one.outcome:<8} {finding.rec_id}")
    for told in (*finding.problems, *finding.remarks, *(copy.told for copy in one.copies)):
        line(f"         {told}")
    if finding.error is not None and not finding.problems:
        line(f"         {finding.error.told}")
    if one.mark is not None and not one.is_mended:
        line(f"         {one.mark.remedy}")


def _show_dues(dues: list[Due], *, as_json: bool) -> None:
    if as_json:
        print_answer(
            {"rec_id": one.rec_id, "outcome": "due", "verified_before": _moment(one.sound_at), "bytes": one.bytes}
            for one in dues
        )
        return
    rows = [
        (one.rec_id, f"{moment:%Y-%m-%d %H:%M}" if (moment := _moment(one.sound_at)) else "never", f"{one.bytes:,}")
        for one in dues[:_SHOWN]
    ]
    show_table("Due today", {"recording": True, "verified (UTC)": True, "bytes": True}, rows)
    if len(dues) > _SHOWN:
        line(f"and {len(dues) - _SHOWN:,} more; --json tells all")
    line(f"{len(dues):,} due within today's budget." if dues else "Nothing is due, or today's budget is used up.")


def _moment(at: float | None) -> datetime | None:
    return datetime.fromtimestamp(at, UTC) if at is not None else None
