"""What a catalog holds, in documents, in tables and through the package's reads, each held to the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from tests.catalog.chaos import model
from tests.catalog.chaos.model import Edit, Recording, State
from tests.lab import Lab
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.rows import RecordingRow

TABLES = ("recordings", "modalities", "participants", "events")
_DURATION = TypeAdapter(timedelta)
_ORDER = {
    "recordings": ["recording_hash"],
    "modalities": ["recording_hash", "modality", "worker_id"],
    "participants": ["participant_id"],
    "events": ["recording_hash", "seq"],
}


@dataclass(frozen=True)
class Documents:
    """All that the live catalog keeps in JSON. `marked` are the names in the tail; `head` are HEAD's versions."""

    prefix: str
    entries: dict[str, dict[str, Any]]
    etags: dict[str, str]
    marked: frozenset[str]
    head: dict[str, int]
    state: State


def read_documents(assets: Bucket) -> Documents:
    """The documents under the live prefix."""
    prefix = json.loads(assets.get("ursa/ACTIVE.json")[0])["prefix"]
    raw = {info.key.removeprefix(f"{prefix}/"): info for info in assets.list_objects(f"{prefix}/")}
    documents = {
        key: json.loads(assets.get(info.key)[0] or b"null")
        for key, info in raw.items()
        if key.partition("/")[0] in {"entries", "participants", "rec_ids", "tail", "HEAD.json"}
    }
    entries = {_name(key): one for key, one in documents.items() if key.startswith("entries/")}
    claims = {_name(key): one for key, one in documents.items() if key.startswith("rec_ids/")}
    edits = {_name(key): one for key, one in documents.items() if key.startswith("participants/")}
    marked: set[str] = set()
    for key, names in documents.items():
        if key.startswith("tail/"):
            marked |= set(names) if "/_batch." in key else {key.removeprefix("tail/").rpartition(".")[0]}
    return Documents(
        prefix,
        entries,
        {_name(key): info.etag for key, info in raw.items() if key.startswith("entries/")},
        frozenset(marked),
        (documents.get("HEAD.json") or {}).get("versions", {}),
        State(
            tuple(sorted((name, recording_of(one)) for name, one in entries.items())),
            tuple(sorted((name, Edit(one["display_name"], one["merged_into"])) for name, one in edits.items())),
            tuple(sorted((name, one["recording_hash"]) for name, one in claims.items() if one["recording_hash"])),
        ),
    )


def recording_of(entry: Mapping[str, Any]) -> Recording:
    """An entry, or a recording with its modalities and participants, as the model has it."""
    row = entry["recording"]
    metadata = row["metadata"] or {}
    recording = Recording(
        metadata.get("manifest_recording_id"),
        tuple(row["participant_ids"]),
        _moment(row["start_time"]),
        _DURATION.validate_python(row["duration"]),
        metadata.get("study"),
        tuple((one["modality"], one["worker_id"], one["bytes"]) for one in entry["modalities"]),
        tuple(
            (one["participant_id"], _moment(one["enrolled_at"]), (one["metadata"] or {}).get("display_name"))
            for one in entry.get("participants", ())
        ),
    )
    ended_at = _moment(row["ended_at"]) if row["ended_at"] else None
    assert ended_at == recording.ended_at
    return recording


def row_of(answer: Mapping[str, Any]) -> tuple[Any, ...]:
    """A recording row that a worker was answered, as the model has it."""
    return recording_of({"recording": answer, "modalities": ()}).row


def check_documents(found: Documents) -> None:
    """Histories grow, each write is in them once, and claims and entries belong together."""
    recordings = dict(found.state.recordings)
    for recording_hash, entry in found.entries.items():
        assert entry["recording"]["recording_hash"] == recording_hash
        assert {one["recording_hash"] for one in entry["modalities"]} <= {recording_hash}
        seqs, txns = [one["seq"] for one in entry["log"]], [one["txn"] for one in entry["log"]]
        assert seqs == sorted(set(seqs)), f"seq does not grow: {entry['log']}"
        assert len(set(txns)) == len(txns), f"a txn is there twice: {entry['log']}"
        assert entry["seq"] == seqs[-1]
        rec_id = recordings[recording_hash].rec_id
        assert rec_id is None or dict(found.state.claims).get(rec_id) == recording_hash
    for rec_id, owner in found.state.claims:
        assert owner not in recordings or recordings[owner].rec_id == rec_id


def check_reads(lab: Lab, found: Documents) -> None:
    """What a fresh interface reads is what the documents say."""
    state, data = found.state, lab.interface(writes=False)
    recordings = dict(state.recordings)
    in_order = sorted(recordings, key=lambda one: (recordings[one].start, one))

    rows = data.list_recordings()
    assert [row.recording_hash for row in rows] == in_order
    assert [facts(row) for row in rows] == [recordings[one].row for one in in_order]
    for recording_hash in in_order:
        assert facts(data.get_recording(recording_hash)) == recordings[recording_hash].row
    modalities = [(one.recording_hash, one.modality, one.worker_id, one.bytes) for one in data.list_modalities()]
    assert modalities == [(name, *one) for name, recording in state.recordings for one in recording.modalities]
    people = {
        row.participant_id: (
            row.enrolled_at,
            (row.metadata or {}).get("display_name"),
            (row.model_extra or {}).get("merged_into"),
        )
        for row in data.list_participants()
    }
    assert people == model.participants(state)
    results = data.query()
    assert [(one.recording_hash, facts(one.recording)) for one in results] == [
        (name, recordings[name].row) for name in in_order
    ]
    assert [
        sorted((row.modality, row.worker_id or "", row.bytes) for row in one.modalities.values()) for one in results
    ] == [
        sorted((family, worker or "", size) for family, worker, size in recordings[name].modalities)
        for name in in_order
    ]
    for participant_id in people:
        ids = model.spellings(state, participant_id)
        expected = [name for name in in_order if ids & set(recordings[name].participants)]
        assert [one.recording_hash for one in data.query(participants=[participant_id])] == expected


def check_a_part(lab: Lab, state: State, start: datetime, family: str) -> None:
    """Conditions on time, family and participant choose what they say."""
    data = lab.interface(writes=False)
    since = {name: one for name, one in state.recordings if one.start >= start}
    found = data.list_recordings({"start_time": ("between", start, None)})
    assert {row.recording_hash: facts(row) for row in found} == {name: one.row for name, one in since.items()}
    rows = data.list_modalities({"modality": family, "start_time": ("between", start, None)})
    assert {(row.recording_hash, row.worker_id, row.bytes) for row in rows} == {
        (name, worker, size)
        for name, one in since.items()
        for modality, worker, size in one.modalities
        if modality == family
    }
    results = data.query(modalities=[family], started_before=start)
    assert {one.recording_hash for one in results} == {
        name
        for name, one in state.recordings
        if one.start < start and family in {modality for modality, _, _ in one.modalities}
    }


def check_tables(assets: Bucket, found: Documents, *, all_folded: bool = False) -> None:
    """At HEAD, the tables hold every entry that has no mark (`all_folded`: every entry), no row twice and none else."""
    tables = read_tables(assets, found)
    marked = set() if all_folded else found.marked
    for name, rows in tables.items():
        keys = [tuple(row[column] for column in _ORDER[name]) for row in rows]
        assert len(set(keys)) == len(keys), f"rows of {name} are there twice"
    for name in ("recordings", "modalities", "events"):
        rows = [row for row in tables.get(name, ()) if row["recording_hash"] not in marked]
        assert {row["recording_hash"] for row in rows} <= found.entries.keys(), f"{name} has rows without an entry"
        in_table = sorted((_facts_of_record(name, row) for row in rows), key=repr)
        in_entries = sorted(_expected(name, found, found.entries.keys() - marked), key=repr)
        assert in_table == in_entries, f"{name} at HEAD is not what the unmarked entries say"
    if all_folded or not marked:
        people = {
            row["participant_id"]: (
                row["enrolled_at"],
                json.loads(row["metadata"] or "{}").get("display_name"),
                row["merged_into"],
            )
            for row in tables.get("participants", ())
        }
        assert people == model.participants(found.state)


def read_tables(assets: Bucket, found: Documents) -> dict[str, list[dict[str, Any]]]:
    """The rows of the tables at HEAD's versions, in order of their keys, as any other engine reads them."""
    tables = {}
    for name, version in found.head.items():
        uri = f"s3://{assets.name}/{found.prefix}/tables/{name}"
        frame = pl.scan_delta(uri, version=version, storage_options=assets.table_options()).collect()
        tables[name] = frame.sort([*_ORDER[name], *(["txn"] if name == "events" else [])]).to_dicts()
    return tables


def facts(row: RecordingRow) -> tuple[Any, ...]:
    return row_of(row.model_dump(mode="json"))


def _expected(name: str, found: Documents, hashes: Iterable[str]) -> list[tuple[Any, ...]]:
    recordings = dict(found.state.recordings)
    expected: list[tuple[Any, ...]] = []
    for one in hashes:
        recording, entry = recordings[one], found.entries[one]
        month = f"{recording.start:%Y-%m}"
        if name == "recordings":
            expected.append((one, *recording.row, entry["seq"], found.etags[one], month))
        elif name == "modalities":
            expected += [(one, *row, recording.start, entry["seq"], month) for row in recording.modalities]
        else:
            expected += [(one, item["seq"], item["txn"], item["op"], item["by"], month) for item in entry["log"]]
    return expected


def _facts_of_record(name: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    if name == "recordings":
        duration = timedelta(microseconds=row["duration_us"])
        study = json.loads(row["metadata"] or "{}").get("study")
        told = (row["rec_id"], tuple(row["participant_ids"]), row["start_time"], duration, row["ended_at"], study)
        return (row["recording_hash"], *told, row["seq"], row["etag"], row["started_month"])
    columns: tuple[str, ...]
    if name == "modalities":
        columns = ("recording_hash", "modality", "worker_id", "bytes", "start_time", "seq", "started_month")
    else:
        columns = ("recording_hash", "seq", "txn", "event_type", "written_by", "started_month")
    return tuple(row[column] for column in columns)


def _name(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
