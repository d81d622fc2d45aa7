"""`ursa plan`, `apply` and `ingest`: what would be done, and doing it (DESIGN section 9)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.failures import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_REFUSED, Interrupted, failure_of
from ursa_pipelines.cli.options import AsJson, Config, Profile, Yes, confirm, open_data, tell_of_version

if TYPE_CHECKING:
    from ursa_pipelines.cli.plans import Planned
    from ursa_pipelines.errors import UrsaError
    from ursa_pipelines.ingest.batch import BatchItem
    from ursa_pipelines.ingest.plan import IngestPlan
    from ursa_pipelines.ingest.plan_file import Drift
    from ursa_pipelines.interface import DataInterface

app = typer.Typer(help="Attached to `ursa`.")

What = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="WHAT",
        help="Recording directories, drives that hold some, or REC_IDs; without any, all on the profile's sources.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace catalog rows that differ; never raw objects.")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="Ingest what is there although files are missing.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]


@app.command(rich_help_panel="Ingest")
def plan(
    what: What = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan into this file, for `ursa apply`.")] = None,
    profile: Profile = None,
    config: Config = None,
    overwrite: Overwrite = False,
    allow_partial: AllowPartial = False,
    as_json: AsJson = False,
) -> None:
    """Show what `ursa ingest` would do, and write nothing. Of segments only the headers of media files are read."""
    data = open_data(profile, config)
    tell_of_version(data)
    planned = _planned(data, what or (), overwrite=overwrite, allow_partial=allow_partial)
    if out:
        _write(planned, out)
    if as_json:
        planned.answer(plan_file=str(out) if out else None)
    else:
        planned.show()
        if out:
            from ursa_pipelines.cli.printing import line

            opened = [*(["--profile", profile] if profile else []), *(["--config", str(config)] if config else [])]
            line(f"Written to {out}. To do just this: {shlex.join(['ursa', 'apply', str(out), *opened])}")
    raise typer.Exit(planned.exit_code)


@app.command(rich_help_panel="Ingest")
def apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plan that `ursa plan --out` wrote.")],
    profile: Profile = None,
    config: Config = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Ingest what a plan says, or nothing if source, bucket or catalog are no longer as they were then."""
    from ursa_pipelines.cli.plans import Planned
    from ursa_pipelines.ingest.plan_file import drift, read_plan

    before = read_plan(file)
    data = open_data(profile, config)

    def look_again() -> list[IngestPlan]:
        with _looking(before.to_ingest) as on_planned:
            now = data.plan_again(before, on_planned=on_planned)
        if found := drift(before, now):
            _refuse_for(found, file, as_json=as_json)
        return now.recordings

    plans = [*look_again(), *before.left_out]
    planned = Planned(data, plans, before.unavailable, before.overwrite, before.allow_partial)
    _ingest(planned, dry_run=dry_run, yes=yes, as_json=as_json, look_again=look_again)


@app.command(rich_help_panel="Ingest")
def ingest(
    what: What = None,
    profile: Profile = None,
    config: Config = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    allow_partial: AllowPartial = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Upload recordings and register them: Path A, B or C, whichever each needs. What is done already is left alone."""
    planned = _planned(open_data(profile, config), what or (), overwrite=overwrite, allow_partial=allow_partial)
    _ingest(planned, dry_run=dry_run, yes=yes, as_json=as_json)


def _planned(data: DataInterface, what: Sequence[str], *, overwrite: bool, allow_partial: bool) -> Planned:
    """The plans of what is meant. What names nothing is a refusal of its own, and the others are planned."""
    from ursa_pipelines.cli.plans import Planned
    from ursa_pipelines.ingest.plan import IngestPlan
    from ursa_pipelines.ingest.targets import find_targets

    unknown: list[IngestPlan] = []

    def note(name: str, error: UrsaError) -> None:
        kind = type(error).__name__
        unknown.append(IngestPlan(name, action="refused", reason=str(error), remedy=error.remedy, error_type=kind))

    targets = find_targets(data.reading_context, data.sources, what, on_error=note)
    with _looking(targets.directories) as on_planned:
        plans = data.plan_many(targets, overwrite=overwrite, allow_partial=allow_partial, on_planned=on_planned)
    return Planned(data, [*plans, *unknown], targets.unavailable, overwrite, allow_partial)


@contextmanager
def _looking(at: Sized) -> Iterator[Callable[[IngestPlan], None]]:
    from ursa_pipelines.cli.printing import counted

    numbers = count(1)
    with counted("Looking at the recordings") as tell:
        yield lambda plan: tell(next(numbers), len(at))


def _write(planned: Planned, path: Path) -> None:
    """Writes the plan; what stands there is replaced only if it is one, too."""
    from ursa_pipelines.errors import PlanInvalid
    from ursa_pipelines.ingest.plan_file import read_plan, write_plan

    if path.exists():
        try:
            read_plan(path)
        except PlanInvalid:
            raise PlanInvalid(
                "something else than a plan is there, and stays", place=str(path), remedy="Name another file."
            ) from None
    plan = planned.data.plan_file(
        planned.plans,
        overwrite=planned.overwrite,
        allow_partial=planned.allow_partial,
        unavailable=planned.unavailable,
    )
    write_plan(plan, path, sources=[source.path for source in planned.data.profile.sources])


def _refuse_for(found: Sequence[Drift], file: Path, *, as_json: bool) -> None:
    from ursa_pipelines.cli.printing import show_table
    from ursa_pipelines.errors import PlanDrifted

    recordings = len({one.rec_id for one in found if one.rec_id})
    told = f"{recordings:,} of its recordings are" if recordings else "the profile or the catalog is"
    error = PlanDrifted(f"{told} no longer as planned; nothing was done", place=str(file))
    if as_json:
        items = (asdict(one) for one in found)
        print_answer(items, exit_code=EXIT_REFUSED, error=failure_of(error).as_error())
    else:
        rows = [(one.rec_id, one.what, one.told) for one in found]
        show_table("No longer as planned", {"recording": True, "where": True, "what": False}, rows)
    raise error


def _ingest(
    planned: Planned,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    look_again: Callable[[], Sequence[IngestPlan]] | None = None,
) -> None:
    """Shows, asks and does it. `look_again` refuses what is no longer as planned once the question is answered."""
    from ursa_pipelines.cli.printing import console
    from ursa_pipelines.cli.progress import errors

    data, to_ingest = planned.data, planned.to_ingest
    if not as_json:
        planned.show(console)
    elif to_ingest and not (yes or dry_run):
        planned.show(errors)
    if dry_run:
        if as_json:
            planned.answer()
        raise typer.Exit(planned.exit_code)
    items: list[BatchItem] = []
    if to_ingest:
        counted = f"{len(to_ingest):,} recording{'' if len(to_ingest) == 1 else 's'}"
        confirm(data, f"Ingest {counted} into {data.profile.buckets.raw}?", yes)
        if look_again is not None and not (yes and data.profile.family != "production"):
            look_again()
        data.enable_writes(roles=("assets_rw", "raw_rw"))
        items = _watched(planned, as_json=as_json, as_planned=look_again is not None)
    exit_code = planned.exit_code or (EXIT_FAILED if any(item.status != "OK" for item in items) else 0)
    _answer(planned, items, exit_code, as_json=as_json)
    raise typer.Exit(exit_code)


def _watched(planned: Planned, *, as_json: bool, as_planned: bool) -> list[BatchItem]:
    """Ingests and shows how that gets on. An interrupt tells what has ended by then."""
    from ursa_pipelines.cli.plans import expected_of
    from ursa_pipelines.cli.printing import console
    from ursa_pipelines.cli.progress import Tally, errors, say, shown, stopping, told_item

    data, plans, on = planned.data, planned.to_ingest, errors if as_json else console
    tally = Tally(map(expected_of, plans), data.profile.settings.recordings_at_once)

    def end(item: BatchItem) -> None:
        tally.end(item.rec_id, item)
        if not (on.is_terminal or _was_stopped(item)):
            say(on, told_item(item))

    try:
        with shown(tally, "Ingest", on), stopping(tally, on):
            return data.ingest_many(
                plans,
                overwrite=planned.overwrite,
                allow_partial=planned.allow_partial,
                as_planned=as_planned,
                progress=tally.tell,
                on_ended=end,
            )
    except KeyboardInterrupt:
        came = {item.rec_id: item for item in list(tally.ended) if not _was_stopped(item)}
        ended = [came[plan.rec_id] for plan in plans if plan.rec_id in came]
        registered, failed = (sum(item.status == status for item in ended) for status in ("OK", "FAIL"))
        told = [f"{registered:,} registered", *([f"{failed:,} failed"] if failed else [])]
        interrupted = Interrupted(f"{', '.join(told)}, {len(plans) - registered - failed:,} not done")
        sent = {"bytes_sent": tally.sent}
        _answer(planned, ended, EXIT_INTERRUPTED, as_json=as_json, interrupted=interrupted, more=sent)
        raise interrupted from None


def _answer(
    planned: Planned,
    items: Sequence[BatchItem],
    exit_code: int,
    *,
    as_json: bool,
    interrupted: Interrupted | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """What came of it: the recordings that were ingested, and those that the plan had left alone."""
    from ursa_pipelines.cli.plans import item_of
    from ursa_pipelines.cli.tables import show_items

    came = {item.rec_id: item for item in items}
    if as_json:
        everything = [came.get(plan.rec_id) or item_of(plan) for plan in planned.plans]
        counts = {status: sum(item.status == status for item in everything) for status in ("OK", "FAIL", "SKIP")}
        sent = {"bytes_sent": sum(item.bytes_uploaded for item in everything)}
        summary = {**planned.summary(), **counts, **sent, **(more or {})}
        error = failure_of(interrupted).as_error() if interrupted else None
        rows = ({"status": item.status, **asdict(item)} for item in everything)
        print_answer(rows, summary=summary, exit_code=exit_code, error=error)
    elif interrupted:
        show_items(items, title="Ingested so far", told=items, with_sum=False)
    elif planned.to_ingest:
        held = [item_of(plan) for plan in planned.plans if plan.action in {"waits", "refused"}]
        show_items([*items, *held], title="Ingested", told=items)


def _was_stopped(item: BatchItem) -> bool:
    return item.error_type == "UploadInterrupted"
