"""What an ingest would do, told before anything is done.

Nothing is written, and of segments at most the headers of media files are read. Conflicts are told as far as names,
sizes, manifests and rows show them: a plan that refuses is right, one that does not may still be refused for what only
the bytes tell.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict

from ursa_pipelines.errors import (
    RecordingIncomplete,
    RecordingNotSettled,
    SourceChanged,
    UrsaError,
)
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.discover import Discovery, discover, discover_in_bucket
from ursa_pipelines.ingest.found import Found
from ursa_pipelines.ingest.reconstruct_manifest import reconstructible
from ursa_pipelines.ingest.results_shown import Shown, ShownList, size_shown, some_shown
from ursa_pipelines.ingest.several import patiently, several_at_once
from ursa_pipelines.ingest.targets import Targets
from ursa_pipelines.recordings.layout import shown

logger = logging.getLogger("ursa.register.orchestrator")

Action = Literal["ingest", "nothing", "waits", "refused"]


@dataclass(frozen=True, repr=False)
class IngestPlan(Shown):
    """One recording. Sizes are bytes; files are segments, a copy of one counted once.

    `bytes_to_hash` are those whose digest no manifest states. `files_absent` are listed, but not here. `entry` tells
    the state of its entry in the catalog, `stored` what the bucket lists of it, `source` what its directories hold, as
    digests: all three are compared before a plan is applied. `reason` and `remedy` say why it waits or is refused.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    rec_id: str
    path: str = ""
    files: int = 0
    bytes: int = 0
    files_to_send: int = 0
    bytes_to_send: int = 0
    bytes_to_hash: int = 0
    files_absent: int = 0
    files_ignored: int = 0
    directories: tuple[str, ...] = ()
    action: Action = "ingest"
    reason: str = ""
    remedy: str = ""
    error_type: str = ""
    notes: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    nodes_missing: tuple[str, ...] = ()
    recording_hash: str = ""
    fingerprint: str = ""
    source: str = ""
    stored: str = ""
    entry: str = ""

    def _shown(self) -> dict[str, str]:
        return {
            "recording": self.rec_id,
            "action": self.action,
            "path": self.path,
            "files": f"{self.files:,}" if self.files else "",
            "bytes": size_shown(self.bytes),
            "files to send": f"{self.files_to_send:,}" if self.files_to_send else "",
            "to send": size_shown(self.bytes_to_send),
            "to hash": size_shown(self.bytes_to_hash),
            "missing nodes": ", ".join(self.nodes_missing),
            "why": self.reason,
            "to do": self.remedy,
            "notes": some_shown(self.notes),
        }


class IngestPlans(ShownList[IngestPlan]):
    """Plans of many recordings, which show themselves as a table in notebooks."""

    counted = "action"


def plan_ingest(
    context: IngestContext, source_dir: Path, *, overwrite: bool = False, allow_partial: bool = False
) -> IngestPlan:
    """The plan for a recording directory. Raises what an ingest of it would be refused for."""
    directory = Path(os.path.abspath(source_dir))  # noqa: PTH100 - resolve() would follow a link
    plan, error = look_ahead(
        context, directory.name, lambda: [directory], overwrite=overwrite, allow_partial=allow_partial
    )
    if error is not None:
        raise error
    return plan


def plan_many(
    context: IngestContext,
    targets: Targets,
    *,
    overwrite: bool = False,
    allow_partial: bool = False,
    on_planned: Callable[[IngestPlan], None] | None = None,
) -> list[IngestPlan]:
    """The plan of each recording, in order. Never raises for one recording; `on_planned` is called from threads."""
    stop, check_outer = threading.Event(), context.check_stop

    def check_stop() -> None:
        check_outer()
        Watch(should_pause=stop.is_set).check_stop()

    def sleep(seconds: float) -> None:
        stop.wait(seconds)

    context = replace(context, check_stop=check_stop)

    def plan_one(rec_id: str) -> IngestPlan:
        plan, _ = look_ahead(
            context,
            rec_id,
            lambda: targets.directories[rec_id],
            overwrite=overwrite,
            allow_partial=allow_partial,
            sleep=sleep,
        )
        if on_planned is not None:
            on_planned(plan)
        return plan

    return several_at_once(plan_one, targets.directories, context.recordings_at_once, stop)


def targets_of(plans: Iterable[IngestPlan]) -> Targets:
    """The recordings of plans, where they were when these were made."""
    return Targets({plan.rec_id: tuple(map(Path, plan.directories)) for plan in plans}, {})


def look_ahead(
    context: IngestContext,
    rec_id: str,
    directories_of: Callable[[], Sequence[Path]],
    *,
    overwrite: bool = False,
    allow_partial: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[IngestPlan, UrsaError | None]:
    """The plan of one recording, and the error for which it waits or is refused; without directories the bucket's.

    `sleep` is called before the store is asked again that did not answer.
    """
    plan = IngestPlan(rec_id)
    try:
        directories = directories_of()
        plan = replace(plan, directories=tuple(str(directory) for directory in directories))
        discoveries, incomplete = patiently(lambda: _discover(context, rec_id, directories, allow_partial), sleep)
        found = Found(context, rec_id, discoveries)
        plan = _with_facts(plan, found)
        if incomplete:
            raise incomplete
        found.require_no_conflict()
        entry = patiently(found.entry, sleep)
        if entry is not None and entry.recording.rec_id == rec_id:
            state = f"{entry.recording.recording_hash}@{entry.seq}"
            plan = replace(plan, recording_hash=entry.recording.recording_hash, entry=state)
        plan = replace(plan, action="ingest" if found.changes(entry, overwrite=overwrite) else "nothing")
    except UrsaError as error:
        return _refused(plan, error), error
    except Exception as error:
        # It must not stop the others. Its text is in the log only: nobody has made sure that it holds no name.
        logger.exception("unforeseen failure", extra={"recording": rec_id})
        unforeseen = UrsaError(
            f"unforeseen {type(error).__name__}", recording=shown(rec_id), remedy="Look at the log and report it."
        )
        return _refused(plan, unforeseen), unforeseen
    return plan, None


def _discover(
    context: IngestContext, rec_id: str, directories: Sequence[Path], allow_partial: bool
) -> tuple[list[Discovery], RecordingIncomplete | None]:
    """What is there, and the error if it is not enough."""
    if not directories:
        copy = discover_in_bucket(context, rec_id)
        if copy.merged is None:
            reconstructible(rec_id, copy.stored)
        return [copy], None
    discoveries, incomplete = [], None
    for directory in directories:
        try:
            discoveries.append(discover(context, directory, allow_partial=allow_partial))
        except RecordingIncomplete as error:
            incomplete = incomplete or error
            discoveries.append(discover(context, directory, allow_partial=True))
    return discoveries, incomplete


def _with_facts(plan: IngestPlan, found: Found) -> IngestPlan:
    sizes, to_send, (nodes, nodes_missing) = found.sizes, found.sizes_to_send, found.nodes
    return replace(
        plan,
        path=found.path,
        files=len(sizes),
        bytes=sum(sizes),
        files_to_send=len(to_send),
        bytes_to_send=sum(to_send),
        bytes_to_hash=found.bytes_to_hash,
        files_absent=len(found.absent),
        files_ignored=len(found.ignored),
        notes=tuple(found.notes),
        nodes=nodes,
        nodes_missing=nodes_missing,
        fingerprint=found.fingerprint,
        source=found.source,
        stored=found.stored,
    )


def _refused(plan: IngestPlan, error: UrsaError) -> IngestPlan:
    return replace(
        plan,
        action="waits" if isinstance(error, (RecordingNotSettled, SourceChanged)) else "refused",
        reason=str(error),
        remedy=error.remedy,
        error_type=type(error).__name__,
    )
