"""Recordings that reached the raw bucket by other ways, such as a rig's own upload, and when they have settled.

What the catalog covers is passed by. A row covers a recording as long as the bucket has as many segments and bytes of
it as the row counts, and no manifest that came after the row: objects are never overwritten, so that anything new
changes one of these. That takes one LIST and the row. Where our commit marker names all that is there, an ingest of
ours put it there and has yet to write the row: this waits too, so that an upload does not echo as an arrival.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.errors import ManifestInvalid, StoreDenied
from ursa_pipelines.ingest.watch import Arrival, seen_now
from ursa_pipelines.objects.keys import RECORDINGS, recording_prefix
from ursa_pipelines.objects.parts import has_open_uploads
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.objects.stored import Marker, StoredRecording, is_manifest, list_recording, read_stored
from ursa_pipelines.recordings.identity import is_rec_id
from ursa_pipelines.recordings.layout import is_clutter
from ursa_pipelines.recordings.merge import MergedManifest, merge_manifests
from ursa_pipelines.recordings.rows import RecordingRow
from ursa_pipelines.recordings.settling import Verdict

_CLOCKS_DIFFER_BY = 300.0
_STARTS_DIFFER_BY = timedelta(days=2)


@dataclass(frozen=True)
class BucketWatch:
    """The raw bucket and the catalog, to be read only. Periods are seconds."""

    raw: Bucket
    catalog: Catalog
    quiet_period: float
    reconstruct_after: float

    def recordings_since(self, day: date) -> list[str]:
        """The rec_ids in the bucket of this day or later, sorted; what is older is not listed."""
        names = self.raw.list_directories(RECORDINGS, start_after=f"{RECORDINGS}rec_{day:%Y%m%d}")
        return [name for name in names if is_rec_id(name)]

    def rows_since(self, day: date) -> dict[str, RecordingRow]:
        """The rows of these recordings by rec_id, in one scan of their months.

        One whose manifest tells quite another start is missing; `look` asks for it.
        """
        start = datetime.combine(day, time(), UTC) - _STARTS_DIFFER_BY
        rows = self.catalog.list_recordings({"start_time": ("between", start, None)})
        return {row.rec_id: row for row in rows if row.rec_id is not None}

    def look(
        self, rec_id: str, previous: Arrival | None, version: str | None, row: RecordingRow | None, *, now: float
    ) -> Arrival | None:
        """What is to be said of a recording at `now` (seconds since 1970 UTC), or None if nothing is.

        `version` is the fingerprint with which it was reported last, `row` its row, each None if there is none. What
        has settled without being complete tells in `reason` what it lacks.
        """
        objects = list_recording(self.raw, rec_id)
        fingerprint = _fingerprint(objects)
        if not objects or fingerprint == version or (row is not None and _covers(row, objects)):
            return None
        same = previous is not None and previous.fingerprint == fingerprint
        try:
            stored = read_stored(self.raw, rec_id)
            merged = merge_manifests(rec_id, stored.manifests)
        except ManifestInvalid as error:
            # Settled, so that the refusal becomes visible as a failed recording.
            settled = _quiet(objects, now) >= self.quiet_period
            return seen_now(fingerprint, settled, str(error), previous, now=now, like_before=same)
        verdict = self._judge(stored, merged, now)
        if verdict.settled and row is None:
            entry = self.catalog.entry_of_rec_id(rec_id)
            if entry is not None and _covers(entry.recording, objects):
                return None
        return seen_now(fingerprint, verdict.settled, verdict.reason, previous, now=now, like_before=same)

    def _judge(self, stored: StoredRecording, merged: MergedManifest | None, now: float) -> Verdict:
        quiet, segments = _quiet(stored.objects, now), _segments(stored.objects)
        wait, why = self.reconstruct_after, "no manifest yet"
        if merged is not None:
            listed = merged.files
            missing = sum(
                path not in segments or segments[path].size != file.size_bytes for path, file in listed.items()
            )
            unlisted = len(segments.keys() - listed.keys())
            if missing:
                why = f"{missing} of {len(listed)} listed files are not there yet"
            elif unlisted:
                why = f"{unlisted} files are there that no manifest lists"
            elif stored.marker is not None and _names_all(stored.marker, segments):
                why = "uploaded from here, not registered yet"
            else:
                wait, why = self.quiet_period, "complete"
        if quiet < wait:
            return Verdict(False, f"{why}, quiet for {quiet:.0f} of {wait:.0f} s")
        if (merged is None or missing) and self._is_being_sent(stored.rec_id):
            return Verdict(False, f"{why}, and a file is being sent in parts or was left so")
        is_complete = merged is not None and not missing and not unlisted
        return Verdict(True, "" if is_complete else why)

    def _is_being_sent(self, rec_id: str) -> bool:
        try:
            return has_open_uploads(self.raw, recording_prefix(rec_id))
        except StoreDenied:
            # Not every credential that reads may list uploads. An ingest looks again before it makes a manifest.
            return False


def _fingerprint(objects: Mapping[str, ObjectInfo]) -> str:
    """Digest of the manifests' names and ETags, and the number and bytes of all objects."""
    manifests = sorted(f"{path} {info.etag}" for path, info in objects.items() if is_manifest(path))
    digest = hashlib.sha256("\n".join(manifests).encode()).hexdigest()[:16]
    return f"{digest}-{len(objects)}-{sum(info.size for info in objects.values())}"


def _covers(row: RecordingRow, objects: Mapping[str, ObjectInfo]) -> bool:
    """Whether the row counts all segments that are there, and is newer than the manifests."""
    segments, told = _segments(objects), row.metadata or {}
    if (told.get("files"), told.get("bytes")) != (len(segments), sum(info.size for info in segments.values())):
        return False
    try:
        registered_at = datetime.fromisoformat(str(told.get("registered_at"))).timestamp()
    except ValueError:
        # Rows that were registered by hand tell no time.
        return True
    newest = max((info.modified for path, info in objects.items() if is_manifest(path)), default=0.0)
    return newest <= registered_at + _CLOCKS_DIFFER_BY


def _segments(objects: Mapping[str, ObjectInfo]) -> dict[str, ObjectInfo]:
    found = StoredRecording("", dict(objects), (), None).segments
    return {path: info for path, info in found.items() if not is_clutter(path)}


def _names_all(marker: Marker, segments: Mapping[str, ObjectInfo]) -> bool:
    files = marker.document["files"]
    return all(path in files and files[path].get("etag") == info.etag for path, info in segments.items())


def _quiet(objects: Mapping[str, ObjectInfo], now: float) -> float:
    return now - max((info.modified for info in objects.values()), default=0.0)
