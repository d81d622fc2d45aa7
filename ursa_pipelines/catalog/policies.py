"""What happens to a row that exists: the conflict policies, as pure functions (DESIGN section 6, table).

Each takes the rows as they stand (None if there are none) and gives the rows as they shall be; giving back what it
got means that nothing is written. `extend`, `merge_participants` and the merge of an ingest commute.

The verification level in a recording's metadata is true of all its files: `sha256` if all bytes were proved, else
`size`. A proof of the same files raises it; what is added with less lowers it; nothing else does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

from ursa_pipelines.catalog.corrections import keep_corrections
from ursa_pipelines.errors import CatalogConflict, CatalogRowExists, CatalogRowNotFound, RecordingConflict
from ursa_pipelines.recordings.rows import (
    IngestionStatus,
    ModalityRow,
    ParticipantRow,
    RecordingRow,
    Row,
    Rows,
    end_of,
)

RecordingPolicy = Literal["error", "extend", "merge_participants", "overwrite"]
ModalityPolicy = Literal["error", "overwrite"]
Resolve = Callable[[Rows | None], Rows]

_LEVELS = (None, "size", "sha256")


def register_recording(row: RecordingRow, policy: RecordingPolicy) -> Resolve:
    """The policy of one `register_recording` call. Raises `ValueError` for a policy that does not exist."""
    if policy not in {"error", "extend", "merge_participants", "overwrite"}:
        raise ValueError(f"on_conflict={policy!r}: there are error, extend, merge_participants and overwrite")

    def resolve(existing: Rows | None) -> Rows:
        if existing is None:
            return Rows(row, (), _with_participants((), row))
        old = existing.recording
        _require_same_rec_id(old, row)
        if policy == "error":
            _require_equal(old, row, CatalogRowExists)
            return existing
        if policy == "extend":
            new = _extended(old, row.duration)
        elif policy == "merge_participants":
            _require_equal(old, row, CatalogConflict, ignoring={"participant_ids"})
            new = old.model_copy(update={"participant_ids": sorted({*old.participant_ids, *row.participant_ids})})
        else:
            metadata = {**({"manifest_recording_id": old.rec_id} if old.rec_id else {}), **(row.metadata or {})}
            new = row.model_copy(update={"metadata": metadata or None})
            if new.comparable() == old.comparable():
                return existing
        if new == old:
            return existing
        return replace(existing, recording=new, participants=_with_participants(existing.participants, new))

    return resolve


def register_modality(row: ModalityRow, policy: ModalityPolicy) -> Resolve:
    """The policy of one `register_modality` call. Raises `ValueError` for a policy that does not exist."""
    if policy not in {"error", "overwrite"}:
        raise ValueError(f"on_conflict={policy!r}: register_modality knows only error and overwrite")

    def resolve(existing: Rows | None) -> Rows:
        if existing is None:
            raise CatalogRowNotFound(f"there is no recording {row.recording_hash} to add a modality to")
        others = [other for other in existing.modalities if other.primary_key != row.primary_key]
        old = next((other for other in existing.modalities if other.primary_key == row.primary_key), None)
        if old is not None:
            if old.comparable() == row.comparable():
                return existing
            if policy == "error":
                _require_equal(old, row, CatalogRowExists)
        return replace(existing, modalities=_sorted([*others, row]))

    return resolve


def ingest(new: Rows, *, overwrite: bool, source_nodes: Collection[str] | None = None) -> Resolve:
    """The policy of an ingest, whose rows come from the union of the manifests it knows.

    Without `overwrite` what only adds (a late half, files, a participant) is merged, and any other difference is
    `CatalogRowExists`. With it, what this source describes is replaced; what other nodes brought stays.
    `source_nodes` are the nodes whose files the source holds itself (None: all that `new` names).
    """

    def resolve(existing: Rows | None) -> Rows:
        if existing is None:
            return new
        _require_same_rec_id(existing.recording, new.recording)
        own = _nodes(new) if source_nodes is None else source_nodes
        merged = _overwritten(existing, new, own) if overwrite else _added(existing, new)
        level = _level_of_both(existing, new)
        if _comparable(merged) != _comparable(existing):
            return _at_level(merged, level)
        return _at_level(existing, level) if level == _LEVELS[-1] else existing

    return resolve


def verified(seen: Rows) -> Resolve:
    """The policy of a verification that has proved every byte of the files in the rows it has seen.

    Rows that have got further files meanwhile stay. Raises `CatalogRowNotFound` if there are none any more.
    """

    def resolve(existing: Rows | None) -> Rows:
        if existing is None:
            raise CatalogRowNotFound("its rows are gone", recording=seen.recording.rec_id)
        return _at_level(existing, _LEVELS[-1]) if _has_the_files_of(seen, existing) else existing

    return resolve


def _added(existing: Rows, new: Rows) -> Rows:
    unseen_nodes = _nodes(existing) - _nodes(new)
    modalities = {row.primary_key: row for row in existing.modalities}
    grown = bool(_nodes(new) - _nodes(existing))
    for row in new.modalities:
        old = modalities.get(row.primary_key)
        if old is None or _covers(row, old):
            grown = grown or old is None or old.segment_count < row.segment_count
            modalities[row.primary_key] = row if old is None or old.comparable() != row.comparable() else old
        elif not (_is_processed_from(old, row) or (unseen_nodes and _covers(old, row))):
            _require_equal(old, row, CatalogRowExists)
    before = existing.recording
    after = new.recording if grown else keep_corrections(before, new.recording)
    start, end = min(before.start_time, after.start_time), _latest(before, after)
    if not unseen_nodes and not (grown and start == after.start_time and end == after.ended_at):
        has_no_end = before.ended_at is None and not before.duration
        added = {"participant_ids", "device_info"} | ({"ended_at", "duration"} if has_no_end else set())
        _require_equal(before, after, CatalogRowExists, ignoring=added)
    device_info = dict(before.device_info or {})
    for key, value in (after.device_info or {}).items():
        if device_info.setdefault(key, value) != value:
            _require_equal(before, after, CatalogRowExists, ignoring={"participant_ids"})
    recording = before.model_copy(
        update={
            "participant_ids": sorted({*before.participant_ids, *after.participant_ids}),
            "start_time": start,
            "ended_at": end,
            "duration": max(end - start, timedelta(0)) if end else before.duration,
            "device_info": device_info or None,
            "metadata": _merged_metadata(before, after, bool(unseen_nodes)),
        }
    )
    participants = _merged_participants(existing.participants, new.participants)
    return Rows(recording, _sorted(modalities.values()), _enrolled_by(start, participants))


def _overwritten(existing: Rows, new: Rows, own_nodes: Collection[str]) -> Rows:
    unseen_nodes = _nodes(existing) - _nodes(new)
    processed = {row.primary_key: row for row in existing.modalities if row.ingestion_status is not IngestionStatus.RAW}
    described = {
        row.primary_key: processed[row.primary_key]
        if row.primary_key in processed and _is_processed_from(processed[row.primary_key], row)
        else row
        for row in new.modalities
    }
    kept = [
        row
        for row in existing.modalities
        if row.primary_key not in described and set((row.metadata or {}).get("nodes", ())) & unseen_nodes
    ]
    are_of_others = bool(_nodes(existing) - set(own_nodes))
    participants = existing.participants if are_of_others or not new.participants else ()
    merged_participants = _merged_participants(participants, new.participants)
    before, after = existing.recording, new.recording
    update: dict[str, Any] = {"participant_ids": sorted(row.participant_id for row in merged_participants)}
    if unseen_nodes:
        start, end = min(before.start_time, after.start_time), _latest(before, after)
        update |= {
            "start_time": start,
            "ended_at": end,
            "duration": max(end - start, timedelta(0)) if end else after.duration,
            "device_info": {**(before.device_info or {}), **(after.device_info or {})} or None,
            "metadata": _merged_metadata(before, after, True),
        }
        merged_participants = _enrolled_by(start, merged_participants)
    return Rows(after.model_copy(update=update), _sorted([*kept, *described.values()]), merged_participants)


def _extended(old: RecordingRow, duration: timedelta) -> RecordingRow:
    if duration <= old.duration:
        return old
    try:
        ended_at = end_of(old.start_time, duration)
    except ValueError as error:
        # Typed, so that in a batch it stops no others.
        raise CatalogConflict(str(error), recording=old.rec_id) from None
    return old.model_copy(update={"duration": duration, "ended_at": ended_at})


def _covers(larger: ModalityRow, smaller: ModalityRow) -> bool:
    ignoring = {"segment_count", "bytes"}
    return (
        not _differing(larger, smaller, ignoring)
        and larger.segment_count >= smaller.segment_count
        and larger.bytes >= smaller.bytes
    )


def _is_processed_from(old: ModalityRow, raw: ModalityRow) -> bool:
    return old.ingestion_status is not IngestionStatus.RAW and old.raw_storage_uri == raw.raw_storage_uri


def _latest(before: RecordingRow, after: RecordingRow):
    return max((moment for moment in (before.ended_at, after.ended_at) if moment), default=None)


def _nodes(rows: Rows) -> set[str]:
    return set((rows.recording.metadata or {}).get("nodes", ()))


def _merged_metadata(before: RecordingRow, after: RecordingRow, has_unseen_nodes: bool) -> dict[str, Any]:
    merged = {**(before.metadata or {}), **(after.metadata or {})}
    told = [(row.metadata or {}).get("media_problems") for row in (before, after)]
    if isinstance(told[0], dict) and isinstance(told[1], dict):
        merged["media_problems"] = told[0] | told[1]
    if has_unseen_nodes:
        old, new = before.metadata or {}, after.metadata or {}
        merged["nodes"] = sorted({*old.get("nodes", ()), *new.get("nodes", ())})
        missing = {*old.get("nodes_missing", ()), *new.get("nodes_missing", ())}
        merged["nodes_missing"] = sorted(missing - set(merged["nodes"]))
        # Nodes that know nothing of each other have no file in common.
        together = max if set(old.get("nodes", ())) & set(new.get("nodes", ())) else operator.add
        merged |= {key: together(old[key], new[key]) for key in ("files", "bytes") if key in old and key in new}
    return merged


def _level_of_both(existing: Rows, new: Rows) -> str | None:
    """The level that holds for the files of both: the better one if it speaks of all of them, else the worse one."""
    of_all = [one for one, other in ((existing, new), (new, existing)) if _has_the_files_of(one, other)]
    levels = [_LEVELS.index(_level(rows)) for rows in of_all or (existing, new)]
    return _LEVELS[max(levels) if of_all else min(levels)]


def _level(rows: Rows) -> str | None:
    level = (rows.recording.metadata or {}).get("verification")
    return level if level in _LEVELS else None


def _at_level(rows: Rows, level: str | None) -> Rows:
    if _level(rows) == level:
        return rows
    metadata = {key: value for key, value in (rows.recording.metadata or {}).items() if key != "verification"}
    metadata |= {"verification": level} if level else {}
    return replace(rows, recording=rows.recording.model_copy(update={"metadata": metadata}))


def _has_the_files_of(one: Rows, other: Rows) -> bool:
    """Whether `one` speaks of every file that `other` speaks of, as far as nodes and counts tell."""
    known, asked = _counts(one), _counts(other)
    return _nodes(other) <= _nodes(one) and all(
        count <= known.get(key, (0, 0))[0] and size <= known.get(key, (0, 0))[1] for key, (count, size) in asked.items()
    )


def _counts(rows: Rows) -> dict[tuple, tuple[int, int]]:
    files = (rows.recording.metadata or {}).get("files")
    counts = {row.primary_key: (row.segment_count, row.bytes) for row in rows.modalities}
    return {**counts, (): (files if isinstance(files, int) else 0, 0)}


def _merged_participants(
    old: tuple[ParticipantRow, ...], new: tuple[ParticipantRow, ...]
) -> tuple[ParticipantRow, ...]:
    merged = {row.participant_id: row for row in old}
    for row in new:
        known = merged.get(row.participant_id)
        if known is None:
            merged[row.participant_id] = row
        else:
            merged[row.participant_id] = known.model_copy(
                update={
                    "enrolled_at": min(known.enrolled_at, row.enrolled_at),
                    "metadata": _merged_names(known.metadata or {}, row.metadata or {}) or None,
                }
            )
    return tuple(merged[key] for key in sorted(merged))


def _merged_names(known: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Of two spellings of a name the smaller one stays, whichever came first."""
    spellings = [one["display_name"] for one in (known, new) if one.get("display_name")]
    return {**new, **known, **({"display_name": min(spellings)} if spellings else {})}


def _enrolled_by(start: datetime, participants: tuple[ParticipantRow, ...]) -> tuple[ParticipantRow, ...]:
    """A late half may tell that the recording began earlier than its participants were thought to be enrolled."""
    return tuple(row.model_copy(update={"enrolled_at": min(start, row.enrolled_at)}) for row in participants)


def _with_participants(known: tuple[ParticipantRow, ...], recording: RecordingRow) -> tuple[ParticipantRow, ...]:
    ids = {row.participant_id for row in known}
    unnamed = tuple(
        ParticipantRow(participant_id=key, enrolled_at=recording.start_time)
        for key in recording.participant_ids
        if key not in ids
    )
    return _merged_participants(known, unnamed)


def _sorted(rows) -> tuple[ModalityRow, ...]:
    return tuple(sorted(rows, key=lambda row: (row.modality, row.worker_id or "")))


def _comparable(rows: Rows) -> list[dict[str, Any]]:
    return [row.comparable() for row in (rows.recording, *rows.modalities, *rows.participants)]


def _differing(one: Row, other: Row, ignoring: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    left, right = one.comparable(), other.comparable()
    return sorted(key for key in left.keys() | right.keys() if key not in ignoring and left.get(key) != right.get(key))


def _require_equal(
    old: Row,
    new: Row,
    error: type[CatalogConflict],
    ignoring: set[str] = frozenset(),  # type: ignore[assignment]
) -> None:
    fields = _differing(old, new, ignoring)
    if not fields:
        return
    problem = f"the {old.table} row exists with other values in {', '.join(fields)}"
    recording = old.rec_id if isinstance(old, RecordingRow) else None
    if error is CatalogRowExists:
        raise CatalogRowExists(problem, table=old.table, primary_key=old.primary_key, recording=recording)
    raise error(problem, recording=recording)


def _require_same_rec_id(old: RecordingRow, new: RecordingRow) -> None:
    if old.rec_id and new.rec_id and old.rec_id != new.rec_id:
        raise RecordingConflict(
            f"the same content is already catalogued as {old.rec_id}",
            recording=new.rec_id,
            remedy=f"Check whether this directory is a renamed copy of {old.rec_id}; nothing was registered.",
        )
