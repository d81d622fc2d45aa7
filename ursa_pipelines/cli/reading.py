"""`ursa query` and `ursa download`: what the catalog has, and bringing it to a directory (DESIGN section 9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.delivery import Delivery
from ursa_pipelines.cli.options import EXIT_FAILED, AsJson, Config, Profile, open_data, tell_of_version

if TYPE_CHECKING:
    from ursa_pipelines.catalog.results import QueryResult, QueryResultList

app = typer.Typer(help="Attached to `ursa`.")

_PAGE = 20
_MANY = 20
_WIDTH_ELSEWHERE, _NARROWEST, _WIDEST_PARTICIPANTS = 240, 10, 40
_WIDTH_NEEDED = {"participants": 100, "status": 110, "start (UTC)": 130}
"""How wide a terminal must be for these columns."""
_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
_INTERRUPTED = "Run it again to go on; what is there is kept."

Participants = Annotated[
    list[str] | None, typer.Option("--participant", help="Name or id; may be given several times.")
]
Modalities = Annotated[
    list[str] | None, typer.Option("--modality", help="Family such as eeg; may be given several times.")
]
Since = Annotated[datetime | None, typer.Option(formats=_MOMENTS, metavar="DATE", help="Began then or later (UTC).")]
Until = Annotated[datetime | None, typer.Option(formats=_MOMENTS, metavar="DATE", help="Began before then (UTC).")]


@app.command(rich_help_panel="Look")
def query(
    profile: Profile = None,
    config: Config = None,
    participant: Participants = None,
    modality: Modalities = None,
    since: Since = None,
    until: Until = None,
    status: Annotated[
        Literal["raw", "ingested"] | None,
        typer.Option(help="Only modalities that are raw, or were processed since (ingested)."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help=f"Show all, not only the latest {_PAGE}.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the recordings in the catalog."""
    data = open_data(profile, config)
    tell_of_version(data)
    found = data.query(
        participants=participant or None,
        modalities=modality or None,
        status=status,
        started_after=_utc(since),
        started_before=_utc(until),
    )
    if as_json:
        print_answer(map(_item, found), summary={"recordings": len(found), "bytes": _bytes(found)})
    elif not found:
        _say_none(is_narrowed=any((participant, modality, status, since, until)), by_participant=bool(participant))
    else:
        _show(found, len(found) if everything else _PAGE)


@app.command(rich_help_panel="Look")
def download(
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The directory; it is made if it is not there.")],
    rec_ids: Annotated[
        list[str] | None, typer.Argument(metavar="REC_ID", help="Recordings by id; without any, all that match.")
    ] = None,
    profile: Profile = None,
    config: Config = None,
    layout: Annotated[
        Literal["by_recording", "by_modality", "flat"], typer.Option(help="How files are arranged below it.")
    ] = "by_recording",
    participant: Participants = None,
    modality: Modalities = None,
    since: Since = None,
    until: Until = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be brought.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the files of recordings to a directory, verified. Run again, it goes on where it was."""
    from ursa_pipelines.errors import UrsaError

    data = open_data(profile, config)

    def query_more(**by_id: Any) -> QueryResultList:
        return data.query(
            participants=participant or None,
            modalities=modality or None,
            started_after=_utc(since),
            started_before=_utc(until),
            **by_id,
        )

    delivery = Delivery(to, layout, dry_run=dry_run, is_quiet=as_json)
    try:
        delivery.plan(data, _chosen(query_more, rec_ids or [], delivery))
        if not dry_run:
            delivery.bring(data)
    except KeyboardInterrupt:
        delivery.ended_by = KeyboardInterrupt(_INTERRUPTED)
    except UrsaError as error:
        delivery.ended_by = error
    exit_code = EXIT_FAILED if delivery.failed else 0
    if as_json:
        print_answer(delivery.items(), summary=delivery.summary(), exit_code=exit_code)
    else:
        delivery.show_end()
    if delivery.ended_by is not None:
        raise delivery.ended_by
    if exit_code:
        raise typer.Exit(exit_code)


def _chosen(
    query_more: Callable[..., QueryResultList], rec_ids: Sequence[str], delivery: Delivery
) -> list[QueryResult]:
    from ursa_pipelines.errors import CatalogRowNotFound

    if not rec_ids:
        return query_more()
    once = dict.fromkeys(rec_ids)
    if len(once) > _MANY:
        found = [result for result in query_more() if result.recording.rec_id in once]
    else:
        found = [one for rec_id in once for one in query_more(metadata={"manifest_recording_id": rec_id})]
    there = {result.recording.rec_id for result in found}
    for rec_id in [rec_id for rec_id in once if rec_id not in there]:
        problem = "no recording of this id in the catalog has what was asked for"
        delivery.fail(rec_id, CatalogRowNotFound(problem, recording=rec_id, remedy="`ursa query` shows what there is."))
    return found


def _say_none(*, is_narrowed: bool, by_participant: bool) -> None:
    from ursa_pipelines.cli.printing import line

    if by_participant:
        line("Nothing in the catalog matches; `ursa participants list` shows who is in it, and how they are written.")
    elif is_narrowed:
        line("Nothing in the catalog matches; `ursa query` without options shows what there is.")
    else:
        line("The catalog has no recordings yet; `ursa ingest` brings some.")


def _show(found: QueryResultList, page: int) -> None:
    from rich.markup import escape

    from ursa_pipelines.catalog.results import COLUMNS, cells_of
    from ursa_pipelines.cli.printing import console, line, new_table

    shown = found[-page:]
    if shown:
        width = console.width
        # A rec_id tells the start, too; what is cut or left out is in the document.
        names = [name for name in COLUMNS if width >= _WIDTH_NEEDED.get(name, 0)]
        rows = [dict(zip(COLUMNS, cells_of(result), strict=True)) for result in shown]
        widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
        if "participants" in widths:
            widths["participants"] = min(widths["participants"], _WIDEST_PARTICIPANTS)
        # Each column has two places beside it, and the table one.
        others = sum(widths.values()) - widths["modalities"] + 2 * len(names) + 1
        widths["modalities"] = max(_NARROWEST, width - others)
        table = new_table(None, *names)
        for row in rows:
            table.add_row(*(escape(_cut(row[name], widths[name])) for name in names))
        console.print(table)
    more = f"; the latest {len(shown)} are shown, --all shows all" if len(shown) < len(found) else ""
    line(f"{found.totals}{more}")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}\u2026"


def _item(result: QueryResult) -> dict[str, Any]:
    return {
        **result.recording.model_dump(),
        "rec_id": result.recording.rec_id,
        "modalities": {name: row.model_dump() for name, row in result.modalities.items()},
    }


def _bytes(found: QueryResultList) -> int:
    return sum(row.bytes for result in found for row in result.modalities.values())


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment else None
