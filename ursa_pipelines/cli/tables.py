"""What the command prints: one table per kind of answer, or JSON of the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from ursa_pipelines.catalog.query import QueryResultList
from ursa_pipelines.errors import UrsaError
from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.interface import DataInterface

console = Console()

_STYLES = {"OK": "green", "SKIP": "yellow", "FAIL": "red"}
_WORDS = {"waiting": "waits", "failed": ""}


def show_items(items: Sequence[BatchItem], *, as_json: bool = False, title: str | None = None) -> None:
    """Recording, outcome, path taken, files, bytes and time as a table; below it, why something was not done."""
    if as_json:
        print_json([{"status": item.status, **asdict(item)} for item in items])
        return
    table = _table(title, "recording", "outcome", "path")
    for name in ("files", "sent", "bytes", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for item in items:
        table.add_row(
            item.rec_id,
            f"[{_STYLES[item.status]}]{item.status} {item.outcome or _WORDS.get(item.state, '')}[/]",
            item.path,
            str(item.files),
            str(item.files_uploaded),
            decimal(item.bytes),
            f"{item.seconds:.2f} s",
        )
    console.print(table)
    for item in items:
        if item.reason:
            _line(f"[{_STYLES[item.status]}]{item.status}[/] {escape(item.reason)}")
        elif item.nodes_missing:
            _line(f"{item.rec_id}: waits for the half of {', '.join(item.nodes_missing)}")


def show_plans(data: DataInterface, directories: Sequence[Path], *, as_json: bool = False) -> None:
    """What an ingest would do with each directory, or why it would refuse."""
    rows: list[dict[str, Any]] = []
    for directory in directories:
        try:
            rows.append({**asdict(data.plan(directory)), "reason": ""})
        except UrsaError as error:
            rows.append({"rec_id": directory.name, "reason": str(error)})
    if as_json:
        print_json(rows)
        return
    table = _table("Plan", "recording", "path", "files", "bytes", "to send")
    for row in rows:
        sizes = (decimal(row["bytes"]), decimal(row["bytes_to_send"])) if "bytes" in row else ("", "")
        table.add_row(row["rec_id"], row.get("path", "refused"), str(row.get("files", "")), *sizes)
    console.print(table)
    for row in rows:
        if row["reason"]:
            _line(escape(row["reason"]))


def show_results(results: QueryResultList, *, as_json: bool = False, title: str | None = None) -> None:
    """Catalogued recordings with their modalities."""
    if as_json:
        print_json([result.recording.model_dump(mode="json") for result in results])
        return
    table = _table(title, "recording", "duration", "participants", "verified")
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


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, ensure_ascii=False, default=str, indent=1))


def _line(text: str) -> None:
    # Not broken to the width of a terminal, so that it can be searched for in a log.
    console.print(text, highlight=False, soft_wrap=True)


def _table(title: str | None, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
