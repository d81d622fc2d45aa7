"""When recordings ended, derived anew from their segments (ursa-facts section 14, catalog-maintenance).

A manifest's own `ended_at` tells when a process was torn down, which may be hours after the last data. So the ends that
the segments state come first, and the manifest's counts only where they do not tell. An end before the start, or before
a later segment began, tells nothing. Start times are never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.corrections import KNOWN_WRONG, flag_end, set_end
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.errors import ManifestInvalid, RecordingIdInvalid, StoreUnavailable
from ursa_pipelines.maintenance.many import Applied, Counted, for_each, write_row
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.stored import read_stored
from ursa_pipelines.recordings.merge import MergedManifest, merge_manifests
from ursa_pipelines.recordings.rows import RecordingRow

DEFAULT_MIN_DELTA = timedelta(seconds=60)

DurationState = Literal["fix", "unflag", "indeterminate", "unread"]


@dataclass(frozen=True)
class DurationFix:
    """One row whose duration is not right, or not known to be.

    `fix`: it shall end at `ended_at`. `unflag`: it is right, but flagged as known wrong. `indeterminate`: nothing tells
    when it ended, so it shall be flagged. `unread`: the bucket could not be asked; it stays. `seen` is the row.
    """

    seen: RecordingRow
    state: DurationState
    ended_at: datetime | None = None
    problem: str = ""

    @property
    def duration(self) -> timedelta | None:
        """What the duration shall be."""
        return self.ended_at - self.seen.start_time if self.ended_at else None

    @property
    def is_flagged(self) -> bool:
        return bool((self.seen.metadata or {}).get(KNOWN_WRONG))

    @property
    def is_to_write(self) -> bool:
        """Whether the row does not say so already."""
        return self.state in {"fix", "unflag"} or (self.state == "indeterminate" and not self.is_flagged)


def derive_end(merged: MergedManifest, present: Iterable[str], start: datetime) -> datetime | None:
    """When a recording that began at `start` ended, as far as its manifests tell of the `present` files; else None."""
    files = [merged.files[path] for path in present if path in merged.files]
    last_began = max((file.started_at for file in files if file.started_at), default=start)
    of_segments = max((file.ended_at for file in files if file.ended_at), default=None)
    for end in (of_segments, merged.ended_at):
        if end is not None and end > start and end >= last_began:
            return end
    return None


def plan_durations(
    raw: Bucket, catalog: Catalog, *, min_delta: timedelta = DEFAULT_MIN_DELTA, progress: Counted | None = None
) -> list[DurationFix]:
    """Compares every row's end with the one derived from the manifests in the bucket; only reads.

    Rows that differ by no more than `min_delta` are right, unless they have no end or are flagged. A row without a
    rec_id was written by hand and is passed by.
    """
    rows = [row for row in catalog.list_recordings() if row.rec_id]
    found = for_each(rows, lambda row: _compared(raw, row, min_delta), progress)
    return [fix for fix in found if fix is not None]


def indeterminate(fixes: Iterable[DurationFix]) -> list[DurationFix]:
    """Those rows of which nothing tells when they ended."""
    return [fix for fix in fixes if fix.state == "indeterminate"]


def apply_durations(
    catalog: Catalog,
    fixes: Sequence[DurationFix],
    writer: Writer,
    *,
    max_indeterminate: int = 0,
    progress: Counted | None = None,
) -> list[Applied]:
    """Writes ends and flags; a row whose times have changed since they were compared stays and is `failed`.

    Raises `ValueError`, and writes nothing, if more than `max_indeterminate` rows have no derivable end.
    """
    if len(indeterminate(fixes)) > max_indeterminate:
        raise ValueError(f"{len(indeterminate(fixes))} rows have no derivable end; at most {max_indeterminate} may")

    def write(fix: DurationFix) -> Applied:
        resolve = set_end(fix.ended_at, fix.seen) if fix.ended_at else flag_end(fix.state == "indeterminate", fix.seen)
        # By this word a sweep between two prefixes knows that it must not be merged with what the other has.
        op = "durations:overwrite"
        return write_row(catalog, fix.seen.recording_hash, fix.seen.rec_id, resolve, op=op, writer=writer)

    return list(for_each([fix for fix in fixes if fix.is_to_write], write, progress))


def _compared(raw: Bucket, row: RecordingRow, min_delta: timedelta) -> DurationFix | None:
    rec_id = row.rec_id or ""
    try:
        stored = read_stored(raw, rec_id)
        merged = merge_manifests(rec_id, stored.manifests)
    except (ManifestInvalid, RecordingIdInvalid) as error:
        return DurationFix(row, "indeterminate", problem=str(error))
    except StoreUnavailable as error:
        return DurationFix(row, "unread", problem=str(error))
    if merged is None:
        return DurationFix(row, "indeterminate", problem="the bucket has no usable manifest")
    end = derive_end(merged, stored.segments, row.start_time)
    if end is None:
        return DurationFix(row, "indeterminate", problem="no segment or manifest tells when it ended")
    fix = DurationFix(row, "fix", end)
    if row.ended_at is None:
        return fix
    delta = max(abs(end - row.ended_at), abs(end - row.start_time - row.duration))
    if fix.is_flagged:
        return fix if delta else DurationFix(row, "unflag")
    return fix if delta > min_delta else None
