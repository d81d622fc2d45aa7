"""That the bucket holds every byte of a directory, and that nothing has changed since.

Every file is read anew, no digest that was computed before counts, and each is proved by the object's bytes or by the
store's own checksum of them. What is proved is what the manifest lists, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from ursa_pipelines.catalog.entries import read_entry
from ursa_pipelines.catalog.pointer import read_pointer
from ursa_pipelines.errors import ReleaseRefused, SourceChanged, UploadInterrupted
from ursa_pipelines.ingest.context import Watch
from ursa_pipelines.maintenance.release.certificate import ReleasedFile
from ursa_pipelines.maintenance.release.judging import Desk, Examined, look_at
from ursa_pipelines.objects.proof import prove_content
from ursa_pipelines.objects.reading import DaemonExecutor, Watchdog, gather
from ursa_pipelines.objects.store import ObjectInfo
from ursa_pipelines.objects.stored import PARTICIPANT_BYTES_LIMIT, is_manifest, is_segment, list_recording
from ursa_pipelines.recordings.inventory import SourceFile, read_source
from ursa_pipelines.recordings.layout import shown
from ursa_pipelines.recordings.manifest import MANIFEST_BYTES_LIMIT

_READERS = 4


def prove(desk: Desk, examined: Examined, *, by_bytes: bool = False, watch: Watch | None = None) -> list[ReleasedFile]:
    """Reads every file and finds the object that holds the same bytes. With `by_bytes` every object is read as well.

    Raises `ReleaseRefused` for a file whose digest is not the manifest's, `ObjectConflict` for one that the bucket has
    not, and what reading both raises.
    """
    watch, stop = watch or Watch(), threading.Event()
    watchdog = Watchdog(examined.rec_id, desk.context.transfers.limits.read_timeout)
    watch.expect(files=len(examined.objects), total_bytes=examined.bytes)

    def check() -> None:
        if stop.is_set():
            raise UploadInterrupted("another file of this recording failed", recording=examined.rec_id)
        watch.check_stop()

    def one(path: str) -> ReleasedFile:
        file, candidates = examined.objects[path]
        proved = _proved(desk, examined, file, candidates, watchdog, by_bytes, check)
        watch.done(path, file.size)
        return proved

    with DaemonExecutor(_READERS, "release") as pool:
        return gather([pool.submit(one, path) for path in sorted(examined.objects)], watchdog, stop, watch.check_stop)


def require_unchanged(desk: Desk, examined: Examined, files: Sequence[ReleasedFile]) -> None:
    """Raises `SourceChanged` or `ReleaseRefused` unless source, bucket and catalog are still what was looked at."""
    assets, prefix = desk.context.catalog.assets, desk.context.catalog.prefix
    if read_pointer(assets).prefix != prefix:
        raise ReleaseRefused("the catalog it was looked up in is not the live one", recording=examined.rec_id)
    found = read_entry(assets, prefix, examined.entry.recording.recording_hash)
    if found is None or found[1] != examined.entry_etag:
        raise ReleaseRefused("its row was changed meanwhile", recording=examined.rec_id)
    now = {info.key: info for info in list_recording(desk.context.raw, examined.rec_id).values()}
    for file in files:
        there = now.get(file.key)
        if there is None or (there.size, there.etag) != (file.size, file.etag):
            raise ReleaseRefused("the bucket's copy was changed meanwhile", recording=examined.rec_id, place=file.key)
    tree = look_at(desk, examined.source, examined.rec_id)
    if tree != examined.tree:
        raise SourceChanged("it changed while it was looked at", recording=examined.rec_id, place=examined.source.name)


def _proved(
    desk: Desk,
    examined: Examined,
    file: SourceFile,
    candidates: Sequence[ObjectInfo],
    watchdog: Watchdog,
    by_bytes: bool,
    check: Callable[[], None],
) -> ReleasedFile:
    raw, source, chosen = desk.context.raw, (examined.inventory, file), candidates[0]
    if not is_segment(file.path):
        limit = MANIFEST_BYTES_LIMIT if is_manifest(file.path) else PARTICIPANT_BYTES_LIMIT
        content = watchdog.watched(file.path, partial(read_source, examined.inventory, file, limit=limit))
        chosen = next((info for info in candidates if raw.get(info.key)[0] == content), chosen)
    proof = prove_content(raw, chosen, source, watchdog, by_bytes=by_bytes, check_stop=check)
    if is_segment(file.path):
        marker = examined.stored.marker
        attested = examined.merged.files[file.path].sha256 or (marker and marker.digest_of(file.path))
        if proof.sha256 != attested:
            raise ReleaseRefused(
                f"its SHA-256 is {proof.sha256}, but {attested or 'none'} is listed",
                recording=examined.rec_id,
                place=shown(file.path),
            )
    return ReleasedFile(
        key=chosen.key,
        etag=proof.etag,
        path=file.disk_path,
        size=file.size,
        mtime_ns=file.mtime_ns,
        ctime_ns=file.ctime_ns,
        inode=file.inode,
        sha256=proof.sha256,
        evidence=proof.kind,
    )
