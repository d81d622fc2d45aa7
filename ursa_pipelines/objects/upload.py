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
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

from ursa_pipelines import failpoints
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
_TINY_BYTES = 256 * 1024
_PATIENCE_SECONDS = 1.0
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

        The first error stops the rest and is raised once what is under way has ended, or had a few seconds to.
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
                for left_behind in list(self._lent.values()):
                    self._write_off(left_behind)
                for upload in list(self._unrecorded.values()):
                    _unless_it_fails(upload.abort)
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
                    _unless_it_fails(partial(self._unfinished.settle, outgoing.key))
                    raise ObjectExists("the key was taken while the file was sent", place=outgoing.key) from None
        raise StoreUnavailable("its uploads keep vanishing", recording=self.rec_id, place=outgoing.file.path)

    def settle(self, outgoing: Outgoing) -> None:
        """Ends what an interrupted try has left recorded of a file that is in the bucket by now."""
        if outgoing.file.size > self.transfers.limits.resume_above:
            _unless_it_fails(partial(self._unfinished.settle, outgoing.key))

    def check(self) -> None:
        """Raises `UploadInterrupted` if another file failed, and what `check_stop` raises."""
        if self._stop.is_set():
            raise UploadInterrupted("another file of this recording failed", recording=self.rec_id)
        self.check_stop()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _LOOK_SECONDS))

    def _send_in_one(self, outgoing: Outgoing) -> Sent:
        self.check()
        size = outgoing.file.size
        if size <= _TINY_BYTES:
            return self._send_content(outgoing, bytearray(size + 1))
        buffer = self._lend(size + 1)
        try:
            return self._send_content(outgoing, buffer)
        finally:
            self._give_back(buffer)

    def _send_content(self, outgoing: Outgoing, buffer: bytearray) -> Sent:
        path, line = outgoing.file.path, self.transfers.line
        with open_watched(outgoing.inventory, outgoing.file, self.watchdog) as stream:
            count = fill(stream, buffer, path, self.watchdog)
        content = memoryview(buffer)[:count]
        digest = hashlib.sha256(content)
        _require_content(outgoing, count, digest.hexdigest())
        self.check()
        if count <= _TINY_BYTES and not line.capped:
            # A connection that breaks off within a body is not tried again there, but below.
            with suppress(StoreUnavailable):
                info = self.raw.create(outgoing.key, bytes(content), sha256=outgoing.sha256)
                self.on_bytes(path, count)
                return Sent(info, count)
        answer = self.raw.wire.put(
            outgoing.key,
            Outflow(content, _taking(line.flow(), self.check), partial(self.on_bytes, path)),
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
            self._unrecorded.pop(outgoing.key, None)

    def _send_resumably(self, outgoing: Outgoing, part_size: int) -> Sent:
        upload = self._unfinished.open(
            outgoing.key, size=outgoing.file.size, sha256=outgoing.sha256, part_size=part_size
        )
        try:
            sent = self._complete(outgoing, upload)
        except (ContentMismatch, ObjectExists):
            _unless_it_fails(partial(self._unfinished.abandon, upload))
            raise
        failpoints.reached("upload.completed")
        _unless_it_fails(partial(self._unfinished.close, upload))
        return sent

    def _complete(self, outgoing: Outgoing, upload: MultipartUpload) -> Sent:
        bytes_sent = self._place_parts(outgoing, upload)
        self.check()
        return Sent(upload.complete(), bytes_sent)

    def _place_parts(self, outgoing: Outgoing, upload: MultipartUpload) -> int:
        """Reads, hashes and sends at once: while a part is read, those before it are hashed and sent.

        Returns how many bytes had to be sent.
        """
        file, state, size, number, bytes_sent = outgoing.file, hashlib.sha256(), 0, 0, 0
        jobs: dict[Future[int], bytearray] = {}
        ended, flow = threading.Event(), self.transfers.line.flow()

        def check_stop() -> None:
            if ended.is_set():
                raise UploadInterrupted("it failed", recording=self.rec_id, place=file.path)
            self.check()

        with (
            DaemonExecutor(1, "hash-part") as hasher,
            open_watched(outgoing.inventory, file, self.watchdog) as stream,
        ):
            try:
                while size < file.size:
                    self.check()
                    buffer = self._lend(upload.part_size, to_keep=True)
                    content = memoryview(buffer)[: fill(stream, buffer, file.path, self.watchdog)]
                    size, number = size + len(content), number + 1
                    if len(content) < upload.part_size and size < file.size:
                        self._give_back(buffer)
                        break
                    hashed = hasher.submit(state.update, content)
                    job = self._part_senders.submit(
                        self._place_part, upload, number, content, hashed, flow, check_stop, file.path
                    )
                    jobs[job] = buffer
                    job.add_done_callback(partial(self._give_back, buffer))
                    # Those that are done are let go, or their buffers would stay as long as the file is sent.
                    for done in [job for job in jobs if job.done()]:
                        del jobs[done]
                        bytes_sent += done.result()
                size += fill(stream, bytearray(1), file.path, self.watchdog)
                self.watchdog.watched(file.path, partial(require_unchanged, outgoing.inventory, file, stream))
                hashed_all = hasher.submit(state.hexdigest)
                _require_content(outgoing, size, outcome(hashed_all, self.check))
                bytes_sent += sum(outcome(job, self.check) for job in jobs)
            except BaseException:
                ended.set()
                # A part whose answer does not come is left behind, with its buffer.
                for job in wait([job for job in jobs if not job.cancel()], timeout=_PATIENCE_SECONDS).not_done:
                    self._write_off(jobs[job])
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
            failpoints.reached("upload.part_stored")
            return len(content)
        finally:
            # The buffer is used again once the job is done.
            wait([hashed])

    def _lend(self, size: int, *, to_keep: bool = False) -> bytearray:
        buffer = self.transfers.buffers.take(size, self.check, to_keep=to_keep)
        self._lent[id(buffer)] = buffer
        return buffer

    def _give_back(self, buffer: bytearray, _: Future[int] | None = None) -> None:
        self._lent.pop(id(buffer), None)
        self.transfers.buffers.give_back(buffer)

    def _write_off(self, buffer: bytearray) -> None:
        self._lent.pop(id(buffer), None)
        self.transfers.buffers.write_off(buffer)


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
