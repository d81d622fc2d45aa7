"""The catalog: opened at the prefix the pointer names, read by anyone, written through entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.claims import read_claim, release_claim
from ursa_pipelines.catalog.entries import Entry, Writer, parse_entry, read_entry
from ursa_pipelines.catalog.pointer import read_pointer
from ursa_pipelines.catalog.results import QueryResultList, QueryStatus, Where
from ursa_pipelines.catalog.writing import Change, Registration, ResolveFor, write_entries, write_entry
from ursa_pipelines.errors import CatalogRowNotFound, ObjectNotFound, UrsaError
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.identity import parse_rec_id
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Rows

if TYPE_CHECKING:
    import pyarrow as pa

    from ursa_pipelines.catalog.tables.fold import Folded
    from ursa_pipelines.catalog.tables.scan import Snapshot, Tables

_READERS = 64


@dataclass(frozen=True)
class Catalog:
    """A catalog under one prefix of the assets bucket. `follows_pointer` is False for an explicit staging prefix."""

    assets: Bucket
    prefix: str
    follows_pointer: bool = True

    @classmethod
    def open(cls, assets: Bucket, *, prefix: str | None = None) -> Catalog:
        """The live catalog, or the one under `prefix`. Raises what `read_pointer` raises."""
        if prefix is not None:
            return cls(assets, prefix, follows_pointer=False)
        return cls(assets, read_pointer(assets).prefix)

    def entry(self, recording_hash: str) -> Entry:
        """One recording with its modalities and participants: one request. Raises `CatalogRowNotFound`."""
        found = read_entry(self.assets, self.prefix, recording_hash)
        if found is None:
            raise CatalogRowNotFound(f"there is no recording {recording_hash}")
        return found[0]

    def entry_of_rec_id(self, rec_id: str) -> Entry | None:
        """The entry of the recording that owns this rec_id, or None: two requests. Raises `RecordingIdInvalid`."""
        parse_rec_id(rec_id)
        recording_hash = read_claim(self.assets, self.prefix, rec_id)
        found = read_entry(self.assets, self.prefix, recording_hash) if recording_hash else None
        # A claim that lost the race for its content names the entry of the recording that won it.
        return found[0] if found and found[0].recording.rec_id == rec_id else None

    def entries(self) -> Iterator[Entry]:
        """Every entry, read concurrently."""
        keys = (info.key for info in self.assets.list_objects(f"{self.prefix}/entries/"))
        with ThreadPoolExecutor(_READERS, thread_name_prefix="catalog") as pool:
            yield from (entry for entry in pool.map(self._read, keys) if entry is not None)

    def list_recordings(self, where: Where | None = None) -> list[RecordingRow]:
        """Recordings that match, in order of their start time. One request if one is named by its hash, else a scan."""
        return cast(list[RecordingRow], self._snapshot(where).rows("recordings", where))

    def list_modalities(self, where: Where | None = None) -> list[ModalityRow]:
        """Modalities that match, in order of recording, family and worker. One request if one recording is named."""
        return cast(list[ModalityRow], self._snapshot(where).rows("modalities", where))

    def list_participants(self, where: Where | None = None) -> list[ParticipantRow]:
        """Participants that match, by id: enrolled at their earliest recording, and called as `participants` tells."""
        return cast(list[ParticipantRow], self.snapshot().rows("participants", where))

    def scan(
        self, table: str, where: Where | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a table that match as Arrow, streamed, in no order. Raises `ValueError` for unknown columns."""
        from ursa_pipelines.catalog.tables.schemas import TABLES

        if table not in TABLES:
            raise ValueError(f"there is no table {table!r}; there are {', '.join(sorted(TABLES))}")
        return self._snapshot(where).scan(table, where, columns)

    def count(self, table: str, where: Where | None = None) -> int:
        """How many rows of a table match."""
        return self._snapshot(where).count(table, where)

    def query(
        self,
        *,
        recording_hash: str | None = None,
        participants: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        status: QueryStatus | None = None,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> QueryResultList:
        """Recordings with the modalities asked for; see `DataInterface.query`.

        Raises `CatalogRowNotFound` for a recording_hash that is not there, and `ValueError` as `catalog.query` does.
        """
        from ursa_pipelines.catalog.query import query, spellings

        where = {"recording_hash": recording_hash, "rec_id": (metadata or {}).get("manifest_recording_id")}
        named = {column: name for column, name in where.items() if isinstance(name, str)}
        snapshot = self._snapshot(named)
        people = self.snapshot() if named and participants is not None else snapshot
        if recording_hash is not None and not snapshot.newer:
            raise CatalogRowNotFound(f"there is no recording {recording_hash}")
        return query(
            snapshot,
            participant_ids=None if participants is None else spellings(people, participants),
            modalities=modalities,
            status=status,
            started_after=started_after,
            started_before=started_before,
            metadata=metadata,
        )

    def snapshot(self) -> Snapshot:
        """The catalog as it is now, for several reads of one state."""
        from ursa_pipelines.catalog.tables.scan import Snapshot

        return Snapshot.take(self._tables)

    def register_recording(self, row: RecordingRow, policy: policies.RecordingPolicy, writer: Writer) -> Registration:
        """Registers a recording without modalities under the given conflict policy.

        Raises `RecordingIdInvalid` if the rec_id in its metadata is none.
        """
        if row.rec_id is not None:
            parse_rec_id(str(row.rec_id))
        resolve = policies.register_recording(row, policy)
        return self.write(
            row.recording_hash,
            lambda _: resolve,
            rec_id=row.rec_id,
            hash_is_stated=True,
            op=f"register_recording:{policy}",
            writer=writer,
        )

    def register_recordings(
        self, rows: Sequence[RecordingRow], policy: policies.RecordingPolicy, writer: Writer
    ) -> list[Registration | UrsaError]:
        """`register_recording` for many at once; what became of each, in their order."""
        for row in rows:
            if row.rec_id is not None:
                parse_rec_id(str(row.rec_id))

        def resolving(row: RecordingRow) -> ResolveFor:
            resolve = policies.register_recording(row, policy)
            return lambda _: resolve

        op = f"register_recording:{policy}"
        return self.write_many(
            [Change(row.recording_hash, True, row.rec_id, resolving(row), op, writer) for row in rows]
        )

    def register_modality(self, row: ModalityRow, policy: policies.ModalityPolicy, writer: Writer) -> Registration:
        """Registers a modality of an existing recording under the given conflict policy."""
        resolve = policies.register_modality(row, policy)
        return self.write(
            row.recording_hash,
            lambda _: resolve,
            rec_id=None,
            hash_is_stated=True,
            op=f"register_modality:{policy}",
            writer=writer,
        )

    def record_verification(self, seen: Rows, writer: Writer) -> bool:
        """Raises the verification level of the rows that were `seen`, whose bytes were all proved.

        False if nothing was written: they say so already, have got further files meanwhile, or are gone.
        """
        resolve = policies.verified(seen)
        try:
            registration = self.write(
                seen.recording.recording_hash,
                lambda _: resolve,
                rec_id=None,
                hash_is_stated=True,
                op="verify",
                writer=writer,
            )
        except CatalogRowNotFound:
            return False
        return registration.outcome == "changed"

    def write(
        self,
        recording_hash: str,
        resolve_for: ResolveFor,
        *,
        rec_id: str | None,
        hash_is_stated: bool,
        op: str,
        writer: Writer,
    ) -> Registration:
        """Applies a policy to one recording's rows in one compare-and-swap; see `catalog.entries`."""
        change = Change(recording_hash, hash_is_stated, rec_id, resolve_for, op, writer)
        return write_entry(self.assets, self.prefix, change, follow_pointer=self.follows_pointer)

    def write_many(self, changes: Sequence[Change]) -> list[Registration | UrsaError]:
        """Applies the policies of many recordings, each on its own; what became of them, in their order."""
        return write_entries(self.assets, self.prefix, changes, follow_pointer=self.follows_pointer)

    def fold(self, writer: Writer) -> Folded:
        """Brings the tables of the live catalog up to date. Raises what `tables.fold` raises."""
        from ursa_pipelines.catalog.tables.fold import fold

        return fold(self.assets, self._live_prefix(), by=writer.by, check_tables=True)

    def fold_if_many(self, writer: Writer, *, above: int = 256) -> Folded | None:
        """The same, if more than so many recordings wait for it."""
        from ursa_pipelines.catalog.tables.fold import tail_length

        return self.fold(writer) if tail_length(self.assets, self._live_prefix()) > above else None

    def release_claim(self, rec_id: str, writer: Writer, *, idle: float = 86_400.0) -> str:
        """Gives a rec_id free whose recording was never registered, `idle` seconds after it was claimed.

        Returns the recording_hash that had owned it. Raises `CatalogError` if it is registered or claimed too recently.
        """
        parse_rec_id(rec_id)
        is_there = self.entry_of_rec_id(rec_id) is not None
        return release_claim(self.assets, self.prefix, rec_id, entry_is_there=is_there, by=writer.by, idle=idle)

    def _live_prefix(self) -> str:
        return read_pointer(self.assets).prefix if self.follows_pointer else self.prefix

    def _snapshot(self, where: Where | None) -> Snapshot:
        from ursa_pipelines.catalog.tables.scan import Snapshot

        return Snapshot.of_those_named(self._tables, where) or self.snapshot()

    @cached_property
    def _tables(self) -> Tables:
        from ursa_pipelines.catalog.tables.scan import Tables

        return Tables(self.assets, self.prefix)

    def _read(self, key: str) -> Entry | None:
        try:
            raw, info = self.assets.get(key)
        except ObjectNotFound:
            return None
        recording_hash = key.rpartition("/")[2].removesuffix(".json")
        place = f"{self.assets.name}/{key}"
        return parse_entry(raw, place=place, recording_hash=recording_hash, sha256=info.sha256)
