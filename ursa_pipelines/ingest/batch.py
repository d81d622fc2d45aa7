"""The steps for many recordings at once, one step at a time, so that an orchestrator can show each of them.

What is passed from step to step is small: no bytes, no digests, no names. The work itself (inventories, manifests,
digests) stays in the process that runs the batch; a process that takes over in the middle does the earlier steps
again, which writes nothing twice. A recording that failed or waits is carried on as that, and later steps pass it by.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential_jitter,
)

from ursa_pipelines.errors import (
    CatalogConflict,
    RecordingNotSettled,
    RecordingRefused,
    StoreUnavailable,
    UploadInterrupted,
    UrsaError,
)
from ursa_pipelines.ingest.context import IngestContext, UploadProgress, Watch
from ursa_pipelines.ingest.discover import Discovery, discover, discover_in_bucket, require_manifest
from ursa_pipelines.ingest.pipeline import logger
from ursa_pipelines.ingest.reconstruct_manifest import (
    Recording,
    complete_manifest,
    hash_unattested,
    reconstruct_in_bucket,
    require_quiet_in_bucket,
)
from ursa_pipelines.ingest.register import IngestResult, register
from ursa_pipelines.ingest.upload import Uploaded, upload
from ursa_pipelines.objects.reading import DaemonExecutor

State = Literal["going", "planned", "held", "waiting", "failed", "registered"]
StepName = Literal["discover", "hash", "reconstruct_manifest", "upload", "register"]

STEPS: tuple[StepName, ...] = ("discover", "hash", "reconstruct_manifest", "upload", "register")

_PATIENCE_AFTER_A_STOP = 10.0
_ATTEMPTS, _IMPATIENT_SECONDS = 4, 15.0

_S = TypeVar("_S")
_T = TypeVar("_T")


@dataclass(frozen=True)
class BatchItem:
    """How far one recording of a batch has come. Sizes are bytes, `seconds` the time spent in its steps."""

    rec_id: str
    state: State = "going"
    path: str = ""
    directories: int = 0
    files: int = 0
    bytes: int = 0
    files_uploaded: int = 0
    files_skipped: int = 0
    bytes_uploaded: int = 0
    seconds: float = 0.0
    outcome: str = ""
    recording_hash: str = ""
    verification: str = ""
    fingerprint: str = ""
    nodes: tuple[str, ...] = ()
    nodes_missing: tuple[str, ...] = ()
    reason: str = ""
    remedy: str = ""
    error_type: str = ""
    retryable: bool = False

    @property
    def status(self) -> Literal["OK", "SKIP", "FAIL"]:
        """OK if it is registered, FAIL with the reason, SKIP while it is not ready or not done."""
        return "OK" if self.state == "registered" else "FAIL" if self.state == "failed" else "SKIP"


def ingest_many(
    context: IngestContext, directories: Iterable[Path], *, overwrite: bool = False, allow_partial: bool = False
) -> list[BatchItem]:
    """Takes each recording through all steps on its own; one failure never stops the rest (runbook, Batch loop).

    Items come in the order in which their recordings were first named.
    """
    by_recording: dict[str, list[Path]] = {}
    for directory in directories:
        absolute = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() would follow a link given as directory
        by_recording.setdefault(absolute.name, []).append(absolute)
    items = Batch(context, by_recording.__getitem__, overwrite, allow_partial).run_all(by_recording)
    fold_if_many(context)
    return items


def fold_if_many(context: IngestContext) -> None:
    """Brings the catalog's tables up to date if much has come; what keeps it from that is no failure of an ingest."""
    try:
        context.catalog.fold_if_many(context.writer)
    except UrsaError as error:
        logger.warning("the catalog's tables are not up to date; `ursa catalog fold` brings them so: %s", error)


def several_at_once(work: Callable[[_S], _T], of: Iterable[_S], limit: int, stop: threading.Event) -> list[_T]:
    """The results in order, `limit` worked on at once. An interrupt of the calling thread sets `stop` and is raised;
    before that, what is under way gets a few seconds to end.
    """
    with DaemonExecutor(limit, "batch") as pool:
        futures = [pool.submit(work, one) for one in of]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            wait([future for future in futures if not future.cancel()], timeout=_PATIENCE_AFTER_A_STOP)
            raise


def ended_by(error: UrsaError, item: BatchItem) -> BatchItem:
    """The item as an error leaves it. It may be retried unless something is wrong with the recording itself."""
    return replace(
        item,
        state="waiting" if isinstance(error, (RecordingNotSettled, UploadInterrupted)) else "failed",
        reason=str(error),
        remedy=error.remedy,
        error_type=type(error).__name__,
        retryable=not isinstance(error, (RecordingRefused, CatalogConflict)),
    )


@dataclass
class _Work:
    """One directory of a recording, or the bucket's copy (`directory` None), with what the steps made of it."""

    directory: Path | None
    discovery: Discovery | None = None
    digests: dict[str, str] = field(default_factory=dict)
    recording: Recording | None = None
    uploaded: Uploaded | None = None
    result: IngestResult | None = None


@dataclass
class Batch:
    """Runs the steps. `directories_of(rec_id)` are a recording's directories, halves or copies, taken one after
    another; where there are none, the bucket's copy is registered, with a manifest made for it if there is none.
    `allow(discovery)` may refuse a directory, and `allow_reconstruction(rec_id)` that manifest, by raising.
    An interrupt of the calling thread, such as Ctrl-C or a run that is cancelled, stops all work between two chunks.
    `on_progress` and `on_registered` are called from several threads.
    """

    context: IngestContext
    directories_of: Callable[[str], Sequence[Path]]
    overwrite: bool = False
    allow_partial: bool = False
    allow: Callable[[Discovery], None] = lambda discovery: None
    allow_reconstruction: Callable[[str], None] = lambda rec_id: None
    on_progress: Callable[[str, UploadProgress], None] | None = None
    on_registered: Callable[[BatchItem], None] | None = None
    _works: dict[str, list[_Work]] = field(default_factory=dict)
    _done: dict[str, int] = field(default_factory=dict)
    _interrupted: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.context = replace(self.context, check_stop=Watch(should_pause=self._interrupted.is_set).check_stop)

    def step(self, name: StepName, items: Sequence[BatchItem]) -> list[BatchItem]:
        """Runs one step for every recording that is still going; never raises for a single recording."""
        return self._several_at_once(partial(self._advance, name), items)

    def stop(self) -> None:
        """Stops all work between two chunks, from any thread; what is not done is told as waiting."""
        self._interrupted.set()

    def plan(self, rec_ids: Iterable[str]) -> list[BatchItem]:
        """What an ingest of each recording would do, as its `outcome`. Nothing is written and no segment is read.

        The hash is that of the catalog, if it has the recording.
        """
        return self._several_at_once(self._plan, rec_ids)

    def run(self, rec_id: str) -> BatchItem:
        """Takes one recording through all steps."""
        return self._advance(STEPS[-1], BatchItem(rec_id))

    def run_all(self, rec_ids: Iterable[str]) -> list[BatchItem]:
        """Takes each recording through all steps on its own."""
        return self._several_at_once(self.run, rec_ids)

    def _several_at_once(self, work: Callable[[_T], BatchItem], of: Iterable[_T]) -> list[BatchItem]:
        return several_at_once(work, of, self.context.recordings_at_once, self._interrupted)

    def _advance(self, name: StepName, item: BatchItem) -> BatchItem:
        if item.state != "going":
            return item
        began = time.monotonic()
        try:
            first = self._done.get(item.rec_id, 0)
            for due in STEPS[first : STEPS.index(name) + 1]:
                self._patiently(partial(self._run, due, item.rec_id))
                self._done[item.rec_id] = STEPS.index(due) + 1
            advanced = item
        except UrsaError as error:
            logger.warning("%s", error, extra={"recording": item.rec_id})
            advanced = ended_by(error, item)
        except Exception as error:  # noqa: BLE001 - one recording's unforeseen failure must not stop the others
            logger.exception("unforeseen failure", extra={"recording": item.rec_id})
            # Its text is in the log only: nobody has made sure that it holds no name.
            kind = type(error).__name__
            reason = f"{item.rec_id}: unforeseen {kind}. Look at the log of this run and report it."
            advanced = replace(item, state="failed", reason=reason, error_type=kind)
        described = self._describe(advanced)
        if described.state != "going":
            self._works.pop(item.rec_id, None)
            self._done.pop(item.rec_id, None)
        described = replace(described, seconds=item.seconds + time.monotonic() - began)
        if described.state == "registered" and self.on_registered is not None:
            try:
                self.on_registered(described)
            except Exception:  # noqa: BLE001 - nor must one that cannot be told of
                logger.exception("unforeseen failure", extra={"recording": item.rec_id})
                reason = f"{item.rec_id}: its rows are written, but the one who asked for it could not be told."
                return replace(described, state="failed", reason=reason, error_type="NotTold", retryable=True)
        return described

    def _patiently(self, step: Callable[[], None]) -> None:
        """Runs a step again where the store failed it within seconds, as some of its clients give up so soon.

        Steps are repeatable; one that took longer has been patient itself.
        """
        Retrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_exponential_jitter(initial=1, max=8),
            stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(_IMPATIENT_SECONDS),
            sleep=self._sleep,
            reraise=True,
        )(step)

    def _sleep(self, seconds: float) -> None:
        self._interrupted.wait(seconds)

    def _plan(self, rec_id: str) -> BatchItem:
        item = self._advance("discover", BatchItem(rec_id))
        if item.state != "going":
            return item
        sizes = {
            path: file.size
            for work in self._works.pop(rec_id)
            if work.discovery and work.discovery.inventory
            for path, file in work.discovery.inventory.files.items()
            if path not in work.discovery.stored.objects
        }
        try:
            entry = self.context.catalog.entry_of_rec_id(rec_id)
        except UrsaError as error:
            return ended_by(error, item)
        outcome = f"would send {len(sizes):,} files, {sum(sizes.values()):,} bytes" if sizes else "would send nothing"
        return replace(
            item,
            state="planned",
            outcome=f"{outcome}; {'registered already' if entry else 'would register it'}",
            recording_hash=entry.recording.recording_hash if entry else "",
        )

    def _run(self, name: StepName, rec_id: str) -> None:
        watch = Watch(self.on_progress and partial(self.on_progress, rec_id), self._interrupted.is_set)
        watch.check_stop()
        if name == "discover":
            directories = self.directories_of(rec_id)
            self._works[rec_id] = [_Work(directory) for directory in directories] or [_Work(None)]
        for index, work in enumerate(self._works[rec_id]):
            if name == "discover":
                work.discovery = self._discover(rec_id, work)
            elif name == "hash":
                work.digests = hash_unattested(self.context, _given(work.discovery), watch)
            elif name == "reconstruct_manifest":
                work.recording = self._complete(rec_id, work, watch)
            elif name == "upload":
                if index > 0:
                    # The directory before this one has changed what the bucket holds of the recording.
                    work.discovery = self._discover(rec_id, work)
                    work.recording = self._complete(rec_id, work, watch)
                work.uploaded = upload(self.context, _given(work.recording), watch)
            else:
                work.result = register(self.context, _given(work.uploaded), overwrite=self.overwrite and index == 0)

    def _discover(self, rec_id: str, work: _Work) -> Discovery:
        if work.directory is None:
            return discover_in_bucket(self.context, rec_id)
        discovery = discover(self.context, work.directory, allow_partial=self.allow_partial)
        self.context.reading(rec_id, str(work.directory), partial(self.allow, discovery))
        return discovery

    def _complete(self, rec_id: str, work: _Work, watch: Watch) -> Recording:
        discovery = _given(work.discovery)
        if discovery.inventory is None and discovery.merged is None:
            self.allow_reconstruction(rec_id)
            require_quiet_in_bucket(self.context, discovery.stored)
            reconstruct_in_bucket(self.context, rec_id, watch)
            found = discover_in_bucket(self.context, rec_id)
            require_manifest(found)
            work.discovery = discovery = replace(found, path="C+B")
        return complete_manifest(self.context, discovery, work.digests, watch.check_stop)

    def _describe(self, item: BatchItem) -> BatchItem:
        works = self._works.get(item.rec_id, [])
        discoveries = [work.discovery for work in works if work.discovery]
        inventories = [discovery.inventory for discovery in discoveries if discovery.inventory]
        stored = [discovery.stored.segments.values() for discovery in discoveries if not discovery.inventory]
        uploads = [work.uploaded for work in works if work.uploaded]
        described = replace(
            item,
            path=" then ".join(dict.fromkeys(discovery.path for discovery in discoveries)),
            directories=len(inventories),
            files=sum(len(one.files) for one in inventories) + sum(map(len, stored)),
            bytes=sum(one.total_bytes for one in inventories) + sum(info.size for one in stored for info in one),
            fingerprint="+".join(one.fingerprint for one in inventories),
            files_uploaded=sum(one.files_uploaded for one in uploads),
            files_skipped=sum(one.files_skipped for one in uploads),
            bytes_uploaded=sum(one.bytes_uploaded for one in uploads),
        )
        results = [work.result for work in works if work.result]
        if item.state != "going" or not results or len(results) < len(works):
            return described
        row = _given(results[-1].recording)
        metadata = row.metadata or {}
        outcomes = {result.outcome for result in results}
        return replace(
            described,
            state="registered",
            outcome=next((one for one in ("created", "changed") if one in outcomes), "unchanged"),
            recording_hash=row.recording_hash,
            verification=results[-1].verification or "",
            nodes=tuple(metadata.get("nodes", ())),
            nodes_missing=tuple(metadata.get("nodes_missing", ())),
        )


def _given(value: _T | None) -> _T:
    if value is None:
        raise AssertionError("a step ran before the one it needs")
    return value
