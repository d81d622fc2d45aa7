"""Reading many rows: the tables at the versions that HEAD names, overlaid with what is newer (DESIGN section 6).

The tail is listed first, then HEAD is read. So a write that was acknowledged is in the tail's entries or in those
versions, and a row of which an entry is in the tail is taken from the entry, whole. Conditions reach the files: a month
that is not asked for is not opened.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from ursa_pipelines.catalog.claims import read_claim
from ursa_pipelines.catalog.edits import ParticipantEdit, read_edit
from ursa_pipelines.catalog.entries import Entry, read_entry
from ursa_pipelines.catalog.pointer import require_known_version
from ursa_pipelines.catalog.results import Where
from ursa_pipelines.catalog.tables.filters import compile_where, names_asked_for
from ursa_pipelines.catalog.tables.head import Head, read_head
from ursa_pipelines.catalog.tables.participants import Record, advance
from ursa_pipelines.catalog.tables.schemas import (
    PARTITION,
    SCHEMAS,
    TOLD,
    events_of,
    modalities_of,
    recordings_of,
    row_of,
    table_damaged,
    told_by,
)
from ursa_pipelines.catalog.tail import read_tail
from ursa_pipelines.errors import CatalogError, RecordingIdInvalid, StoreUnavailable
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.identity import parse_rec_id
from ursa_pipelines.recordings.rows import Row

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

_T = TypeVar("_T")

_READERS = 64
_ENTRIES_AT_ONCE = 64
_BATCH_ROWS = 65_536
_DERIVED_HASH = re.compile("[0-9a-f]{64}")
_FROM_ENTRIES = {"recordings": recordings_of, "modalities": modalities_of, "events": events_of}
_ORDER = {
    "recordings": ("start_time", "recording_hash"),
    "modalities": ("recording_hash", "modality", "worker_id"),
    "participants": ("participant_id",),
    "events": ("recording_hash", "seq"),
}

EntryAndETag = tuple[Entry, str]


class Tables:
    """The tables below one prefix; the version that is read is opened once, and again only when HEAD moves on."""

    def __init__(self, assets: Bucket, prefix: str) -> None:
        self.assets, self.prefix = assets, prefix
        self._opened: dict[str, tuple[tuple[object, ...], DeltaTable]] = {}
        self._opening = threading.Lock()

    def at(self, head: Head, name: str) -> DeltaTable | None:
        """The table at the version that `head` names, or None if it names none. Raises `CatalogError` if it is gone."""
        if name not in head.versions:
            return None
        # A credential that was renewed meanwhile is another one for the table too. Tables that were removed and made
        # again may have come to the same number.
        version = (head.epoch, head.versions[name], self.assets.renewals, head.folded_at)
        with self._opening:
            opened = self._opened.get(name)
            if opened is None or opened[0] != version:
                self._opened[name] = opened = (version, self._open(name, head.versions[name]))
            return opened[1]

    def _open(self, name: str, version: int) -> DeltaTable:
        from ursa_pipelines.catalog.tables.delta import open_table

        table = open_table(self.assets, self.prefix, name, version)
        if table is None:
            raise _gone(f"{self.assets.name}/{self.prefix}/tables/{name}")
        return table


@dataclass(frozen=True)
class Snapshot:
    """One consistent view of a catalog: tables as `head` names them, and the entries that are `newer`, with ETags.

    `edited` are the participants whose edits may be newer than the tables.
    """

    tables: Tables
    head: Head | None
    newer: tuple[EntryAndETag, ...] = ()
    edited: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def take(cls, tables: Tables) -> Snapshot:
        """The catalog as it is now. Raises `CatalogError` for a damaged entry, `CatalogVersionUnknown`."""
        assets, prefix = tables.assets, tables.prefix
        marked = tuple(dict.fromkeys(name for mark in read_tail(assets, prefix) for name in mark.names))
        found = read_head(assets, prefix)
        if found is None and not marked:
            # Empty, or no catalog at all: then the pointer is damaged.
            require_known_version(assets, prefix)
        newer = read_entries(assets, prefix, marked)
        hashes = {entry.recording.recording_hash for entry, _ in newer}
        edited = frozenset(name for name in marked if name not in hashes and not _DERIVED_HASH.fullmatch(name))
        return cls(tables, found[0] if found else None, tuple(newer), edited)

    @classmethod
    def of_those_named(cls, tables: Tables, where: Where | None) -> Snapshot | None:
        """The entries alone of the recordings that `where` names by hash or rec_id; None if it names none, or many."""
        hashes, rec_ids = names_asked_for(where, "recording_hash"), names_asked_for(where, "rec_id")
        if hashes is None and rec_ids is not None and len(rec_ids) <= _ENTRIES_AT_ONCE:
            owners = _concurrently(lambda rec_id: _owner(tables, rec_id), rec_ids)
            hashes = tuple(owner for owner in owners if owner is not None)
        if hashes is None or len(hashes) > _ENTRIES_AT_ONCE:
            return None
        return cls(tables, None, tuple(read_entries(tables.assets, tables.prefix, hashes)))

    def frame(self, table: str, where: Where | None = None) -> pl.LazyFrame:
        """The rows that match, in no order; whoever collects it does so within `reading(table)`.

        Raises `ValueError` for a condition that `compile_where` refuses.
        """
        condition = compile_where(table, where)
        frame = self._participants.lazy() if table == "participants" else self._overlaid(table)
        return frame if condition is None else frame.filter(condition)

    def rows(self, table: str, where: Where | None = None) -> list[Row]:
        """The rows that match, in the order of the table's key; recordings in that of their start."""
        import polars as pl

        order = [pl.col(column) if column != "worker_id" else pl.col(column).fill_null("") for column in _ORDER[table]]
        # A row has them in its metadata.
        frame = self.frame(table, where).sort(order).drop(TOLD.names if table == "recordings" else [])
        found = self.collected(frame, table)
        return [row_of(table, record) for record in found.iter_rows(named=True)]

    def scan(
        self, table: str, where: Where | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The same as Arrow, in no order and a few at a time: what is in memory does not grow with the table."""
        unknown = set(columns or ()) - set(SCHEMAS[table].names)
        if unknown:
            raise ValueError(f"{table} has no column {min(unknown)!r}")
        schema = pa.schema([SCHEMAS[table].field(name) for name in columns or SCHEMAS[table].names])
        return self._batches(self.frame(table, where).select(schema.names), table, schema)

    def count(self, table: str, where: Where | None = None) -> int:
        """How many rows match; without conditions the files' own counts tell it, and few rows are read."""
        import polars as pl

        stored = self._rows_stored(table) if not where and table != "participants" else None
        if stored is None:
            return int(self.collected(self.frame(table, where).select(pl.len()), table).item())
        if not self.newer:
            return stored
        months = sorted({month for entry, _ in self.newer for month in entry.months})
        replaced = self._folded(table).filter(pl.col(PARTITION).is_in(months) & self._is_newer)
        return (
            stored
            - int(self.collected(replaced.select(pl.len()), table).item())
            + _FROM_ENTRIES[table](self.newer).num_rows
        )

    def months(self, table: str) -> list[str]:
        """The months of which a table that has them holds rows, in order; no file of it is opened."""
        folded = self._table(table)
        found = {month for entry, _ in self.newer for month in entry.months}
        if folded is not None:
            found |= {str(one[PARTITION]) for one in folded.partitions()}
        return sorted(found)

    def collected(self, frame: pl.LazyFrame, table: str) -> pl.DataFrame:
        """What a frame of `table` comes to. Raises `StoreUnavailable`, or `CatalogError` if its files are gone."""
        with self.reading(table):
            return frame.collect()

    @contextmanager
    def reading(self, table: str) -> Iterator[None]:
        """Turns what Polars raises about files into errors of this package."""
        import polars as pl

        place = f"{self.tables.assets.name}/{self.tables.prefix}/tables/{table}"
        try:
            yield
        except FileNotFoundError:
            raise _gone(place) from None
        except (OSError, pl.exceptions.ComputeError) as error:
            told = str(error).partition("\n")[0][:300]
            raise StoreUnavailable(f"the table could not be read: {told}", place=place) from None
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            # Such as a column that is missing: our questions fit the tables as they were written.
            raise table_damaged(type(error).__name__, place=place) from None

    def _overlaid(self, table: str) -> pl.LazyFrame:
        import polars as pl

        folded = self._folded(table)
        if not self.newer:
            return folded
        newer = pl.DataFrame(pl.from_arrow(_FROM_ENTRIES[table](self.newer))).lazy()
        return pl.concat([folded.filter(~self._is_newer), newer])

    def _folded(self, table: str) -> pl.LazyFrame:
        """What the tables hold, the rows that are out of date included."""
        import polars as pl

        folded = self._table(table)
        if folded is None:
            return pl.DataFrame(pl.from_arrow(SCHEMAS[table].empty_table())).lazy()
        rows = pl.scan_delta(folded)
        if table == "recordings" and self.head is not None and self.head.version == 1:
            rows = _with_what_is_told(rows)
        return rows.select(SCHEMAS[table].names)

    @property
    def _is_newer(self) -> pl.Expr:
        import polars as pl

        return pl.col("recording_hash").is_in([entry.recording.recording_hash for entry, _ in self.newer])

    def _rows_stored(self, table: str) -> int | None:
        """How many rows the files of a table hold by their own account, or None if one does not tell."""
        folded = self._table(table)
        if folded is None:
            return 0
        counts = pa.table(folded.get_add_actions()).column("num_records")
        return None if counts.null_count else sum(counts.to_pylist())

    def _table(self, name: str) -> DeltaTable | None:
        return self.tables.at(self.head, name) if self.head else None

    @cached_property
    def _participants(self) -> pl.DataFrame:
        import polars as pl

        records: list[Record] = self.collected(self._folded("participants"), "participants").to_dicts()
        if self.newer or self.edited:
            records = self._advanced({record["participant_id"]: record for record in records})
        return pl.DataFrame(pl.from_arrow(pa.Table.from_pylist(records, schema=SCHEMAS["participants"])))

    def _advanced(self, records: dict[str, Record]) -> list[Record]:
        assets, prefix = self.tables.assets, self.tables.prefix
        entries = [entry for entry, _ in self.newer]
        new = {key for entry in entries for key in entry.recording.participant_ids} - records.keys()
        asked = sorted(new | self.edited)
        edits = dict(zip(asked, _concurrently(lambda key: read_edit(assets, prefix, key), asked), strict=True))

        def edit_of(key: str) -> ParticipantEdit | None:
            found = edits[key] if key in edits else read_edit(assets, prefix, key)
            return found[0] if found else None

        changed = advance(records, entries, edited=self.edited, edit_of=edit_of, entries_of=self._entries_of)
        return [record for record in {**records, **changed}.values() if record is not None]

    def _entries_of(self, participant_ids: Collection[str]) -> Iterable[Entry]:
        frame = self.frame("recordings", {"participant_ids": list(participant_ids)}).select("recording_hash")
        hashes = self.collected(frame, "recordings")["recording_hash"].to_list()
        known = {entry.recording.recording_hash: entry for entry, _ in self.newer}
        others = read_entries(self.tables.assets, self.tables.prefix, [one for one in hashes if one not in known])
        return [*(known[one] for one in hashes if one in known), *(entry for entry, _ in others)]

    def _batches(self, frame: pl.LazyFrame, table: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        import polars as pl

        with self.reading(table):
            for batch in frame.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=False, engine="streaming"):
                yield from batch.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema).to_batches()


def read_entries(assets: Bucket, prefix: str, hashes: Sequence[str]) -> list[EntryAndETag]:
    """Those of these entries that are there, with their ETags, in this order; read concurrently."""
    found = _concurrently(lambda recording_hash: read_entry(assets, prefix, recording_hash), hashes)
    return [one for one in found if one is not None]


def _concurrently(read: Callable[[str], _T], names: Sequence[str]) -> list[_T]:
    if len(names) < 2:
        return [read(name) for name in names]
    with ThreadPoolExecutor(min(_READERS, len(names)), thread_name_prefix="catalog") as pool:
        return list(pool.map(read, names))


def _with_what_is_told(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Recordings of format 1 with the columns that came later; worked out only of what is asked for."""
    import polars as pl

    def of(documents: pl.Series) -> pl.Series:
        told = [told_by(document) for document in documents]
        columns = [pa.array([one[field.name] for one in told], field.type) for field in TOLD]
        return pl.Series(pl.from_arrow(pa.StructArray.from_arrays(columns, fields=list(TOLD))))

    kind = pl.Struct(pl.DataFrame(pl.from_arrow(TOLD.empty_table())).schema)
    told = pl.col("metadata").map_batches(of, return_dtype=kind, is_elementwise=True)
    told_columns = [pl.col("told").struct.field(name) for name in TOLD.names]
    return rows.with_columns(told.alias("told")).with_columns(told_columns).drop("told")


def _owner(tables: Tables, rec_id: str) -> str | None:
    try:
        parse_rec_id(rec_id)
    except RecordingIdInvalid:
        return None
    return read_claim(tables.assets, tables.prefix, rec_id)


def _gone(place: str) -> CatalogError:
    return CatalogError(
        "HEAD.json names a version of the table that is not there",
        place=place,
        remedy="Run `ursa catalog fold`; the entries hold everything.",
    )
