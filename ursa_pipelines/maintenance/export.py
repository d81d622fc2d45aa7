"""The catalog's tables as files for others, and for `importing` (DESIGN section 9, `ursa catalog export`).

All tables are of one moment. Columns are those of `tables.schemas`. In CSV, lists are JSON text, and a cell that a
spreadsheet would run as a formula (it begins with = + - @, a tab or a carriage return) gets a `'` before it, which
`importing` takes away again. Participants' names are in the table `participants` and nowhere else; only its owner may
read it.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.tables.schemas import SCHEMAS, TABLES
from ursa_pipelines.errors import UrsaError
from ursa_pipelines.maintenance.importing.tables import defused, import_lance

ExportFormat = Literal["parquet", "csv", "lance"]
Told = Callable[[str, int], None]
"""Is told the table and how many of its rows are written."""

_GROUP_ROWS = 65_536


@dataclass(frozen=True)
class Exported:
    """One table as it was written: a file, or for Lance a directory, and its size in bytes."""

    table: str
    path: Path
    rows: int
    bytes: int


def export(
    catalog: Catalog,
    dest: Path,
    *,
    format: ExportFormat,
    tables: Sequence[str] = TABLES,
    overwrite: bool = False,
    progress: Told | None = None,
) -> list[Exported]:
    """Writes the tables into the directory `dest` as `<table>.<format>`, in bounded memory.

    Each appears only when all are complete. Raises `UrsaError` if one is there already and `overwrite` is False, if a
    directory is in its place that is no Lance table to replace, or if `format` is "lance" and pylance is not installed;
    `ValueError` for an unknown table or format.
    """
    if format not in _WRITERS:
        raise ValueError(f"format={format!r}: there are {', '.join(_WRITERS)}")
    unknown = set(tables) - set(TABLES)
    if unknown:
        raise ValueError(f"there is no table {min(unknown)!r}; there are {', '.join(TABLES)}")
    if format == "lance":
        import_lance()
    targets = {table: dest / f"{table}.{format}" for table in tables}
    working = dest / f".export-{secrets.token_hex(4)}.part"
    try:
        _require_room(targets.values(), format, overwrite)
        working.mkdir(parents=True)
        _keep_private(working / "participants", format)
        snapshot = catalog.snapshot()
        written = {}
        for table in targets:
            groups = _groups(snapshot.scan(table), table, progress)
            written[table] = _WRITERS[format](groups, SCHEMAS[table], working / table)
        _require_room(targets.values(), format, overwrite)
        for table, target in targets.items():
            _move(working / table, target, working / f"{table}.old")
    except OSError as error:
        raise UrsaError(
            f"the export cannot be written: {error.strerror or error}",
            place=str(dest),
            remedy="Check the room on the disk and that you may write there.",
        ) from None
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return [Exported(table, path, written[table], _size(path)) for table, path in targets.items()]


def _write_parquet(groups: Iterator[pa.Table], schema: pa.Schema, path: Path) -> int:
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group)
            rows += len(group)
    return rows


def _write_csv(groups: Iterator[pa.Table], schema: pa.Schema, path: Path) -> int:
    rows = 0
    flat = pa.schema([field.with_type(pa.string()) if pa.types.is_list(field.type) else field for field in schema])
    with arrow_csv.CSVWriter(path, flat) as writer:
        for group in groups:
            writer.write_table(pa.table([_cells(group[field.name]) for field in schema], schema=flat))
            rows += len(group)
    return rows


def _write_lance(groups: Iterator[pa.Table], schema: pa.Schema, path: Path) -> int:
    rows = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for group in groups:
            rows += len(group)
            yield from group.to_batches()

    import_lance().write_dataset(batches(), str(path), schema=schema)
    return rows


_WRITERS: dict[str, Callable[[Iterator[pa.Table], pa.Schema, Path], int]] = {
    "parquet": _write_parquet,
    "csv": _write_csv,
    "lance": _write_lance,
}


def _groups(batches: Iterator[pa.RecordBatch], table: str, progress: Told | None) -> Iterator[pa.Table]:
    """The batches joined to pieces worth writing at once: each becomes a row group."""
    waiting: list[pa.RecordBatch] = []
    done = 0
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= _GROUP_ROWS:
            group = pa.Table.from_batches(waiting, SCHEMAS[table])
            waiting, done = [], done + len(group)
            yield group
            if progress is not None:
                progress(table, done)
    if waiting:
        yield pa.Table.from_batches(waiting, SCHEMAS[table])
    if progress is not None:
        progress(table, done + sum(map(len, waiting)))


def _cells(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_list(column.type):
        texts = (None if one is None else json.dumps(one, ensure_ascii=False) for one in column.to_pylist())
        return pa.chunked_array([pa.array(texts, pa.string())])
    return defused(column) if pa.types.is_string(column.type) else column


def _require_room(targets: Iterable[Path], format: ExportFormat, overwrite: bool) -> None:
    there = [path for path in targets if path.exists()]
    foreign = [path for path in there if path.is_dir() and not (format == "lance" and _is_lance(path))]
    if foreign:
        raise UrsaError(
            "a directory is in the place of a table, and is not replaced",
            place=str(foreign[0]),
            remedy="Name another directory to export to, or move this one away.",
        )
    if there and not overwrite:
        raise UrsaError(
            f"there is an export already: {', '.join(path.name for path in there)}",
            place=str(there[0].parent),
            remedy="Name another directory, or pass --overwrite to replace these files.",
        )


def _is_lance(path: Path) -> bool:
    try:
        import_lance().dataset(str(path))
    except (ValueError, OSError):
        return False
    return True


def _keep_private(path: Path, format: ExportFormat) -> None:
    """Makes what is then written there readable by its owner only."""
    if format == "lance":
        path.mkdir(mode=0o700)
    else:
        path.touch(mode=0o600)


def _move(written: Path, target: Path, aside: Path) -> None:
    if target.is_dir():
        target.rename(aside)
    written.replace(target)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)
