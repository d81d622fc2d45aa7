"""Sends source files: each byte is read once, hashed and sent from the same buffer (DESIGN section 5, rule 2).

A file becomes visible in the bucket only if its size and SHA-256 are the expected ones and nothing stands under
its key yet. Small files go as one create-only PUT that carries its checksum. Larger ones go as multipart with equal
parts, completed create-only and aborted on any failure. The memory of one `Uploader` is bounded by its buffers and
threads, not by the number of files; it grows only with the part size, for files above 140 GB.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from ursa_pipelines.errors import (
    ContentMismatch,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreUnavailable,
    UploadInterrupted,
)
from ursa_pipelines.objects.store import Bucket, ObjectInfo
from ursa_pipelines.recordings.inventory import Inventory, SourceFile, open_source, require_unchanged

logger = logging.getLogger("ursa.register.orchestrator")

_PART_BUFFERS_BYTES = 96 * 1024 * 1024
_PARTS_LIMIT = 9_000


@dataclass(frozen=True)
class Outgoing:
    """A source file on its way to `key`, with the digest it must have."""

    inventory: Inventory
    file: SourceFile
    key: str
    sha256: str


@dataclass(frozen=True)
class TransferLimits:
    """How much goes at once. Sizes are bytes; files of at most `single_put` go in one request, in `workers` threads."""

    part_size: int = 16 * 1024 * 1024
    single_put: int = 8 * 1024 * 1024
    workers: int = 8

    def part_size_for(self, size: int) -> int:
        """The equal part size of a file, doubled until it has at most 9,000 parts (R2 takes 10,000)."""
        part_size = self.part_size
        while size > part_size * _PARTS_LIMIT:
            part_size *= 2
        return part_size


@dataclass
class Uploader:
    """Sends many files to one bucket at once.

    `check_stop` is called between chunks and may raise to stop everything; `on_bytes(path, count)` is told of
    bytes that were sent. Both may be called from several threads.
    """

    bucket: Bucket
    limits: TransferLimits = field(default_factory=TransferLimits)
    check_stop: Callable[[], None] = lambda: None
    on_bytes: Callable[[str, int], None] = lambda path, count: None
    _failed: threading.Event = field(default_factory=threading.Event)
    _large_at_once: int = 1

    def send_all(
        self, outgoing: list[Outgoing], place: Callable[[Outgoing], ObjectInfo | None]
    ) -> dict[str, ObjectInfo]:
        """Runs `place` (which decides and calls `send`) for every file; what it says is stored then, by path.

        The first error stops the rest and is raised after the transfers under way have ended.
        """
        large = [one for one in outgoing if one.file.size > self.limits.single_put]
        small = [one for one in outgoing if one.file.size <= self.limits.single_put]
        self._large_at_once = max(1, min(os.cpu_count() or 1, len(large)))
        with (
            ThreadPoolExecutor(self._large_at_once, thread_name_prefix="send-large") as large_pool,
            ThreadPoolExecutor(self.limits.workers, thread_name_prefix="send-small") as small_pool,
        ):
            futures: dict[Future[ObjectInfo | None], str] = {}
            for pool, files in ((large_pool, large), (small_pool, small)):
                futures.update({pool.submit(place, one): one.file.path for one in files})
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                placed = {futures[future]: future.result() for future in done}
                return {path: info for path, info in placed.items() if info is not None}
            except BaseException:
                self._failed.set()
                for future in futures:
                    future.cancel()
                raise

    def send(self, outgoing: Outgoing) -> ObjectInfo:
        """Sends one file and returns what is stored then.

        Raises `ObjectExists`; `ContentMismatch` if size or digest are not the expected ones; `SourceChanged` and
        `SourceUnavailable` from reading; whatever `check_stop` raises. None of them leaves anything visible.
        """
        with open_source(outgoing.inventory, outgoing.file) as stream:
            if outgoing.file.size <= self.limits.single_put:
                return self._send_in_one(outgoing, stream)
            return self._send_in_parts(outgoing, stream)

    def _check_stop(self) -> None:
        if self._failed.is_set():
            raise UploadInterrupted("another file of this recording failed")
        self.check_stop()

    def _send_in_one(self, outgoing: Outgoing, stream: BinaryIO) -> ObjectInfo:
        self._check_stop()
        body = stream.read(outgoing.file.size + 1)
        while len(body) <= outgoing.file.size and (more := stream.read(outgoing.file.size + 1 - len(body))):
            body += more
        _require_content(outgoing, stream, len(body), hashlib.sha256(body).hexdigest())
        info = self.bucket.create(outgoing.key, body, sha256=outgoing.sha256)
        self.on_bytes(outgoing.file.path, len(body))
        return info

    def _send_in_parts(self, outgoing: Outgoing, stream: BinaryIO) -> ObjectInfo:
        part_size = self.limits.part_size_for(outgoing.file.size)
        with multipart_upload(self.bucket, outgoing.key, sha256=outgoing.sha256) as upload:
            state, size = hashlib.sha256(), 0
            buffers = max(2, _PART_BUFFERS_BYTES // part_size // self._large_at_once)
            free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
            for _ in range(min(buffers, -(-outgoing.file.size // part_size))):
                free.put(bytearray(part_size))
            sent: list[Future[None]] = []
            with ThreadPoolExecutor(buffers, thread_name_prefix="send-part") as pool:
                try:
                    while size < outgoing.file.size:
                        buffer = free.get()
                        _raise_first_failure(sent)
                        self._check_stop()
                        count = _fill(stream, buffer)
                        state.update(memoryview(buffer)[:count])
                        size += count
                        if count < part_size and size < outgoing.file.size:
                            break
                        sent.append(pool.submit(self._send_part, upload, len(sent) + 1, buffer, count, free, outgoing))
                    overrun = stream.read(1)
                    _require_content(outgoing, stream, size + len(overrun), state.hexdigest())
                    wait(sent, return_when=FIRST_EXCEPTION)
                    _raise_first_failure(sent)
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
            self._check_stop()
            # The last parts may have taken long: what changed since the last byte was read is still noticed.
            require_unchanged(outgoing.inventory, outgoing.file, stream)
            return upload.complete(outgoing.file.size)

    def _send_part(
        self,
        upload: MultipartUpload,
        number: int,
        buffer: bytearray,
        count: int,
        free: queue.SimpleQueue[bytearray],
        outgoing: Outgoing,
    ) -> None:
        try:
            upload.send_part(number, buffer if count == len(buffer) else buffer[:count])
        finally:
            free.put(buffer)
        self.on_bytes(outgoing.file.path, count)


class MultipartUpload:
    """An open multipart upload. Parts may be sent from several threads; it is completed only create-only."""

    def __init__(self, bucket: Bucket, key: str, upload_id: str, sha256: str) -> None:
        self._bucket, self._key, self._id, self._sha256 = bucket, key, upload_id, sha256
        self._etags: dict[int, str] = {}
        self._lock = threading.Lock()

    def send_part(self, number: int, body: bytearray) -> None:
        with speaking_of(self._bucket, self._key):
            answer = self._bucket.multipart_client.upload_part(
                Bucket=self._bucket.name, Key=self._key, UploadId=self._id, PartNumber=number, Body=body
            )
        with self._lock:
            self._etags[number] = answer["ETag"]

    def complete(self, size: int) -> ObjectInfo:
        """Makes the object visible. Raises `ObjectExists` if the key was taken meanwhile.

        An upload that is gone may have been completed by us with the answer lost: then what stands there
        carries our digest.
        """
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(self._etags.items())]
        with speaking_of(self._bucket, self._key):
            answer = self._bucket.multipart_client.complete_multipart_upload(
                Bucket=self._bucket.name,
                Key=self._key,
                UploadId=self._id,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
            )
        return ObjectInfo(self._key, size, answer["ETag"], self._sha256)

    def abort(self) -> None:
        """Removes the parts. An upload that is gone is no error: R2 ends one whose conditional Complete fails."""
        with suppress(ObjectExists), speaking_of(self._bucket, self._key):
            self._bucket.multipart_client.abort_multipart_upload(
                Bucket=self._bucket.name, Key=self._key, UploadId=self._id
            )


@contextmanager
def multipart_upload(bucket: Bucket, key: str, *, sha256: str) -> Iterator[MultipartUpload]:
    """Opens a multipart upload for the block; on any error inside it is aborted, and the error passes on."""
    with speaking_of(bucket, key):
        answer = bucket.multipart_client.create_multipart_upload(
            Bucket=bucket.name, Key=key, Metadata={"sha256": sha256}
        )
    upload = MultipartUpload(bucket, key, answer["UploadId"], sha256)
    try:
        yield upload
    except BaseException:
        try:
            upload.abort()
        except (ObjectNotFound, StoreUnavailable, StoreDenied) as error:
            logger.warning("an unfinished upload was left behind: %s", error)
        raise


def has_open_uploads(bucket: Bucket, prefix: str) -> bool:
    """Whether somebody is sending a file in parts under the prefix, or left one unfinished."""
    with speaking_of(bucket, prefix):
        answer = bucket.multipart_client.list_multipart_uploads(Bucket=bucket.name, Prefix=prefix, MaxUploads=1)
    return bool(answer.get("Uploads"))


@contextmanager
def speaking_of(bucket: Bucket, key: str) -> Iterator[None]:
    """Turns boto3's errors into this package's."""
    from botocore.exceptions import BotoCoreError, ClientError

    place = f"{bucket.name}/{key}"
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == 412 or code in {"PreconditionFailed", "NoSuchUpload"}:
            raise ObjectExists("the key was taken while the file was sent", place=place) from None
        if status in {401, 403}:
            raise StoreDenied(f"the object store refused it: {code}", place=place) from None
        if status == 404:
            raise ObjectNotFound("there is no such bucket", place=place) from None
        raise StoreUnavailable(f"the object store failed: {code or status}", place=place) from None
    except BotoCoreError as error:
        raise StoreUnavailable(f"the object store failed: {type(error).__name__}", place=place) from None


def _fill(stream: BinaryIO, buffer: bytearray) -> int:
    view, filled = memoryview(buffer), 0
    while filled < len(buffer) and (count := stream.readinto(view[filled:])):  # type: ignore[attr-defined]
        filled += count
    return filled


def _require_content(outgoing: Outgoing, stream: BinaryIO, size: int, sha256: str) -> None:
    rec_id, path = outgoing.inventory.rec_id, outgoing.file.path
    require_unchanged(outgoing.inventory, outgoing.file, stream)
    if size != outgoing.file.size:
        raise ContentMismatch(f"it gave {size:,} bytes instead of {outgoing.file.size:,}", recording=rec_id, place=path)
    if sha256 != outgoing.sha256:
        raise ContentMismatch(
            f"its SHA-256 is {sha256}, but {outgoing.sha256} is expected", recording=rec_id, place=path
        )


def _raise_first_failure(futures: list[Future[None]]) -> None:
    for future in futures:
        if future.done() and not future.cancelled() and (error := future.exception()):
            raise error
