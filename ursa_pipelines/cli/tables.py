"""What the command prints: one table per kind of answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from ursa_pipelines.catalog.results import QueryResultList
from ursa_pipelines.cli.printing import console, line, new_table
from ursa_pipelines.cli.progress import STYLES, say, told_seconds
from ursa_pipelines.ingest.batch import BatchItem

_MOST_ROWS = {"OK": 40, "SKIP": 200, "FAIL": 200}
_MOST_LINES, _MOST_NOTES = 200, 3
_ANY_WIDTH = 10_000
_WORDS = {"waiting": "waits", "failed": ""}


def show_items(
    items: Sequence[BatchItem], *, title: str | None = None, told: Sequence[BatchItem] = (), with_sum: bool = True
) -> None:
    """What came of each recording as a table, why some were not done, and `with_sum` what it comes to.

    Away from a terminal only lines, and none for the items of `told`, of which a line was printed as each ended.
    """
    known = set() if console.is_terminal else {item.rec_id for item in told}
    if console.is_terminal or not told:
        _show_table(items, title)
    below: list[tuple[str, str]] = []
    for item in items:
        if item.reason and item.rec_id not in known:
            below.append((f"[{STYLES[item.status]}]{item.status}[/]", item.reason))
        elif item.nodes_missing and item.status == "OK":
            below.append(("[cyan]note[/]", f"{item.rec_id}: waits for the half of {', '.join(item.nodes_missing)}"))
        below += notes_about(item.rec_id, "[yellow]warning[/]", item.warnings)
    show_below(below[:_MOST_LINES])
    if len(below) > _MOST_LINES:
        line(f"and {len(below) - _MOST_LINES:,} more lines like these; --json tells all")
    if with_sum:
        say(console, _summary(items))


def show_below(rows: Sequence[tuple[str, str]], on: Console = console) -> None:
    """Lines below a table: a word (with markup) and a text, which only on a terminal is broken to fit beside it."""
    if not on.is_terminal:
        for word, text in rows:
            say(on, f"{word} {escape(text)}", markup=True)
    elif rows:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for word, text in rows:
            grid.add_row(f" {word}", escape(text))
        on.print(grid, highlight=False)
        on.print()


def notes_about(rec_id: str, word: str, notes: Sequence[str]) -> list[tuple[str, str]]:
    """The first few of what is to be noted of a recording, as `show_below` takes them."""
    told = [
        *notes[:_MOST_NOTES],
        *([f"{len(notes) - _MOST_NOTES:,} more; --json tells all"] if notes[_MOST_NOTES:] else []),
    ]
    return [(word, note if note.startswith(rec_id) else f"{rec_id}: {note}") for note in told]


def show_columns(
    title: str | None,
    columns: Mapping[str, Sequence[str]],
    *,
    right: Collection[str],
    drop: Sequence[str],
    on: Console = console,
) -> None:
    """A table of columns with markup, those of `right` aligned so. Empty ones are left out, and those of `drop`, one
    after another, as long as it would not fit: what names a recording is never cut.
    """
    wide = on.options.update(max_width=_ANY_WIDTH)
    for count in range(len(drop) + 1):
        table = new_table(title)
        shown = [name for name in columns if name not in drop[:count] and any(columns[name])]
        for name in shown:
            table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
        for row in zip(*(columns[name] for name in shown), strict=True):
            table.add_row(*row)
        if on.measure(table, options=wide).maximum <= on.width:
            break
    on.print(table)


def told_path(path: str) -> str:
    """The ways that the directories of a recording go, shortly."""
    return path.replace(" then ", ", ")


def _show_table(items: Sequence[BatchItem], title: str | None) -> None:
    room = dict(_MOST_ROWS)
    rows = []
    for item in items:
        room[item.status] -= 1
        if room[item.status] >= 0:
            rows.append(item)
    columns = {
        "recording": [escape(item.rec_id) for item in rows],
        "outcome": [
            f"[{STYLES[item.status]}]{item.status}[/] {item.outcome or _WORDS.get(item.state, '')}" for item in rows
        ],
        "path": [told_path(item.path) for item in rows],
        "files": [f"{item.files:,}" if item.path else "" for item in rows],
        "sent": [decimal(item.bytes_uploaded) if item.bytes_uploaded else "-" if item.path else "" for item in rows],
        "bytes": [decimal(item.bytes) if item.path else "" for item in rows],
        "time": [told_seconds(item.seconds) if item.seconds else "" for item in rows],
    }
    if rows:
        right = {"files", "sent", "bytes", "time"}
        show_columns(title, columns, right=right, drop=["bytes", "path", "files", "time", "sent"])
    for status, word in (("OK", "registered"), ("SKIP", "waiting"), ("FAIL", "failed")):
        if room[status] < 0:
            line(f"and {-room[status]:,} more {word}; --json tells all")


def _summary(items: Sequence[BatchItem]) -> str:
    count = {status: sum(item.status == status for item in items) for status in STYLES}
    sent = sum(item.bytes_uploaded for item in items)
    told = [f"{count['OK']:,} registered" + (f" ({decimal(sent)} sent)" if sent else "")]
    told += [f"{count['FAIL']:,} failed"] if count["FAIL"] else []
    told += [f"{count['SKIP']:,} waiting"] if count["SKIP"] else []
    return f"{', '.join(told)}."


def show_results(results: QueryResultList, title: str | None = None) -> None:
    """Catalogued recordings with their modalities."""
    table = new_table(title, "recording", "duration", "participants", "verified")
    table.add_column("modalities")
    for result in results:
        row = result.recording
        table.add_row(
            row.rec_id or row.recording_hash,
            str(row.duration),
            ", ".join(row.participant_ids),
            str((row.metadata or {}).get("verification", "")),
            ", ".join(result.modalities),
        )
    console.print(table)
