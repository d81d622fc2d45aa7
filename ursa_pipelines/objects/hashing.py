"""SHA-256 of source files, each read once through a reused buffer."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from ursa_pipelines.errors import UploadInterrupted
from ursa_pipelines.objects.reading import DaemonExecutor, Watchdog, gather, open_watched
from ursa_pipelines.recordings.inventory import Inventory, SourceFile

_BUFFER_BYTES = 1024 * 1024
_SMALL_FILE_BYTES = 1024 * 1024


def hash_files(
    inventory: Inventory,
    files: Iterable[SourceFile],
    *,
    workers: int | None = None,
    read_timeout: float = 120.0,
    check_stop: Callable[[], None] = lambda: None,
    on_bytes: Callable[[str, int], None] = lambda path, count: None,
    on_digest: Callable[[SourceFile, str], None] = lambda file, digest: None,
) -> dict[str, str]:
    """The lower-case hex SHA-256 of each file, by path.

    Large files take one thread per core (`workers`); small ones are hashed by one thread, which is faster
    than several (studies: transfer, section 4). `check_stop` is called between chunks and may raise; `on_digest` is
    told of each file as it is done. Raises what `open_source` raises, and `SourceUnavailable` for a read that takes
    longer than `read_timeout` seconds.
    """
    stop, watchdog = threading.Event(), Watchdog(inventory.rec_id, read_timeout)

    def check() -> None:
        if stop.is_set():
            raise UploadInterrupted("another file of this recording failed", recording=inventory.rec_id)
        check_stop()

    def digest(file: SourceFile) -> str:
        found = _digest(inventory, file, watchdog, check, on_bytes)
        on_digest(file, found)
        return found

    with ExitStack() as stack:
        one_per_core = stack.enter_context(DaemonExecutor(workers or os.cpu_count() or 1, "hash-large"))
        one = stack.enter_context(DaemonExecutor(1, "hash-small"))
        pending = {
            file.path: (one if file.size <= _SMALL_FILE_BYTES else one_per_core).submit(digest, file) for file in files
        }
        return dict(zip(pending, gather(pending.values(), watchdog, stop, check_stop), strict=True))


def _digest(
    inventory: Inventory,
    file: SourceFile,
    watchdog: Watchdog,
    check_stop: Callable[[], None],
    on_bytes: Callable[[str, int], None],
) -> str:
    state = hashlib.sha256()
    buffer = memoryview(bytearray(min(_BUFFER_BYTES, max(file.size, 1))))
    with open_watched(inventory, file, watchdog) as stream:
        while count := watchdog.watched(file.path, lambda: stream.readinto(buffer)):  # type: ignore[attr-defined]
            check_stop()
            state.update(buffer[:count])
            on_bytes(file.path, count)
    return state.hexdigest()
