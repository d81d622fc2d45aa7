"""The rows of the catalog, and how a recording becomes them (DESIGN section 6, Rows; ursa-facts sections 6 and 8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from ursa_pipelines.recordings.identity import derive_participant_id, parse_rec_id
from ursa_pipelines.recordings.layout import KEY_BYTES_LIMIT, split_worker, worker_of
from ursa_pipelines.recordings.manifest import UtcTime
from ursa_pipelines.recordings.merge import MergedFile, MergedManifest

CatalogID = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\z", max_length=200)]
BOOKKEEPING = frozenset(
    {
        "registered_at",
        "registered_by",
        "ingested_from",
        "verification",
        "bytes",
        "files",
        "nodes",
        "nodes_missing",
        "media_problems",
    }
)
"""Metadata keys that tell how a row came about; row equality ignores them."""

_LARGEST = 2**63 - 1
"""What a column of the tables holds."""

_SHOWN_METADATA = BOOKKEEPING | {"manifest_recording_id"}


class StorageFormat(StrEnum):
    """How a modality's bytes are stored. The raw tier, then the canonical tier."""

    RAW_VIDEO = "raw_video"
    RAW_AUDIO = "raw_audio"
    RAW_BINARY = "raw_binary"
    RAW_JSONL = "raw_jsonl"
    ZARR = "zarr"
    LANCE = "lance"
    MP4_INDEX = "mp4_index"
    PARQUET = "parquet"


class IngestionStatus(StrEnum):
    RAW = "raw"
    PROCESSED = "processed"


class Row(BaseModel):
    """Base of all rows: frozen; unknown fields are kept and written back."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)
    primary_key_fields: ClassVar[tuple[str, ...]] = ()
    table: ClassVar[str] = ""

    @property
    def primary_key(self) -> tuple[tuple[str, object], ...]:
        return tuple((name, getattr(self, name)) for name in self.primary_key_fields)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # What others have put there may be a participant's name: only what it is called is shown.
        for name, value in super().__repr_args__():
            if isinstance(value, dict):
                value = {key: one if key in _SHOWN_METADATA else "\u2026" for key, one in value.items()}
            yield name, "\u2026" if name in (self.model_extra or ()) else value

    def comparable(self) -> dict[str, Any]:
        """The row without bookkeeping metadata: two rows are equal if these are."""
        document = self.model_dump(mode="json", exclude_none=True)
        document["metadata"] = {
            key: value for key, value in (document.get("metadata") or {}).items() if key not in BOOKKEEPING
        }
        return document


class RecordingRow(Row):
    """One recording. `duration` is its length; times are UTC; `metadata["manifest_recording_id"]` is its rec_id."""

    table = "recordings"
    primary_key_fields = ("recording_hash",)

    recording_hash: CatalogID
    participant_ids: list[CatalogID] = Field(default_factory=list)
    start_time: UtcTime
    duration: timedelta = Field(ge=timedelta(0), le=timedelta(microseconds=_LARGEST))
    ended_at: UtcTime | None = None
    device_info: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None

    @property
    def rec_id(self) -> str | None:
        return (self.metadata or {}).get("manifest_recording_id")


class ModalityRow(Row):
    """One worker's data in a recording. `raw_storage_uri` is a prefix and ends in `/`; `bytes` is its size."""

    table = "modalities"
    primary_key_fields = ("recording_hash", "modality", "worker_id")

    recording_hash: CatalogID
    modality: str = Field(min_length=1, max_length=KEY_BYTES_LIMIT)
    worker_id: str | None = None
    format: StorageFormat
    raw_storage_uri: str | None = None
    storage_uri: str | None = None
    ingestion_status: IngestionStatus = IngestionStatus.RAW
    segment_count: int = Field(default=0, ge=0, le=_LARGEST)
    bytes: int = Field(default=0, ge=0, le=_LARGEST)
    metadata: dict[str, Any] | None = None


class ParticipantRow(Row):
    """A participant. Only here, as `metadata["display_name"]`, is the name kept."""

    table = "participants"
    primary_key_fields = ("participant_id",)

    participant_id: CatalogID
    enrolled_at: UtcTime
    metadata: dict[str, Any] | None = Field(default=None, repr=False)


@dataclass(frozen=True)
class Rows:
    """Everything the catalog says about one recording."""

    recording: RecordingRow
    modalities: tuple[ModalityRow, ...]
    participants: tuple[ParticipantRow, ...]


def end_of(start: datetime, duration: timedelta) -> datetime:
    """When what lasts so long is over. Raises `ValueError` where no time can tell it, such as after the year 9999."""
    try:
        return start + duration
    except OverflowError:
        raise ValueError(f"duration={duration}: it would end in no year from 1 to 9999") from None


_FORMAT_OF_FAMILY = {
    StorageFormat.RAW_VIDEO: ("camera", "screen", "pupillabs"),
    StorageFormat.RAW_AUDIO: ("mic",),
    StorageFormat.RAW_BINARY: ("eeg",),
    StorageFormat.RAW_JSONL: ("samsung-watch", "battery", "browser", "keyboard", "mouse", "location", "notes"),
}
_FORMAT_OF_EXTENSION = {
    ".mp4": StorageFormat.RAW_VIDEO,
    ".mov": StorageFormat.RAW_VIDEO,
    ".mkv": StorageFormat.RAW_VIDEO,
    ".avi": StorageFormat.RAW_VIDEO,
    ".wav": StorageFormat.RAW_AUDIO,
    ".flac": StorageFormat.RAW_AUDIO,
    ".opus": StorageFormat.RAW_AUDIO,
    ".jsonl": StorageFormat.RAW_JSONL,
    ".ndjson": StorageFormat.RAW_JSONL,
}


def infer_format(modality: str, paths: Iterable[str]) -> tuple[StorageFormat, str | None]:
    """(format, warning) of a device family: by its name, first match; else by its files' extensions; else binary."""
    for storage_format, families in _FORMAT_OF_FAMILY.items():
        if modality.startswith(families):
            return storage_format, None
    extensions = Counter(PurePosixPath(path).suffix.casefold() for path in paths)
    for extension, _ in extensions.most_common():
        if extension in _FORMAT_OF_EXTENSION:
            return _FORMAT_OF_EXTENSION[extension], None
    return StorageFormat.RAW_BINARY, f"unknown device family {modality!r}: format assumed"


def rows_of_recording(
    merged: MergedManifest,
    *,
    recording_hash: str,
    present: Iterable[str],
    display_names: Iterable[str],
    uri_of_worker: Callable[[str], str],
    bookkeeping: dict[str, Any],
) -> Rows:
    """The rows of a recording whose `present` paths are in the bucket.

    Start is the manifests' earliest, else the segments' earliest, else the rec_id's; end the latest of the
    manifests' or segments'. Files at the recording's root belong to no modality. `bookkeeping` is metadata
    about the ingest itself.
    """
    files = [merged.files[path] for path in sorted(present)]
    start = merged.started_at or min((file.started_at for file in files if file.started_at), default=None)
    start = start or parse_rec_id(merged.rec_id)
    ends = [moment for moment in (merged.ended_at, *(file.ended_at for file in files)) if moment]
    end = max(ends, default=None)
    nodes_present = sorted({file.node for file in files if file.node})
    spellings = {derive_participant_id(name): name for name in sorted(display_names, reverse=True)}
    participants = tuple(
        ParticipantRow(participant_id=participant_id, enrolled_at=start, metadata={"display_name": name})
        for participant_id, name in sorted(spellings.items())
    )
    recording = RecordingRow(
        recording_hash=recording_hash,
        participant_ids=[row.participant_id for row in participants],
        start_time=start,
        duration=max(end - start, timedelta(0)) if end else timedelta(0),
        ended_at=end,
        device_info=merged.device_info,
        metadata={
            "manifest_recording_id": merged.rec_id,
            "files": len(files),
            "bytes": sum(file.size_bytes for file in files),
            "nodes": nodes_present,
            "nodes_missing": sorted(set(merged.nodes) - set(nodes_present)) if nodes_present else [],
            **bookkeeping,
        },
    )
    return Rows(recording, _modalities(recording_hash, files, uri_of_worker), participants)


def _modalities(
    recording_hash: str, files: list[MergedFile], uri_of_worker: Callable[[str], str]
) -> tuple[ModalityRow, ...]:
    workers: dict[str, list[MergedFile]] = {}
    for file in files:
        worker = worker_of(file.path)
        if worker is not None:
            workers.setdefault(worker, []).append(file)
    rows = []
    for worker, segments in sorted(workers.items()):
        modality, worker_id = split_worker(worker)
        storage_format, warning = infer_format(modality, (file.path for file in segments))
        metadata: dict[str, Any] = {"nodes": sorted({file.node for file in segments if file.node})}
        if warning:
            metadata["format_warning"] = warning
        rows.append(
            ModalityRow(
                recording_hash=recording_hash,
                modality=modality,
                worker_id=worker_id,
                format=storage_format,
                raw_storage_uri=uri_of_worker(worker),
                segment_count=len(segments),
                bytes=sum(file.size_bytes for file in segments),
                metadata=metadata,
            )
        )
    return tuple(rows)
