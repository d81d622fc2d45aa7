"""What every step is handed: where the bytes go, who writes, how careful and how fast to be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.errors import UploadInterrupted
from ursa_pipelines.objects.digests import DigestCache
from ursa_pipelines.objects.reading import unless_it_hangs
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.transfers import Transfers
from ursa_pipelines.recordings.media_probe import MediaProbe

_T = TypeVar("_T")


@dataclass(frozen=True)
class UploadProgress:
    """How far an ingest has come. Bytes and files count what is sent and what is found to be there already."""

    current_file: str
    bytes_uploaded: int
    bytes_total: int
    files_done: int
    files_total: int


@dataclass(frozen=True)
class IngestContext:
    """The rooms and rules of an ingest. Periods are seconds.

    `check_stop` is called where a source is looked at, and raises `UploadInterrupted` if a stop was asked for. With
    `media` None no media file is looked into; `truncated` is what becomes of a recording that has cut-off ones.
    """

    raw: Bucket
    catalog: Catalog
    writer: Writer
    quiet_period: float = 120.0
    reconstruct_after_bucket: float = 86_400.0
    transfers: Transfers = field(default_factory=Transfers)
    hash_workers: int | None = None
    digests: DigestCache | None = None
    recordings_at_once: int = 4
    media: MediaProbe | None = None
    truncated: Literal["report", "refuse"] = "report"
    check_stop: Callable[[], None] = lambda: None

    def reading(self, rec_id: str, place: str, call: Callable[[], _T]) -> _T:
        """The result of a call that reads from a source. Raises `SourceUnavailable` if the source hangs."""
        return self.listing(rec_id, place, lambda gets_on: call())

    def listing(self, rec_id: str, place: str, call: Callable[[Callable[[], None]], _T]) -> _T:
        """The same for a call that may take long, and tells by what it is given that it gets on."""
        return unless_it_hangs(rec_id, place, self.transfers.limits.read_timeout, call, self.check_stop)


class Watch:
    """Tells the caller how an ingest proceeds and asks whether it should stop. Safe to use from several threads."""

    def __init__(
        self,
        progress: Callable[[UploadProgress], None] | None = None,
        should_pause: Callable[[], bool] | None = None,
    ) -> None:
        self._progress, self._should_pause = progress, should_pause
        self._lock = threading.Lock()
        self._bytes = self._bytes_total = self._files = self._files_total = 0
        self._begun: dict[str, int] = {}

    def expect(self, *, files: int, total_bytes: int) -> None:
        """Sets what 100 % is, and that nothing is done yet."""
        with self._lock:
            self._bytes = self._files = 0
            self._begun.clear()
        self._files_total, self._bytes_total = files, total_bytes

    def sent(self, path: str, count: int) -> None:
        """Counts `count` bytes of a file as done; a negative number of those that are sent again."""
        with self._lock:
            self._begun[path] = self._begun.get(path, 0) + count
            self._tell(path, count)

    def done(self, path: str, size: int) -> None:
        """Counts a file of `size` bytes as done, with those of its bytes that did not have to be sent."""
        with self._lock:
            self._files += 1
            self._tell(path, size - self._begun.pop(path, 0))

    def check_stop(self) -> None:
        """Raises `UploadInterrupted` if the caller asked to pause."""
        if self._should_pause is not None and self._should_pause():
            raise UploadInterrupted("a pause was asked for")

    def _tell(self, path: str, count: int) -> None:
        self._bytes += count
        if self._progress is not None:
            self._progress(UploadProgress(path, self._bytes, self._bytes_total, self._files, self._files_total))
