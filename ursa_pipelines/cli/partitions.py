"""`ursa partitions`: what the Dagster instance lists. Dry until `--commit`.

Bucket, catalog and sources are never touched.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.options import AsJson, Commit, Config, Profile, Yes, confirm, open_data
from ursa_pipelines.cli.printing import counted, line, show_table

if TYPE_CHECKING:
    from ursa_pipelines.orchestration.archive import Old

partitions_app = typer.Typer(no_args_is_help=True)

_DAY = ["%Y-%m-%d"]


@partitions_app.callback()
def partitions() -> None:
    """The partitions of the Dagster instance: one per recording, and too many of them make its pages slow."""


@dataclass(frozen=True)
class _Told:
    """A recording from before the day: archived, due (it would be), or kept, and why."""

    rec_id: str
    state: str
    reason: str = ""


@partitions_app.command()
def archive(
    before: Annotated[
        datetime,
        typer.Option(formats=_DAY, metavar="DATE", help="Recorded and registered before this day (UTC), 30 days ago."),
    ],
    commit: Commit = False,
    profile: Profile = None,
    config: Config = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Show which old recordings need no partition in Dagster any more; with --commit take them off its pages.

    Only what is registered whole, with every byte proved, and which nothing has happened to since. Bucket, catalog,
    sources and the record of each stay as they are; one that changes comes back by itself, and any by `ursa backfill`.
    """
    from ursa_pipelines.orchestration import archive as archiving
    from ursa_pipelines.orchestration.instance import open_instance

    data = open_data(profile, config)
    with open_instance(data.profile) as instance:
        try:
            old = list(archiving.find_old(data, instance, before.date()))
        except ValueError as error:
            raise typer.BadParameter(f"--before must be {error}") from None
        due = [one.rec_id for one in old if not one.kept]
        if not as_json:
            _show(old)
        done: set[str] = set()
        if commit and due:
            archiving.require_no_open_backfill(instance)
            confirm(data, f"Take {len(due):,} recordings off Dagster's pages?", yes)
            with counted("Archiving") as tell:
                for rec_id in archiving.archive(data, instance, due):
                    done.add(rec_id)
                    tell(len(done), len(due))
    told = [_told(one, done, commit) for one in old]
    if as_json:
        counts = Counter(one.state for one in told)
        print_answer(map(asdict, told), summary={"states": dict(counts)})
    elif commit:
        line(f"{len(done):,} archived")
    elif due:
        line("Nothing was archived; --commit does it.")


def _told(one: Old, done: set[str], commit: bool) -> _Told:
    if one.rec_id in done:
        return _Told(one.rec_id, "archived")
    if one.kept or commit:
        return _Told(one.rec_id, "kept", one.kept or "something has just happened to it")
    return _Told(one.rec_id, "due")


def _show(old: list[Old]) -> None:
    kept = Counter(one.kept for one in old if one.kept)
    examples = {one.kept: one.rec_id for one in reversed(old)}
    rows = [(reason, f"{count:,}", examples[reason]) for reason, count in kept.most_common()]
    show_table("Keep their partition", {"why": False, "recordings": True, "such as": True}, rows)
    line(f"{sum(not one.kept for one in old):,} of {len(old):,} recordings before that day can be archived")
