"""`ursa catalog`: the tables that other engines read, and one catalog in the place of another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.exchange import app as exchange_app
from ursa_pipelines.cli.options import EXIT_FAILED, AsJson, Commit, Config, Profile, Yes, confirm, open_data, writing
from ursa_pipelines.cli.printing import counted, line, show_rows

if TYPE_CHECKING:
    from ursa_pipelines.catalog.cutover import CutOver
    from ursa_pipelines.catalog.diff import CatalogDiff
    from ursa_pipelines.catalog.upgrade import CatalogFormat
    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.maintenance.rebuild import Rebuilt

catalog_app = typer.Typer(no_args_is_help=True, help="The catalog itself: its tables, and other prefixes of it.")

catalog_app.add_typer(exchange_app)

Prefix = Annotated[str, typer.Argument(help="A catalog's prefix, such as ursa/catalog-2026-11.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the pointer.")]


@catalog_app.command()
def init(profile: Profile = None, config: Config = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Create an empty catalog and mark the buckets as this profile's. What is there already stays."""
    data = open_data(profile, config)
    confirm(data, f"Create a catalog in {data.profile.buckets.assets}?", yes, marks_buckets=True)
    prefix = data.init_catalog()
    if as_json:
        print_answer([{"prefix": prefix}])
    else:
        typer.echo(f"catalog at {prefix}")


@catalog_app.command()
def fold(
    profile: Profile = None,
    config: Config = None,
    prefix: Annotated[str | None, typer.Option(help="Of a catalog that is not the live one.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare all entries with the tables, value by value, and mend them.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Make the tables anew from all entries.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the tables that other engines read up to date with the entries. They are an index: nothing is lost."""
    from dataclasses import asdict

    from ursa_pipelines.catalog.pointer import require_current_version, require_prefix
    from ursa_pipelines.catalog.tables import fold as folding

    data = open_data(profile, config)
    context = writing(data)
    assets, by = context.catalog.assets, context.writer.by
    under = context.catalog.prefix if prefix is None else prefix
    require_prefix(under)
    require_current_version(assets, under)
    if everything:
        folded = folding.refold(assets, under, by=by)
    elif check:
        folded = folding.repair(assets, under, by=by)
    else:
        folded = folding.fold(assets, under, by=by, check_tables=True)
    if as_json:
        summary = asdict(folded)
        tables = [{"table": table, "version": version} for table, version in summary.pop("versions").items()]
        print_answer(tables, summary={"prefix": under, **summary})
    elif folded.gave_up:
        typer.echo("somebody else folds just now; what was left is in the next fold")
    else:
        if folded.damaged:
            typer.echo("the tables said what no entry had said, and were made anew: look at the store's disks")
        typer.echo(
            f"{folded.entries:,} entries folded in {folded.seconds:.1f} s, "
            f"{folded.marks_removed:,} marks removed, {folded.marks_left:,} left"
        )


@catalog_app.command()
def compact(
    profile: Profile = None,
    config: Config = None,
    retention_days: Annotated[
        float, typer.Option(min=0, max=36_500, help="How long files of old versions are kept.")
    ] = 7,
    commit: Commit = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Join the tables' small files, and remove files that no version needs any more."""
    from dataclasses import asdict

    from ursa_pipelines.catalog.tables.upkeep import compact as compact_tables

    data = open_data(profile, config)
    if commit:
        confirm(data, f"Compact the tables in {data.profile.buckets.assets}?", yes)
    context = writing(data) if commit else data.reading_context
    upkeep = compact_tables(
        context.catalog.assets,
        context.catalog.prefix,
        by=context.writer.by,
        retention=timedelta(days=retention_days),
        dry_run=not commit,
    )
    if as_json:
        print_answer([asdict(one) for one in upkeep], summary={"written": commit})
        return
    show_rows(
        "Tables",
        [
            {
                "table": one.table,
                "files": one.files_before,
                "after": one.files_after,
                "bytes": one.bytes,
                "joined": len(one.compacted),
                "removed": one.files_vacuumed,
            }
            for one in upkeep
        ],
    )
    for one in upkeep:
        if one.gave_up:
            line(f"{one.table}: somebody else changes it just now; run this again later")
    if not commit:
        line("Nothing was written; --commit does it.")


@catalog_app.command()
def upgrade(
    profile: Profile = None,
    config: Config = None,
    prefix: Annotated[str | None, typer.Option(help="Of a catalog that is not the live one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Bring a catalog of an older format to this version's; older versions then refuse it. Run again, it finishes."""
    data = open_data(profile, config)
    found = data.catalog_format(prefix)
    done: tuple[str, ...] = ()
    if not as_json:
        _show_format(found)
    if found.due and not dry_run:
        confirm(data, f"Upgrade {found.prefix} of {data.profile.buckets.assets}?", yes)
        data.enable_writes()
        with counted("Reading entries") as progress:
            done = data.upgrade_catalog(found.prefix, progress=lambda count: progress(count, None)).done
    if as_json:
        items = [{"name": name, "version": version, "done": name in done} for name, version in found.versions.items()]
        print_answer(items, summary={"prefix": found.prefix, "version": found.newest, "due": found.due, "done": done})
    elif done:
        line(f"{found.prefix} is of format {found.newest} now.")
    elif found.due:
        line("Nothing was written.")


@catalog_app.command()
def rebuild(
    to: Annotated[str, typer.Option("--to", help="The fresh prefix, such as ursa/catalog-2026-11.")],
    profile: Profile = None,
    config: Config = None,
    shard: Annotated[str | None, typer.Option(help="One of several that run side by side, such as 1/4.")] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make a catalog from the raw bucket under a fresh prefix. No row of the live one changes; see `cutover`."""
    from ursa_pipelines.maintenance.rebuild import rebuild as rebuild_catalog

    part = _shard(shard)
    data = open_data(profile, config)
    confirm(data, f"Rebuild the catalog of {data.profile.buckets.raw} under {to}?", yes)
    context = writing(data)
    with counted("Reading manifests") as progress:
        rebuilt = rebuild_catalog(context, context.catalog, to, shard=part, progress=progress)
    if as_json:
        _answer_rebuilt(rebuilt)
    else:
        typer.echo(
            f"{rebuilt.recordings:,} recordings: {rebuilt.created:,} created, {rebuilt.changed:,} changed, "
            f"{rebuilt.unchanged:,} were there, {len(rebuilt.waiting):,} wait for a manifest, "
            f"{len(rebuilt.failed):,} failed"
        )
        for rec_id in rebuilt.waiting:
            line(f"waits  {rec_id}: no usable manifest; `ursa reconstruct {rec_id}` makes one")
        for told, problems in (
            ("FAIL ", rebuilt.failed),
            ("FAIL  not copied:", rebuilt.not_carried),
            ("note  from the bucket alone:", rebuilt.without_live),
        ):
            for name, reason in problems:
                line(f"{told} {name}: {reason}")
        if rebuilt.folded:
            line(f"Next: `ursa catalog diff {to}`, then `ursa catalog cutover {to} --reason ...`")
        elif not rebuilt.paused:
            line(f"Next, when all shards are done: `ursa catalog fold --prefix {to} --all`")
    if not rebuilt.ok:
        raise typer.Exit(EXIT_FAILED)


@catalog_app.command()
def diff(prefix: Prefix, profile: Profile = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show how a catalog under another prefix differs from the live one. Only reads; exit code 1 if it does."""
    from dataclasses import asdict

    found = _diff(open_data(profile, config), prefix)
    exit_code = 0 if found.is_empty else EXIT_FAILED
    if as_json:
        summary = {"live": found.live, "other": found.other}
        print_answer((asdict(one) for one in found.tables), summary=summary, exit_code=exit_code)
    else:
        _show_diff(found)
    raise typer.Exit(exit_code)


@catalog_app.command()
def cutover(
    prefix: Prefix,
    reason: Reason,
    profile: Profile = None,
    config: Config = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make the catalog under PREFIX the live one, and bring over what was written meanwhile. Run again, it finishes."""
    from ursa_pipelines.catalog.cutover import cutover as cut_over

    data = open_data(profile, config)
    if not as_json and data.catalog.prefix != prefix:
        _show_diff(_diff(data, prefix))
    confirm(data, f"Make {prefix} the live catalog of {data.profile.buckets.assets}?", yes)
    context = writing(data)
    _tell(cut_over(context.catalog.assets, prefix, writer=context.writer, reason=reason), as_json=as_json)


@catalog_app.command()
def rollback(
    reason: Reason,
    to: Annotated[
        str | None, typer.Option("--to", help="A prefix that was live; without it the one before the live one.")
    ] = None,
    profile: Profile = None,
    config: Config = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make the previous catalog the live one again, with what was written since. Interrupted, run it again.

    Once it is done it is not done again, which would undo it; with --to it can be repeated.
    """
    from ursa_pipelines.catalog.cutover import rollback as roll_back
    from ursa_pipelines.catalog.cutover import rollback_target

    data = open_data(profile, config)
    target = rollback_target(data.catalog.assets, to)
    confirm(data, f"Make {target} the live catalog of {data.profile.buckets.assets} again?", yes)
    context = writing(data)
    # To what was confirmed, even if somebody else has moved the pointer meanwhile.
    _tell(roll_back(context.catalog.assets, to=target, writer=context.writer, reason=reason), as_json=as_json)


def _show_format(found: CatalogFormat) -> None:
    show_rows(
        f"{found.prefix}: what is of which format",
        [
            {"name": name, "version": str(version), "after": str(found.newest) if name in found.due else ""}
            for name, version in found.versions.items()
        ],
    )
    if not found.due:
        line(f"{found.prefix} is of format {found.newest}; there is nothing to upgrade.")
        return
    line("Every host that writes needs this version from then on: older ones neither read nor write it any more.")
    if found.are_tables_due:
        line("All entries are read, and the tables are made anew of them. Until then they are read as they are.")


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise typer.BadParameter(f"--shard {text}: it is WHICH/OF, from 1/OF to OF/OF")
    return int(found[1]), int(found[2])


def _answer_rebuilt(rebuilt: Rebuilt) -> None:
    """Answers with the recordings, claims and edits that need somebody; the others are counted."""
    told = {
        "waiting": [(rec_id, "no usable manifest") for rec_id in rebuilt.waiting],
        "failed": rebuilt.failed,
        "not_carried": rebuilt.not_carried,
        "without_live": rebuilt.without_live,
    }
    names = ("prefix", "started_at", "recordings", "created", "changed", "unchanged", "folded", "paused")
    print_answer(
        ({"name": name, "state": state, "reason": reason} for state, which in told.items() for name, reason in which),
        summary={name: getattr(rebuilt, name) for name in names} | {state: len(which) for state, which in told.items()},
        exit_code=0 if rebuilt.ok else EXIT_FAILED,
    )


def _diff(data: DataInterface, prefix: str) -> CatalogDiff:
    from ursa_pipelines.catalog.catalog import Catalog
    from ursa_pipelines.catalog.diff import diff
    from ursa_pipelines.catalog.pointer import require_known_version, require_prefix

    live = data.catalog
    require_prefix(prefix)
    require_known_version(live.assets, prefix)
    return diff(live, Catalog.open(live.assets, prefix=prefix))


def _show_diff(found: CatalogDiff) -> None:

    show_rows(
        f"{found.other} beside the live {found.live}",
        [
            {
                "table": one.table,
                "live": one.live_rows,
                "other": one.other_rows,
                "added": len(one.added),
                "missing": len(one.missing),
                "changed": len(one.changed),
            }
            for one in found.tables
        ],
    )
    for table in found.tables:
        for word, keys in (("added", table.added), ("missing", table.missing)):
            _some(f"{table.table}: {word}", [" ".join(map(str, key)) for key in keys])
        for column in table.columns:
            line(f"{table.table}.{column.column}: {column.count:,} changed")
            for one in column.examples:
                line(f"    {' '.join(map(str, one.key))}: {one.live} -> {one.other}")


def _some(title: str, names: Sequence[str], at_most: int = 5) -> None:

    if names:
        more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
        line(f"{title}: {', '.join(names[:at_most])}{more}")


def _tell(done: CutOver, *, as_json: bool) -> None:
    from dataclasses import asdict

    exit_code = 0 if done.ok else EXIT_FAILED
    if as_json:
        summary = asdict(done)
        print_answer(summary.pop("conflicts"), summary=summary, exit_code=exit_code)
    else:
        line(f"{done.prefix} is live{'' if done.swapped else ', as it was'}")
        if done.swapped:
            line("What is running already reads the other one until it is started again; what it writes comes here.")
        if done.source is not None:
            line(f"{done.examined:,} of {done.source} looked at, {done.brought:,} brought over")
        for one in done.conflicts:
            line(f"FAIL  {one.kind} {one.name}: {one.reason}")
    raise typer.Exit(exit_code)
