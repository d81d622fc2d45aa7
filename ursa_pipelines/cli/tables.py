"""What the command prints: one table per kind of answer, or JSON of the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.markup import escape

from ursa_pipelines.catalog.results import QueryResultList
from ursa_pipelines.cli.printing import console, line, new_table, print_json
from ursa_pipelines.errors import UrsaError
from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.interface import DataInterface

_STYLES = {"OK": "green", "SKIP": "yellow", "FAIL": "red"}
_WORDS = {"waiting": "waits", "failed": ""}


def show_items(items: Sequence[BatchItem], *, as_json: bool = False, title: str | None = None) -> None:
    """Recording, outcome, path taken, files, bytes and time as a table; below it, why something was not done."""
    if as_json:
        print_json([{"status": item.status, **asdict(item)} for item in items])
        return
    table = new_table(title, "recording", "outcome", "path")
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
            line(f"[{_STYLES[item.status]}]{item.status}[/] {escape(item.reason)}", markup=True)
        elif item.nodes_missing:
            line(f"{item.rec_id}: waits for the half of {', '.join(item.nodes_missing)}")


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
    table = new_table("Plan", "recording", "path", "files", "bytes", "to send")
    for row in rows:
        sizes = (decimal(row["bytes"]), decimal(row["bytes_to_send"])) if "bytes" in row else ("", "")
        table.add_row(row["rec_id"], row.get("path", "refused"), str(row.get("files", "")), *sizes)
    console.print(table)
    for row in rows:
        if row["reason"]:
            line(row["reason"])


def show_results(results: QueryResultList, *, as_json: bool = False, title: str | None = None) -> None:
    """Catalogued recordings with their modalities."""
    if as_json:
        print_json([result.recording.model_dump(mode="json") for result in results])
        return
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
