"""Recordings of a catalog to measure, each made from its number, and tables and entries of many of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from ursa_pipelines.catalog import policies
from ursa_pipelines.catalog.claims import claim
from ursa_pipelines.catalog.entries import Entry, LogItem, Writer, entry_key
from ursa_pipelines.catalog.pointer import DEFAULT_PREFIX
from ursa_pipelines.catalog.tables import delta
from ursa_pipelines.catalog.tables.head import stamp, swap
from ursa_pipelines.catalog.tables.participants import Accounts
from ursa_pipelines.catalog.tables.schemas import SCHEMAS, TABLES, events_of, modalities_of, month_of, recordings_of
from ursa_pipelines.catalog.writing import Change
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.identity import derive_participant_id
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Rows, infer_format

FAMILIES = ("battery", "browser", "camera", "eeg", "keyboard", "location", "mic", "mouse", "notes", "screen")
NEW_FAMILIES = ("camera", "eeg", "mic", "notes")
FIRST_HALF = NEW_FAMILIES[:2]
PEOPLE = 500
BEGIN, END = datetime(2023, 6, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
WEEK = (datetime(2026, 3, 9, tzinfo=UTC), datetime(2026, 3, 16, tzinfo=UTC))
BY = Writer("bench")
ALL_ENTRIES_UP_TO, SOME_ENTRIES, SEEDERS = 100_000, 2_000, 32


def hash_of(number: int) -> str:
    return hashlib.sha256(f"recording {number}".encode()).hexdigest()


def start_of(size: int, number: int) -> datetime:
    """What is seeded spreads evenly over all months; what comes later began in the last week."""
    if number < size:
        return BEGIN + timedelta(seconds=(END - BEGIN) // timedelta(seconds=1) * number // size)
    return END - timedelta(days=7) + timedelta(seconds=number - size)


def rec_id_of(number: int, start: datetime) -> str:
    return f"rec_{start:%Y%m%d_%H%M%S}_{number:06x}"


def uri_of(rec_id: str, family: str) -> str:
    return f"r2://constellation-data/recordings/{rec_id}/{family}/"


def bytes_of(number: Any, at: Any) -> Any:
    return 1_000_000 + (number * 7919 + at * 104_729) % 900_000_000


def rows_of(size: int, number: int, recording_hash: str, families: Sequence[str]) -> Rows:
    start = start_of(size, number)
    rec_id, name = rec_id_of(number, start), f"Participant {number % PEOPLE}"
    node_of = {family: "green-mantis" if family in FIRST_HALF else "green-motor" for family in families}
    nodes = sorted(set(node_of.values()))
    person = ParticipantRow(
        participant_id=derive_participant_id(name), enrolled_at=start, metadata={"display_name": name}
    )
    recording = RecordingRow(
        recording_hash=recording_hash,
        participant_ids=[person.participant_id],
        start_time=start,
        duration=timedelta(minutes=31),
        ended_at=start + timedelta(minutes=31),
        device_info={node: {"os": "macOS 15.4"} for node in nodes},
        metadata={
            "manifest_recording_id": rec_id,
            "files": 31 * len(families),
            "nodes": nodes,
            "nodes_missing": [],
            "verification": "sha256",
            "ingested_from": "nas",
            "registered_by": BY.by,
        },
    )
    modalities = tuple(
        ModalityRow(
            recording_hash=recording_hash,
            modality=family,
            format=infer_format(family, ())[0],
            raw_storage_uri=uri_of(rec_id, family),
            segment_count=31,
            bytes=bytes_of(number, at),
            metadata={"nodes": [node_of[family]]},
        )
        for at, family in enumerate(families)
    )
    return Rows(recording, modalities, (person,))


def change_of(size: int, number: int, *, is_stated: bool, families: Sequence[str] = NEW_FAMILIES) -> Change:
    """As an ingest registers it. A hash that is derived is another one for each set of files."""
    recording_hash = hash_of(number) if is_stated else hashlib.sha256(f"{number} {families}".encode()).hexdigest()
    rows = partial(rows_of, size, number, families=families)
    nodes = (rows(recording_hash).recording.metadata or {})["nodes"]

    def resolve_for(meant: str) -> policies.Resolve:
        return policies.ingest(rows(meant), overwrite=False, source_nodes=nodes)

    rec_id = rec_id_of(number, start_of(size, number))
    return Change(recording_hash, is_stated, rec_id, resolve_for, "ingest", BY)


def sample_of(asked: str, size: int) -> range:
    """The numbers of the recordings whose entries are written, evenly spread."""
    count = {"all": size, "auto": size if size <= ALL_ENTRIES_UP_TO else SOME_ENTRIES}.get(asked)
    count = min(max(1, int(asked)) if count is None else count, size)
    return range(0, size, size // count)[:count] if count else range(0)


def seed(assets: Bucket, size: int, sample: range, tell: Callable[[str], None]) -> None:
    """Writes tables of so many recordings, each month one file, the entries of the sample, and HEAD."""
    if not size:
        return
    head, etag = stamp(assets, DEFAULT_PREFIX)
    tables = {name: delta.open_or_create(assets, DEFAULT_PREFIX, name) for name in TABLES}
    accounts = Accounts(
        entry_of(rows_of(size, number, hash_of(number), FAMILIES))[0] for number in range(min(PEOPLE, size))
    )
    people = pa.Table.from_pylist(accounts.records({}), schema=SCHEMAS["participants"])
    delta.append(tables["participants"], people, head.gen, {})
    with ThreadPoolExecutor(SEEDERS) as pool:
        for month, several in groupby(range(size), lambda number: month_of(start_of(size, number))):
            numbers = list(several)
            etags = dict(pool.map(partial(seed_entry, assets, size), (one for one in numbers if one in sample)))
            for name, rows in tables_of(size, numbers, etags).items():
                delta.append(tables[name], rows, head.gen, {})
            tell(f"seeded {month}: {numbers[-1] + 1:,} of {size:,}")
    versions = {name: table.version() for name, table in tables.items()}
    assert swap(assets, DEFAULT_PREFIX, head, etag, versions=versions, epoch=1, by=BY.by)


def seed_entry(assets: Bucket, size: int, number: int) -> tuple[int, str]:
    entry, _ = entry_of(rows_of(size, number, hash_of(number), FAMILIES))
    row = entry.recording
    claim(assets, DEFAULT_PREFIX, row.rec_id or "", row.recording_hash, entry.log[0].txn)
    key = entry_key(DEFAULT_PREFIX, row.recording_hash)
    return number, assets.create(key, entry.model_dump_json().encode()).etag


def entry_of(rows: Rows) -> tuple[Entry, str]:
    """The entry of rows that were registered as soon as the recording had ended, and some ETag."""
    at, recording_hash = rows.recording.start_time + timedelta(hours=1), rows.recording.recording_hash
    entry = Entry(
        seq=1,
        recording=rows.recording,
        modalities=list(rows.modalities),
        participants=list(rows.participants),
        months=[month_of(rows.recording.start_time)],
        log=[LogItem(txn=recording_hash[:16], op="ingest", by=BY.by, at=at, seq=1)],
    )
    return entry, f'"{recording_hash[:32]}"'


def tables_of(size: int, numbers: Sequence[int], etags: dict[int, str]) -> dict[str, pa.Table]:
    """The rows of recordings of one month, made by repeating those of the first and filling in what differs."""
    first, last = (entry_of(rows_of(size, number, hash_of(number), FAMILIES)) for number in (numbers[0], numbers[-1]))
    count, each = len(numbers), len(FAMILIES)
    hashes = [hash_of(number) for number in numbers]
    starts = [start_of(size, number) for number in numbers]
    rec_ids = [rec_id_of(number, start) for number, start in zip(numbers, starts, strict=True)]
    people = [derive_participant_id(f"Participant {number}") for number in range(PEOPLE)]
    documents = recordings_of([first]).column("metadata")[0].as_py().split(rec_ids[0])
    filled = {
        "recordings": {
            "recording_hash": hashes,
            "rec_id": rec_ids,
            "start_time": starts,
            "ended_at": [start + timedelta(minutes=31) for start in starts],
            "participant_ids": [[people[number % PEOPLE]] for number in numbers],
            "metadata": [rec_id.join(documents) for rec_id in rec_ids],
            "etag": [etags.get(number, f'"{name[:32]}"') for number, name in zip(numbers, hashes, strict=True)],
        },
        "modalities": {
            "recording_hash": np.repeat(hashes, each),
            "raw_storage_uri": [uri_of(rec_id, family) for rec_id in rec_ids for family in FAMILIES],
            "bytes": bytes_of(np.repeat(np.array(numbers), each), np.tile(np.arange(each), count)),
            "start_time": np.repeat(np.array([start.replace(tzinfo=None) for start in starts], "M8[us]"), each),
        },
        "events": {
            "recording_hash": hashes,
            "event_time": [start + timedelta(hours=1) for start in starts],
            "txn": [name[:16] for name in hashes],
        },
    }
    made = {}
    for name, folded in (("recordings", recordings_of), ("modalities", modalities_of), ("events", events_of)):
        pattern = folded([first])
        table = pattern.take(pa.array(np.tile(np.arange(pattern.num_rows), count)))
        for column, values in filled[name].items():
            at, column_field = table.schema.get_field_index(column), SCHEMAS[name].field(column)
            table = table.set_column(at, column_field, pa.array(values).cast(column_field.type))
        assert table.slice(table.num_rows - pattern.num_rows).equals(
            folded([(last[0], etags.get(numbers[-1], last[1]))])
        )
        made[name] = table
    return made
