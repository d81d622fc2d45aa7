"""The protocol that writes entries (DESIGN section 6; docs/catalog.md).

Register, in this order:
1. GET the pointer, the entry, and for a derived hash the rec_id's claim, which may name another. If the pointer has
   moved or a sweep is under way, what the other prefix has of the recording is brought first. If the policy changes
   nothing, stop: nothing is written.
2. Write the tail mark and claim the rec_id, together. A claim that names another hash decides which hash is meant if
   ours was derived, and is a conflict if ours was stated.
3. PUT the entry: create-only if it was absent, else only over the version that was read.
4. A lost race re-reads and applies the policy again; our own `txn` in the entry's log means that we had won and
   only the answer was lost. Whoever was held up for long after step 2 does that step again first.
5. Read the pointer again. If it moved, do the same under the new prefix.

A batch does each step for all its recordings at once: one mark, one look at the pointer, and no GET where the claim
is new.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Literal, TypeVar

from ursa_pipelines import failpoints
from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.claims import claim, claim_key, read_claim
from ursa_pipelines.catalog.entries import Entry, LogItem, Writer, entry_key, joined_logs, lineage, read_entry
from ursa_pipelines.catalog.pointer import Pointer, read_pointer, require_current_version
from ursa_pipelines.catalog.retrying import LOST_RACES, retrying
from ursa_pipelines.catalog.tail import mark, mark_batch
from ursa_pipelines.errors import (
    CatalogConflict,
    CatalogError,
    ETagMismatch,
    ObjectExists,
    RecordingConflict,
    StoreDenied,
    StoreUnavailable,
    UrsaError,
)
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.identity import is_rec_id
from ursa_pipelines.recordings.rows import Rows

ResolveFor = Callable[[str], policies.Resolve]
"""Gives the policy to apply once it is known which recording_hash is meant."""

_ANNOUNCED_FOR_SECONDS = 600
_AT_ONCE = 64
_T = TypeVar("_T")


@dataclass(frozen=True)
class Registration:
    """What a register call came to: the entry as it stands, and whether this call made or changed it."""

    entry: Entry
    outcome: Literal["created", "changed", "unchanged"]


@dataclass(frozen=True)
class Change:
    """What one register call wants. `resolve_for(hash)` is its policy for the hash that turns out to be meant.

    `history` are writes of the same recording elsewhere, which become part of its log.
    """

    recording_hash: str
    hash_is_stated: bool
    rec_id: str | None
    resolve_for: ResolveFor
    op: str
    writer: Writer
    txn: str = field(default_factory=lambda: secrets.token_hex(8))
    history: tuple[LogItem, ...] = ()


def write_entry(assets: Bucket, prefix: str, change: Change, *, follow_pointer: bool) -> Registration:
    """Runs the protocol of this module.

    Raises `RecordingConflict` where rec_id and hash belong to others, and what the policy raises.
    """
    write = _Write(assets, prefix, change, follows_pointer=follow_pointer)
    registration = write.run()
    if follow_pointer and registration.outcome != "unchanged":
        return _repeat_where_live(assets, write.prefix, read_pointer(assets).prefix, change, registration)
    return registration


def write_entries(
    assets: Bucket, prefix: str, changes: Sequence[Change], *, follow_pointer: bool
) -> list[Registration | UrsaError]:
    """Runs the protocol for many recordings at once; what became of each, in their order. None stops the others.

    Each recording is atomic on its own, the batch is not. Raises only what keeps the whole batch from being written.
    """
    if follow_pointer:
        pointer = read_pointer(assets)
        prefix = pointer.prefix
        if pointer.sweep and not pointer.sweep.finished:
            # Rare and short, so that it is done one by one.
            return [_unless_refused(partial(write_entry, assets, prefix, one, follow_pointer=True)) for one in changes]
    require_current_version(assets, prefix)
    txn = secrets.token_hex(8)
    writes: dict[str, _Write] = {}
    for change in changes:
        writes.setdefault(change.recording_hash, _Write(assets, prefix, replace(change, txn=txn)))
    if not writes:
        return []
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="register") as pool:
        marked = pool.submit(mark_batch, assets, prefix, list(writes), txn)
        claims = [pool.submit(_unless_refused, write.claim_in_batch) for write in writes.values()]
        marked.result()
        failpoints.reached("register.batch_marked")

        def finish(write: _Write, claimed: Future[UrsaError | None]) -> Registration | UrsaError:
            refused = claimed.result()
            return refused if refused is not None else _unless_refused(write.run)

        firsts = dict(zip(writes, pool.map(finish, writes.values(), claims), strict=True))
        live = read_pointer(assets).prefix if follow_pointer else prefix
        outcomes = []
        for change in changes:
            outcome = firsts.pop(change.recording_hash, None)
            if outcome is None:
                # A second change of the same recording: it must not be taken for the first, whose txn it would share.
                outcome = _unless_refused(_Write(assets, prefix, change).run)
            else:
                change = writes[change.recording_hash].change
            if isinstance(outcome, Registration) and outcome.outcome != "unchanged":
                outcome = _unless_refused(partial(_repeat_where_live, assets, prefix, live, change, outcome))
            outcomes.append(outcome)
        written = [name for name, one in writes.items() if one.may_have_written and one.recording_hash == name]
        if len(written) < len(writes):
            # Else the mark would stay for a day, since the tables never hold what was not written.
            if written:
                mark_batch(assets, prefix, written, txn, attempt=1)
            assets.remove(marked.result())
    return outcomes


def transplant(assets: Bucket, prefix: str, entry: Entry, *, op: str, writer: Writer) -> Registration:
    """Brings an entry of another prefix into this one, with its history (DESIGN section 6, sweep).

    What is older here, by its history, is replaced; what is newer stays; of two that went separate ways the one is
    merged into the other as an ingest would be. Raises `CatalogRowExists` where they cannot be merged.
    """
    merge, came = policies.ingest(entry.rows, overwrite=False), lineage(entry.log)

    def decide(recording_hash: str, current: Entry | None) -> Rows:
        if current is None:
            return entry.rows
        here = lineage(current.log)
        if came <= here:
            return current.rows
        return entry.rows if here <= came else merge(current.rows)

    rec_id = entry.recording.rec_id
    change = Change(
        recording_hash=entry.recording.recording_hash,
        hash_is_stated=True,
        rec_id=rec_id if rec_id and is_rec_id(rec_id) else None,
        resolve_for=lambda _: merge,
        op=op,
        writer=writer,
        history=tuple(entry.log),
    )
    return _Write(assets, prefix, change, decide, origin=entry).run()


def _repeat_where_live(assets: Bucket, prefix: str, live: str, change: Change, written: Registration) -> Registration:
    """The same write wherever the pointer has moved to since, and how it stands there; the entry goes along."""
    while live != prefix:
        entry = written.entry
        settled = replace(change, recording_hash=entry.recording.recording_hash)
        with suppress(CatalogConflict):
            transplant(assets, live, entry, op=f"sweep:{change.op}", writer=change.writer)
        # The change itself too, in case that somebody else has changed the entry there.
        written = replace(written, entry=_Write(assets, live, settled).run().entry)
        prefix, live = live, read_pointer(assets).prefix
    return written


def _bring_along(assets: Bucket, source: str, live: str, change: Change) -> None:
    """Brings what another prefix has of the recording before it is changed; conflicts are left to the sweep."""
    owner = read_claim(assets, source, change.rec_id) if change.rec_id is not None else None
    found = read_entry(assets, source, owner or change.recording_hash)
    if found:
        with suppress(CatalogConflict, RecordingConflict):
            transplant(assets, live, found[0], op="sweep", writer=change.writer)
    elif owner and change.rec_id is not None:
        require_current_version(assets, live)
        claim(assets, live, change.rec_id, owner, change.txn)


class _Write:
    """One change of one entry under one prefix: steps 1 to 4. `prefix` is the live one from then on, if it follows."""

    def __init__(
        self,
        assets: Bucket,
        prefix: str,
        change: Change,
        decide: Callable[[str, Entry | None], Rows] | None = None,
        *,
        follows_pointer: bool = False,
        origin: Entry | None = None,
    ) -> None:
        self._origin = origin
        self._assets, self.prefix, self.change = assets, prefix, change
        self._follows_pointer = follows_pointer
        self._decide = decide or (lambda meant, current: change.resolve_for(meant)(current.rows if current else None))
        self.recording_hash = change.recording_hash
        self._known_version = self._is_new = self._was_refused = False
        self._is_in_doubt = self.may_have_written = False
        self._announced_at: tuple[float, float] | None = None
        self._marks: list[str] = []

    def claim_in_batch(self) -> None:
        """Step 2 for one of a batch, whose version was asked for and whose mark is the batch's."""
        self._known_version = True
        owner, self._is_new = self._claim()
        if owner == self.recording_hash:
            self._announced_at = _now()
        else:
            self._is_new, self.recording_hash = False, self._hash_of(owner)

    def run(self) -> Registration:
        try:
            for attempt in retrying(*LOST_RACES):
                with attempt:
                    # Where the rec_id was claimed just now there is no entry, or the PUT will tell.
                    found, self._is_new = None if self._is_new else self._look(), False
                    return self._attempt(*(found or (None, None)))
        finally:
            if not self.may_have_written:
                for key in self._marks:
                    self._assets.remove(key)
        raise AssertionError("tenacity re-raises the last error")

    def _look(self) -> tuple[Entry, str] | None:
        if self._known_version:
            return read_entry(self._assets, self.prefix, self.recording_hash)
        change = self.change
        with ThreadPoolExecutor(3) as pool:
            live = pool.submit(read_pointer, self._assets) if self._follows_pointer else None
            known = pool.submit(require_current_version, self._assets, self.prefix)
            found = pool.submit(read_entry, self._assets, self.prefix, self.recording_hash)
            must_ask = change.rec_id is not None and not change.hash_is_stated
            owner = read_claim(self._assets, self.prefix, change.rec_id or "") if must_ask else None
            if live is not None and self._moves_to(live.result()):
                return self._look()
            known.result()
            self._known_version = True
            own = found.result()
            if owner is None or owner == self.recording_hash:
                return own
            if own is not None and own[0].recording.rec_id == change.rec_id:
                # Else there would be a second row of it, under the hash that the claim has come to name.
                raise CatalogError(
                    f"its claim names {owner}, but it is registered as {self.recording_hash}",
                    recording=change.rec_id,
                    place=f"{self._assets.name}/{claim_key(self.prefix, change.rec_id or '')}",
                    remedy="The claim is damaged: put the hash back that the recording is registered as.",
                )
        self.recording_hash = owner
        return read_entry(self._assets, self.prefix, owner)

    def _moves_to(self, pointer: Pointer) -> bool:
        """Whether step 1 is to be done again, since the pointer has moved or a sweep is under way."""
        self._follows_pointer = False
        pending = {pointer.sweep.source} if pointer.sweep and not pointer.sweep.finished else set()
        sources = {self.prefix, *pending} - {pointer.prefix}
        for source in sources:
            _bring_along(self._assets, source, pointer.prefix, self.change)
        self.prefix = pointer.prefix
        return bool(sources)

    def _attempt(self, current: Entry | None, etag: str | None) -> Registration:
        change = self.change
        if current and any(item.txn == change.txn for item in current.log):
            self.may_have_written = True
            return Registration(current, "created" if current.log[0].txn == change.txn else "changed")
        if self._was_refused:
            # Only now, since a refusal may have come for our own write, whose answer was lost.
            self.may_have_written, self._was_refused = self._is_in_doubt, False
        rows = self._decide(self.recording_hash, current)
        known = lineage(current.log) if current else set()
        if current and rows == current.rows and lineage(change.history) <= known:
            return Registration(current, "unchanged")
        self._announce()
        entry = _next_entry(current or self._origin, current.log if current else [], rows, change)
        key, body = entry_key(self.prefix, self.recording_hash), entry.model_dump_json().encode()
        before, self.may_have_written = self.may_have_written, True
        digest = hashlib.sha256(body).hexdigest()
        try:
            if etag is None:
                self._assets.create(key, body, sha256=digest)
            else:
                self._assets.replace(key, body, etag, sha256=digest)
        except (ETagMismatch, ObjectExists):
            self._was_refused = True
            raise
        except StoreUnavailable:
            self._is_in_doubt = True
            raise
        except StoreDenied:
            self.may_have_written = before
            raise
        failpoints.reached("register.entry_written")
        return Registration(entry, "changed" if current else "created")

    def _announce(self) -> None:
        """Marks the entry and claims the rec_id for it, unless that was done a short while ago.

        Raises `ETagMismatch`, so that it is tried again, if another hash turns out to be meant.
        """
        if self._announced_at is not None:
            # One of the clocks stands still while a host sleeps, the other can be set.
            age = max(now - then for now, then in zip(_now(), self._announced_at, strict=True))
            if age < _ANNOUNCED_FOR_SECONDS:
                return
        with ThreadPoolExecutor(1) as pool:
            txn, number = self.change.txn, len(self._marks)
            marked = pool.submit(mark, self._assets, self.prefix, self.recording_hash, txn, number)
            try:
                owner, _ = self._claim()
            finally:
                self._marks.append(marked.result())
        if owner != self.recording_hash:
            self.recording_hash, self._announced_at = self._hash_of(owner), None
            raise ETagMismatch("the rec_id belongs to another recording_hash", recording=self.change.rec_id)
        self._announced_at = _now()
        failpoints.reached("register.claimed")

    def _claim(self) -> tuple[str, bool]:
        if self.change.rec_id is None:
            return self.recording_hash, False
        return claim(self._assets, self.prefix, self.change.rec_id, self.recording_hash, self.change.txn)

    def _hash_of(self, owner: str) -> str:
        if not self.change.hash_is_stated:
            return owner
        rec_id = self.change.rec_id or ""
        raise RecordingConflict(
            f"its manifest states the recording_hash {self.change.recording_hash}, but {owner} is registered",
            recording=rec_id,
            remedy="Compare both recordings. If the other was never registered, its claim is left over from an "
            f"interrupted run: `ursa doctor --release-claim {rec_id}`.",
        )


def _now() -> tuple[float, float]:
    return time.monotonic(), time.time()


def _unless_refused(call: Callable[[], _T]) -> _T | UrsaError:
    try:
        return call()
    except UrsaError as error:
        return error


def _next_entry(base: Entry | None, log_so_far: Sequence[LogItem], rows: Rows, change: Change) -> Entry:
    log = joined_logs(log_so_far, change.history)
    seq = log[-1].seq + 1 if log else 1
    writer = change.writer
    item = LogItem(txn=change.txn, op=change.op, by=writer.by, run_id=writer.run_id, at=datetime.now(UTC), seq=seq)
    month = rows.recording.start_time.strftime("%Y-%m")
    return (base or Entry(seq=0, recording=rows.recording)).model_copy(
        update={
            "seq": seq,
            "recording": rows.recording,
            "modalities": list(rows.modalities),
            "participants": list(rows.participants),
            "months": sorted({month, *(base.months if base else ())}),
            "log": [*log, item],
        }
    )
