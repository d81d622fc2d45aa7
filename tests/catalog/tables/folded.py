"""What the tables of a lab should hold and do hold, and recordings to register."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from deltalake import DeltaTable

from tests.lab import Lab
from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.edits import read_edit
from ursa_pipelines.catalog.entries import Entry, Writer, entry_key, read_entry
from ursa_pipelines.catalog.tables.delta import open_table
from ursa_pipelines.catalog.tables.head import read_head
from ursa_pipelines.catalog.tables.participants import Accounts
from ursa_pipelines.catalog.tables.schemas import TABLES, events_of, modalities_of, recordings_of
from ursa_pipelines.catalog.tail import read_tail
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Rows, StorageFormat

PREFIX = "ursa/catalog"
START = datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
BY = Writer(by="test")

Records = dict[str, list[dict[str, Any]]]


def rows(number: int, *, day: int = 0, size: int = 1, participants: tuple[str, ...] = ("Aria",)) -> Rows:
    """A recording with two modalities, `day` days after the others; its participants' ids are made of their names."""
    start = START + timedelta(days=day, seconds=number)
    hash_ = f"{number:064x}"
    recording = RecordingRow(
        recording_hash=hash_,
        participant_ids=sorted(f"p_{name.lower()}" for name in participants),
        start_time=start,
        duration=timedelta(minutes=1),
        ended_at=start + timedelta(minutes=1),
        metadata={"manifest_recording_id": f"rec_20260520_195628_{number:04x}"},
    )
    modalities = tuple(
        ModalityRow(recording_hash=hash_, modality=family, format=StorageFormat.RAW_VIDEO, bytes=size)
        for family in ("camera", "mic")
    )
    people = tuple(
        ParticipantRow(participant_id=f"p_{name.lower()}", enrolled_at=start, metadata={"display_name": name})
        for name in sorted(participants)
    )
    return Rows(recording, modalities, people)


def write(lab: Lab, new: Rows, *, overwrite: bool = True) -> Entry:
    """Registers the rows, or puts them in place of those that are there."""
    return lab.data.catalog.write(
        new.recording.recording_hash,
        lambda _: policies.ingest(new, overwrite=overwrite),
        rec_id=new.recording.rec_id,
        hash_is_stated=True,
        op="test",
        writer=BY,
    ).entry


def rows_in_tables(lab: Lab) -> Records:
    """What the tables hold at the versions that HEAD names."""
    found = read_head(lab.assets, PREFIX)
    assert found is not None
    return {name: _records(_table(lab, name, found[0].versions[name])) for name in TABLES}


def rows_of_entries(lab: Lab) -> Records:
    """What the tables should hold, from the entries and edits alone."""
    keys = [info.key for info in lab.assets.list_objects(f"{PREFIX}/entries/")]
    found = [read_entry(lab.assets, PREFIX, key.rpartition("/")[2].removesuffix(".json")) for key in keys]
    pairs = [pair for pair in found if pair is not None]
    assert [entry_key(PREFIX, entry.recording.recording_hash) for entry, _ in pairs] == keys
    ids = [info.key.rpartition("/")[2] for info in lab.assets.list_objects(f"{PREFIX}/participants/")]
    edits = [read_edit(lab.assets, PREFIX, name.removesuffix(".json")) for name in ids]
    people = Accounts(entry for entry, _ in pairs).records(
        {edit.participant_id: edit for edit, _ in filter(None, edits)}
    )
    tables = {"recordings": recordings_of(pairs), "modalities": modalities_of(pairs), "events": events_of(pairs)}
    return {**{name: _sorted(table.to_pylist()) for name, table in tables.items()}, "participants": _sorted(people)}


def marks(lab: Lab) -> list[str]:
    """The names that the tail marks."""
    return sorted(name for mark in read_tail(lab.assets, PREFIX) for name in mark.names)


def delete_tables(lab: Lab) -> None:
    """What somebody does who knows that the entries hold everything."""
    for info in list(lab.assets.list_objects(f"{PREFIX}/tables/")):
        lab.assets.wire.delete(info.key)


def _table(lab: Lab, name: str, version: int) -> DeltaTable:
    table = open_table(lab.assets, PREFIX, name, version)
    assert table is not None
    return table


def _records(table: DeltaTable) -> list[dict[str, Any]]:
    return _sorted(table.to_pyarrow_table().to_pylist())


def _sorted(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(({key: record[key] for key in sorted(record)} for record in records), key=repr)
