"""Sources, bucket and catalog laid side by side, recording by recording (DESIGN section 8, reconciliation).

Each of them gives one stream, sorted by rec_id, and the streams are merged: there is no request for a single recording
unless it was named, and no standing is kept. They are read against the direction in which an ingest writes (catalog,
bucket, sources), so that what is ingested meanwhile never looks as if something had been lost. A source that cannot be
read leaves its recordings unknown there, never gone.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from itertools import chain, groupby, pairwise, takewhile
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.errors import SourceUnavailable, UrsaError
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.ingest.sources import Source, changed_at, list_recordings
from ursa_pipelines.ingest.watch import Arrival, look_at
from ursa_pipelines.maintenance.narrowing import EVERYTHING, Only
from ursa_pipelines.objects.keys import MARKERS, RECORDINGS
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.objects.stored import is_segment
from ursa_pipelines.recordings.identity import is_rec_id
from ursa_pipelines.recordings.inventory import take_inventory
from ursa_pipelines.recordings.settling import blocked_by_writer

if TYPE_CHECKING:
    import pyarrow as pa

_DIRECTORIES_AT_ONCE = 200
_ROWS_AT_ONCE = 500_000
"""About 1.5 KiB each, with what bucket and sources have of them."""
_LISTINGS_AT_ONCE = 16
_T = TypeVar("_T")

_COLUMNS = (
    "rec_id",
    "recording_hash",
    "bytes",
    "nodes",
    "nodes_missing",
    "verification",
    "ingested_from",
    "registered_at",
)


@dataclass(frozen=True, slots=True)
class Sighted:
    """A recording's directory on a source. `changed_at` is its newest ctime in seconds since 1970 UTC: a copying tool
    may preserve mtimes.

    `blocked` says why nobody may ingest it now, `refused` why an ingest will refuse it, `unread` why nothing is known.
    """

    source: str
    fingerprint: str = ""
    files: int = 0
    bytes: int = 0
    changed_at: float = 0.0
    blocked: str = ""
    refused: str = ""
    unread: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """What the catalog tells of a recording. `registered_at` is seconds since 1970 UTC, 0 if it is not told."""

    recording_hash: str
    bytes: int = 0
    nodes: tuple[str, ...] = ()
    nodes_missing: tuple[str, ...] = ()
    verification: str = ""
    ingested_from: str = ""
    registered_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a recording is. `unknown_on` are the sources that could not be read, so that it may be there too.

    `stored` is whether the bucket has any object of it, `marked` whether there is a commit marker, ours or a rig's.
    `stored_bytes` is what its files come to there, None where its objects were not counted: a look at everything
    lists no objects, unless the store `keeps_directories`.
    """

    rec_id: str
    on_sources: tuple[Sighted, ...] = ()
    unknown_on: tuple[str, ...] = ()
    stored: bool = False
    marked: bool = False
    rows: tuple[Registered, ...] = ()
    stored_bytes: int | None = field(default=None, compare=False)

    @property
    def row(self) -> Registered | None:
        return self.rows[0] if self.rows else None

    @property
    def fingerprint(self) -> str:
        """Of all its directories, in the order of the sources, as a registration keeps it."""
        return "+".join(one.fingerprint for one in self.on_sources if one.fingerprint)

    @property
    def places(self) -> tuple[str, ...]:
        """Where it is: names of sources, `bucket`, `catalog`."""
        there = [("bucket", self.stored), ("catalog", bool(self.rows))]
        return (*(one.source for one in self.on_sources), *(name for name, is_there in there if is_there))

    @property
    def bytes(self) -> int:
        """Of its files: as the catalog counts them, else those of its largest directory; 0 if neither tells."""
        told = max((row.bytes for row in self.rows), default=0)
        return told or max((one.bytes for one in self.on_sources), default=0)

    @property
    def is_lost(self) -> bool:
        """Whether it is registered and the bucket has nothing of it."""
        return bool(self.rows) and not self.stored

    @property
    def is_short(self) -> bool:
        """Whether the bucket has fewer bytes of it than were registered, as far as they were counted."""
        if not self.stored or self.stored_bytes is None or len(self.rows) != 1:
            return False
        return self.stored_bytes < self.rows[0].bytes

    @property
    def problems(self) -> tuple[str, ...]:
        """In what bucket and catalog contradict one another, the worst first."""
        row = self.row
        told = []
        if self.is_lost:
            copies = ", ".join(one.source for one in self.on_sources)
            told.append(
                f"registered, but the bucket has no bytes of it; it is still on {copies}"
                if copies
                else "registered, but the bucket has no bytes of it, nor has a source that can be read"
            )
        if row and self.is_short:
            told.append(
                f"lost in part: {row.bytes:,} bytes are registered, the bucket has {self.stored_bytes:,} of them"
            )
        if len(self.rows) > 1:
            hashes = ", ".join(one.recording_hash[:8] for one in self.rows)
            told.append(f"registered {len(self.rows)} times, as {hashes}")
        # Without a marker it is right for what was found in the bucket, and for a half that waits for the other one.
        # Where no source has it any more nobody can write the marker, and that all bytes were proved settles it.
        is_settled = row and row.verification == "sha256" and not self.on_sources
        is_to_be_marked = row and row.ingested_from == "nas" and not row.nodes_missing
        if is_to_be_marked and self.stored and not self.marked and not is_settled:
            told.append("registered from a source, but without a commit marker")
        return tuple(told)


@dataclass
class Reconciliation:
    """The standings, in order of rec_id, each given once. `unavailable` (source: why) and `seen` (source: directories)
    are complete when all have been taken.
    """

    standings: Iterator[Standing]
    unavailable: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Standing]:
        return self.standings


def reconcile(
    context: IngestContext,
    sources: Iterable[Source],
    only: Only = EVERYTHING,
    *,
    elsewhere: Collection[str] = (),
) -> Reconciliation:
    """Reads catalog and bucket now, and the sources while the standings are taken; where the catalog has more than
    half a million rows, one month of everything at a time. Of what is narrowed by `only`, nothing else is read. What is
    named has a standing even if it is nowhere. What lies on sources that are `elsewhere` is unknown, without being told
    as unavailable.

    Raises `CatalogError`, `StoreUnavailable`, `StoreDenied`, where it goes by months while standings are taken, too;
    never for a source.
    """
    found, sources = Reconciliation(iter(())), list(sources)
    first, *others = _portions(context.catalog, only)
    further = (standing for portion in others for standing in _read(context, sources, portion, elsewhere, found))
    found.standings = chain(_read(context, sources, first, elsewhere, found), further)
    return found


def _portions(catalog: Catalog, only: Only) -> list[Only]:
    """Spans of ids that come to `only`, a month each if there are too many rows to keep them all."""
    snapshot = catalog.snapshot()
    if only.rec_ids or snapshot.count("recordings") <= _ROWS_AT_ONCE:
        return [only]
    # A row that was registered by hand may tell a year of fewer digits, which no id has.
    begins = [date.fromisoformat(f"{month}-01") for month in snapshot.months("recordings") if len(month) == 7]
    within = [day for day in begins if (only.since or date.min) < day < (only.before or date.max)]
    return [replace(only, since=since, before=before) for since, before in pairwise([only.since, *within, only.before])]


def _read(
    context: IngestContext, sources: Sequence[Source], only: Only, elsewhere: Collection[str], found: Reconciliation
) -> Iterator[Standing]:
    rows = sorted(_rows(context.catalog, only), key=itemgetter(0))
    with ThreadPoolExecutor(2, thread_name_prefix="listing") as pool:
        marked, stored = pool.map(partial(_listed, context.raw, only=only), (MARKERS, RECORDINGS))
    # A source that did not answer for one portion is not waited for again.
    asked = [source for source in sources if source.name not in {*elsewhere, *found.unavailable}]
    streams: list[Iterable[tuple[str, str, Any]]] = [
        ((rec_id, "row", row) for rec_id, row in rows),
        ((rec_id, "marked", True) for rec_id in marked if is_rec_id(rec_id)),
        ((rec_id, "stored", size) for rec_id, size in stored.items() if is_rec_id(rec_id)),
        *(_sighted(context, source, found, only) for source in asked),
        ((rec_id, "asked", True) for rec_id in only.named),
    ]
    order = [source.name for source in sources]
    return _standings(heapq.merge(*streams, key=itemgetter(0)), order, found, tuple(elsewhere))


def look_again(context: IngestContext, source: Source, sighted: Sighted, rec_id: str, **periods: float) -> Arrival:
    """Whether a directory that was never seen before has settled, as far as one look can tell.

    Times of change are those of the inodes, which no copying tool can set: it may preserve the mtime of what it has
    not finished. `periods` are `now`, `quiet_period` and `reconstruct_after`. Raises `SourceUnavailable`.
    """
    directory = source.root / rec_id

    def look(gets_on: Callable[[], None]) -> Arrival:
        since = changed_at(directory, gets_on)
        before = Arrival(sighted.fingerprint, since, False, sighted.refused, since)
        return look_at(directory, before, gets_on=gets_on, **periods)

    return context.listing(rec_id, source.name, look)


def _standings(
    merged: Iterable[tuple[str, str, Any]], order: Sequence[str], found: Reconciliation, elsewhere: tuple[str, ...]
) -> Iterator[Standing]:
    for rec_id, told in groupby(merged, key=itemgetter(0)):
        of_kind: dict[str, list[Any]] = {"row": [], "marked": [], "stored": [], "sighted": [], "asked": []}
        for _, kind, value in told:
            of_kind[kind].append(value)
        sighted = sorted(of_kind["sighted"], key=lambda one: order.index(one.source))
        unread = [one.source for one in sighted if one.unread]
        yield Standing(
            rec_id,
            on_sources=tuple(sighted),
            unknown_on=(*elsewhere, *found.unavailable, *(name for name in unread if name not in found.unavailable)),
            stored=bool(of_kind["stored"]),
            marked=bool(of_kind["marked"]),
            rows=tuple(of_kind["row"]),
            stored_bytes=of_kind["stored"][0] if of_kind["stored"] else None,
        )


def _listed(raw: Bucket, prefix: str, only: Only) -> dict[str, int | None]:
    """The recordings that have objects below a prefix, in order, with what those of files come to, if it is counted."""
    if only.rec_ids:
        with ThreadPoolExecutor(_LISTINGS_AT_ONCE, thread_name_prefix="listing") as pool:
            found = pool.map(lambda rec_id: _counted(raw.list_objects(f"{prefix}{rec_id}/"), prefix), only.named)
            return {rec_id: size for one in found for rec_id, size in one.items()}
    low, high = prefix + only.low, prefix + only.high
    if raw.keeps_directories:
        objects = raw.list_objects(prefix, start_after=low)
        return _counted(takewhile(lambda info: info.key < high, objects), prefix)
    if only.is_everything:
        return dict.fromkeys(raw.list_directories(prefix))
    return dict.fromkeys(raw.list_directories(prefix, start_after=low, before=high))


def _counted(objects: Iterable[ObjectInfo], prefix: str) -> dict[str, int | None]:
    sizes: dict[str, int | None] = {}
    for info in objects:
        rec_id, _, path = info.key.removeprefix(prefix).partition("/")
        sizes[rec_id] = (sizes.get(rec_id) or 0) + (info.size if is_segment(path) else 0)
    return sizes


def _rows(catalog: Catalog, only: Only) -> Iterator[tuple[str, Registered]]:
    # What thousands of rows say alike is kept once.
    alike: dict[Any, Any] = {}

    def shared(value: _T) -> _T:
        return alike.setdefault(value, value)

    # Of the tables themselves, even for one that is named: a claim leads to one row, and there may be another.
    for batch in catalog.snapshot().scan("recordings", only.where, _COLUMNS):
        told = zip(*(_values(batch.column(name)) for name in _COLUMNS), strict=True)
        for rec_id, recording_hash, size, nodes, missing, verification, ingested_from, registered_at in told:
            if rec_id:
                yield (
                    rec_id,
                    Registered(
                        recording_hash,
                        bytes=size or 0,
                        nodes=shared(tuple(nodes or ())),
                        nodes_missing=shared(tuple(missing or ())),
                        verification=shared(verification or ""),
                        ingested_from=shared(ingested_from or ""),
                        registered_at=(registered_at or 0) / 1e6,
                    ),
                )


def _values(column: pa.Array) -> list[Any]:
    """The values of a column; times, in microseconds since 1970, are not made objects of one by one."""
    import pyarrow as pa

    return (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()


def _sighted(
    context: IngestContext, source: Source, found: Reconciliation, only: Only
) -> Iterator[tuple[str, str, Sighted]]:
    """What lies on a source, a few directories at a time; ends where the source does not answer any more."""
    try:
        rec_ids = context.listing("", source.name, partial(_rec_ids, source, only))
        for start in range(0, len(rec_ids), _DIRECTORIES_AT_ONCE):
            some = rec_ids[start : start + _DIRECTORIES_AT_ONCE]
            for sighted in context.listing("", source.name, partial(_look_at_some, source, some)):
                found.seen[source.name] += 1
                yield sighted
    except SourceUnavailable as error:
        found.unavailable[source.name] = str(error)


def _rec_ids(source: Source, only: Only, gets_on: Callable[[], None]) -> list[str]:
    if only.rec_ids:
        _require_mounted(source)
        return only.named
    return [rec_id for rec_id in list_recordings(source, gets_on=gets_on) if only.covers(rec_id)]


def _look_at_some(
    source: Source, rec_ids: Sequence[str], gets_on: Callable[[], None]
) -> list[tuple[str, str, Sighted]]:
    found = []
    for rec_id in rec_ids:
        gets_on()
        sighted = _look_at_one(source, rec_id, gets_on)
        if sighted is not None:
            found.append((rec_id, "sighted", sighted))
    return found


def _look_at_one(source: Source, rec_id: str, gets_on: Callable[[], None]) -> Sighted | None:
    directory = source.root / rec_id
    try:
        inventory = take_inventory(directory, gets_on)
    except UrsaError as error:
        # A drive that is pulled out takes the directories with it, or makes each of them fail.
        _require_mounted(source)
        if isinstance(error, SourceUnavailable):
            return Sighted(source.name, unread=str(error))
        try:
            is_there = directory.is_dir()
        except OSError as closed:
            return Sighted(source.name, unread=f"it may not be looked at ({closed.strerror})")
        return Sighted(source.name, refused=str(error)) if is_there else None
    return Sighted(
        source.name,
        fingerprint=inventory.fingerprint,
        files=len(inventory.files),
        bytes=inventory.total_bytes,
        changed_at=changed_at(directory, gets_on),
        blocked=blocked_by_writer(inventory) or "",
    )


def _require_mounted(source: Source) -> None:
    try:
        with os.scandir(source.root) as entries:
            is_empty = next(entries, None) is None
    except OSError as error:
        raise SourceUnavailable(
            f"the source {source.name} is not there any more ({error.strerror})",
            place=str(source.root),
            remedy=source.if_missing if isinstance(error, FileNotFoundError) else None,
        ) from None
    if is_empty:
        raise SourceUnavailable(f"the source {source.name} was unmounted meanwhile", place=str(source.root))
