"""How the records of the participants table follow from entries and edits (DESIGN section 6, Fold).

A participant is enrolled at the earliest moment that an entry tells (`enrolled_by` is that recording), and called as
the edit says, else as the earliest recording that names it (by start, then hash: `named_by`, `named_since`), else as
one that was merged into it. An entry speaks only of the participants that its recording lists. Who was merged into
another keeps its record; the other's is enrolled no later.

An entry that only improves a record is merged into it. Where one may have weakened it, or an edit changed, the record
is computed anew from all entries of the participant. Either way the result depends on neither order nor splitting.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ursa_pipelines.catalog.edits import ParticipantEdit
from ursa_pipelines.catalog.entries import Entry
from ursa_pipelines.catalog.tables.schemas import extra_of, json_of

Record = dict[str, Any]
"""One row of the table, as `to_pylist()` gives it."""

EditOf = Callable[[str], ParticipantEdit | None]
EntriesOf = Callable[[Collection[str]], Iterable[Entry]]
"""Gives the entries, as they are now, of all recordings that list any of these participants."""

_NAMED, _DESCRIBED, _BARE = range(3)


@dataclass(frozen=True, slots=True)
class Told:
    """What one entry, or the best of several, tells of a participant. Hashes say which entry told it."""

    enrolled_at: datetime
    enrolled_by: str
    rank: int
    since: datetime
    by: str
    metadata: str | None
    extra: str | None

    def best(self, other: Told | None) -> Told:
        """The earliest enrolment and the first name of both."""
        if other is None:
            return self
        first = min(self, other, key=lambda one: (one.enrolled_at, one.enrolled_by))
        namer = min(self, other, key=lambda one: (one.rank, one.since, one.by))
        return replace(namer, enrolled_at=first.enrolled_at, enrolled_by=first.enrolled_by)


class Accounts:
    """The best of what a stream of entries tells, in memory that grows with participants and not with entries."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.told: dict[str, Told] = {}
        self.add(entries)

    def add(self, entries: Iterable[Entry]) -> None:
        """Takes further entries, each once."""
        for entry in entries:
            for participant_id, told in _told_by(entry):
                self.told[participant_id] = told.best(self.told.get(participant_id))

    def records(self, edits: Mapping[str, ParticipantEdit]) -> list[Record]:
        """The records of all participants, given all edits, in order of their ids."""
        members = _members({key: edit.merged_into for key, edit in edits.items() if edit.merged_into})
        ids = sorted({*self.told, *members})
        records = (_record(key, members.get(key, {key}), self.told, edits.get) for key in ids)
        return [record for record in records if record is not None]


def computed(participant_id: str, entries: Iterable[Entry], edits: Mapping[str, ParticipantEdit]) -> Record | None:
    """The record of one participant from all entries and edits that concern it; None if no recording lists it."""
    records = Accounts(entries).records(edits)
    return next((record for record in records if record["participant_id"] == participant_id), None)


def concerned(
    table: pa.Table, entries: Collection[Entry], *, edited: Collection[str] = (), gone: Collection[str] = ()
) -> dict[str, Record]:
    """The records, by id, that `advance` has to see of a whole participants table."""
    hashes = pa.array([*(entry.recording.recording_hash for entry in entries), *gone], pa.string())
    ids = {*edited, *(key for entry in entries for key in entry.recording.participant_ids)}
    is_concerned = pc.or_(
        pc.or_(pc.is_in(table["enrolled_by"], hashes), pc.is_in(table["named_by"], hashes)),
        pc.is_valid(table["merged_into"]),
    )
    records: dict[str, Record] = {}
    for record in table.filter(is_concerned).to_pylist():
        records[record["participant_id"]] = record
        ids.add(record["merged_into"])
    named = pc.is_in(table["participant_id"], pa.array(sorted(ids - {None}), pa.string()))
    return records | {record["participant_id"]: record for record in table.filter(named).to_pylist()}


def advance(
    records: Mapping[str, Record],
    entries: Collection[Entry],
    *,
    edited: Collection[str] = (),
    gone: Collection[str] = (),
    edit_of: EditOf,
    entries_of: EntriesOf,
) -> dict[str, Record | None]:
    """The records that are others once these entries and edits are known; None: no recording lists it any more.

    `records` are at least those of `concerned`; `edited` are the ids whose edit is newer than they are; `gone` are
    hashes that have no entry any more. `edit_of` is asked for edited, new and formerly edited participants only, and
    `entries_of` only where a record must be computed anew.
    """
    return _Advance(records, entries, edited, gone, edit_of, entries_of).run()


class _Advance:
    def __init__(
        self,
        records: Mapping[str, Record],
        entries: Collection[Entry],
        edited: Collection[str],
        gone: Collection[str],
        edit_of: EditOf,
        entries_of: EntriesOf,
    ) -> None:
        self._records, self._entries, self._edited = records, entries, set(edited)
        self._hashes = {*gone, *(entry.recording.recording_hash for entry in entries)}
        self._edit_of, self._entries_of = cache(edit_of), entries_of
        self._new: dict[str, Record] = {}
        self._anew: set[str] = set()

    def run(self) -> dict[str, Record | None]:
        fresh: dict[str, Told] = {}
        self._compute_anew_what_edits_change(self._edited)
        self._look_for_what_was_dropped()
        for entry in self._entries:
            for key, told in _told_by(entry):
                if key not in self._records:
                    fresh[key] = told.best(fresh.get(key))
                for target in self._upwards(key):
                    self._improve(target, told, is_its_own=target == key)
        merged = {*self._records, *fresh, *self._edited}
        self._anew |= fresh.keys() & {above for key in merged for above in self._upwards(key)[1:]}
        for key in fresh.keys() - self._anew:
            if record := _record(key, {key}, fresh, self._edit_of):
                self._new[key] = record
        changed: dict[str, Record | None] = {**self._new, **self._computed_anew(merged)}
        return {key: record for key, record in changed.items() if record != self._records.get(key)}

    def _look_for_what_was_dropped(self) -> None:
        listed = {
            (entry.recording.recording_hash, key) for entry in self._entries for key in entry.recording.participant_ids
        }
        for key, record in self._records.items():
            if any(told_by in self._hashes and (told_by, key) not in listed for told_by in _tellers(record)):
                self._anew |= {key, *self._upwards(key)}

    def _improve(self, key: str, told: Told, *, is_its_own: bool) -> None:
        record = self._new.get(key) or self._records.get(key)
        if key in self._anew:
            return
        if record is None:
            if not is_its_own:
                self._anew.add(key)
            return
        edit = self._edit_of(key) if record["seq"] else None
        improved = _improved(record, told, edit.display_name if edit else None, is_its_own=is_its_own)
        if improved is None:
            # Whoever has none of its own may be called as this one is.
            self._anew |= {key, *self._upwards(key)}
        else:
            self._new[key] = improved

    def _compute_anew_what_edits_change(self, edited: Collection[str]) -> None:
        for key in edited:
            self._anew |= {*self._upwards(key), *_chain(key, self._merged_into_before)}

    def _take_in_newer_edits(self) -> None:
        """An edit that came since `edited` was found must move all that it moves, or be left for the next time."""
        while newer := {
            key
            for key in (self._anew & self._records.keys()) - self._edited
            if self._seq(key) != self._records[key]["seq"]
        }:
            self._edited |= newer
            self._compute_anew_what_edits_change(newer)

    def _computed_anew(self, merged: Iterable[str]) -> dict[str, Record | None]:
        if not self._anew:
            return {}
        self._take_in_newer_edits()
        known = {one for key in {*merged, *self._anew} for one in self._upwards(key)}
        members = _members({key: above for key in known if (above := self._merged_into(key))})
        needed = {member for key in self._anew for member in members.get(key, {key})}
        accounts = Accounts(
            entry for entry in self._entries_of(needed) if entry.recording.recording_hash not in self._hashes
        )
        accounts.add(self._entries)
        return {key: _record(key, members.get(key, {key}), accounts.told, self._edit_of) for key in self._anew}

    def _seq(self, key: str) -> int:
        edit = self._edit_of(key)
        return edit.seq if edit else 0

    def _upwards(self, key: str) -> list[str]:
        return _chain(key, self._merged_into)

    def _merged_into(self, key: str) -> str | None:
        if key in self._edited or key not in self._records:
            edit = self._edit_of(key)
            return edit.merged_into if edit else None
        return self._records[key]["merged_into"]

    def _merged_into_before(self, key: str) -> str | None:
        return self._records[key]["merged_into"] if key in self._records else None


def _tellers(record: Record) -> tuple[str | None, str | None]:
    return record["enrolled_by"], record["named_by"]


def _told_by(entry: Entry) -> Iterator[tuple[str, Told]]:
    recording, rows = entry.recording, {row.participant_id: row for row in entry.participants}
    start, by = recording.start_time, recording.recording_hash
    for key in dict.fromkeys(recording.participant_ids):
        row = rows.get(key)
        if row is None:
            yield key, Told(start, by, _BARE, start, by, None, None)
            continue
        metadata, extra = row.metadata or None, extra_of(row)
        rank = _NAMED if (metadata or {}).get("display_name") else _DESCRIBED if metadata or extra else _BARE
        yield key, Told(row.enrolled_at, by, rank, start, by, json_of(metadata), extra)


def _improved(record: Record, told: Told, edited_name: str | None, *, is_its_own: bool) -> Record | None:
    """The record with what an entry tells now, or None if it has to be computed anew."""
    if record["enrolled_by"] == told.enrolled_by and told.enrolled_at > record["enrolled_at"]:
        return None
    new = dict(record)
    if (told.enrolled_at, told.enrolled_by) < (record["enrolled_at"], record["enrolled_by"]):
        new |= {"enrolled_at": told.enrolled_at, "enrolled_by": told.enrolled_by}
    rank = _NAMED if record["named_since"] else _DESCRIBED if record["named_by"] else _BARE
    if not is_its_own:
        return new if rank == _NAMED or edited_name else None
    if rank == told.rank == _BARE or (told.rank > rank and told.by != record["named_by"]):
        return new
    if rank != _NAMED:
        return None
    if told.by == record["named_by"]:
        if told.rank != _NAMED or told.since > record["named_since"]:
            return None
    elif (told.since, told.by) > (record["named_since"], record["named_by"]):
        return new
    return new | _described(told, edited_name or _name_of(told))


def _record(key: str, members: Collection[str], told: Mapping[str, Told], edit_of: EditOf) -> Record | None:
    accounts = [told[member] for member in members if member in told]
    if not accounts:
        return None
    first = min(accounts, key=lambda one: (one.enrolled_at, one.enrolled_by))
    edit, own = edit_of(key), told.get(key)
    name = (edit.display_name if edit else None) or (_name_of(own) if own else None)
    return {
        "participant_id": key,
        "enrolled_at": first.enrolled_at,
        "merged_into": edit.merged_into if edit else None,
        "enrolled_by": first.enrolled_by,
        "seq": edit.seq if edit else 0,
        **_described(own, name or _borrowed_name(sorted({*members} - {key}), told, edit_of)),
    }


def _described(own: Told | None, name: str | None) -> Record:
    metadata = json.loads(own.metadata) if own and own.metadata else {}
    return {
        "metadata": json_of({**metadata, **({"display_name": name} if name else {})} or None),
        "extra": own.extra if own else None,
        "named_by": own.by if own and own.rank != _BARE else None,
        "named_since": own.since if own and own.rank == _NAMED else None,
    }


def _borrowed_name(others: Iterable[str], told: Mapping[str, Told], edit_of: EditOf) -> str | None:
    """The name of the first of those that were merged into a participant which has none of its own."""
    names = []
    for key in others:
        edit, own = edit_of(key), told.get(key)
        if own is not None and (name := (edit.display_name if edit else None) or _name_of(own)):
            # What nobody typed has no recording that it could be ordered by.
            names.append(((0, own.since, own.by, key) if own.rank == _NAMED else (1, key), name))
    return min(names)[1] if names else None


def _name_of(told: Told) -> str | None:
    return json.loads(told.metadata or "{}").get("display_name") or None


def _chain(key: str, merged_into: Callable[[str], str | None]) -> list[str]:
    """A participant, whom it was merged into, whom that one was, and so on; a circle ends where it began."""
    chain = [key]
    while (above := merged_into(chain[-1])) is not None and above not in chain:
        chain.append(above)
    return chain


def _members(merged_into: Mapping[str, str]) -> dict[str, set[str]]:
    """For each that somebody was merged into: itself and all who were, directly or not."""
    members: dict[str, set[str]] = {}
    for key in merged_into:
        for above in _chain(key, merged_into.get)[1:]:
            members.setdefault(above, {above}).add(key)
    return members
