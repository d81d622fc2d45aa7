"""`ursa catalog export` and `ursa catalog import`: the tables as files, for others and from others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.options import EXIT_FAILED, AsJson, Commit, Config, Profile, Yes, confirm, open_data, writing
from ursa_pipelines.cli.printing import console, line, show_rows

if TYPE_CHECKING:
    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.maintenance.importing.plan import Findings, ImportPlan, ImportReport

app = typer.Typer(help="Attached to `ursa catalog`.")

_TOLD_ON_TERMINAL = 20


class Format(StrEnum):
    PARQUET = "parquet"
    CSV = "csv"
    LANCE = "lance"


class Table(StrEnum):
    RECORDINGS = "recordings"
    MODALITIES = "modalities"
    PARTICIPANTS = "participants"
    EVENTS = "events"


@app.command("export")
def export_command(
    dest: Annotated[Path, typer.Argument(help="The directory to write <table>.<format> into.")],
    profile: Profile = None,
    config: Config = None,
    format: Annotated[Format, typer.Option(help="Lance needs the extra [lance].")] = Format.PARQUET,
    table: Annotated[list[Table] | None, typer.Option(help="Only this one; may be given several times.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an export that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the catalog's tables as files. The table participants holds names."""
    data = open_data(profile, config)
    run_export(data, dest, format=format, tables=table, overwrite=overwrite, as_json=as_json)


@app.command("import")
def import_command(
    source: Annotated[Path, typer.Argument(help="A directory of tables: .parquet, .csv, .lance, or directories.")],
    profile: Profile = None,
    config: Config = None,
    commit: Commit = False,
    overwrite: Annotated[bool, typer.Option(help="Replace recordings that the catalog has with other values.")] = False,
    allow_missing_bytes: Annotated[
        bool, typer.Option(help="Import recordings although their bytes are not in the raw bucket.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Bring in the tables of another catalog: recordings, modalities, participants. Shows what it would do."""
    run_import(
        open_data(profile, config),
        source,
        commit=commit,
        overwrite=overwrite,
        allow_missing_bytes=allow_missing_bytes,
        yes=yes,
        as_json=as_json,
    )


def run_export(
    data: DataInterface,
    dest: Path,
    *,
    format: Format,
    tables: list[Table] | None = None,
    overwrite: bool = False,
    as_json: bool = False,
) -> None:
    """Exports the tables (None: all) and prints what was written."""
    from ursa_pipelines.catalog.tables.schemas import TABLES
    from ursa_pipelines.maintenance.export import export

    chosen = [table for table in TABLES if tables is None or table in tables]
    with _progress(as_json) as tell:
        exported = export(
            data.catalog,
            dest,
            format=format.value,
            tables=chosen,
            overwrite=overwrite,
            progress=lambda table, rows: tell(f"writing {table}", rows, None),
        )
    has_names = any(one.table == Table.PARTICIPANTS for one in exported)
    if as_json:
        print_answer(map(asdict, exported), summary={"holds_names": has_names})
        return
    show_rows("Export", [{"table": one.table, "rows": one.rows, "bytes": one.bytes} for one in exported])
    if has_names:
        (path,) = (one.path for one in exported if one.table == Table.PARTICIPANTS)
        line(f"{path} holds participants' names; no other file does.")
    if format is Format.CSV:
        typer.echo("A cell that a spreadsheet would run as a formula begins with '; `ursa catalog import` removes it.")


def run_import(
    data: DataInterface,
    source: Path,
    *,
    commit: bool = False,
    overwrite: bool = False,
    allow_missing_bytes: bool = False,
    yes: bool = False,
    as_json: bool = False,
) -> None:
    """Shows what an import would do and, with `commit`, does it. Exit code 1 if not all of the source is in then."""
    from ursa_pipelines.maintenance.importing.run import apply_import, plan_import

    with _progress(as_json) as tell:
        context = data.reading_context
        plan = plan_import(
            context.catalog,
            context.raw,
            source,
            overwrite=overwrite,
            allow_missing_bytes=allow_missing_bytes,
            progress=tell,
        )
    with plan:
        if not as_json:
            _show_plan(plan, allow_missing_bytes)
        report = None
        if commit and plan.writes:
            confirm(data, f"Write {plan.writes:,} changes into {data.profile.buckets.assets}?", yes)
            context = writing(data)
            with _progress(as_json) as tell:
                report = apply_import(context.catalog, plan, context.writer, progress=tell)
        failed = not plan.is_clean or (report is not None and report.failed.count)
        exit_code = EXIT_FAILED if failed else 0
        if as_json:
            _answer_import(plan, report, exit_code)
        elif report is not None:
            _show_report(report)
        elif commit:
            typer.echo("Nothing to write.")
        elif plan.writes:
            typer.echo("Nothing was written; --commit writes it.")
        raise typer.Exit(exit_code)


def _show_plan(plan: ImportPlan, allow_missing_bytes: bool) -> None:
    show_rows("Read", [{"table": name, "rows": rows} for name, rows in plan.rows.items()])
    counts = {
        "new": plan.new,
        "replaced": plan.replaced,
        "here already": plan.equal,
        "in conflict": plan.conflicts.count,
        "refused": plan.refused,
    }
    show_rows("Import", [{"recordings": name, "count": count} for name, count in counts.items()])
    missing = "imported without their bytes" if allow_missing_bytes else "refused, since their bytes are not here"
    notes = {
        missing: plan.missing_bytes,
        "recordings without a valid rec_id": plan.without_rec_id,
        "modalities named as before v0.2.0, taken apart": plan.old_names,
        "participants given ids that do not tell their names": plan.renamed,
        "participants to be merged": len(plan.merges),
        "participants without a recording, left out": plan.participants_without_recording,
    }
    for name, count in notes.items():
        if count:
            typer.echo(f"{count:,} {name}")
    if plan.left_out:
        typer.echo(f"not imported: {', '.join(plan.left_out)}")
    if "events" in plan.left_out:
        typer.echo("events are the history of the other catalog's writes; this one has its own.")
    refused = [f"{one.file}, row {one.row}: {one.reason} ({one.kind})" for one in plan.problems.shown]
    _show_some("Refused rows", refused[:_TOLD_ON_TERMINAL], plan.problems.count)
    for title, findings in (("Conflicts", plan.conflicts), ("Participants in conflict", plan.participant_conflicts)):
        differing = [f"{one.key}: differs in {', '.join(one.columns)}" for one in findings.shown]
        _show_some(title, differing[:_TOLD_ON_TERMINAL], findings.count)


def _show_report(report: ImportReport) -> None:
    typer.echo(f"{report.created:,} recordings created, {report.changed:,} replaced, {report.unchanged:,} unchanged")
    if report.merged_participants:
        typer.echo(f"{report.merged_participants:,} participants merged")
    if report.fold_problem:
        typer.secho(f"The tables are not up to date yet: {report.fold_problem}", fg=typer.colors.YELLOW)
    failed = [f"{one.key}: {one.reason}" for one in report.failed.shown]
    _show_some("Not written", failed[:_TOLD_ON_TERMINAL], report.failed.count)


def _answer_import(plan: ImportPlan, report: ImportReport | None, exit_code: int) -> None:
    """Answers with what is not in the catalog then, and why: the first 10,000 of each kind. All are counted."""
    found: dict[str, Findings[Any]] = {
        "refused": plan.problems,
        "conflict": plan.conflicts,
        "participant_conflict": plan.participant_conflicts,
        **({"failed": report.failed} if report else {}),
    }
    print_answer(
        ({"finding": name, **asdict(one)} for name, findings in found.items() for one in findings.shown),
        summary={"plan": {**_counts(plan), "writes": plan.writes}, "report": _counts(report) if report else None},
        exit_code=exit_code,
    )


def _counts(of: ImportPlan | ImportReport) -> dict[str, Any]:
    """The fields, with the number of those that are listed elsewhere or are not to be listed."""
    told = {one.name: getattr(of, one.name) for one in fields(of) if one.repr}
    counted = {name: value.count for name, value in told.items() if hasattr(value, "shown")}
    return told | counted | ({"merges": len(told["merges"])} if "merges" in told else {})


def _show_some(title: str, findings: Sequence[str], count: int) -> None:
    if findings:
        line(f"{title}:")
    for finding in findings:
        line(f"  {finding}")
    if count > len(findings):
        line(f"  and {count - len(findings):,} more; --json tells the first 10,000")


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """What tells how far it is on a terminal, and nobody elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=as_json or not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, of: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=of)
            bars.update(tasks[what], completed=done, total=of)

        yield tell
