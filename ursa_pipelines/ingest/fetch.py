"""Raw segments of query results in memory (ursa-facts section 9.2), for recordings that are small enough."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

from rich.filesize import decimal

from ursa_pipelines.catalog.results import QueryResult
from ursa_pipelines.errors import DataTooLarge, UrsaError
from ursa_pipelines.ingest.wanted import wanted_of_each
from ursa_pipelines.objects.data import Data, RawBytes
from ursa_pipelines.objects.destination import WantedFile
from ursa_pipelines.objects.fetching import fetch
from ursa_pipelines.objects.part_files import from_bucket, require_right
from ursa_pipelines.objects.reading import DaemonExecutor
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.rows import ModalityRow

MAX_BYTES = 1024**3
"""What `get` reads into memory at most, unless it is told another limit."""


def read_data(raw: Bucket, results: Sequence[QueryResult], *, max_bytes: int = MAX_BYTES, workers: int) -> list[Data]:
    """Each result with the bytes of its segments, verified as a download is.

    Raises `DataTooLarge` before anything is read if they are more than `max_bytes` together, and what a download
    raises.
    """
    _require_small(sum(row.bytes for result in results for row in result.modalities.values()), max_bytes)
    wanted: list[list[WantedFile]] = []
    for _, files in wanted_of_each(raw, results):
        if isinstance(files, UrsaError):
            raise files
        wanted.append(files)
    _require_small(sum(file.size for files in wanted for file in files), max_bytes)
    stop = threading.Event()
    with DaemonExecutor(workers, "get") as pool:
        contents = {file.key: pool.submit(_read, raw, file, stop) for files in wanted for file in files}
        try:
            read = {key: content.result() for key, content in contents.items()}
        except BaseException:
            stop.set()
            for content in contents.values():
                content.cancel()
            raise
    return [_data(result, files, read) for result, files in zip(results, wanted, strict=True)]


def _data(result: QueryResult, files: list[WantedFile], read: dict[str, bytes]) -> Data:
    return Data(
        result.recording,
        {
            name: _raw_bytes([file for file in files if file.modality == name], row, read)
            for name, row in result.modalities.items()
        },
    )


def _raw_bytes(files: list[WantedFile], row: ModalityRow, read: dict[str, bytes]) -> RawBytes:
    return RawBytes(
        tuple(sorted((file.key, read[file.key]) for file in files)),
        row,
        tuple(sorted(file.key for file in files if file.sha256 is None)),
    )


def _read(raw: Bucket, file: WantedFile, stop: threading.Event) -> bytes:
    content, state = bytearray(), hashlib.sha256()

    def take(chunk: memoryview) -> None:
        content.extend(chunk)
        state.update(chunk)

    with from_bucket(file):
        fetch(raw, file.key, file.size, take, etag=file.etag, stop=stop)
    require_right(file, len(content), state.hexdigest())
    return bytes(content)


def _require_small(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DataTooLarge(f"it is {decimal(size)}, and at most {decimal(max_bytes)} are read into memory")
