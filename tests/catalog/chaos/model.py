"""What the catalog has to hold, in plain Python: written from docs/catalog.md, and sharing no code with the package.

A state is a value. An operation is a dictionary that a worker can carry out and that `apply` understands; `outcomes`
gives every state that some order of operations leads to, given what each of them was answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

Operation = Mapping[str, Any]
Answer = Any
"""What an operation came to: a value of `facts`, `Edit` or worker, or the name of an error as `Refused`."""

Modality = tuple[str, str | None]


@dataclass(frozen=True)
class Refused:
    """The class name of the error that was raised."""

    error: str


class Maybe:
    """Stands for the answer of an operation that was killed, or whose end nobody was told of."""


MAYBE = Maybe()


@dataclass(frozen=True)
class Recording:
    """All rows of one recording. `people` are the participants rows: (id, enrolled_at, display name)."""

    rec_id: str | None
    participants: tuple[str, ...]
    start: datetime
    duration: timedelta
    study: str | None
    modalities: tuple[tuple[str, str | None, int], ...] = ()
    people: tuple[tuple[str, datetime, str | None], ...] = ()

    @property
    def ended_at(self) -> datetime | None:
        return self.start + self.duration if self.duration else None

    @property
    def row(self) -> tuple[Any, ...]:
        """What the recording row says."""
        return (self.rec_id, self.participants, self.start, self.duration, self.ended_at, self.study)

    @property
    def seen(self) -> tuple[Any, ...]:
        """What a query tells of it."""
        return (self.row, frozenset(self.modalities))


@dataclass(frozen=True)
class Edit:
    """What people decided about a participant."""

    display_name: str | None = None
    merged_into: str | None = None


@dataclass(frozen=True)
class State:
    """The truth: recordings by hash, edits by participant, owners by rec_id; each in order of its key."""

    recordings: tuple[tuple[str, Recording], ...] = ()
    edits: tuple[tuple[str, Edit], ...] = ()
    claims: tuple[tuple[str, str], ...] = field(default=())

    def with_recording(self, recording_hash: str, recording: Recording) -> State:
        state = replace(self, recordings=_with(self.recordings, recording_hash, recording))
        return state.with_claim(recording.rec_id, recording_hash)

    def with_claim(self, rec_id: str | None, recording_hash: str) -> State:
        return self if rec_id is None else replace(self, claims=_with(self.claims, rec_id, recording_hash))

    def with_edit(self, participant_id: str, edit: Edit) -> State:
        return replace(self, edits=_with(self.edits, participant_id, edit))


def outcomes(state: State, done: Sequence[tuple[Operation, Answer]]) -> set[State]:
    """Every state that the operations may have led to in some order that explains their answers; none explains: {}.

    A write whose answer was lost is told of by the entry as it stands when it is read again, and others may have
    changed that meanwhile: so a write may be `untold` for a while.
    """
    steps = [(step, MAYBE if answer is MAYBE else part) for op, answer in done for step, part in _steps(op, answer)]
    seen: set[tuple[State, frozenset[int], frozenset[int]]] = set()
    ends: set[State] = set()

    def search(now: State, left: frozenset[int], untold: frozenset[int]) -> None:
        if (now, left, untold) in seen:
            return
        seen.add((now, left, untold))
        if not left and not untold:
            ends.add(now)
        for index in untold:
            step, answer = steps[index]
            if _told(dict(now.recordings)[step["hash"]], step) == answer:
                search(now, left, untold - {index})
        for index in left:
            step, answer = steps[index]
            for after, given in _possible(now, step, answer):
                if answer is MAYBE or given == answer:
                    search(after, left - {index}, untold)
                elif after != now and step["op"] not in {"edit", "read"}:
                    search(after, left - {index}, untold | {index})

    search(state, frozenset(range(len(steps))), frozenset())
    return ends


def apply(state: State, step: Operation) -> tuple[State, Answer]:
    """The state after one atomic operation, and what it is answered."""
    if step["op"] == "edit":
        before = dict(state.edits).get(step["participant"], Edit())
        after = replace(before, **step["change"])
        return (state if after == before else state.with_edit(step["participant"], after)), after
    if step["op"] == "read":
        found = dict(state.recordings).get(step["hash"])
        return state, None if found is None else found.seen
    recording_hash = step["hash"]
    existing = dict(state.recordings).get(recording_hash)
    wanted = _resolve(existing, step)
    if isinstance(wanted, Refused):
        return state, wanted
    if wanted != existing:
        if wanted.rec_id is not None and dict(state.claims).get(wanted.rec_id, recording_hash) != recording_hash:
            return state, Refused("RecordingConflict")
        state = state.with_recording(recording_hash, wanted)
    return state, _told(wanted, step)


def participants(state: State) -> dict[str, tuple[datetime, str | None, str | None]]:
    """The participants table: id to (enrolled_at, display name, merged_into)."""
    edits = dict(state.edits)
    told: dict[str, list[tuple[datetime, str, datetime, str | None]]] = {}
    for recording_hash, recording in state.recordings:
        rows = {key: (enrolled_at, name) for key, enrolled_at, name in recording.people}
        for key in recording.participants:
            enrolled_at, name = rows.get(key, (recording.start, None))
            told.setdefault(key, []).append((recording.start, recording_hash, enrolled_at, name))

    def own_name(key: str) -> tuple[datetime, str, str] | None:
        return min(((start, by, name) for start, by, _, name in told.get(key, ()) if name), default=None)

    def given_name(key: str) -> str | None:
        edit = edits.get(key, Edit())
        return edit.display_name or (own_name(key) or (None, None, None))[2]

    def borrowed_name(others: set[str]) -> str | None:
        typed = [(own[:2], given_name(key)) for key in others if (own := own_name(key))]
        decided = [(key, given_name(key)) for key in others if key in told and given_name(key)]
        return min(typed)[1] if typed else min(decided)[1] if decided else None

    found = {}
    for key in {*told, *spellings_of_all(state)}:
        members = spellings(state, key)
        moments = [enrolled_at for member in members for _, _, enrolled_at, _ in told.get(member, ())]
        if moments:
            name = given_name(key) or borrowed_name(members - {key})
            found[key] = (min(moments), name, edits.get(key, Edit()).merged_into)
    return found


def spellings(state: State, participant_id: str) -> set[str]:
    """A participant and all who were merged into it, directly or not."""
    ids = {participant_id}
    while more := {key for key, edit in state.edits if edit.merged_into in ids} - ids:
        ids |= more
    return ids


def spellings_of_all(state: State) -> set[str]:
    """Everybody that somebody was merged into."""
    return {edit.merged_into for _, edit in state.edits if edit.merged_into}


def keys_touched(op: Operation) -> set[str]:
    """The recordings that an operation may change."""
    return set() if op["op"] == "read" else {step["hash"] for step, _ in _steps(op, MAYBE) if "hash" in step}


def _steps(op: Operation, answer: Answer) -> Iterator[tuple[Operation, Answer]]:
    """The atomic operations that an operation consists of, with the answer to each."""
    if op["op"] == "register_recordings":
        answers = [MAYBE] * len(op["rows"]) if answer is MAYBE else answer
        for row, one in zip(op["rows"], answers, strict=True):
            yield {"op": "register_recording", "policy": op["policy"], **row}, one
    elif op["op"] == "read":
        for recording_hash in op["hashes"]:
            found = MAYBE if answer is MAYBE else answer.get(recording_hash)
            yield {"op": "read", "hash": recording_hash}, found
    elif op["op"] in {"register_recording", "register_modality", "ingest", "edit"}:
        yield op, answer


def _possible(state: State, step: Operation, answer: Answer) -> Iterator[tuple[State, Answer]]:
    after, given = apply(state, step)
    yield after, given
    if answer is MAYBE:
        yield state, None
        if after != state and step.get("rec_id") is not None:
            yield state.with_claim(step["rec_id"], step["hash"]), None


def _resolve(existing: Recording | None, step: Operation) -> Recording | Refused:
    if step["op"] == "register_modality":
        return _with_modality(existing, step)
    new = Recording(step["rec_id"], tuple(sorted(step["participants"])), step["start"], step["duration"], step["study"])
    if step["op"] == "ingest":
        people = tuple((key, step["start"], name) for key, name in sorted(step["participants"].items()))
        return replace(new, modalities=_sorted(tuple(one) for one in step["modalities"]), people=people)
    if existing is None:
        return replace(new, people=_people((), new.participants, new.start))
    policy = step["policy"]
    if policy == "error":
        return existing if new.row == existing.row else Refused("CatalogRowExists")
    if policy == "extend":
        return replace(existing, duration=max(existing.duration, new.duration))
    if policy == "merge_participants":
        if replace(new, participants=existing.participants).row != existing.row:
            return Refused("CatalogConflict")
        new = replace(existing, participants=tuple(sorted({*existing.participants, *new.participants})))
    people = _people(existing.people, new.participants, new.start)
    return existing if new.row == existing.row else replace(new, modalities=existing.modalities, people=people)


def _with_modality(existing: Recording | None, step: Operation) -> Recording | Refused:
    if existing is None:
        return Refused("CatalogRowNotFound")
    new = (step["modality"], step["worker"], step["bytes"])
    old = next((one for one in existing.modalities if one[:2] == new[:2]), None)
    if old not in {None, new} and step["policy"] == "error":
        return Refused("CatalogRowExists")
    return replace(existing, modalities=_sorted([*(one for one in existing.modalities if one != old), new]))


def _told(recording: Recording, step: Operation) -> Answer:
    if step["op"] == "register_modality":
        return next((one for one in recording.modalities if one[:2] == (step["modality"], step["worker"])), None)
    return recording.row


def _people(known: Any, listed: Sequence[str], start: datetime) -> tuple[tuple[str, datetime, str | None], ...]:
    ids = {one[0] for one in known}
    return tuple(sorted([*known, *((key, start, None) for key in listed if key not in ids)], key=lambda one: one[0]))


def _sorted(modalities: Any) -> tuple[tuple[str, str | None, int], ...]:
    return tuple(sorted(modalities, key=lambda one: (one[0], one[1] or "")))


def _with(pairs: tuple[tuple[str, Any], ...], key: str, value: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted({**dict(pairs), key: value}.items()))
