"""SHA-256 digests of files and objects: those found before, and those of many objects at once.

The cache only saves time, so that nothing is hashed twice across retries (DESIGN section 5, rule 2). A file's digest
holds for one device, inode, size, mtime and change time under one path, and is checked again as the bytes are sent; an
object's holds for one ETag and size. A file that was written within the last two seconds is not kept: a later write
within the same tick of its clock would not show (git, Documentation/technical/racy-git). Whatever goes wrong with the
cache, an ingest goes on without it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from ursa_pipelines.errors import StoreUnavailable, UploadInterrupted
from ursa_pipelines.objects.keys import uri
from ursa_pipelines.objects.proof import stored_digest
from ursa_pipelines.objects.reading import unless_it_hangs
from ursa_pipelines.objects.store import Bucket, ObjectInfo, requests_to_read
from ursa_pipelines.objects.stored import StoredRecording
from ursa_pipelines.recordings.inventory import Inventory, SourceFile

logger = logging.getLogger("ursa.register.orchestrator")

_T = TypeVar("_T")

SMALL_OBJECT_BYTES = 1024 * 1024
"""Up to here the bytes cost less than a question about them would."""

_READERS_OF_LARGE, _READERS_OF_SMALL = 8, 16
_NAME = "digests.sqlite"
_KEPT_SECONDS = 30 * 86_400
_YOUNG_NS = 2 * 10**9
_UNWRITTEN_BYTES = 16 * 1024 * 1024
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SETUP = (
    # One file between two writes, which a killed process leaves whole; after a loss of power it may be damaged.
    "PRAGMA journal_mode=TRUNCATE",
    "PRAGMA synchronous=OFF",
    "CREATE TABLE IF NOT EXISTS digests"
    " (place BLOB PRIMARY KEY, version TEXT NOT NULL, sha256 TEXT NOT NULL, kept_at REAL NOT NULL) WITHOUT ROWID",
)
_SELECT = "SELECT sha256 FROM digests WHERE place = ? AND version = ?"
_INSERT = "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)"


@dataclass(frozen=True)
class Recall:
    """The digests known of a recording's files, by path. `keep` adds one that was computed since."""

    digests: dict[str, str] = field(default_factory=dict)
    keep: Callable[[SourceFile, str], None] = lambda file, sha256: None


class DigestCache:
    """The file `digests.sqlite` in a directory, opened at its first use. For any number of threads and processes.

    Digests of small files and objects are written some at a time: `flush` writes the last ones, and a process that is
    killed loses what takes the reading of 16 MiB. `patience` is how many seconds another process may keep it locked.
    """

    def __init__(self, directory: Path, *, patience: float = 5.0) -> None:
        self._path, self._patience = Path(directory) / _NAME, patience
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._was_damaged = self._given_up = False
        self._pending: dict[bytes, tuple[str, str, float]] = {}
        self._pending_bytes = 0

    def recall(
        self,
        inventory: Inventory,
        files: Sequence[SourceFile],
        *,
        read_timeout: float = 120.0,
        check_stop: Callable[[], None] = lambda: None,
    ) -> Recall:
        """What is known of these files; to be asked before the others are hashed.

        Raises `SourceUnavailable` if the drive gives nothing for `read_timeout` seconds.
        """
        began = time.time_ns()
        versions = _versions(inventory, files, read_timeout, check_stop) if files else {}

        def keep(file: SourceFile, sha256: str) -> None:
            if file.path in versions and began - file.mtime_ns >= _YOUNG_NS:
                self._keep(_place(inventory, file), versions[file.path], sha256, file.size)

        found = {
            file.path: self._find(_place(inventory, file), versions[file.path])
            for file in files
            if file.path in versions
        }
        return Recall({path: sha256 for path, sha256 in found.items() if sha256}, keep)

    def forget(self, inventory: Inventory, file: SourceFile) -> None:
        """Drops what is known of a file whose bytes turned out to be others."""
        self.flush()
        place = _place(inventory, file)
        self._try(lambda connection: connection.execute("DELETE FROM digests WHERE place = ?", (place,)))

    def of_object(self, bucket: str, info: ObjectInfo) -> str | None:
        """The digest of an object as LIST shows it, or None."""
        return self._find(_place_of_object(bucket, info), _version_of_object(info))

    def keep_object(self, bucket: str, info: ObjectInfo, sha256: str) -> None:
        self._keep(_place_of_object(bucket, info), _version_of_object(info), sha256, info.size)

    def flush(self) -> None:
        """Writes what was kept and is not written yet."""
        with self._lock:
            rows = [
                (place, version, _sealed(place, version, sha256), kept_at)
                for place, (version, sha256, kept_at) in self._pending.items()
            ]
            self._pending, self._pending_bytes = {}, 0
            if rows:
                self._try(lambda connection: _insert(connection, rows))

    def _find(self, place: bytes, version: str) -> str | None:
        with self._lock:
            if self._pending:
                self.flush()
            rows = self._try(lambda connection: connection.execute(_SELECT, (place, version)).fetchall()) or []
        return next((sha256 for (kept,) in rows if (sha256 := _unsealed(place, version, kept))), None)

    def _keep(self, place: bytes, version: str, sha256: str, size: int) -> None:
        with self._lock:
            self._pending[place] = (version, sha256, time.time())
            self._pending_bytes += size
            if self._pending_bytes >= _UNWRITTEN_BYTES:
                self.flush()

    def _try(self, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        with self._lock:
            while not self._given_up:
                try:
                    return work(self._connection or self._open())
                except (sqlite3.Error, OSError) as error:
                    self._close()
                    self._begin_anew_or_give_up(error)
        return None

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._inode = self._inode_now()
        self._connection = sqlite3.connect(
            self._path, timeout=self._patience, isolation_level=None, check_same_thread=False
        )
        for statement in _SETUP:
            self._connection.execute(statement)
        self._connection.execute("DELETE FROM digests WHERE kept_at < ?", (time.time() - _KEPT_SECONDS,))
        self._inode = self._inode_now()
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _begin_anew_or_give_up(self, error: Exception) -> None:
        is_damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
        if is_damaged and not self._was_damaged:
            self._was_damaged = True
            try:
                # Another process may have replaced it already.
                if self._inode is not None and self._inode == self._inode_now():
                    logger.warning("%s is damaged and is begun anew; files may be hashed again", self._path)
                    self._path.unlink(missing_ok=True)
                    self._path.with_name(f"{_NAME}-journal").unlink(missing_ok=True)
            except OSError as failure:
                error = failure
            else:
                return
        self._given_up = True
        logger.warning("digests are not kept in %s, so files may be hashed again: %s", self._path, error)

    def _inode_now(self) -> int | None:
        try:
            return self._path.stat().st_ino
        except FileNotFoundError:
            return None


def digests_in_bucket(
    bucket: Bucket,
    stored: StoredRecording,
    paths: Collection[str],
    cache: DigestCache | None,
    *,
    check_stop: Callable[[], None] = lambda: None,
    on_bytes: Callable[[str, int], None] = lambda path, count: None,
    on_done: Callable[[str, int], None] = lambda path, size: None,
) -> dict[str, str]:
    """The SHA-256 of these objects of a recording, by path: as our marker or the cache has it, else as found out now.

    What is found out is kept. Raises `ObjectNotFound` and what `stored_digest` raises.
    """
    found = {}
    for path in paths:
        info = stored.objects[path]
        sha256 = marked_digest(stored, path) or (cache.of_object(bucket.name, info) if cache else None)
        if sha256:
            found[path] = sha256
            on_done(path, info.size)
    path_of = {stored.objects[path].key: path for path in paths if path not in found}

    def digest(info: ObjectInfo, check_stop: Callable[[], None]) -> str:
        check_stop()
        path = path_of[info.key]
        if info.size <= SMALL_OBJECT_BYTES:
            sha256 = digest_at_once(bucket, info)
        else:
            sha256 = stored_digest(bucket, info.key, check_stop=check_stop, on_bytes=partial(on_bytes, path))
        if cache is not None:
            cache.keep_object(bucket.name, info, sha256)
        on_done(path, info.size)
        return sha256

    try:
        read = digest_objects([stored.objects[path] for path in path_of.values()], digest, check_stop)
    finally:
        if cache is not None:
            cache.flush()
    return found | {path_of[key]: sha256 for key, sha256 in read.items()}


def marked_digest(stored: StoredRecording, path: str) -> str | None:
    """The digest that our commit marker has of the very object that LIST shows."""
    entry = stored.marker.document["files"].get(path) if stored.marker and path in stored.objects else None
    sha256 = entry.get("sha256") if entry else None
    is_proved = stored.marker and sha256 and stored.marker.proves(path, stored.objects[path], sha256)
    return sha256 if is_proved else None


def digest_at_once(bucket: Bucket, info: ObjectInfo) -> str:
    """The SHA-256 of a small object's bytes: one request. Raises `ObjectNotFound`, `StoreUnavailable` if they are few.

    An object that was replaced since `info` was listed has the digest that it has now.
    """
    body, now = bucket.get(info.key)
    if now.etag == info.etag and len(body) != info.size:
        raise StoreUnavailable("the answer was cut short", place=f"{bucket.name}/{info.key}")
    return hashlib.sha256(body).hexdigest()


def requests_to_digest(size: int) -> int:
    """How many requests the digest of an object of this size takes; one more, a HEAD, comes before a large one."""
    return 1 if size <= SMALL_OBJECT_BYTES else 1 + requests_to_read(size)


def digest_objects(
    infos: Iterable[ObjectInfo], digest: Callable[[ObjectInfo, Callable[[], None]], _T], check_stop: Callable[[], None]
) -> dict[str, _T]:
    """What `digest(info, check_stop)` gives for each object, by key; several at once, large ones first.

    The first failure, and an interrupt of the calling thread, stops the others where they next call the `check_stop`
    that they are given.
    """
    failed = threading.Event()

    def check() -> None:
        if failed.is_set():
            raise UploadInterrupted("another object of this recording failed")
        check_stop()

    by_size = sorted(infos, key=lambda info: -info.size)
    large = [info for info in by_size if info.size > SMALL_OBJECT_BYTES]
    found: dict[str, _T] = {}
    for readers, group in ((_READERS_OF_LARGE, large), (_READERS_OF_SMALL, by_size[len(large) :])):
        with ThreadPoolExecutor(readers, thread_name_prefix="digest") as pool:
            try:
                pending = {info.key: pool.submit(digest, info, check) for info in group}
                for future in wait(pending.values(), return_when=FIRST_EXCEPTION).done:
                    future.result()
                found.update((key, future.result()) for key, future in pending.items())
            except BaseException:
                failed.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return found


def _insert(connection: sqlite3.Connection, rows: list[tuple[bytes, str, str, float]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_INSERT, rows)
    connection.execute("COMMIT")


def _sealed(place: bytes, version: str, sha256: str) -> str:
    """The digest with a checksum behind it: a bit that flips in this file must not become a manifest's digest."""
    return sha256 + hashlib.sha256(b"\0".join((place, version.encode(), sha256.encode()))).hexdigest()[:16]


def _unsealed(place: bytes, version: str, kept: object) -> str | None:
    sha256 = kept[:64] if isinstance(kept, str) else ""
    return sha256 if _DIGEST.fullmatch(sha256) and kept == _sealed(place, version, sha256) else None


def _place(inventory: Inventory, file: SourceFile) -> bytes:
    return os.fsencode(inventory.directory / file.disk_path)


def _place_of_object(bucket: str, info: ObjectInfo) -> bytes:
    return uri(bucket, info.key).encode()


def _version_of_object(info: ObjectInfo) -> str:
    return f"{info.etag}:{info.size}"


def _versions(
    inventory: Inventory, files: Sequence[SourceFile], read_timeout: float, check_stop: Callable[[], None]
) -> dict[str, str]:
    """What changes with the bytes of each file, by path.

    The change time tells when a file was written over and given its old mtime back, as `cp -p` does.
    """

    def look(gets_on: Callable[[], None]) -> dict[str, str]:
        versions = {}
        for file in files:
            check_stop()
            gets_on()
            try:
                status = os.lstat(inventory.directory / file.disk_path)
            except OSError:
                continue
            identity = (file.device, file.inode, file.size, file.mtime_ns, status.st_ctime_ns)
            versions[file.path] = ":".join(map(str, identity))
        return versions

    return unless_it_hangs(inventory.rec_id, str(inventory.directory), read_timeout, look)
