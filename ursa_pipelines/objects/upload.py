"""Sends source files: each byte is read once, hashed and sent from the same buffer (DESIGN section 5, rule 2).

A file becomes visible in the bucket only if its size and SHA-256 are the expected ones and nothing stands under
its key yet. Small files go as one create-only PUT that carries its checksum. Larger ones go as multipart with equal
parts, completed create-only. Above `resume_above` an upload survives an interruption: the next try reads the file
again for its digest, and sends only the parts that the store does not have.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from ursa_pipelines.errors import ContentMismatch, ObjectExists, StoreUnavailable, UploadInterrupted, UrsaError
from ursa_pipelines.objects.line import Flow
from ursa_pipelines.objects.parts import MultipartUpload, create_upload
from ursa_pipelines.objects.reading import DaemonExecutor, Watchdog, fill, gather, open_watched, outcome
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.objects.transfers import Transfers
from ursa_pipelines.objects.unfinished import UnfinishedUploads
from ursa_pipelines.objects.wire import Outflow, UploadGone
from ursa_pipelines.recordings.inventory import Inventory, SourceFile, require_unchanged

logger = logging.getLogger("ursa.register.orchestrator")

_TRIES = 3
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Outgoing:
    """A source file on its way to `key`, with the digest it must have."""

    inventory: Inventory
    file: SourceFile
    key: str
    sha256: str


@dataclass(frozen=True)
class Sent:
    """What is stored now, and how many bytes this try had to send for it."""

    info: ObjectInfo
    bytes_sent: int


@dataclass
class Uploader:
    """Sends many files of one recording to `raw` at once; `assets` keeps the records of resumable uploads.

    `check_stop` is called between chunks and may raise to stop everything; `on_bytes(path, count)` is told of
    bytes that were sent or found to be there, with a negative count for those that are sent again. Both may be called
    from several threads.
    """

    raw: Bucket
    assets: Bucket
    rec_id: str
    transfers: Transfers = field(default_factory=Transfers)
    check_stop: Callable[[], None] = lambda: None
    on_bytes: Callable[[str, int], None] = lambda path, count: None

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self.watchdog = Watchdog(self.rec_id, self.transfers.limits.read_timeout)
        self._unfinished = UnfinishedUploads(self.raw, self.assets)
        self._part_senders = DaemonExecutor(self.transfers.limits.part_senders, "send-part")
        self._lent: dict[int, bytearray] = {}
        self._unrecorded: dict[str, MultipartUpload] = {}

    def send_all(
        self, outgoing: list[Outgoing], place: Callable[[Outgoing], ObjectInfo | None]
    ) -> dict[str, ObjectInfo]:
        """Runs `place` (which decides and calls `send`) for every file; what it says is stored then, by path.

        The first error stops the rest and is raised after the transfers under way have ended.
        """
        limits = self.transfers.limits
        with ExitStack() as stack:
            large = stack.enter_context(DaemonExecutor(os.cpu_count() or 1, "send-large"))
            small = stack.enter_context(DaemonExecutor(limits.workers, "send-small"))
            stack.enter_context(self._part_senders)
            pending = {
                one.file.path: (small if one.file.size <= limits.single_put else large).submit(place, one)
                for one in outgoing
            }
            try:
                placed = gather(pending.values(), self.watchdog, self._stop, self.check_stop)
            except BaseException:
                for held_by_a_hanging_read in list(self._lent.values()):
                    self.transfers.buffers.write_off(held_by_a_hanging_read)
                for upload_of_a_hanging_read in list(self._unrecorded.values()):
                    _unless_it_fails(upload_of_a_hanging_read.abort)
                raise
        return {path: info for path, info in zip(pending, placed, strict=True) if info is not None}

    def send(self, outgoing: Outgoing) -> Sent:
        """Sends one file.

        Raises `ObjectExists`; `ContentMismatch` if size or digest are not the expected ones; `SourceChanged` and
        `SourceUnavailable` from reading; whatever `check_stop` raises. None of them leaves anything visible.
        """
        if outgoing.file.size <= self.transfers.limits.single_put:
            return self._send_in_one(outgoing)
        for _ in range(_TRIES):
            try:
                return self._send_in_parts(outgoing)
            except UploadGone:
                # Somebody has completed or aborted it, or it has expired.
                if self.raw.head(outgoing.key) is not None:
                    raise ObjectExists("the key was taken while the file was sent", place=outgoing.key) from None
        raise StoreUnavailable("its uploads keep vanishing", recording=self.rec_id, place=outgoing.file.path)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise UploadInterrupted("another file of this recording failed", recording=self.rec_id)
        self.check_stop()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._check_stop()
            time.sleep(min(left, _LOOK_SECONDS))

    def _send_in_one(self, outgoing: Outgoing) -> Sent:
        self._check_stop()
        path, size = outgoing.file.path, outgoing.file.size
        body = bytearray(size + 1)
        with open_watched(outgoing.inventory, outgoing.file, self.watchdog) as stream:
            count = fill(stream, body, path, self.watchdog)
        del body[count:]
        digest = hashlib.sha256(body)
        _require_content(outgoing, count, digest.hexdigest())
        self._check_stop()
        line = self.transfers.line
        if not line.capped:
            info = self.raw.create(outgoing.key, bytes(body), sha256=outgoing.sha256)
            self.on_bytes(path, count)
            return Sent(info, count)
        take = _taking(line.flow(), self._check_stop)
        answer = self.raw.wire.put(
            outgoing.key,
            Outflow(body, take, partial(self.on_bytes, path)),
            headers={
                "if-none-match": "*",
                "x-amz-meta-sha256": outgoing.sha256,
                "x-amz-checksum-sha256": base64.b64encode(digest.digest()).decode(),
            },
            sleep=self._sleep,
        )
        return Sent(ObjectInfo(outgoing.key, count, answer.get("etag", ""), outgoing.sha256), count)

    def _send_in_parts(self, outgoing: Outgoing) -> Sent:
        limits, size = self.transfers.limits, outgoing.file.size
        part_size = limits.part_size_for(size)
        if size > limits.resume_above:
            return self._send_resumably(outgoing, part_size)
        upload = create_upload(self.raw, outgoing.key, sha256=outgoing.sha256, part_size=part_size)
        self._unrecorded[outgoing.key] = upload
        try:
            return self._complete(outgoing, upload)
        except BaseException:
            _unless_it_fails(upload.abort)
            raise
        finally:
            del self._unrecorded[outgoing.key]

    def _send_resumably(self, outgoing: Outgoing, part_size: int) -> Sent:
        upload = self._unfinished.open(
            outgoing.key, size=outgoing.file.size, sha256=outgoing.sha256, part_size=part_size
        )
        try:
            sent = self._complete(outgoing, upload)
        except (ContentMismatch, ObjectExists):
            _unless_it_fails(partial(self._unfinished.abandon, upload))
            raise
        _unless_it_fails(partial(self._unfinished.close, upload))
        return sent

    def _complete(self, outgoing: Outgoing, upload: MultipartUpload) -> Sent:
        bytes_sent = self._place_parts(outgoing, upload)
        self._check_stop()
        return Sent(upload.complete(), bytes_sent)

    def _place_parts(self, outgoing: Outgoing, upload: MultipartUpload) -> int:
        """Reads, hashes and sends at once: while a part is read, those before it are hashed and sent."""
        file, state, size = outgoing.file, hashlib.sha256(), 0
        jobs: list[Future[int]] = []
        ended, flow = threading.Event(), self.transfers.line.flow()

        def check_stop() -> None:
            if ended.is_set():
                raise UploadInterrupted("it failed", recording=self.rec_id, place=file.path)
            self._check_stop()

        with (
            DaemonExecutor(1, "hash-part") as hasher,
            open_watched(outgoing.inventory, file, self.watchdog) as stream,
        ):
            try:
                while size < file.size:
                    self._check_stop()
                    buffer = self._lend(upload.part_size)
                    content = memoryview(buffer)[: fill(stream, buffer, file.path, self.watchdog)]
                    size += len(content)
                    if len(content) < upload.part_size and size < file.size:
                        self._give_back(buffer)
                        break
                    hashed = hasher.submit(state.update, content)
                    job = self._part_senders.submit(
                        self._place_part, upload, len(jobs) + 1, content, hashed, flow, check_stop, file.path
                    )
                    job.add_done_callback(partial(self._give_back, buffer))
                    jobs.append(job)
                    _raise_first_failure(jobs)
                size += fill(stream, bytearray(1), file.path, self.watchdog)
                self.watchdog.watched(file.path, partial(require_unchanged, outgoing.inventory, file, stream))
                hashed_all = hasher.submit(state.hexdigest)
                _require_content(outgoing, size, outcome(hashed_all, self._check_stop))
                bytes_sent = sum(outcome(job, self._check_stop) for job in jobs)
            except BaseException:
                ended.set()
                for job in jobs:
                    job.cancel()
                wait(jobs)
                raise
        # Leaving has compared the file once more: what changed while the last parts were sent is noticed.
        return bytes_sent

    def _place_part(
        self,
        upload: MultipartUpload,
        number: int,
        content: memoryview,
        hashed: Future[None],
        flow: Flow,
        check_stop: Callable[[], None],
        path: str,
    ) -> int:
        try:
            check_stop()
            on_bytes = partial(self.on_bytes, path)
            if upload.keep(number, content):
                on_bytes(len(content))
                return 0
            take = _taking(flow, check_stop)
            upload.send(number, content, take, on_bytes=on_bytes, sleep=self._sleep)
            return len(content)
        finally:
            # The buffer is used again once the job is done.
            wait([hashed])

    def _lend(self, size: int) -> bytearray:
        buffer = self.transfers.buffers.take(size, self._check_stop)
        self._lent[id(buffer)] = buffer
        return buffer

    def _give_back(self, buffer: bytearray, _: Future[int] | None = None) -> None:
        self._lent.pop(id(buffer), None)
        self.transfers.buffers.give_back(buffer)


def _taking(flow: Flow, check_stop: Callable[[], None]) -> Callable[[int], int]:
    def take(wanted: int) -> int:
        check_stop()
        return flow.take(wanted, check_stop)

    return take


def _unless_it_fails(end: Callable[[], None]) -> None:
    try:
        end()
    except UrsaError as error:
        logger.warning("an unfinished upload or its record was left behind: %s", error)


def _require_content(outgoing: Outgoing, size: int, sha256: str) -> None:
    rec_id, path = outgoing.inventory.rec_id, outgoing.file.path
    if size != outgoing.file.size:
        raise ContentMismatch(f"it gave {size:,} bytes instead of {outgoing.file.size:,}", recording=rec_id, place=path)
    if sha256 != outgoing.sha256:
        raise ContentMismatch(
            f"its SHA-256 is {sha256}, but {outgoing.sha256} is expected", recording=rec_id, place=path
        )


def _raise_first_failure(futures: list[Future[int]]) -> None:
    for future in futures:
        if future.done() and not future.cancelled() and (error := future.exception()):
            raise error
