"""What becomes of what media files tell: a report beside the ingest, never a silent refusal (extra `[probe]`).

A recording whose files are cut off is ingested and told of, because what is left may be all there is. Only a profile
that says `truncated: refuse` keeps it out, before anything is sent.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO

from ursa_pipelines.errors import ETagMismatch, MediaTruncated, ObjectNotFound, StoreUnavailable
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.objects.digests import digest_objects, marked_digest
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.objects.stored import StoredRecording
from ursa_pipelines.recordings.inventory import Inventory, SourceFile
from ursa_pipelines.recordings.layout import shown
from ursa_pipelines.recordings.media import MediaFacts, MediaReport, is_media, kind_in_part, media_kind
from ursa_pipelines.recordings.media_probe import ReaderFailed
from ursa_pipelines.recordings.merge import MergedManifest, NamedManifest

logger = logging.getLogger("ursa.register.orchestrator")

_TOLD_IN_ROWS, _TOLD_IN_TEXTS = 50, 5
_BEGIN_BYTES, _END_BYTES = 256 * 1024, 2 * 1024 * 1024


def look_at_media(
    context: IngestContext,
    inventory: Inventory,
    manifests: Collection[NamedManifest],
    merged: MergedManifest | None,
    stored: StoredRecording,
) -> MediaReport | None:
    """What those media files tell that our commit marker does not prove yet, or all if their lengths are to be stated.

    What an interrupted try has sent is looked at again, as nothing was told of it. `manifests` are the directory's.
    None if the context does not look into media. Raises `MediaTruncated` if files are cut off and the context refuses
    that, and what opening a source raises.
    """
    probe = context.media
    if probe is None:
        return None
    listed = merged.files if merged else {}
    states_end = bool(inventory.files.keys() - listed.keys()) and is_end_by_media((*manifests, *stored.manifests))

    def is_done(file: SourceFile) -> bool:
        digest, there = marked_digest(stored, file.path), stored.objects.get(file.path)
        is_proved = digest is not None and there is not None and there.size == file.size
        return is_proved and file.path in listed and listed[file.path].sha256 in {None, digest}

    files = [file for path, file in inventory.files.items() if is_media(path) and (states_end or not is_done(file))]
    if not files:
        return MediaReport()
    report = context.listing(
        inventory.rec_id, "its media files", lambda gets_on: probe.report(inventory, files, gets_on)
    )
    if context.truncated == "refuse" and report.truncated:
        raise MediaTruncated(f"files are cut off: {_told(report.truncated)}", recording=inventory.rec_id)
    return report


def is_end_by_media(manifests: Iterable[NamedManifest]) -> bool:
    """Whether no rig tells when the recording ended, so that each manifest made here states what media files tell.

    The latest of them counts, whichever half came first (DESIGN section 6). A rig's word is never touched.
    """
    told = [one.manifest for one in manifests if not one.manifest.is_stub]
    return all(
        one.reconstruction and (one.ended_at is None or one.reconstruction.ended_at_source == "media") for one in told
    )


def length_in_bucket(
    context: IngestContext, stored: StoredRecording, paths: Iterable[str], check_stop: Callable[[], None]
) -> float | None:
    """How long the recording was, as its media objects tell; seconds. Only begins and ends of objects are read.

    What cannot be read is not known. Raises `UploadInterrupted` on a stop.
    """
    paths = list(paths)
    probe, path_of = context.media, {stored.objects[path].key: path for path in paths if media_kind(path)}
    unseen = frozenset(path for path in paths if is_media(path) and not media_kind(path))
    if probe is None:
        return None
    one_at_a_time = threading.Lock()

    def facts_of(info: ObjectInfo, check_stop: Callable[[], None]) -> MediaFacts:
        check_stop()
        kind = media_kind(path_of[info.key]) or ""
        is_whole = kind == "mp4" and info.size <= _END_BYTES
        try:
            with _in_part(context.raw, info, tail=kind == "mp4") as stream, one_at_a_time:
                facts = probe.facts_of(stream, kind if is_whole else kind_in_part(kind))
        except (StoreUnavailable, ETagMismatch, ObjectNotFound, ReaderFailed, OSError):
            facts = None
        return facts or MediaFacts(kind)

    found = digest_objects([stored.objects[path] for path in path_of.values()], facts_of, check_stop)
    return MediaReport({path_of[key]: facts for key, facts in found.items()}, unseen).ended_after


@contextmanager
def _in_part(bucket: Bucket, info: ObjectInfo, *, tail: bool) -> Iterator[BinaryIO]:
    """A file of the object's size that holds its begin and its end, and zeros between them."""
    with tempfile.TemporaryFile() as stream:
        stream.truncate(info.size)
        for chunk in bucket.read(info.key, info.size, etag=info.etag):
            stream.write(chunk)
            if stream.tell() >= _BEGIN_BYTES:
                break
        rest = max(info.size - _END_BYTES, stream.tell())
        if tail and rest < info.size:
            stream.seek(rest)
            for chunk in bucket.read(info.key, info.size, start=rest, etag=info.etag):
                stream.write(chunk)
        stream.flush()
        yield stream


def media_bookkeeping(media: MediaReport | None) -> dict[str, Any]:
    """What the recording's row keeps of it: `media_problems` by path, the first fifty."""
    problems = media.problems if media else {}
    return {"media_problems": dict(islice(problems.items(), _TOLD_IN_ROWS))} if problems else {}


def warn_of_media(rec_id: str, media: MediaReport | None) -> None:
    """Logs what is wrong with files that were ingested nevertheless."""
    if media and media.problems:
        logger.warning(
            "%s: ingested as it is, though of its media files %s",
            rec_id,
            _told(media.problems),
            extra={"recording": rec_id},
        )


def _told(problems: dict[str, str]) -> str:
    some = "; ".join(f"{shown(path)} ({problem})" for path, problem in islice(problems.items(), _TOLD_IN_TEXTS))
    return some + (f"; and {len(problems) - _TOLD_IN_TEXTS:,} more" if len(problems) > _TOLD_IN_TEXTS else "")
