"""Tables of a catalog as files: found, read batch by batch, and staged by recording (ursa-facts sections 6.2, 6.3).

Staging copies each table once into files of which each holds all rows of some recordings, so that recordings can be
put together in bounded memory from tables in any order. Every row keeps the file and the number it came from.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from ursa_pipelines.catalog.tables.schemas import SCHEMAS, TOLD
from ursa_pipelines.errors import UrsaError
from ursa_pipelines.recordings.layout import shown

if TYPE_CHECKING:
    from types import ModuleType

FILE, ROW = "__source_file", "__source_row"
"""Columns of staged tables: the number of the file in `SourceTable.files`, and of the row in it, from 1."""

_KEY = "recording_hash"
_BATCH_ROWS = 65_536
_CSV_BLOCK = 16 * 1024 * 1024
_ROWS_OF_A_BUCKET = 50_000
_MOST_BUCKETS = 128
_CSV_BYTES_OF_A_ROW = 300
_SUFFIXES = (".parquet", ".csv", ".lance")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_RAGGED = re.compile(r"CSV parse error: (Row #\d+: )?Expected \d+ columns, got \d+")
_QUOTED = re.compile(r"""'.*'|".*"|(?<=invalid value ).*""")


@dataclass(frozen=True)
class SourceTable:
    """One table on disk. `rows` is None where only reading tells. `is_ours`: it has all columns of our own table."""

    name: str
    files: tuple[Path, ...]
    format: str
    schema: pa.Schema
    partitions: tuple[dict[str, str | None], ...]
    rows: int | None
    is_ours: bool


def find_tables(source: Path | Mapping[str, Path]) -> dict[str, SourceTable]:
    """The tables in a directory, by name, or those of a mapping from name to path, or the one that the path is.

    A table is `<name>.parquet`, `<name>.csv`, `<name>.lance`, or a directory `<name>` of Parquet files, partitioned
    like Hive's or not. Raises `UrsaError` where there is none, two of a name, or a file that cannot be read.
    """
    if isinstance(source, Mapping):
        found = {name: Path(path) for name, path in source.items()}
    elif source.suffix in _SUFFIXES:
        found = {source.stem: source}
    else:
        found = dict(_tables_in(source))
    if not found:
        raise UrsaError(
            "there are no tables here",
            place=str(source),
            remedy="Name a directory that holds recordings, modalities and participants as .parquet, .csv or .lance, "
            "or a directory of Parquet files for each.",
        )
    return {name: _opened(name, path) for name, path in found.items()}


def import_lance() -> ModuleType:
    """The module `lance`. Raises `UrsaError` if it is not installed."""
    try:
        import lance
    except ImportError:
        raise UrsaError(
            "Lance tables need the package pylance",
            remedy="Install it with `pip install 'ursa-pipelines[lance]'`, or use Parquet.",
        ) from None
    return lance


def read(table: SourceTable) -> Iterator[pa.Table]:
    """The table in order, in bounded pieces, with `FILE` and `ROW`. Raises `UrsaError` for a file that is damaged."""
    for number, (path, partition) in enumerate(zip(table.files, table.partitions, strict=True)):
        row = 1
        for batch in _batches(table.format, path):
            piece = _aligned(batch, table.schema, partition, path)
            _require_readable(piece, path)
            if table.format == "csv" and table.is_ours:
                piece = pa.table([undefused(column) for column in piece.columns], schema=table.schema)
            rows = pa.array(range(row, row + len(batch)), pa.int64())
            files = pa.array([number] * len(batch), pa.int32())
            yield piece.append_column(FILE, files).append_column(ROW, rows)
            row += len(batch)


def defused(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as a spreadsheet takes it: what it would run as a formula gets `'` before it, as does `'` itself."""
    return pc.replace_substring_regex(column, pattern=r"^([=+\-@\t\r'])", replacement=r"'\1")


def undefused(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The text that `defused` was given."""
    return pc.replace_substring_regex(column, pattern="^'", replacement="")


def buckets_for(tables: Mapping[str, SourceTable]) -> int:
    """Into how many files tables are best staged."""
    known = (
        table.rows or sum(path.stat().st_size for path in table.files if path.is_file()) // _CSV_BYTES_OF_A_ROW
        for table in tables.values()
    )
    return min(_MOST_BUCKETS, 1 + sum(known) // _ROWS_OF_A_BUCKET)


def stage(table: SourceTable, directory: Path, buckets: int, tell: Callable[[int], None]) -> None:
    """Copies a table into `buckets` files by recording; `tell` is called with the rows done."""
    paths = [_staged_path(directory, table.name, bucket) for bucket in range(buckets)]
    schema = table.schema.append(pa.field(FILE, pa.int32())).append(pa.field(ROW, pa.int64()))
    writers = [pa.ipc.new_stream(pa.OSFile(str(path), "wb"), schema) for path in paths]
    done = 0
    try:
        for piece in read(table):
            keys = piece[_KEY].to_pylist()
            bucket = np.array([zlib.crc32((key or "").encode()) % buckets for key in keys], dtype=np.int64)
            order = np.argsort(bucket, kind="stable")
            ordered = piece.take(pa.array(order))
            bounds = np.searchsorted(bucket[order], np.arange(buckets + 1))
            for number, writer in enumerate(writers):
                if bounds[number + 1] > bounds[number]:
                    writer.write_table(ordered.slice(bounds[number], bounds[number + 1] - bounds[number]))
            done += len(piece)
            tell(done)
    finally:
        for writer in writers:
            writer.close()


def staged(directory: Path, name: str, bucket: int) -> pa.Table | None:
    """One of the files of a staged table, in order of recording, file and row; None if it was not staged."""
    path = _staged_path(directory, name, bucket)
    if not path.exists():
        return None
    with pa.OSFile(str(path), "rb") as file:
        table = pa.ipc.open_stream(file).read_all()
    return table.sort_by([(_KEY, "ascending"), (FILE, "ascending"), (ROW, "ascending")]).combine_chunks()


def _staged_path(directory: Path, name: str, bucket: int) -> Path:
    return directory / f"{name}-{bucket:03}.arrow"


def _tables_in(directory: Path) -> Iterator[tuple[str, Path]]:
    with _speaking_of(directory):
        if directory.is_file():
            raise UrsaError(
                f"this file is no table that can be read: its name ends in none of {', '.join(_SUFFIXES)}",
                place=str(directory),
                remedy="Write it as Parquet, CSV or Lance, or name the directory that holds the tables.",
            )
        if not directory.is_dir():
            raise UrsaError("there is no such directory", place=str(directory), remedy="Check the path.")
    for name in SCHEMAS:
        candidates = [directory / f"{name}{suffix}" for suffix in _SUFFIXES]
        with _speaking_of(directory):
            candidates = [path for path in (*candidates, directory / name) if path.exists()]
        if len(candidates) > 1:
            raise UrsaError(
                f"the table {name} is there twice: {' and '.join(path.name for path in candidates)}",
                place=str(directory),
                remedy="Leave only the one that is meant.",
            )
        yield from ((name, path) for path in candidates)


def _opened(name: str, path: Path) -> SourceTable:
    if path.suffix == ".lance":
        with _speaking_of(path):
            dataset = import_lance().dataset(str(path))
            return _table(name, (path,), "lance", [dataset.schema], ({},), dataset.count_rows())
    if path.suffix == ".csv":
        with _speaking_of(path), _open_csv(path) as reader:
            return _table(name, (path,), "csv", [reader.schema], ({},), None)
    with _speaking_of(path):
        files = (path,) if path.is_file() else tuple(_parquet_files(path))
    if not files:
        raise UrsaError("there are no Parquet files here", place=str(path), remedy="Check the path.")
    schemas, rows = [], 0
    for file in files:
        with _speaking_of(file), pq.ParquetFile(file) as opened:
            schemas.append(opened.schema_arrow)
            rows += opened.metadata.num_rows
    partitions = tuple(_partition(file.relative_to(path)) if file != path else {} for file in files)
    with _speaking_of(path):
        return _table(name, files, "parquet", schemas, partitions, rows)


def _parquet_files(directory: Path) -> Iterator[Path]:
    if (directory / "_delta_log").exists():
        raise UrsaError(
            "this is a Delta table, of which not every file is part any more",
            place=str(directory),
            remedy="Export it to Parquet first, with `ursa catalog export` if it is a catalog of this package.",
        )
    for path in sorted(directory.rglob("*.parquet")):
        if not any(part.startswith(("_", ".")) for part in path.relative_to(directory).parts):
            yield path


def _partition(relative: Path) -> dict[str, str | None]:
    pairs = (part.partition("=") for part in relative.parts[:-1] if "=" in part)
    return {unquote(key): None if value == _HIVE_NULL else unquote(value) for key, _, value in pairs}


def _table(
    name: str,
    files: tuple[Path, ...],
    form: str,
    schemas: list[pa.Schema],
    partitions: tuple[dict[str, str | None], ...],
    rows: int | None,
) -> SourceTable:
    place = str(files[0] if len(files) == 1 else files[0].parent)
    try:
        unified = pa.unify_schemas([_plain_types(schema) for schema in schemas], promote_options="permissive")
    except pa.ArrowException as error:
        raise UrsaError(
            f"the files of the table disagree: {_told(error)}",
            place=place,
            remedy="Write the table anew from one schema.",
        ) from None
    for key in sorted({key for partition in partitions for key in partition} - set(unified.names)):
        unified = unified.append(pa.field(key, pa.string()))
    if len(set(unified.names)) < len(unified.names):
        raise UrsaError("the table has two columns of one name", place=place, remedy="Rename one of them.")
    keys = [field for field in SCHEMAS.get(name, ()) if not field.nullable]
    missing = [field.name for field in keys if field.name not in unified.names]
    if missing:
        raise UrsaError(f"the table {name} has no column {', '.join(missing)}", place=place, remedy="Check the path.")
    for field in keys:
        if pa.types.is_string(field.type) and unified.field(field.name).type not in (pa.string(), pa.null()):
            raise UrsaError(f"the column {field.name} is no text", place=place, remedy="Write it as text.")
    # An export of a version before these columns has none of them.
    later = TOLD.names if name == "recordings" else []
    ours = name in SCHEMAS and set(SCHEMAS[name].names) - set(later) <= set(unified.names)
    return SourceTable(name, files, form, unified, partitions, rows, ours)


def _plain_types(schema: pa.Schema) -> pa.Schema:
    """The schema without metadata, dictionaries and other shapes of text, and with microseconds in known columns."""
    return pa.schema([pa.field(field.name, _plain_type(field)) for field in schema])


def _plain_type(field: pa.Field) -> pa.DataType:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if field.name in {"start_time", "ended_at", "enrolled_at"} and pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if field.name == "duration" and pa.types.is_duration(kind):
        return pa.duration("us")
    return kind


def _batches(form: str, path: Path) -> Iterator[pa.RecordBatch]:
    with _speaking_of(path):
        if form == "lance":
            yield from import_lance().dataset(str(path)).to_batches(batch_size=_BATCH_ROWS)
        elif form == "csv":
            with _open_csv(path) as reader:
                yield from reader
        else:
            with pq.ParquetFile(path) as opened:
                yield from opened.iter_batches(batch_size=_BATCH_ROWS)


def _open_csv(path: Path) -> arrow_csv.CSVStreamingReader:
    """Every cell as text: what it means is decided row by row. A cell without quotes that is empty is null."""
    with arrow_csv.open_csv(path) as reader:
        names = reader.schema.names
    return arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=_CSV_BLOCK),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _aligned(batch: pa.RecordBatch, schema: pa.Schema, partition: Mapping[str, str | None], path: Path) -> pa.Table:
    def column(field: pa.Field) -> Any:
        if field.name in partition:
            return pa.array([partition[field.name]] * len(batch), pa.string())
        if field.name not in batch.schema.names:
            return pa.nulls(len(batch), field.type)
        # Known times in nanoseconds are cut to microseconds; what does not fit otherwise is an error.
        options = pc.CastOptions(target_type=field.type, allow_time_truncate=True)
        return pc.cast(batch.column(field.name), options=options)

    with _speaking_of(path):
        return pa.table([column(field) for field in schema], schema=schema)


def _require_readable(piece: pa.Table, path: Path) -> None:
    """Text must be UTF-8, and a time one that Python has (years 1 to 9999, a zone that exists)."""
    for name, column in zip(piece.schema.names, piece.columns, strict=True):
        try:
            column.validate(full=True)
            if _holds_times(column.type):
                column.to_pylist()
        except (pa.ArrowException, ValueError, OverflowError, KeyError):
            raise UrsaError(
                f"the table cannot be read: the column {shown(name)} holds damaged text, "
                "or a time outside the years 1 to 9999 or in an unknown time zone",
                place=str(path),
                remedy="Write the column anew.",
            ) from None


def _holds_times(kind: pa.DataType) -> bool:
    return pa.types.is_temporal(kind) or any(_holds_times(kind.field(one).type) for one in range(kind.num_fields))


@contextmanager
def _speaking_of(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UrsaError(
            f"the table cannot be read: {_told(error)}", place=str(path), remedy="Check the file."
        ) from None


def _told(error: Exception) -> str:
    """One short line without what cells hold, which may be a name."""
    text = str(error)
    ragged = _RAGGED.match(text)
    return ragged[0] if ragged else shown(_QUOTED.sub("...", text.partition("\n")[0]))
