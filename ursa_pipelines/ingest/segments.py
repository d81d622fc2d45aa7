"""The bytes of a recording's segments: sent, or proved to be there (DESIGN section 5, rules 1 to 3 and 5)."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

from ursa_pipelines import failpoints
from ursa_pipelines.errors import (
    ContentMismatch,
    ObjectConflict,
    ObjectExists,
    SourceChanged,
    StoreUnavailable,
    UploadInterrupted,
)
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.discover import mismatch
from ursa_pipelines.ingest.reconstruct_manifest import Recording
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.proof import require_same_bytes
from ursa_pipelines.objects.reading import DaemonExecutor, Watchdog, gather
from ursa_pipelines.objects.store import ObjectInfo
from ursa_pipelines.objects.upload import Outgoing, Uploader
from ursa_pipelines.recordings.inventory import Inventory
from ursa_pipelines.recordings.layout import some
from ursa_pipelines.recordings.merge import MergedFile


def place_segments(
    context: IngestContext, recording: Recording, inventory: Inventory, watch: Watch, sent: dict[str, int]
) -> dict[str, ObjectInfo]:
    """Sends what the bucket lacks and proves the rest; what is stored, by path.

    `sent` gets the bytes that were sent, by path. Raises `ContentMismatch`, which names every damaged file, after all
    others were sent: the operator learns of them at once, and once these are mended the rest is in place.
    """
    rec_id = recording.discovery.rec_id
    uploader = Uploader(context.raw, context.catalog.assets, rec_id, context.transfers, watch.check_stop, watch.sent)
    placing = _Placing(context, recording, watch, uploader, sent)
    outgoing = [
        Outgoing(inventory, file, raw_key(rec_id, path), recording.merged.files[path].sha256 or "")
        for path, file in inventory.files.items()
    ]
    placed = uploader.send_all(outgoing, placing.place)
    if placing.damaged:
        first, *others = sorted(placing.damaged)
        more = f"; damaged too: {some(others)}" if others else ""
        raise ContentMismatch(f"{placing.damaged[first]}{more}", recording=rec_id, place=first)
    return placed


@dataclass
class _Placing:
    """Places one file after another, from several threads. `damaged` are those that are not what is attested."""

    context: IngestContext
    recording: Recording
    watch: Watch
    uploader: Uploader
    sent: dict[str, int]
    damaged: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stored = self.recording.discovery.stored
        self._hashed_here = {file.path for file in self.recording.discovery.unattested}

    def place(self, outgoing: Outgoing) -> ObjectInfo | None:
        path = outgoing.file.path
        if path in self._stored.objects:
            return self._prove(outgoing, self._stored.objects[path])
        try:
            done = self.uploader.send(outgoing)
        except ContentMismatch as error:
            self._note_damage(outgoing, error.problem)
            return None
        except ObjectExists:
            there = self.context.raw.head(outgoing.key)
            if there is None:
                raise StoreUnavailable("the upload was lost", recording=self._stored.rec_id, place=path) from None
            return self._prove(outgoing, there)
        failpoints.reached("upload.file_stored")
        self.sent[path] = done.bytes_sent
        self.watch.done(path, outgoing.file.size)
        return done.info

    def _prove(self, outgoing: Outgoing, info: ObjectInfo) -> ObjectInfo:
        try:
            require_same_bytes(
                self.context.raw,
                info,
                rec_id=self._stored.rec_id,
                path=outgoing.file.path,
                size=outgoing.file.size,
                sha256=outgoing.sha256,
                marker=self._stored.marker,
                source=(outgoing.inventory, outgoing.file),
                watchdog=self.uploader.watchdog,
                check_stop=self.uploader.check,
            )
        except ContentMismatch as error:
            if self._forget_digest(outgoing):
                raise _changed(outgoing, error.problem) from None
            raise
        except ObjectConflict:
            self._forget_digest(outgoing)
            raise
        if self._stored.marker is None or outgoing.file.path not in self._stored.marker.document["files"]:
            # It may have been stored by a try that came no further than that.
            self.uploader.settle(outgoing)
        self.watch.done(outgoing.file.path, outgoing.file.size)
        return info

    def _note_damage(self, outgoing: Outgoing, problem: str) -> None:
        rec_id, path = self._stored.rec_id, outgoing.file.path
        if self._forget_digest(outgoing):
            raise _changed(outgoing, problem) from None
        found = mismatch(self.context, outgoing.file, rec_id, problem)
        if not isinstance(found, ContentMismatch):
            raise found from None
        self.damaged[path] = problem

    def _forget_digest(self, outgoing: Outgoing) -> bool:
        """Whether the file's digest is one that was computed here; then it is computed anew the next time."""
        if outgoing.file.path not in self._hashed_here:
            return False
        if self.context.digests:
            self.context.digests.forget(outgoing.inventory, outgoing.file)
        return True


def prove_elsewhere(
    context: IngestContext, recording: Recording, placed: dict[str, ObjectInfo], watch: Watch
) -> dict[str, ObjectInfo]:
    """Proves the listed files that are not in this directory but in the bucket: another node's, or sent before."""
    stored = recording.discovery.stored
    elsewhere = [
        file
        for path, file in recording.merged.files.items()
        if path not in placed and path not in recording.discovery.absent
    ]

    stop = threading.Event()

    def check_stop() -> None:
        if stop.is_set():
            raise UploadInterrupted("another file of this recording failed", recording=stored.rec_id)
        watch.check_stop()

    def prove(file: MergedFile) -> tuple[str, ObjectInfo]:
        info = stored.objects[file.path]
        require_same_bytes(
            context.raw,
            info,
            rec_id=stored.rec_id,
            path=file.path,
            size=file.size_bytes,
            sha256=file.sha256 or "",
            marker=stored.marker,
            check_stop=check_stop,
        )
        return file.path, info

    with DaemonExecutor(context.transfers.limits.workers, "prove") as pool:
        proofs = [pool.submit(prove, file) for file in elsewhere]
        return dict(gather(proofs, Watchdog(stored.rec_id, math.inf), stop, watch.check_stop))


def _changed(outgoing: Outgoing, problem: str) -> SourceChanged:
    """For a file that no manifest attests: it is not damaged, but another one than was hashed."""
    return SourceChanged(problem, recording=outgoing.inventory.rec_id, place=outgoing.file.path)
