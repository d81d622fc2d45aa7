"""Corrections of rows that stand: who took part, and when a recording ended. Pure functions, like `catalog.policies`.

Each is decided on what was seen and applied to what stands: what others have changed meanwhile is `CatalogConflict` and
stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ursa_pipelines.errors import CatalogConflict, CatalogRowNotFound
from ursa_pipelines.recordings.rows import ParticipantRow, RecordingRow, Rows

if TYPE_CHECKING:
    from ursa_pipelines.catalog.policies import Resolve

KNOWN_WRONG = "duration_known_wrong"
"""Metadata of a recording of which nothing tells when it ended."""

ENDED_AT_FROM = "ended_at_from"
"""Metadata of a recording whose end was corrected; an ingest of the same files leaves that end as it is."""


def add_participants(names: Mapping[str, str], seen: Collection[str]) -> Resolve:
    """Adds participants (id to display name) to a recording that names nobody but them and those `seen`.

    A name that the rows have already stays as it is spelled there.
    """

    def resolve(existing: Rows | None) -> Rows:
        rows = _standing(existing)
        recording = rows.recording
        if set(recording.participant_ids) - set(names) - set(seen):
            raise _changed_meanwhile(recording, "its row names somebody else by now")
        participants = {row.participant_id: row for row in rows.participants}
        for participant_id, name in names.items():
            known = participants.get(participant_id)
            if known is None:
                known = ParticipantRow(participant_id=participant_id, enrolled_at=recording.start_time)
            metadata = known.metadata or {}
            if not metadata.get("display_name"):
                known = known.model_copy(update={"metadata": {**metadata, "display_name": name}})
            participants[participant_id] = known
        ids = sorted({*recording.participant_ids, *names})
        return replace(
            rows,
            recording=recording if ids == recording.participant_ids else _copy(recording, participant_ids=ids),
            participants=tuple(participants[key] for key in sorted(participants)),
        )

    return resolve


def set_end(ended_at: datetime, seen: RecordingRow) -> Resolve:
    """Sets when a recording ended, its duration with it; its start stays, as does everything else."""

    def resolve(existing: Rows | None) -> Rows:
        rows = _standing(existing)
        recording = rows.recording
        metadata = {key: value for key, value in (recording.metadata or {}).items() if key != KNOWN_WRONG}
        metadata[ENDED_AT_FROM] = "segments"
        duration = ended_at - recording.start_time
        wanted = _copy(recording, ended_at=ended_at, duration=duration, metadata=metadata)
        if wanted != recording:
            _require_same_times(recording, seen)
        return replace(rows, recording=wanted)

    return resolve


def flag_end(is_wrong: bool, seen: RecordingRow) -> Resolve:
    """Notes that the end of a recording is not known, or takes that note back."""

    def resolve(existing: Rows | None) -> Rows:
        rows = _standing(existing)
        recording = rows.recording
        metadata = {key: value for key, value in (recording.metadata or {}).items() if key != KNOWN_WRONG}
        if is_wrong:
            metadata[KNOWN_WRONG] = True
        if metadata == (recording.metadata or {}):
            return rows
        _require_same_times(recording, seen)
        return replace(rows, recording=_copy(recording, metadata=metadata or None))

    return resolve


def keep_corrections(before: RecordingRow, after: RecordingRow) -> RecordingRow:
    """`after`, as manifests tell the recording anew, with what was corrected in `before` although they told so."""
    kept = {key: value for key, value in (before.metadata or {}).items() if key in {KNOWN_WRONG, ENDED_AT_FROM}}
    if not kept:
        return after
    times = {"ended_at": before.ended_at, "duration": before.duration} if ENDED_AT_FROM in kept else {}
    return _copy(after, metadata={**(after.metadata or {}), **kept}, **times)


def _copy(row: RecordingRow, **update: Any) -> RecordingRow:
    return row.model_copy(update=update)


def _standing(existing: Rows | None) -> Rows:
    if existing is None:
        raise CatalogRowNotFound("its rows are gone")
    return existing


def _require_same_times(recording: RecordingRow, seen: RecordingRow) -> None:
    times = [(row.start_time, row.ended_at, row.duration) for row in (recording, seen)]
    if times[0] != times[1]:
        raise _changed_meanwhile(recording, "its times have changed meanwhile")


def _changed_meanwhile(recording: RecordingRow, problem: str) -> CatalogConflict:
    return CatalogConflict(
        problem, recording=recording.rec_id, remedy="It was left as it is; run it again to see what is to do now."
    )
