"""How records of existing tables become rows (ursa-facts sections 6.2 and 6.3; DESIGN section 6, Rows).

A column that rows do not have is kept as a field of the row, in the shape that JSON gives it: times as ISO 8601 text,
structs as objects, NaN as null. What is not understood is refused with its reason, never guessed.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from ursa_pipelines.catalog.tables.schemas import PARTITION, TOLD
from ursa_pipelines.errors import ParticipantInvalid
from ursa_pipelines.maintenance.importing.tables import FILE, ROW
from ursa_pipelines.recordings.identity import clean_display_name, derive_participant_id
from ursa_pipelines.recordings.layout import split_worker
from ursa_pipelines.recordings.manifest import UtcTime
from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, Row

IMPORTED_ID = "imported_id"
"""Metadata of a participant whose id told the name: the id it had."""
BEYOND_BOUNDS = "a value is too large, or nested too deeply"

_INDEX_COLUMNS = {
    "recordings": {"rec_id", *TOLD.names, "seq", "etag"},
    "modalities": {"start_time", "seq"},
    "participants": {"enrolled_by", "named_by", "named_since", "seq"},
}
_JSON_COLUMNS = ("device_info", "metadata", "channel_spec")
_NAMES = ("display_name", "name")
_EXTRA_COLUMNS = ("extra", "__pydantic_extra__")
_OWN_ID = re.compile(r"p_[0-9a-f]{16}")
_MOMENT = TypeAdapter(UtcTime)
_LARGEST = 2**63 - 1
_DEPTH = 64
_SURROGATE = re.compile("[\ud800-\udfff]")
_MODELS: dict[str, type[Row]] = {"recordings": RecordingRow, "modalities": ModalityRow, "participants": ParticipantRow}
_TYPED = {
    table: {*model.model_fields, "duration_us", "merged_into"} - set(_JSON_COLUMNS) for table, model in _MODELS.items()
}
"""Columns that the row's own types check; what else there is must be made such as JSON gives it back."""

_Row = TypeVar("_Row", bound=Row)


@dataclass
class Participants:
    """The participants of a source by the id they have there, with the ids and rows that they get here.

    `merged` tells which of them was merged into which, by their ids there; `refused` are those whose rows are none;
    `renamed` counts the ids that told a name.
    """

    rows: dict[str, ParticipantRow] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    renamed: int = 0

    def add(self, record: Mapping[str, Any], *, ours: bool) -> None:
        """Takes one record of a participants table. Raises `ValueError` with the reason if it is no such row."""
        old = str(record.get("participant_id"))
        try:
            if old in self.rows:
                raise ValueError("participant_id: is there twice")
            row, target = _participant_of(record, ours=ours)
        except (OverflowError, RecursionError):
            self.refused.add(old)
            raise ValueError(BEYOND_BOUNDS) from None
        except ValueError:
            self.refused.add(old)
            raise
        self.renamed += row.participant_id != old
        self.rows[old] = row
        if target is not None:
            self.merged[old] = target

    def id_of(self, source_id: str) -> str:
        """The id that a participant of the source has here."""
        row = self.rows.get(source_id)
        return row.participant_id if row else source_id

    def by_id(self) -> dict[str, ParticipantRow]:
        """One row for each id here: of several that had one name, the first, enrolled at the earliest."""
        merged: dict[str, ParticipantRow] = {}
        for row in self.rows.values():
            known = merged.setdefault(row.participant_id, row)
            earliest = min(known.enrolled_at, row.enrolled_at)
            merged[row.participant_id] = known.model_copy(update={"enrolled_at": earliest})
        return merged

    def of_recording(self, recording: RecordingRow, source_ids: Iterable[str]) -> tuple[ParticipantRow, ...]:
        """The rows of those who took part; one who has none in the source is enrolled by this recording."""
        rows: dict[str, ParticipantRow] = {}
        for source_id in sorted(source_ids):
            row = self.rows.get(source_id)
            row = row or ParticipantRow(participant_id=source_id, enrolled_at=recording.start_time)
            rows.setdefault(row.participant_id, row)
        return tuple(rows[key] for key in sorted(rows))


def recording_of(
    record: Mapping[str, Any], participants: Participants, *, ours: bool
) -> tuple[RecordingRow, list[str]]:
    """The row in a record of a recordings table, and the participants' ids as the source has them.

    Its metadata loses `verification`: that tells what was proved here, and nothing was.
    Raises `ValueError` with the reason if it is no such row.
    """
    fields = _fields("recordings", record, ours)
    if isinstance(fields.get("metadata"), dict):
        fields["metadata"] = {key: value for key, value in fields["metadata"].items() if key != "verification"}
    fields["duration"] = _duration(fields)
    told = fields.pop("participant_ids", None) or []
    try:
        source_ids = json.loads(told) if isinstance(told, str) else told
    except (ValueError, RecursionError):
        source_ids = None
    if not isinstance(source_ids, list) or not all(isinstance(one, str) for one in source_ids):
        raise ValueError("participant_ids: is no list of ids")
    if participants.refused.intersection(source_ids):
        raise ValueError("participant_ids: names a participant whose row is refused")
    ids = [participants.id_of(one) for one in source_ids]
    fields["participant_ids"] = ids if ours and ids == source_ids else sorted(set(ids))
    row = _validated(RecordingRow, fields)
    if row.rec_id is not None and not isinstance(row.rec_id, str):
        raise ValueError("metadata.manifest_recording_id: is no text")
    return row, source_ids


def modality_of(record: Mapping[str, Any], *, ours: bool) -> tuple[ModalityRow, bool]:
    """The row in a record of a modalities table, and whether its name was one of before v0.2.0 (`eeg_4559`).

    Raises `ValueError` with the reason if it is no such row.
    """
    fields = _fields("modalities", record, ours)
    for key in ("format", "ingestion_status"):
        if isinstance(fields.get(key), str):
            fields[key] = fields[key].lower()
    if fields.get("ingestion_status") == "ingested":
        fields["ingestion_status"] = "processed"
    name, was_old = fields.get("modality"), False
    if not ours and isinstance(name, str) and fields.get("worker_id") is None:
        fields["modality"], fields["worker_id"] = split_worker(name)
        was_old = fields["worker_id"] is not None
    row = _validated(ModalityRow, fields)
    if max(row.bytes, row.segment_count) > _LARGEST:
        raise ValueError("bytes, segment_count: is too large")
    return row, was_old


def reveals_name(participant_id: str, display_name: str) -> bool:
    """Whether a part of the name can be read in the id; taken as given if the name has no Latin letters to compare."""
    if _OWN_ID.fullmatch(participant_id):
        return False
    name, words = _latin_words(display_name), _latin_words(participant_id)
    text = "".join(words)
    if not name:
        return re.search("[a-z]{2}", text) is not None
    return bool(set(name) & set(words)) or "".join(name) in text or any(len(one) > 2 and one in text for one in name)


def _participant_of(record: Mapping[str, Any], *, ours: bool) -> tuple[ParticipantRow, str | None]:
    fields = _fields("participants", record, ours)
    target = fields.pop("merged_into", None)
    metadata = dict(fields.pop("metadata", None) or {})
    told = [one.pop(key, None) for key in _NAMES[: 1 if ours else None] for one in (metadata, fields)]
    if not all(name is None or isinstance(name, str) for name in told):
        raise ValueError("the display name is no text")
    try:
        name = clean_display_name(next((name for name in told if name), None))
    except ParticipantInvalid as error:
        raise ValueError(error.problem) from None
    if name is not None:
        metadata["display_name"] = name
    row = _validated(ParticipantRow, {**fields, "metadata": metadata or None})
    if name is not None and reveals_name(row.participant_id, name):
        metadata[IMPORTED_ID] = row.participant_id
        row = row.model_copy(update={"participant_id": derive_participant_id(name), "metadata": metadata})
    return row, str(target) if target is not None else None


def _fields(table: str, record: Mapping[str, Any], ours: bool) -> dict[str, Any]:
    left_out = {FILE, ROW, PARTITION} | (_INDEX_COLUMNS[table] if ours else set())
    fields = {key: value for key, value in record.items() if key not in left_out and value is not None}
    for key in _EXTRA_COLUMNS:
        extra = _document(key, fields.get(key), must=ours or key != "extra")
        if extra is not None:
            del fields[key]
            fields = {**extra, **fields}
    for key in _JSON_COLUMNS:
        if key in fields:
            fields[key] = _document(key, fields[key], must=True)
    typed = _TYPED[table]
    return {key: value if key in typed else _plain(key, value) for key, value in fields.items()}


def _document(key: str, value: Any, *, must: bool) -> dict[str, Any] | None:
    try:
        document = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        document = value
    if document is None or isinstance(document, dict):
        return document
    if isinstance(document, list) and all(isinstance(one, tuple) and len(one) == 2 for one in document):
        return dict(document)
    if must:
        raise ValueError(f"{key}: is no JSON object")
    return None


def _plain(key: str, value: Any, depth: int = 0) -> Any:
    """The value as JSON gives it back."""
    if depth > _DEPTH:
        raise ValueError(f"{key}: is nested more than {_DEPTH} levels deep")
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise ValueError(f"{key}: holds an unpaired surrogate")
        return value
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_plain(key, str(name)): _plain(key, one, depth + 1) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(key, one, depth + 1) for one in value]
    return to_jsonable_python(value, bytes_mode="base64")


def _duration(fields: dict[str, Any]) -> timedelta:
    duration = fields.pop("duration", None)
    if isinstance(duration, timedelta):
        return duration
    if duration is not None:
        raise ValueError("duration: is a number or text, of which the unit is not known; give duration_us")
    if fields.get("duration_us") is not None:
        try:
            return timedelta(microseconds=int(fields.pop("duration_us")))
        except (ValueError, OverflowError):
            raise ValueError("duration_us: is no whole number, or too large") from None
    if fields.get("start_time") is not None and fields.get("ended_at") is not None:
        return _MOMENT.validate_python(fields["ended_at"]) - _MOMENT.validate_python(fields["start_time"])
    raise ValueError("duration: is missing")


def _validated(model: type[_Row], fields: Mapping[str, Any]) -> _Row:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        told = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False))
        raise ValueError("; ".join(told)) from None


def _latin_words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKD", text).casefold()
    return re.findall("[a-z0-9]+", "".join(one for one in folded if not unicodedata.combining(one)))
