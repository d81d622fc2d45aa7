"""Brings segments to a directory: planned first, several at once, verified, renamed into place (ursa-facts section 11).

Threads bring the files; everything is told by the thread that asked, in the order of the plan.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeGuard

from ursa_pipelines.errors import DestinationConflict, DestinationUnusable, RecordingRefused, Retryable, UrsaError
from ursa_pipelines.objects.destination import (
    Layout,
    Planned,
    WantedFile,
    is_there,
    lay_out,
    make_destination,
    remove_outdated_parts,
    require_directory,
    require_room,
)
from ursa_pipelines.objects.fetching import Stopped
from ursa_pipelines.objects.part_files import bring, require_same
from ursa_pipelines.objects.reading import DaemonExecutor
from ursa_pipelines.objects.store import Bucket

logger = logging.getLogger("ursa.download")

Phase = Literal["start", "plan_done", "modality_start", "file_done", "modality_done", "finish"]

_WORKERS = 8
_LOOK_SECONDS = 0.1
_PATIENCE_AFTER_A_STOP = 1.0
_OF_ONE_RECORDING = (DestinationConflict, RecordingRefused, Retryable)


@dataclass(frozen=True)
class DownloadProgress:
    """One of six phase boundaries of a download. Bytes and files count what is on the disk and verified.

    Of `files_done`, `files_unproved` could not be: no manifest, marker or metadata states a digest of theirs.
    """

    phase: Phase
    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    rec_id: str | None = None
    modality: str | None = None
    current_file: str | None = None
    files_unproved: int = 0


def download_files(
    raw: Bucket,
    plan: Callable[[], Iterable[WantedFile]],
    dest: Path,
    *,
    layout: Layout,
    progress: Callable[[DownloadProgress], None] | None,
    workers: int = _WORKERS,
    on_bytes: Callable[[int], None] | None = None,
    on_failed: Callable[[str, UrsaError], None] | None = None,
) -> list[Path]:
    """Downloads what `plan` names and returns the paths that are there, in the plan's order.

    A file appears under its name only when its size and digest are right; one that is there already with the
    right content is kept, and one that an interrupted download left is continued. `on_bytes` is told now and then
    how many bytes are on the disk. Raises `ContentMismatch`, `ObjectsMissing`, `DestinationUnusable` for a place that
    the disk does not let it write, `DestinationConflict` for a file with other content, `DestinationFull`, and
    `ValueError` if two files would have the same name in this layout; the last three before anything is fetched. With
    `on_failed` a recording that fails is told there by its id and does not stop the others.
    """
    told = _Told(progress)
    told.tell("start")
    require_directory(dest)
    planned = lay_out(plan(), dest, layout)
    told.files_total, told.bytes_total = len(planned), sum(one.wanted.size for one in planned)
    told.tell("plan_done")
    written: list[Path] = []
    with DaemonExecutor(workers, "download") as pool:
        crew = _Crew(pool, on_bytes, on_failed)
        absent = _absent(raw, planned, dest, crew)
        calls = {one: partial(bring, raw, one, dest, stop=crew.stop, on_bytes=crew.count) for one in absent}
        coming = [one for one in planned if one.wanted.rec_id not in crew.failed]
        with closing(crew.run([(one, calls.get(one, _nothing)) for one in coming])) as outcomes:
            for _, group in groupby(coming, key=lambda one: (one.wanted.rec_id, one.wanted.modality)):
                segments = list(group)
                told.tell("modality_start", segments[0].wanted)
                for one in segments:
                    if next(outcomes):
                        written.append(one.target)
                        told.files_done, told.bytes_done = told.files_done + 1, told.bytes_done + one.wanted.size
                        told.files_unproved += one.wanted.sha256 is None
                        told.tell("file_done", one.wanted)
                told.tell("modality_done", segments[0].wanted)
        crew.beat()
    told.tell("finish")
    return written


def _absent(raw: Bucket, planned: Sequence[Planned], dest: Path, crew: _Crew) -> list[Planned]:
    """What must be fetched: everything that is not there with the right content.

    Nothing is fetched before all of it was looked at, so that a conflict or a full disk costs no hours.
    """
    there = {one for one in planned if crew.attempt(one, partial(is_there, one, dest))}
    crew.beat()
    crew.tell_failed()
    comparing = [
        (one, partial(require_same, raw, one, stop=crew.stop, on_bytes=crew.count)) for one in planned if one in there
    ]
    with closing(crew.run(comparing)) as outcomes:
        for _ in outcomes:
            crew.beat()
    absent = [one for one in planned if one not in there and one.wanted.rec_id not in crew.failed]
    if absent:
        require_room(absent, dest)
        make_destination(dest)
        remove_outdated_parts(absent)
    return absent


def _is_of_one_recording(error: BaseException) -> TypeGuard[UrsaError]:
    # One that names no recording is about the whole disk.
    return isinstance(error, _OF_ONE_RECORDING) or (isinstance(error, DestinationUnusable) and bool(error.recording))


def _nothing() -> None:
    """A file that is there already."""


class _Told:
    """What has been told, in the thread that asked for the download."""

    def __init__(self, progress: Callable[[DownloadProgress], None] | None) -> None:
        self._progress = progress
        self.files_done = self.bytes_done = self.files_total = self.bytes_total = self.files_unproved = 0

    def tell(self, phase: Phase, wanted: WantedFile | None = None) -> None:
        event = DownloadProgress(
            phase,
            self.files_done,
            self.files_total,
            self.bytes_done,
            self.bytes_total,
            wanted.rec_id if wanted else None,
            wanted.modality if wanted else None,
            wanted.path if wanted and phase == "file_done" else None,
            self.files_unproved,
        )
        logger.debug("%s", phase, extra={"download": event})
        if self._progress is not None:
            self._progress(event)


class _Crew:
    """Calls about files, made by several threads; their errors and bytes come together in the thread that asked."""

    def __init__(
        self,
        pool: DaemonExecutor,
        on_bytes: Callable[[int], None] | None,
        on_failed: Callable[[str, UrsaError], None] | None,
    ) -> None:
        self.stop = threading.Event()
        self.failed: dict[str, UrsaError] = {}
        self._pool, self._on_bytes, self._on_failed = pool, on_bytes, on_failed
        self._bytes, self._lock = 0, threading.Lock()
        self._told: set[str] = set()
        self._fatal: BaseException | None = None

    def count(self, more: int) -> None:
        """Notes bytes that are on the disk."""
        with self._lock:
            self._bytes += more

    def attempt(self, one: Planned, call: Callable[[], bool | None]) -> bool:
        """What the call says, or True for nothing; False if it failed or its recording had failed before."""
        rec_id = one.wanted.rec_id
        if self.stop.is_set() or rec_id in self.failed:
            return False
        try:
            return call() is not False
        except Stopped:
            return False
        except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
            with self._lock:
                if self._on_failed is not None and _is_of_one_recording(error):
                    self.failed.setdefault(rec_id, error)
                elif self._fatal is None:
                    self._fatal = error
                    self.stop.set()
            return False

    def run(self, calls: Sequence[tuple[Planned, Callable[[], None]]]) -> Generator[bool]:
        """Whether each call succeeded, in their order. The first error that concerns more than a recording is raised,
        once those before it that succeeded were told.

        Whatever ends it early, the calls under way are given a second to stop, and keep what they have.
        """
        futures: list[Future[bool]] = []
        try:
            futures.extend(self._pool.submit(self.attempt, one, call) for one, call in calls)
            for future in futures:
                while not future.done() and not wait([future], timeout=_LOOK_SECONDS).done:
                    self.beat()
                if not future.result():
                    self._raise_fatal()
                self.tell_failed()
                yield future.result()
        except BaseException:
            self.stop.set()
            wait([future for future in futures if not future.cancel()], timeout=_PATIENCE_AFTER_A_STOP)
            raise

    def beat(self) -> None:
        """Tells bytes and raises what went wrong; called in the thread that asked."""
        self._raise_fatal()
        if self._on_bytes is not None:
            self._on_bytes(self._bytes)

    def tell_failed(self) -> None:
        """Tells of recordings that failed since the last time."""
        for rec_id in [rec_id for rec_id in list(self.failed) if rec_id not in self._told]:
            self._told.add(rec_id)
            if self._on_failed is not None:
                self._on_failed(rec_id, self.failed[rec_id])

    def _raise_fatal(self) -> None:
        if self._fatal is not None:
            raise self._fatal
