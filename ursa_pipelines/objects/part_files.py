"""One segment on its way to its file: what an interrupted download left is hashed, and only the rest is asked for.

Whoever writes a part file holds its lock. It gets the segment's name only once its digest is right and it is on the
disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ursa_pipelines import failpoints
from ursa_pipelines.errors import (
    ContentMismatch,
    DestinationBusy,
    ETagMismatch,
    ObjectNotFound,
    ObjectsMissing,
    StoreUnavailable,
)
from ursa_pipelines.objects.destination import (
    Planned,
    WantedFile,
    conflict,
    make_directories,
    on_disk,
    other_content,
)
from ursa_pipelines.objects.fetching import check, fetch
from ursa_pipelines.objects.proof import stored_digest
from ursa_pipelines.objects.store import Bucket

logger = logging.getLogger("ursa.download")

_BUFFER_BYTES = 1024 * 1024
_LOOK_SECONDS = 0.2
_BUSY_SECONDS = 60.0

OnBytes = Callable[[int], None]
"""Told how many more bytes are on the disk; negative if some of them turned out to be useless."""


def bring(raw: Bucket, planned: Planned, dest: Path, *, stop: threading.Event, on_bytes: OnBytes) -> None:
    """Fetches what is missing of a segment and gives it its name below `dest`.

    If the object was replaced since it was listed, the new one is fetched, which still must have the digest that the
    manifest attests. Raises `ContentMismatch`, `ObjectsMissing`, `DestinationConflict`, `DestinationFull`,
    `DestinationUnusable`, `DestinationBusy`, and what `fetch` raises; whatever is raised, what has come stays in the
    part file.
    """
    with on_disk(planned), from_bucket(planned.wanted):
        if not planned.wanted.etag:
            planned = _as_it_is_now(raw, planned)
        make_directories(planned, dest)
        try:
            _bring_version(raw, planned, stop, on_bytes)
        except ETagMismatch:
            _bring_version(raw, _as_it_is_now(raw, planned), stop, on_bytes)


def require_same(raw: Bucket, planned: Planned, *, stop: threading.Event, on_bytes: OnBytes) -> None:
    """Reads the file that is there; raises `DestinationConflict` if its digest is not the segment's."""
    with on_disk(planned), from_bucket(planned.wanted):
        expected = planned.wanted.sha256 or stored_digest(raw, planned.wanted.key)
        with planned.target.open("rb", buffering=0) as stream:
            found = _hashed(stream, stop, on_bytes)
        if found.hexdigest() != expected:
            on_bytes(-planned.wanted.size)
            raise other_content(planned)


@contextmanager
def from_bucket(wanted: WantedFile) -> Iterator[None]:
    """Within it, what the store says of an object names the recording, the path and what to do."""
    try:
        yield
    except StoreUnavailable as error:
        raise StoreUnavailable(
            error.problem,
            recording=wanted.rec_id,
            place=wanted.path,
            remedy="Check the network, then run it again; it goes on from what is there.",
        ) from None
    except ObjectNotFound:
        raise ObjectsMissing(
            "it was in the bucket when this began and is gone", recording=wanted.rec_id, place=wanted.path
        ) from None


def require_right(wanted: WantedFile, size: int, digest: str) -> None:
    """Raises `ContentMismatch` if bytes that came are not those that are attested."""
    if size != wanted.size or (wanted.sha256 and digest != wanted.sha256):
        raise ContentMismatch(
            "the bytes in the bucket are not those that were ingested",
            recording=wanted.rec_id,
            place=wanted.path,
            remedy="Download it again; if it stays so, run `ursa verify --deep` for this recording.",
        )


def _as_it_is_now(raw: Bucket, planned: Planned) -> Planned:
    info = raw.head(planned.wanted.key)
    if info is None:
        raise ObjectNotFound("there is no such object", place=f"{raw.name}/{planned.wanted.key}")
    require_right(planned.wanted, info.size, planned.wanted.sha256 or "")
    return replace(planned, wanted=replace(planned.wanted, etag=info.etag))


def _bring_version(raw: Bucket, planned: Planned, stop: threading.Event, on_bytes: OnBytes) -> None:
    wanted, target = planned.wanted, planned.target
    with _locked_part(planned, stop) as stream:
        if os.path.lexists(target):
            # Another download has brought it while this one waited for the lock.
            planned.part.unlink()
            require_same(raw, planned, stop=stop, on_bytes=on_bytes)
            return
        state = hashlib.sha256()
        came = os.fstat(stream.fileno()).st_size
        if came > wanted.size or not wanted.sha256:
            # Without a digest nothing could prove what is there.
            stream.truncate(0)
            came = 0
        if came:
            state = _hashed(stream, stop, on_bytes)

        def take(chunk: memoryview) -> None:
            state.update(chunk)
            _write(stream, chunk)
            on_bytes(len(chunk))

        try:
            fetch(raw, wanted.key, wanted.size, take, etag=wanted.etag, start=came, stop=stop)
            if came and state.hexdigest() != wanted.sha256:
                logger.warning("what was there of a file is damaged; it is fetched anew", extra={"path": wanted.path})
                on_bytes(-wanted.size)
                state = hashlib.sha256()
                stream.seek(0)
                stream.truncate(0)
                fetch(raw, wanted.key, wanted.size, take, etag=wanted.etag, stop=stop)
            require_right(wanted, stream.tell(), state.hexdigest())
        except (ContentMismatch, ETagMismatch):
            on_bytes(-stream.tell())
            planned.part.unlink()
            raise
        os.fsync(stream.fileno())
        failpoints.reached("download.file_complete")
        if os.path.lexists(target):
            raise other_content(planned)
        planned.part.rename(target)
        failpoints.reached("download.file_renamed")


@contextmanager
def _locked_part(planned: Planned, stop: threading.Event) -> Iterator[BinaryIO]:
    """The part file, which nobody else writes. Waits for another download of it for as long as that gets on."""
    part, size, since = planned.part, -1, time.monotonic()
    while (stream := _try_lock(planned)) is None:
        check(stop)
        before, size = size, _size(part)
        if before == -1:
            logger.info("another download brings this file; waiting for it", extra={"path": planned.wanted.path})
        if size != before:
            since = time.monotonic()
        if time.monotonic() - since > _BUSY_SECONDS:
            raise DestinationBusy(
                f"another download writes it, and nothing has come for {_BUSY_SECONDS:g} s",
                recording=planned.wanted.rec_id,
                place=str(planned.target),
            )
        stop.wait(_LOOK_SECONDS)
    with stream:
        try:
            yield stream
        finally:
            if not os.fstat(stream.fileno()).st_size and not os.path.lexists(planned.target):
                part.unlink(missing_ok=True)


def _try_lock(planned: Planned) -> BinaryIO | None:
    part = planned.part
    try:
        # Opening a FIFO must not wait for somebody at its other end.
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EISDIR}:
            raise
        raise conflict(planned, "is a link" if error.errno == errno.ELOOP else "is a directory", part) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise conflict(planned, "is no regular file with this name alone", part)
    stream = os.fdopen(descriptor, "r+b", buffering=0)
    is_ours = False
    try:
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had the lock may have given the file its name by now.
            is_ours = os.path.samestat(os.fstat(descriptor), part.stat())
    finally:
        if not is_ours:
            stream.close()
    return stream if is_ours else None


def _hashed(stream: BinaryIO, stop: threading.Event, on_bytes: OnBytes) -> hashlib._Hash:
    state, buffer = hashlib.sha256(), memoryview(bytearray(_BUFFER_BYTES))
    while count := stream.readinto(buffer):  # type: ignore[attr-defined]
        check(stop)
        state.update(buffer[:count])
        on_bytes(count)
    return state


def _write(stream: BinaryIO, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[stream.write(chunk) :]


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0
