"""The tables as Delta Lake, the one room that speaks it (DESIGN section 6).

Every commit of a fold carries a transaction of the same application. Delta Lake refuses such a commit if another one
came since the table was opened, so that of two folds only one goes on. Compaction carries none and disturbs neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from ursa_pipelines.catalog.tables.schemas import PARTITION, SCHEMAS, table_damaged
from ursa_pipelines.errors import CatalogError, StoreDenied, StoreUnavailable
from ursa_pipelines.objects.store import Bucket

_APPLICATION = "ursa-fold"
_ROWS_IN_GROUP = 65_536
_PROPERTIES = {
    "delta.checkpointInterval": "20",
    "delta.logRetentionDuration": "interval 30 days",
    "delta.deletedFileRetentionDuration": "interval 7 days",
}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_DENIED = re.compile(r"lacked the necessary privileges|status code: 40[13]\b|\b40[13] (Forbidden|Unauthorized)")
_GONE = re.compile(r"LogSegment|log segment|found gap|[Nn]o such file|NoSuchKey|Invalid table version")


def table_uri(assets: Bucket, prefix: str, name: str) -> str:
    """Where a table lies, as Delta Lake and Polars name it."""
    return f"s3://{assets.name}/{prefix}/tables/{name}"


def open_table(assets: Bucket, prefix: str, name: str, version: int | None = None) -> DeltaTable | None:
    """A table at a version (None: the newest), or None if there is no such table.

    Raises `CatalogError` if the table is there without that version, `StoreDenied`, `StoreUnavailable`.
    """
    with speaking_of(assets, prefix, name):
        try:
            return DeltaTable(table_uri(assets, prefix, name), version=version, storage_options=assets.table_options())
        except TableNotFoundError:
            return None


def open_or_create(assets: Bucket, prefix: str, name: str) -> DeltaTable:
    """The newest version of a table, made empty if there is none."""
    table = open_table(assets, prefix, name)
    if table is not None:
        return table
    try:
        with speaking_of(assets, prefix, name):
            return DeltaTable.create(
                table_uri(assets, prefix, name),
                SCHEMAS[name],
                mode="ignore",
                partition_by=_partition_by(name),
                configuration=dict(_PROPERTIES),
                storage_options=assets.table_options(),
            )
    except CommitFailedError:
        # Somebody else has made it meanwhile.
        table = open_table(assets, prefix, name)
        if table is None:
            raise StoreUnavailable("the table could not be made", place=table_uri(assets, prefix, name)) from None
        return table


def is_newest(assets: Bucket, prefix: str, name: str, version: int) -> bool:
    """Whether nothing was committed after this version. One request."""
    return assets.head(f"{prefix}/tables/{name}/_delta_log/{version + 1:020d}.json") is None


def operations(assets: Bucket, prefix: str, name: str, versions: range) -> list[str]:
    """What the commits of these versions did, as Delta Lake calls it, such as `WRITE` or `OPTIMIZE`.

    `DeltaTable.history` tells it too, but holds up all threads of the process while it waits for the store.
    """
    done = []
    for version in versions:
        raw, _ = assets.get(f"{prefix}/tables/{name}/_delta_log/{version:020d}.json")
        actions = [json.loads(line) for line in raw.splitlines()]
        done.append(next((one["commitInfo"].get("operation", "") for one in actions if "commitInfo" in one), ""))
    return done


def append(table: DeltaTable, rows: pa.Table, gen: int, note: dict[str, str]) -> None:
    """Adds rows in one commit. Raises `CommitFailedError` if another fold has committed since the table was opened."""
    write_deltalake(table, rows, mode="append", commit_properties=_properties(gen, note), writer_properties=_files())


def replace_where(table: DeltaTable, rows: pa.Table, predicate: str, gen: int, note: dict[str, str]) -> None:
    """Puts rows, which must match the predicate, in place of all that match it; raises as `append` does."""
    write_deltalake(
        table,
        rows,
        mode="overwrite",
        predicate=predicate,
        commit_properties=_properties(gen, note),
        writer_properties=_files(),
    )


def begin_anew(
    table: DeltaTable, name: str, batches: pa.RecordBatchReader | pa.Table, gen: int, note: dict[str, str]
) -> None:
    """Puts rows in place of everything, as a further version; raises as `append` does."""
    write_deltalake(
        table,
        batches,
        mode="overwrite",
        schema_mode="overwrite",
        partition_by=_partition_by(name),
        configuration=dict(_PROPERTIES),
        commit_properties=_properties(gen, note),
        writer_properties=_files(),
    )


def among(column: str, values: Collection[str]) -> str:
    """The condition that a column has one of these values, as a predicate."""
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in sorted(values))
    return f"{column} IN ({quoted})"


@contextmanager
def speaking_of(assets: Bucket, prefix: str, name: str) -> Iterator[None]:
    """Turns what Delta Lake and Polars raise into errors of this package; lost races (`CommitFailedError`) pass."""
    from polars.exceptions import ComputeError, PanicException, PolarsError

    place = f"{assets.name}/{prefix}/tables/{name}"
    try:
        yield
    except CommitFailedError:
        raise
    except (DeltaError, ComputeError, OSError) as error:
        told = " ".join(_COLOURS.sub("", str(error)).split())
        if _DENIED.search(told):
            raise StoreDenied(f"the object store refused it: {told[:300]}", place=place) from None
        if isinstance(error, FileNotFoundError) or _GONE.search(told):
            raise CatalogError(
                "the table lacks a version or a file that HEAD.json counts on",
                place=place,
                remedy="Run `ursa catalog fold`; the entries hold everything.",
            ) from None
        raise StoreUnavailable(f"the table failed: {told[:300]}", place=place) from None
    except (PolarsError, PanicException) as error:
        raise table_damaged(type(error).__name__, place=place) from None


def _partition_by(name: str) -> list[str] | None:
    return [PARTITION] if PARTITION in SCHEMAS[name].names else None


def _files() -> WriterProperties:
    # Small row groups: a reader of a week, or of a stream, holds few of them in memory.
    return WriterProperties(compression="ZSTD", max_row_group_size=_ROWS_IN_GROUP)


def _properties(gen: int, note: dict[str, str]) -> CommitProperties:
    return CommitProperties(app_transactions=[Transaction(_APPLICATION, gen)], custom_metadata=note)
