"""What two catalogs say differently, such as the live one and one that was rebuilt (DESIGN section 6, Rebuild).

Both are streamed, and of each row only two numbers are kept: one of its key, one of what it says. Rows that differ are
then streamed once more. Compared are the columns of the rows, not how they came about (`rows.BOOKKEEPING`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.recordings.rows import BOOKKEEPING

Key = tuple[str, ...]
"""recording_hash and rec_id; recording_hash, modality and worker_id; or participant_id. Empty where there is none."""

_KEYS = {
    "recordings": ("recording_hash", "rec_id"),
    "modalities": ("recording_hash", "modality", "worker_id"),
    "participants": ("participant_id",),
}
_COMPARED = {
    "recordings": ("start_time", "ended_at", "duration_us", "participant_ids", "device_info", "metadata", "extra"),
    "modalities": (
        "format",
        "ingestion_status",
        "raw_storage_uri",
        "storage_uri",
        "segment_count",
        "bytes",
        "metadata",
        "extra",
    ),
    "participants": ("enrolled_at", "merged_into", "metadata", "extra"),
}
_EXAMPLES = 5
_SEEN = pa.schema([("key", pa.uint64()), ("digest", pa.uint64())])


@dataclass(frozen=True)
class Example:
    """A changed row: what a column says in the live catalog and in the other; None where names could be in it."""

    key: Key
    live: str | None
    other: str | None


@dataclass(frozen=True)
class ColumnDiff:
    """How many rows say something else in this column, and some of them."""

    column: str
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class TableDiff:
    """`added` is only in the other catalog, `missing` only in the live one. Keys are in order."""

    table: str
    live_rows: int
    other_rows: int
    added: tuple[Key, ...]
    missing: tuple[Key, ...]
    changed: tuple[Key, ...]
    columns: tuple[ColumnDiff, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.missing or self.changed)


@dataclass(frozen=True)
class CatalogDiff:
    """The difference of recordings, modalities and participants."""

    live: str
    other: str
    tables: tuple[TableDiff, ...]

    @property
    def is_empty(self) -> bool:
        return all(table.is_empty for table in self.tables)


def diff(live: Catalog, other: Catalog) -> CatalogDiff:
    """How `other` differs from `live`. No display name is in the result."""
    return CatalogDiff(live.prefix, other.prefix, tuple(_diff_table(live, other, table) for table in _KEYS))


def _diff_table(live: Catalog, other: Catalog, table: str) -> TableDiff:
    mine, theirs = _digests(live, table), _digests(other, table)
    both = mine.join(theirs, "key", join_type="full outer", right_suffix="_there", coalesce_keys=True)
    here, there = both["digest"], both["digest_there"]
    missing = _numbers(both, pc.is_null(there))
    added = _numbers(both, pc.is_null(here))
    changed = _numbers(both, pc.fill_null(pc.not_equal(here, there), False))
    of_live = _rows_of(live, table, missing | changed)
    of_other = _rows_of(other, table, added | changed)
    columns = Counter[str]()
    examples: dict[str, list[Example]] = {}
    # A row that was written meanwhile may be gone, or say the same by now.
    for number in sorted(changed & of_live.keys() & of_other.keys(), key=lambda number: of_live[number][0]):
        key, before = of_live[number]
        after = of_other[number][1]
        for column in (one for one, value in before.items() if value != after[one]):
            columns[column] += 1
            shown = examples.setdefault(column, [])
            if len(shown) < _EXAMPLES:
                shown.append(_example(table, key, before[column], after[column]))
    return TableDiff(
        table,
        mine.num_rows,
        theirs.num_rows,
        added=_keys(of_other, added),
        missing=_keys(of_live, missing),
        changed=_keys(of_live, changed),
        columns=tuple(ColumnDiff(column, columns[column], tuple(examples[column])) for column in sorted(columns)),
    )


def _digests(catalog: Catalog, table: str) -> pa.Table:
    def seen() -> Iterator[pa.RecordBatch]:
        for batch in catalog.scan(table, columns=[*_KEYS[table], *_COMPARED[table]]):
            records = batch.to_pylist()
            numbers = [_number(_identity(table, record)) for record in records]
            digests = [_number([_said(record, column) for column in _COMPARED[table]]) for record in records]
            yield pa.record_batch([pa.array(numbers, pa.uint64()), pa.array(digests, pa.uint64())], schema=_SEEN)

    return pa.Table.from_batches(seen(), schema=_SEEN)


def _rows_of(catalog: Catalog, table: str, numbers: set[int]) -> dict[int, tuple[Key, dict[str, Any]]]:
    """Key and compared columns of these rows."""
    if not numbers:
        return {}
    return {
        number: (_key(table, record), {column: _said(record, column) for column in _COMPARED[table]})
        for batch in catalog.scan(table, columns=[*_KEYS[table], *_COMPARED[table]])
        for record in batch.to_pylist()
        if (number := _number(_identity(table, record))) in numbers
    }


def _identity(table: str, record: dict[str, Any]) -> list[Any]:
    # The rec_id tells an operator which recording it is; the hash alone is its key.
    return [record[column] for column in _KEYS[table] if column != "rec_id"]


def _key(table: str, record: dict[str, Any]) -> Key:
    return tuple(record[column] or "" for column in _KEYS[table])


def _said(record: dict[str, Any], column: str) -> Any:
    value = record[column]
    if column == "metadata":
        document = json.loads(value) if value else {}
        return {key: value for key, value in document.items() if key not in BOOKKEEPING}
    if column == "device_info":
        return json.loads(value) if value else None
    return value


def _number(value: Any) -> int:
    text = json.dumps(value, sort_keys=True, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _numbers(both: pa.Table, mask: pa.ChunkedArray) -> set[int]:
    return set(both.filter(mask)["key"].to_pylist())


def _keys(rows: dict[int, tuple[Key, dict[str, Any]]], numbers: set[int]) -> tuple[Key, ...]:
    return tuple(sorted(rows[number][0] for number in numbers & rows.keys()))


def _example(table: str, key: Key, before: Any, after: Any) -> Example:
    if table == "participants":
        return Example(key, None, None)
    return Example(key, str(before), str(after))
