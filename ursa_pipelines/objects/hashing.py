"""SHA-256 of source files, each read once through a reused buffer."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from ursa_pipelines.errors import UploadInterrupted
from ursa_pipelines.recordings.inventory import Inventory, SourceFile, open_source

_BUFFER_BYTES = 1024 * 1024
_SMALL_FILE_BYTES = 1024 * 1024


def hash_files(
    inventory: Inventory,
    files: Iterable[SourceFile],
    *,
    workers: int | None = None,
    check_stop: Callable[[], None] = lambda: None,
    on_bytes: Callable[[str, int], None] = lambda path, count: None,
) -> dict[str, str]:
    """The lower-case hex SHA-256 of each file, by path.

    Large files take one thread per core (`workers`); small ones are hashed by one thread, which is faster
    than several (studies: transfer, section 4). `check_stop` is called between chunks and may raise.
    Raises what `open_source` raises.
    """

    failed = threading.Event()

    def check() -> None:
        if failed.is_set():
            raise UploadInterrupted("another file of this recording failed", recording=inventory.rec_id)
        check_stop()

    def digest(file: SourceFile) -> tuple[str, str]:
        return file.path, _digest(inventory, file, check, on_bytes)

    large = [file for file in files if file.size > _SMALL_FILE_BYTES]
    small = [file for file in files if file.size <= _SMALL_FILE_BYTES]
    with ThreadPoolExecutor(workers or os.cpu_count(), thread_name_prefix="hash") as pool:
        pending = [pool.submit(digest, file) for file in large]
        try:
            digests = dict(map(digest, small))
            digests.update(future.result() for future in pending)
        except BaseException:
            failed.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return digests


def _digest(
    inventory: Inventory,
    file: SourceFile,
    check_stop: Callable[[], None],
    on_bytes: Callable[[str, int], None],
) -> str:
    state = hashlib.sha256()
    buffer = memoryview(bytearray(min(_BUFFER_BYTES, max(file.size, 1))))
    with open_source(inventory, file) as stream:
        while count := stream.readinto(buffer):  # type: ignore[attr-defined]
            check_stop()
            state.update(buffer[:count])
            on_bytes(file.path, count)
    return state.hexdigest()
