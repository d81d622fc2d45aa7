"""Making another catalog the live one, and going back (DESIGN section 6, Rebuild).

1. The pointer is swapped by compare-and-swap. From then on writers come to the new prefix: those who had begun under
   the old one look at the pointer after their write, and repeat it.
2. Then comes the sweep: entries, claims and edits that the old prefix has got since the new one was last known to
   miss nothing are brought along. What was acknowledged before the swap was written before it, so the sweep sees it.

Histories decide, entry by entry: what is older gives way, what is newer stays, what went separate ways is merged if
both only added; the rest is told and left to people. The pointer keeps what is being swept, so that whoever runs the
command again goes on there. Nothing is deleted: the old prefix stays as it is.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Literal, TypeVar

from ursa_pipelines import failpoints
from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.claims import claim, read_claim
from ursa_pipelines.catalog.edits import carry_edit
from ursa_pipelines.catalog.entries import Entry, Writer, lineage, read_entry
from ursa_pipelines.catalog.pointer import (
    CATALOG_VERSION,
    Pointer,
    Sweep,
    load_pointer,
    read_pointer,
    require_current_version,
    require_prefix,
    swap_pointer,
)
from ursa_pipelines.catalog.tables import fold
from ursa_pipelines.catalog.tables.head import read_head, require_current_tables
from ursa_pipelines.catalog.tables.schemas import TABLES
from ursa_pipelines.catalog.writing import Change, transplant, write_entry
from ursa_pipelines.errors import CatalogConflict, CatalogError, ETagMismatch, RecordingConflict, RecordingRefused
from ursa_pipelines.objects.keys import ACTIVE_POINTER
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.layout import shown
from ursa_pipelines.recordings.rows import RecordingRow, Rows

_MARGIN = timedelta(minutes=10)
_AT_ONCE = 16
_CHUNK = 1000
_NOTHING_BEFORE = "There is nothing to go back to."
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Kind = Literal["recording", "rec_id", "participant"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Conflict:
    """What could not be brought along, by its recording_hash, rec_id or participant_id."""

    kind: Kind
    name: str
    reason: str


@dataclass(frozen=True)
class CutOver:
    """The live prefix and what was swept into it: how many were looked at, and how many of them were news."""

    prefix: str
    source: str | None
    swapped: bool
    since: datetime | None = None
    examined: int = 0
    brought: int = 0
    conflicts: tuple[Conflict, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.conflicts


def cutover(assets: Bucket, prefix: str, *, writer: Writer, reason: str) -> CutOver:
    """Makes `prefix` the live catalog; where it is that already, the sweep is done (again).

    Raises `CatalogError` if it has no tables yet, `CatalogNotInitialized`, `CatalogVersionUnknown` or
    `CatalogUpgradeNeeded` if it is no catalog of this version, `ETagMismatch` if somebody else changes the pointer, and
    `StoreUnavailable`: after any of these the same call goes on where this one ended.
    """
    require_prefix(prefix)
    _require_current(assets, prefix)
    if read_pointer(assets).prefix != prefix:
        _require_folded(assets, prefix)
    return _move(assets, prefix, "cutover", writer, reason)


def rollback(assets: Bucket, *, to: str | None = None, writer: Writer, reason: str) -> CutOver:
    """Makes a catalog that was live before the live one again, with all that was written since; see `rollback_target`.

    Where it is live already, the sweep is done (again). Raises what `rollback_target` and `cutover` raise.
    """
    prefix = rollback_target(assets, to)
    _require_current(assets, prefix)
    return _move(assets, prefix, "rollback", writer, reason)


def rollback_target(assets: Bucket, to: str | None = None) -> str:
    """Where a rollback goes: to this prefix, else the one before the live one; an interrupted one goes on to its own.

    Raises `CatalogError` if the prefix was never live, if nothing was live before, and where the live catalog was come
    to by a rollback: the one before it is then the one that was left, and going there would undo that.
    """
    pointer = read_pointer(assets)
    live, place = pointer.prefix, f"{assets.name}/{ACTIVE_POINTER}"
    if to is not None:
        if to not in {live, *pointer.previous}:
            remedy = f"It can go back to {', '.join(pointer.previous)}." if pointer.previous else _NOTHING_BEFORE
            raise CatalogError(f"{shown(to)!r} was never live", place=place, remedy=remedy)
        return to
    if pointer.sweep and pointer.sweep.op == "rollback":
        if not pointer.sweep.finished:
            return live
        earlier = [one for one in pointer.previous if one != pointer.sweep.source]
        raise CatalogError(
            f"{live} is live since a rollback from {pointer.sweep.source}, which is done",
            place=place,
            remedy=f"To undo it: `ursa catalog cutover {pointer.sweep.source} --reason ...`."
            + (f" To go further back: `ursa catalog rollback --to {earlier[0]} --reason ...`." if earlier else ""),
        )
    if not pointer.previous:
        raise CatalogError("no other catalog was live before this one", place=place, remedy=_NOTHING_BEFORE)
    return pointer.previous[0]


def carry_claim(assets: Bucket, source: str, target: str, rec_id: str) -> bool:
    """Sees to it that a rec_id has the same owner under `target`; whether it had none. Raises `RecordingConflict`."""
    owner = read_claim(assets, source, rec_id)
    if owner is None:
        return False
    there, is_new = claim(assets, target, rec_id, owner, secrets.token_hex(8))
    if there != owner:
        raise RecordingConflict(
            f"it belongs to {owner} under {source}, but to {there} under {target}",
            recording=rec_id,
            remedy="Compare both recordings and register the one that is right.",
        )
    return is_new


def for_each_below(
    assets: Bucket, directory: str, work: Callable[[str], _T], *, since: datetime = _EPOCH
) -> Iterator[_T]:
    """What `work` makes of the name (without .json) of each document below `directory` that changed since then."""
    names = (
        info.key.rpartition("/")[2].removesuffix(".json")
        for info in assets.list_objects(f"{directory}/")
        if info.modified >= since.timestamp()
    )
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="sweep") as pool:
        while chunk := list(islice(names, _CHUNK)):
            yield from pool.map(work, chunk)


def _require_current(assets: Bucket, prefix: str) -> None:
    # Where it is not, it would be live and take no rows.
    require_current_version(assets, prefix)
    require_current_tables(assets, prefix, read_head(assets, prefix))


def _require_folded(assets: Bucket, prefix: str) -> None:
    found = read_head(assets, prefix)
    if found is None or not set(TABLES) <= found[0].versions.keys():
        raise CatalogError(
            "it has no tables yet, so that reading it would be slow",
            place=f"{assets.name}/{prefix}",
            remedy=f"Run `ursa catalog fold --prefix {prefix} --all` once its rebuild is done.",
        )


def _move(assets: Bucket, prefix: str, op: str, writer: Writer, reason: str) -> CutOver:
    pointer, _ = load_pointer(assets)
    pending = pointer.sweep if pointer.sweep and not pointer.sweep.finished else None
    before: tuple[Conflict, ...] = ()
    if pending and prefix not in {pointer.prefix, pending.source}:
        # The live catalog may lack what a third one must get from it.
        before = _finish(assets, writer, swapped=False).conflicts
    swapped = pointer.prefix != prefix
    if swapped:
        _swap(assets, prefix, op, writer, reason)
        failpoints.reached("cutover.pointer_swapped")
    done = _finish(assets, writer, swapped=swapped)
    return replace(done, conflicts=(*before, *done.conflicts))


def _swap(assets: Bucket, prefix: str, op: str, writer: Writer, reason: str) -> None:
    pointer, info = load_pointer(assets)
    complete = dict(pointer.complete_until)
    if pointer.sweep and not pointer.sweep.finished:
        complete = _left_by_the_last_swap(pointer, info.modified) | complete
        complete[pointer.prefix] = pointer.sweep.since
    since = complete.pop(prefix, None) or _start_of_rebuild(assets, prefix)
    swap_pointer(
        assets,
        pointer.model_copy(
            update={
                "version": CATALOG_VERSION,
                "prefix": prefix,
                "previous": [pointer.prefix, *(one for one in pointer.previous if one not in {pointer.prefix, prefix})],
                "updated_at": datetime.now(UTC),
                "updated_by": writer.by,
                "reason": reason,
                "sweep": Sweep(source=pointer.prefix, since=since, op=op),
                "complete_until": complete,
            }
        ),
        info.etag,
    )


def _start_of_rebuild(assets: Bucket, prefix: str) -> datetime:
    """Since when this prefix may lack what the live one has got; a catalog of unknown origin may lack anything."""
    info = assets.head(f"{prefix}/REBUILD.json")
    return datetime.fromtimestamp(info.modified, UTC) if info else _EPOCH + _MARGIN


def _left_by_the_last_swap(pointer: Pointer, swapped_at: float) -> dict[str, datetime]:
    return {pointer.sweep.source: datetime.fromtimestamp(swapped_at, UTC)} if pointer.sweep else {}


def _finish(assets: Bucket, writer: Writer, *, swapped: bool) -> CutOver:
    """The sweep that the last swap asks for, noted in the pointer when it is over."""
    pointer, info = load_pointer(assets)
    if pointer.sweep is None:
        return CutOver(pointer.prefix, None, swapped)
    require_current_version(assets, pointer.prefix)
    source, since = pointer.sweep.source, pointer.sweep.since
    outcomes = list(_sweep(assets, source, pointer.prefix, since - _MARGIN, writer))
    failpoints.reached("cutover.swept")
    if not pointer.sweep.finished:
        complete = _left_by_the_last_swap(pointer, info.modified) | pointer.complete_until
        finished = pointer.sweep.model_copy(update={"finished": True})
        try:
            swap_pointer(assets, pointer.model_copy(update={"sweep": finished, "complete_until": complete}), info.etag)
        except ETagMismatch:
            now = read_pointer(assets)
            if (now.prefix, now.sweep) != (pointer.prefix, finished):
                raise
    failpoints.reached("cutover.finished")
    fold.fold(assets, pointer.prefix, by=writer.by)
    conflicts = tuple(one for one in outcomes if isinstance(one, Conflict))
    return CutOver(pointer.prefix, source, swapped, since, len(outcomes), outcomes.count(True), conflicts)


def _sweep(assets: Bucket, source: str, target: str, since: datetime, writer: Writer) -> Iterator[bool | Conflict]:
    """Whether each claim, edit and entry was news under `target`, or why it could not be brought there."""

    def claimed(rec_id: str) -> bool | Conflict:
        return _or_conflict("rec_id", rec_id, lambda: carry_claim(assets, source, target, rec_id))

    def edited(name: str) -> bool | Conflict:
        return _or_conflict(
            "participant", name, lambda: carry_edit(assets, source, target, name, op="sweep", writer=writer)
        )

    def entered(name: str) -> bool | Conflict:
        return _or_conflict("recording", name, lambda: _carry_entry(assets, source, target, name, writer))

    yield from for_each_below(assets, f"{source}/rec_ids", claimed, since=since)
    yield from for_each_below(assets, f"{source}/participants", edited, since=since)
    yield from for_each_below(assets, f"{source}/entries", entered, since=since)


def _or_conflict(kind: Kind, name: str, carry: Callable[[], bool]) -> bool | Conflict:
    try:
        return carry()
    except (CatalogError, RecordingRefused) as error:
        return Conflict(kind, name, str(error))


def _carry_entry(assets: Bucket, source: str, target: str, recording_hash: str, writer: Writer) -> bool:
    found = read_entry(assets, source, recording_hash)
    if found is None:
        return False
    entry = found[0]
    try:
        return transplant(assets, target, entry, op="sweep", writer=writer).outcome != "unchanged"
    except CatalogConflict:
        there = read_entry(assets, target, recording_hash)
        if there is None or not _only_added(entry, there[0]):
            raise
    merge = Change(
        recording_hash, True, None, lambda _: _merge_of(entry.rows), "sweep", writer, history=tuple(entry.log)
    )
    return write_entry(assets, target, merge, follow_pointer=False).outcome != "unchanged"


def _only_added(one: Entry, other: Entry) -> bool:
    """Whether neither has overwritten anything of which the other does not know."""
    separate = lineage(one.log) ^ lineage(other.log)
    return not any("overwrite" in item.op for item in (*one.log, *other.log) if item.txn in separate)


def _merge_of(carried: Rows) -> policies.Resolve:
    """Merges as an ingest does, after both were extended to the longer duration of the two."""

    def resolve(existing: Rows | None) -> Rows:
        if existing is None:
            return carried
        longer = max(existing.recording, carried.recording, key=lambda row: row.duration)
        here, there = _lasting(existing, longer), _lasting(carried, longer)
        return policies.ingest(there, overwrite=False)(here)

    return resolve


def _lasting(rows: Rows, longer: RecordingRow) -> Rows:
    times = {"duration": longer.duration, "ended_at": longer.ended_at}
    return replace(rows, recording=rows.recording.model_copy(update=times))
