"""The steps for many recordings at once, one step at a time, so that an orchestrator can show each of them.

What is passed from step to step is small: no bytes, no digests, no names. The work itself (inventories, manifests,
digests) stays in the process that runs the batch; a process that takes over in the middle does the earlier steps
again, which writes nothing twice. A recording that failed or waits is carried on as that, and later steps pass it by.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from ursa_pipelines.errors import (
    CatalogConflict,
    PlanDrifted,
    RecordingNotSettled,
    RecordingRefused,
    UploadInterrupted,
    UrsaError,
)
from ursa_pipelines.ingest.context import IngestContext, UploadProgress, Watch
from ursa_pipelines.ingest.discover import Discovery, discover, discover_in_bucket, require_manifest
from ursa_pipelines.ingest.found import Found, media_problems
from ursa_pipelines.ingest.pipeline import log_ended, logger
from ursa_pipelines.ingest.plan import IngestPlan, look_ahead
from ursa_pipelines.ingest.reconstruct_manifest import (
    Recording,
    complete_manifest,
    hash_unattested,
    reconstruct_in_bucket,
    require_quiet_in_bucket,
)
from ursa_pipelines.ingest.register import IngestResult, register
from ursa_pipelines.ingest.results_shown import Shown, ShownList, size_shown, some_shown
from ursa_pipelines.ingest.several import patiently, several_at_once
from ursa_pipelines.ingest.targets import Targets
from ursa_pipelines.ingest.upload import Uploaded, upload

State = Literal["going", "planned", "held", "waiting", "failed", "registered"]
StepName = Literal["discover", "hash", "reconstruct_manifest", "upload", "register"]

STEPS: tuple[StepName, ...] = ("discover", "hash", "reconstruct_manifest", "upload", "register")

_T = TypeVar("_T")


@dataclass(frozen=True, repr=False)
class BatchItem(Shown):
    """How far one recording of a batch has come. Sizes are bytes, `seconds` the time spent in its steps.

    `warnings` are what its media files told of themselves; none of them kept it from being ingested.
    """

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
    warnings: tuple[str, ...] = ()

    @property
    def status(self) -> Literal["OK", "SKIP", "FAIL"]:
        """OK if it is registered, FAIL with the reason, SKIP while it is not ready or not done."""
        return "OK" if self.state == "registered" else "FAIL" if self.state == "failed" else "SKIP"

    def _shown(self) -> dict[str, str]:
        return {
            "recording": self.rec_id,
            "status": self.status,
            "outcome": self.outcome,
            "path": self.path,
            "files": f"{self.files:,}" if self.files else "",
            "uploaded": size_shown(self.bytes_uploaded),
            "seconds": f"{self.seconds:.1f}" if self.seconds else "",
            "missing nodes": ", ".join(self.nodes_missing),
            "why": self.reason,
            "to do": self.remedy,
            "warnings": some_shown(self.warnings),
        }


class BatchItems(ShownList[BatchItem]):
    """What came of many recordings, which shows itself as a table in notebooks."""

    counted = "status"


def ingest_many(
    context: IngestContext,
    targets: Targets,
    *,
    overwrite: bool = False,
    allow_partial: bool = False,
    planned: Iterable[IngestPlan] = (),
    progress: Callable[[str, UploadProgress], None] | None = None,
    on_ended: Callable[[BatchItem], None] | None = None,
    should_pause: Callable[[], bool] | None = None,
) -> list[BatchItem]:
    """Takes each recording through all steps on its own; one failure never stops the rest (runbook, Batch loop).

    A person has named them, so that the bucket's copy of one without a manifest is given one at once (DESIGN section
    4). Items come in the order of the targets; after a pause those that had not begun are told as waiting too. One that
    is not any more as its plan among `planned` says fails with `PlanDrifted`, before anything of it is written.
    """
    batch = Batch(
        context,
        targets.directories.__getitem__,
        overwrite,
        allow_partial,
        planned={plan.rec_id: plan for plan in planned},
        on_progress=progress,
        on_ended=on_ended,
        should_pause=should_pause,
        waits_before_reconstruction=False,
    )
    items = batch.run_all(targets.directories)
    fold_if_many(context)
    return items


def fold_if_many(context: IngestContext) -> None:
    """Brings the catalog's tables up to date if much has come; what keeps it from that is no failure of an ingest."""
    try:
        context.catalog.fold_if_many(context.writer)
    except UrsaError as error:
        logger.warning("the catalog's tables are not up to date; `ursa catalog fold` brings them so: %s", error)


def ended_by(error: UrsaError, item: BatchItem) -> BatchItem:
    """The item as an error leaves it. It may be retried unless something is wrong with the recording itself."""
    return replace(
        item,
        state="waiting" if isinstance(error, (RecordingNotSettled, UploadInterrupted)) else "failed",
        reason=str(error),
        remedy=error.remedy,
        error_type=type(error).__name__,
        retryable=not isinstance(error, (RecordingRefused, CatalogConflict, PlanDrifted)),
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
    `allow(discovery)` may refuse a directory, and `allow_reconstruction(rec_id)` that manifest, by raising; `planned`
    are the plans by rec_id as which a recording must be found still.
    An interrupt of the calling thread, such as Ctrl-C or a run that is cancelled, stops all work between two chunks,
    and so does `should_pause`. `on_progress`, `on_registered`, and `on_ended`, which is told once of each recording
    that has come to an end of whatever kind, are called from several threads.
    """

    context: IngestContext
    directories_of: Callable[[str], Sequence[Path]]
    overwrite: bool = False
    allow_partial: bool = False
    allow: Callable[[Discovery], None] = lambda discovery: None
    allow_reconstruction: Callable[[str], None] = lambda rec_id: None
    on_progress: Callable[[str, UploadProgress], None] | None = None
    on_registered: Callable[[BatchItem], None] | None = None
    on_ended: Callable[[BatchItem], None] | None = None
    should_pause: Callable[[], bool] | None = None
    waits_before_reconstruction: bool = True
    planned: Mapping[str, IngestPlan] = field(default_factory=dict)
    _works: dict[str, list[_Work]] = field(default_factory=dict)
    _done: dict[str, int] = field(default_factory=dict)
    _interrupted: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.context = replace(self.context, check_stop=Watch(should_pause=self._is_to_stop).check_stop)

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

    def _is_to_stop(self) -> bool:
        return self._interrupted.is_set() or (self.should_pause is not None and self.should_pause())

    def _advance(self, name: StepName, item: BatchItem) -> BatchItem:
        if item.state != "going":
            return item
        advanced = self._advanced(name, item)
        if advanced.state != "going" and self.on_ended is not None:
            try:
                self.on_ended(advanced)
            except Exception:  # noqa: BLE001 - who listens must not fail a recording
                logger.exception("unforeseen failure", extra={"recording": item.rec_id})
        return advanced

    def _advanced(self, name: StepName, item: BatchItem) -> BatchItem:
        began = time.monotonic()
        try:
            first = self._done.get(item.rec_id, 0)
            for due in STEPS[first : STEPS.index(name) + 1]:
                patiently(partial(self._run, due, item.rec_id), self._sleep)
                self._done[item.rec_id] = STEPS.index(due) + 1
            advanced = item
        except UrsaError as error:
            logger.warning("%s", error, extra={"recording": item.rec_id, "error_type": type(error).__name__})
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
        if described.state == "registered":
            log_ended(described)
        if described.state == "registered" and self.on_registered is not None:
            try:
                self.on_registered(described)
            except Exception:  # noqa: BLE001 - nor must one that cannot be told of
                logger.exception("unforeseen failure", extra={"recording": item.rec_id})
                reason = f"{item.rec_id}: its rows are written, but the one who asked for it could not be told."
                return replace(described, state="failed", reason=reason, error_type="NotTold", retryable=True)
        return described

    def _sleep(self, seconds: float) -> None:
        self._interrupted.wait(seconds)

    def _plan(self, rec_id: str) -> BatchItem:
        plan, error = look_ahead(
            self.context,
            rec_id,
            lambda: self.directories_of(rec_id),
            overwrite=self.overwrite,
            allow_partial=self.allow_partial,
            sleep=self._sleep,
        )
        item = BatchItem(
            rec_id,
            path=plan.path,
            directories=len(plan.directories),
            files=plan.files,
            bytes=plan.bytes,
            fingerprint=plan.fingerprint,
            nodes=plan.nodes,
            nodes_missing=plan.nodes_missing,
            recording_hash=plan.recording_hash,
        )
        if error is not None:
            return ended_by(error, item)
        sent = f"{plan.files_to_send:,} files, {plan.bytes_to_send:,} bytes" if plan.files_to_send else "nothing"
        registered = "registered already" if plan.entry else "would register it"
        return replace(item, state="planned", outcome=f"would send {sent}; {registered}")

    def _run(self, name: StepName, rec_id: str) -> None:
        watch = Watch(self.on_progress and partial(self.on_progress, rec_id), self._is_to_stop)
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
                # With the names of all directories: copies that name others would overwrite one another's every time.
                work.result = register(
                    self.context,
                    _given(work.uploaded),
                    overwrite=self.overwrite and index == 0,
                    display_names={name for one in self._works[rec_id] for name in _given(one.discovery).display_names},
                )
        if name == "discover":
            self._require_no_conflict(rec_id)

    def _require_no_conflict(self, rec_id: str) -> None:
        """Refuses before the first byte what would be refused after it, as far as it can be told without reading."""
        found = Found(self.context, rec_id, [_given(work.discovery) for work in self._works[rec_id]])
        found.require_no_conflict()
        plan = self.planned.get(rec_id)
        if plan is not None and (plan.source, plan.stored) != (found.source, found.stored):
            where = "source" if plan.source != found.source else "bucket"
            raise PlanDrifted(f"the {where} is not as planned any more", recording=rec_id)

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
            if self.waits_before_reconstruction:
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
            warnings=tuple(dict.fromkeys(warning for one in discoveries for warning in media_problems(one))),
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
