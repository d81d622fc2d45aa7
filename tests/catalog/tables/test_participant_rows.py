"""The participants table follows from entries and edits, in whatever order and portions they become known."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ursa_pipelines.catalog.edits import ParticipantEdit
from ursa_pipelines.catalog.entries import Entry
from ursa_pipelines.catalog.tables.participants import Accounts, Record, advance, computed, concerned
from ursa_pipelines.catalog.tables.schemas import SCHEMAS, row_of
from ursa_pipelines.recordings.rows import ParticipantRow, RecordingRow

DAY = datetime(2026, 5, 1, tzinfo=UTC)
IDS = ("p_a", "p_b", "p_c")


def test_a_participant_is_enrolled_at_the_earliest_moment_and_called_as_the_earliest_recording_says():
    early, late = entry("h1", 1, p_a=None), entry("h2", 2, p_a="Aria")

    record = computed("p_a", [late, entry("h3", 3, p_a="Ariadne"), early], {})

    assert record is not None
    assert (record["enrolled_at"], record["enrolled_by"]) == (DAY + timedelta(days=1), "h1")
    assert (name(record), record["named_by"]) == ("Aria", "h2")
    assert row_of("participants", record).primary_key == (("participant_id", "p_a"),)


def test_an_edit_names_a_participant_whatever_was_typed():
    edits = {"p_a": ParticipantEdit(participant_id="p_a", seq=2, display_name="Dr Aria")}

    record = computed("p_a", [entry("h1", 1, p_a="Aria")], edits)

    assert record is not None
    assert (name(record), record["seq"]) == ("Dr Aria", 2)


def test_who_is_merged_into_another_keeps_the_record_and_gives_the_moment_of_enrolment():
    entries = [entry("h1", 1, p_a="Arya"), entry("h2", 2, p_b="Aria")]
    edits = {"p_a": ParticipantEdit(participant_id="p_a", seq=1, merged_into="p_b")}

    of_a, of_b = Accounts(entries).records(edits)

    assert (of_a["merged_into"], name(of_a)) == ("p_b", "Arya")
    assert (of_b["enrolled_by"], name(of_b), of_b["named_by"]) == ("h1", "Aria", "h2")


def test_a_participant_without_a_name_borrows_that_of_one_who_was_merged_into_it():
    entries = [entry("h1", 1, p_a="Arya"), entry("h2", 2, p_b=None)]
    edits = {"p_a": ParticipantEdit(participant_id="p_a", seq=1, merged_into="p_b")}

    record = computed("p_b", entries, edits)

    assert record is not None
    assert (name(record), record["named_by"]) == ("Arya", None)


def test_a_recording_speaks_only_of_the_participants_it_lists():
    told = entry("h1", 1, p_a="Aria")
    dropped = told.model_copy(update={"recording": told.recording.model_copy(update={"participant_ids": []})})

    assert computed("p_a", [dropped], {}) is None


def test_other_entries_are_read_only_where_a_record_may_have_got_worse():
    table = Table()
    table.fold([entry("h1", 1, p_a="Aria"), entry("h2", 2, p_a="Ariadne")], {})
    table.fold([entry("h3", 3, p_a="Arya", p_b="Bo"), entry("h0", 0, p_a="First")], {})
    assert table.read == 0

    table.fold([entry("h0", 5, p_a="First")], {})

    assert table.read == 1
    assert name(table.records["p_a"]) == "Aria"


@dataclass(frozen=True)
class Step:
    """What is new at one moment: entries (None: removed) and edits. `unseen` edits are written, but not yet told."""

    entries: dict[str, Entry | None]
    edits: dict[str, tuple[str | None, str | None]]
    unseen: dict[str, tuple[str | None, str | None]]


class Table:
    """A participants table that is advanced step by step, beside the entries and edits that it follows."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.entries: dict[str, Entry] = {}
        self.edits: dict[str, ParticipantEdit] = {}
        self.read = 0

    def fold(
        self,
        entries: Iterable[Entry],
        edits: dict[str, tuple[str | None, str | None]],
        *,
        gone: Collection[str] = (),
        edited: Collection[str] = (),
    ) -> None:
        entries = list(entries)
        self.entries |= {one.recording.recording_hash: one for one in entries}
        for key in gone:
            self.entries.pop(key, None)
        self.edit(edits)
        edited = {*edits, *edited}
        whole = pa.Table.from_pylist(list(self.records.values()), schema=SCHEMAS["participants"])
        changes = advance(
            concerned(whole, entries, edited=edited, gone=gone),
            entries,
            edited=edited,
            gone=gone,
            edit_of=self.edits.get,
            entries_of=self._entries_of,
        )
        for key, record in changes.items():
            if record is None:
                del self.records[key]
            else:
                self.records[key] = record

    def edit(self, edits: dict[str, tuple[str | None, str | None]]) -> None:
        for key, (display_name, merged_into) in edits.items():
            seq = self.edits[key].seq + 1 if key in self.edits else 1
            self.edits[key] = ParticipantEdit(
                participant_id=key, seq=seq, display_name=display_name, merged_into=merged_into
            )

    def _entries_of(self, ids: Collection[str]) -> list[Entry]:
        self.read += 1
        return [one for one in self.entries.values() if set(ids) & set(one.recording.participant_ids)]


def entry(recording_hash: str, day: int, enrolled: int | None = None, **participants: str | None) -> Entry:
    start = DAY + timedelta(days=day)
    rows = [
        ParticipantRow(
            participant_id=key,
            enrolled_at=start if enrolled is None else DAY + timedelta(days=enrolled),
            metadata={"display_name": spelling} if spelling else {"note": "x"} if spelling == "" else None,
        )
        for key, spelling in participants.items()
    ]
    recording = RecordingRow(
        recording_hash=recording_hash, participant_ids=list(participants), start_time=start, duration=timedelta(0)
    )
    return Entry(seq=1, recording=recording, participants=rows)


def name(record: Record) -> Any:
    row = row_of("participants", record)
    return (row.metadata or {}).get("display_name")  # type: ignore[attr-defined]


hashes = st.sampled_from(["h1", "h2", "h3", "h4"])
days = st.integers(0, 3)
participants = st.dictionaries(st.sampled_from(IDS), st.sampled_from([None, "", "Aria", "Bo"]), max_size=3)
edits = st.dictionaries(
    st.sampled_from(IDS),
    st.tuples(st.sampled_from([None, "Edited", "Other"]), st.sampled_from([None, *IDS])),
    max_size=2,
)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    of_hash = draw(
        st.dictionaries(hashes, st.one_of(st.none(), st.tuples(days, st.none() | days, participants)), max_size=3)
    )
    entries = {key: entry(key, one[0], one[1], **one[2]) if one else None for key, one in of_hash.items()}
    return Step(entries, draw(edits), draw(edits))


@settings(max_examples=400, deadline=None)
@given(st.lists(steps(), max_size=6))
def test_any_portions_in_any_order_give_what_computing_from_scratch_gives(history: list[Step]):
    table = Table()
    unseen: set[str] = set()
    for step in history:
        entries = [one for one in step.entries.values() if one]
        gone = [key for key, one in step.entries.items() if one is None]
        # These come after the fold has looked for edits: it may read them before it is told of them.
        table.edit(step.unseen)
        table.fold(entries, step.edits, gone=gone, edited=unseen)
        unseen = set(step.unseen)
    table.fold([], {}, edited=unseen)

    expected = Accounts(table.entries.values()).records(table.edits)

    assert sorted(table.records.values(), key=lambda one: one["participant_id"]) == expected
    assert expected == Accounts(reversed(table.entries.values())).records(table.edits)
