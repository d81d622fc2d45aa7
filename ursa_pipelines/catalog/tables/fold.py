"""Folding: the tables come to hold what the entries say, then the marks go (DESIGN section 6; studies: catalog).

1. LIST the tail; if it is empty, stop. Stamp HEAD, open the newest tables, and LIST the tail again: whatever an
   interrupted fold has left in these tables still has its marks there.
2. In rounds: GET the entries; drop those that the tables hold already, by seq; commit to modalities, participants,
   events and recordings, in this order, on the versions opened. A race that is lost ends the fold; the next redoes it.
3. Swap HEAD once, if every table still is at the version seen, so that no reader finds half of what was folded.
4. Remove a mark if its txn is in the log of the very version that was folded. Others go after a day.

A refold begins the tables from nothing, as further versions, so that readers go on with the old ones until the swap.
It alone may follow upon tables of an older format: rows of two formats never come to stand in one table.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from ursa_pipelines import failpoints
from ursa_pipelines.catalog.edits import ParticipantEdit, read_edit, read_edits
from ursa_pipelines.catalog.entries import Entry, read_entry
from ursa_pipelines.catalog.tables import delta
from ursa_pipelines.catalog.tables.differences import Differences, differences
from ursa_pipelines.catalog.tables.head import Head, read_head, stamp, swap
from ursa_pipelines.catalog.tables.participants import Accounts, advance, concerned
from ursa_pipelines.catalog.tables.schemas import (
    PARTITION,
    SCHEMAS,
    TABLES,
    events_of,
    modalities_of,
    month_of,
    recordings_of,
)
from ursa_pipelines.catalog.tables.spool import Spool
from ursa_pipelines.catalog.tail import Mark, read_tail, remove
from ursa_pipelines.objects.store import Bucket

_T = TypeVar("_T")
_R = TypeVar("_R")

_HASHES_AT_ONCE = 1_000
_ENTRIES_AT_ONCE = 10_000
_READERS = 64
_MARK_SECONDS = 24 * 3600
_FROM_ENTRIES = {"modalities": modalities_of, "events": events_of, "recordings": recordings_of}

Pair = tuple[Entry, str]
"""An entry and its ETag."""


@dataclass(frozen=True)
class Folded:
    """What a fold came to. `entries` were read; `versions` are those that HEAD names now.

    `gave_up`: somebody else has changed the tables meanwhile. Nothing is lost, the marks are left for the next fold.
    `damaged`: the tables said what no entry had said, and were made anew.
    """

    entries: int
    marks_removed: int
    marks_left: int
    versions: dict[str, int]
    gave_up: bool
    seconds: float
    damaged: bool = False


def tail_length(assets: Bucket, prefix: str) -> int:
    """How many recordings and participants the tables may not hold yet."""
    return len({name for mark in read_tail(assets, prefix) for name in mark.names})


def fold(assets: Bucket, prefix: str, *, by: str, check_tables: bool = False) -> Folded:
    """Brings into the tables what the tail marks; all entries, if the tables are not there.

    One request if nothing is marked, unless `check_tables` asks to see whether the tables are there even then.
    Raises `CatalogError` for a damaged entry, `CatalogVersionUnknown`, `CatalogUpgradeNeeded`, `StoreUnavailable`.
    """
    started = time.monotonic()
    is_empty = next(iter(assets.list_objects(f"{prefix}/tail/")), None) is None
    if is_empty and not (check_tables and _are_gone(assets, prefix)):
        return Folded(0, 0, 0, {}, False, time.monotonic() - started)
    return _Fold(assets, prefix, by, started).run()


def repair(assets: Bucket, prefix: str, *, by: str) -> Folded:
    """Compares all entries with the tables and brings in what differs, whether marked or not (the nightly pass).

    Rows whose entry is gone are removed. If rows are not what their entries said, the tables are made anew. One request
    for each entry. Raises as `fold` does.
    """
    return _Fold(assets, prefix, by, time.monotonic(), compares=True).run()


def refold(assets: Bucket, prefix: str, *, by: str, progress: Callable[[int], None] | None = None) -> Folded:
    """Begins the tables from nothing, with all entries; `progress` is told how many were read so far.

    Rows wait on the local disk, in the directory for temporary files. Raises as `fold` does.
    """
    started = time.monotonic()
    head, etag = stamp(assets, prefix, anew=True)
    try:
        opened = _concurrently(lambda name: delta.open_or_create(assets, prefix, name), TABLES)
    except CommitFailedError:
        return Folded(0, 0, 0, head.versions, True, time.monotonic() - started)
    tables: dict[str, DeltaTable] = dict(zip(TABLES, opened, strict=True))
    marks = read_tail(assets, prefix)
    marked = {name for mark in marks for name in mark.names}
    edits = read_edits(assets, prefix)
    txns = {key: {item.txn for item in edit.log} for key, edit in edits.items() if key in marked}
    accounts, count = Accounts(), 0
    with tempfile.TemporaryDirectory(prefix="ursa-fold-") as directory:
        spool = Spool(Path(directory))
        for pairs in _all_entries(assets, prefix):
            for name, rows_of in _FROM_ENTRIES.items():
                spool.add(name, rows_of(pairs))
            accounts.add(entry for entry, _ in pairs)
            txns |= {key: _txns(entry) for entry, _ in pairs if (key := entry.recording.recording_hash) in marked}
            count += len(pairs)
            if progress is not None:
                progress(count)
        people = pa.Table.from_pylist(accounts.records(edits), schema=SCHEMAS["participants"])
        note = {"by": by, "gen": str(head.gen)}
        try:
            for name, table in tables.items():
                rows = people if name == "participants" else spool.reader(name)
                with delta.speaking_of(assets, prefix, name):
                    delta.begin_anew(table, name, rows, head.gen, note)
                failpoints.reached("refold.table_written")
        except CommitFailedError:
            return Folded(count, 0, len(marks), head.versions, True, time.monotonic() - started)
    return _finish(assets, prefix, head, etag, tables, marks, txns, count, by=by, epoch=head.epoch + 1, began=started)


@dataclass
class _Fold:
    """One fold under way: `txns` are the logs of what it has folded, by name."""

    assets: Bucket
    prefix: str
    by: str
    began: float
    compares: bool = False
    txns: dict[str, set[str]] = field(default_factory=dict)
    count: int = 0
    listed: set[str] = field(default_factory=set)
    edits: dict[str, ParticipantEdit | None] = field(default_factory=dict)

    def run(self) -> Folded:
        self.head, etag = stamp(self.assets, self.prefix)
        failpoints.reached("fold.stamped")
        tables = _opened(self.assets, self.prefix, self.head)
        if tables is None:
            return refold(self.assets, self.prefix, by=self.by)
        self.tables = tables
        # Then the tables agree with one another, and one of them tells for all of them what they hold.
        self.is_whole = self.head.versions == {name: table.version() for name, table in tables.items()}
        marks = read_tail(self.assets, self.prefix)
        found = self._differences(at_rest=not marks)
        if found.damaged:
            return self._made_anew(len(marks))
        marked = list(dict.fromkeys(name for mark in marks for name in mark.names))
        names = list(dict.fromkeys([*marked, *found.months]))
        try:
            self._fold_edits(marked)
            for at in range(0, len(names), _HASHES_AT_ONCE):
                self._fold_round(names[at : at + _HASHES_AT_ONCE], found)
        except CommitFailedError:
            return Folded(self.count, 0, len(marks), self.head.versions, True, time.monotonic() - self.began)
        return _finish(
            self.assets,
            self.prefix,
            self.head,
            etag,
            tables,
            marks,
            self.txns,
            self.count,
            by=self.by,
            epoch=self.head.epoch,
            began=self.began,
        )

    def _differences(self, *, at_rest: bool) -> Differences:
        if not self.compares:
            return Differences()
        return differences(self.assets, self.prefix, self.tables, agree=self.is_whole, at_rest=at_rest)

    def _made_anew(self, marks: int) -> Folded:
        """Tables in the place of those that are damaged, unless somebody else has folded meanwhile."""
        versions = {name: table.version() for name, table in self.tables.items()}
        if not all(_are_newest(self.assets, self.prefix, versions)):
            return Folded(0, 0, marks, self.head.versions, True, time.monotonic() - self.began)
        return replace(refold(self.assets, self.prefix, by=self.by), damaged=True)

    def _fold_edits(self, marked: Sequence[str]) -> None:
        # Few participants are edited, so that a LIST spares a request for each that is new.
        self.listed = set(_ids_of_edits(self.assets, self.prefix))
        edited = [name for name in marked if name in self.listed]
        for edit in _concurrently(self._edit_of, edited):
            if edit is not None:
                self.txns[edit.participant_id] = {item.txn for item in edit.log}
        self._fold_participants([], edited=edited)

    def _fold_round(self, names: Sequence[str], found: Differences) -> None:
        pairs = [pair for pair in _concurrently(self._read, names) if pair is not None]
        self.count += len(pairs)
        self.txns |= {entry.recording.recording_hash: _txns(entry) for entry, _ in pairs}
        there = {entry.recording.recording_hash for entry, _ in pairs}
        gone = {name: found.months[name] for name in names if name in found.months and name not in there}
        recorded = self._seqs("recordings", pairs, gone, found)
        if self.is_whole:
            pairs = [pair for pair in pairs if _is_newer(pair[0], recorded, found)]
        for name in TABLES:
            if name == "participants":
                self._fold_participants([entry for entry, _ in pairs], gone=gone)
            else:
                held = recorded if self.is_whole or name == "recordings" else self._seqs(name, pairs, gone, found)
                self._fold_rows(name, pairs, held, gone, found)
            failpoints.reached("fold.table_written")

    def _fold_rows(
        self, name: str, pairs: Sequence[Pair], held: dict[str, int], gone: dict[str, set[str]], found: Differences
    ) -> None:
        changed = [
            pair for pair in pairs if pair[0].recording.recording_hash in held and _is_newer(pair[0], held, found)
        ]
        new = [pair for pair in pairs if pair[0].recording.recording_hash not in held]
        with delta.speaking_of(self.assets, self.prefix, name):
            if changed or gone:
                hashes = {*gone, *(entry.recording.recording_hash for entry, _ in changed)}
                months = _months(changed, gone, found)
                predicate = f"{delta.among(PARTITION, months)} AND {delta.among('recording_hash', hashes)}"
                rows = _FROM_ENTRIES[name](changed)
                delta.replace_where(self.tables[name], rows, predicate, self.head.gen, self._note)
            if rows := _FROM_ENTRIES[name](new):
                delta.append(self.tables[name], rows, self.head.gen, self._note)

    def _fold_participants(
        self, entries: Sequence[Entry], *, edited: Collection[str] = (), gone: Collection[str] = ()
    ) -> None:
        if not (entries or edited or gone):
            return
        import polars as pl

        with delta.speaking_of(self.assets, self.prefix, "participants"):
            whole = pl.scan_delta(self.tables["participants"]).collect().to_arrow()
            whole = whole.select(SCHEMAS["participants"].names).cast(SCHEMAS["participants"])
            records = concerned(whole, entries, edited=edited, gone=gone)
            changes = advance(
                records, entries, edited=edited, gone=gone, edit_of=self._edit_of, entries_of=self._entries_of
            )
            rows = pa.Table.from_pylist(
                [record for record in changes.values() if record is not None], schema=SCHEMAS["participants"]
            )
            if changes.keys() & set(whole["participant_id"].to_pylist()):
                predicate = delta.among("participant_id", changes.keys())
                delta.replace_where(self.tables["participants"], rows, predicate, self.head.gen, self._note)
            elif rows:
                delta.append(self.tables["participants"], rows, self.head.gen, self._note)

    def _seqs(self, name: str, pairs: Sequence[Pair], gone: dict[str, set[str]], found: Differences) -> dict[str, int]:
        """The seq at which a table holds each of these recordings, of those that it holds."""
        import polars as pl

        hashes = [*gone, *(entry.recording.recording_hash for entry, _ in pairs)]
        with delta.speaking_of(self.assets, self.prefix, name):
            held = (
                pl.scan_delta(self.tables[name])
                .filter(pl.col(PARTITION).is_in(sorted(_months(pairs, gone, found))))
                .filter(pl.col("recording_hash").is_in(hashes))
                .select("recording_hash", "seq")
                .collect()
            )
        return dict(held.group_by("recording_hash").agg(pl.col("seq").max()).iter_rows())

    def _entries_of(self, participant_ids: Collection[str]) -> Iterator[Entry]:
        import polars as pl

        with delta.speaking_of(self.assets, self.prefix, "recordings"):
            listing = pl.scan_delta(self.tables["recordings"]).select("recording_hash", "participant_ids")
            listing = listing.explode("participant_ids").filter(pl.col("participant_ids").is_in(list(participant_ids)))
            hashes = sorted(set(listing.collect()["recording_hash"]))
        for at in range(0, len(hashes), _ENTRIES_AT_ONCE):
            for pair in _concurrently(self._read, hashes[at : at + _ENTRIES_AT_ONCE]):
                if pair is not None:
                    yield pair[0]

    def _read(self, name: str) -> Pair | None:
        return read_entry(self.assets, self.prefix, name)

    def _edit_of(self, participant_id: str) -> ParticipantEdit | None:
        if participant_id not in self.listed:
            return None
        if participant_id not in self.edits:
            found = read_edit(self.assets, self.prefix, participant_id)
            self.edits[participant_id] = found[0] if found else None
        return self.edits[participant_id]

    @property
    def _note(self) -> dict[str, str]:
        return {"by": self.by, "gen": str(self.head.gen)}


def _opened(assets: Bucket, prefix: str, head: Head) -> dict[str, DeltaTable] | None:
    """The newest tables, or None if they are not those that HEAD speaks of."""
    if head.versions.keys() != set(TABLES):
        return None
    opened = _concurrently(lambda name: delta.open_table(assets, prefix, name), TABLES)
    tables: dict[str, DeltaTable] = {}
    for name, table in zip(TABLES, opened, strict=True):
        if table is None or table.version() < head.versions[name]:
            return None
        if not set(SCHEMAS[name].names) <= {one.name for one in table.schema().fields}:
            # An older build, held up since before the catalog was upgraded, has made it anew.
            return None
        tables[name] = table
    return tables


def _are_gone(assets: Bucket, prefix: str) -> bool:
    found = read_head(assets, prefix)
    return found is not None and bool(found[0].versions) and _opened(assets, prefix, found[0]) is None


def _finish(
    assets: Bucket,
    prefix: str,
    head: Head,
    etag: str,
    tables: dict[str, DeltaTable],
    marks: Sequence[Mark],
    txns: dict[str, set[str]],
    count: int,
    *,
    by: str,
    epoch: int,
    began: float,
) -> Folded:
    versions = {name: table.version() for name, table in tables.items()}
    as_seen = _are_newest(assets, prefix, versions)
    if not all(as_seen) or not swap(assets, prefix, head, etag, versions=versions, epoch=epoch, by=by):
        return Folded(count, 0, len(marks), head.versions, True, time.monotonic() - began)
    failpoints.reached("fold.head_swapped")
    done = [mark for mark in marks if _is_folded(mark, txns) or time.time() - mark.modified > _MARK_SECONDS]
    remove(assets, done)
    failpoints.reached("fold.marks_removed")
    return Folded(count, len(done), len(marks) - len(done), versions, False, time.monotonic() - began)


def _are_newest(assets: Bucket, prefix: str, versions: dict[str, int]) -> list[bool]:
    return _concurrently(lambda name: delta.is_newest(assets, prefix, name, versions[name]), list(versions))


def _is_folded(mark: Mark, txns: dict[str, set[str]]) -> bool:
    return all(mark.txn in txns.get(name, ()) for name in mark.names)


def _is_newer(entry: Entry, held: dict[str, int], found: Differences) -> bool:
    key = entry.recording.recording_hash
    return key in found.months or entry.seq > held.get(key, -1)


def _months(pairs: Iterable[Pair], gone: dict[str, set[str]], found: Differences) -> set[str]:
    """Every month in which rows of these recordings are, or may have been left."""
    months = {month for group in gone.values() for month in group}
    for entry, _ in pairs:
        key = entry.recording.recording_hash
        months |= {*entry.months, month_of(entry.recording.start_time), *found.months.get(key, ())}
    return months


def _all_entries(assets: Bucket, prefix: str) -> Iterator[list[Pair]]:
    hashes = (info.key.rpartition("/")[2].removesuffix(".json") for info in assets.list_objects(f"{prefix}/entries/"))
    seen: set[str] = set()
    while portion := list(islice(hashes, _ENTRIES_AT_ONCE)):
        # A page that LIST repeats must not give rows twice.
        portion = [one for one in dict.fromkeys(portion) if one not in seen]
        seen.update(portion)
        found = _concurrently(lambda recording_hash: read_entry(assets, prefix, recording_hash), portion)
        yield [pair for pair in found if pair is not None]


def _ids_of_edits(assets: Bucket, prefix: str) -> list[str]:
    infos = assets.list_objects(f"{prefix}/participants/")
    return [info.key.rpartition("/")[2].removesuffix(".json") for info in infos]


def _txns(entry: Entry) -> set[str]:
    return {item.txn for item in entry.log}


def _concurrently(call: Callable[[_T], _R], arguments: Sequence[_T]) -> list[_R]:
    with ThreadPoolExecutor(_READERS, thread_name_prefix="fold") as pool:
        return list(pool.map(call, arguments))
