"""Telling people of a large ingest before its first byte, and how it ended: by the command, and by Python.

From `notifications.announce_from` recordings to be ingested on, notices go over the profile's webhook. On a production
profile without one a warning is logged, and `needs_announcement` gives the text to paste into the channel. What runs
in Dagster is told of by `orchestration.notices`, in the same words. No notice holds a path: one may hold a name.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from ursa_pipelines.errors import UrsaError
from ursa_pipelines.ingest.batch import BatchItem, ended_by, ingest_many
from ursa_pipelines.ingest.context import IngestContext, UploadProgress, Watch
from ursa_pipelines.ingest.plan import IngestPlan, plan_many, targets_of
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.ingest.targets import Targets, find_targets
from ursa_pipelines.notifications import Trouble, ingest_begins, ingest_ended, post
from ursa_pipelines.profiles import Profile
from ursa_pipelines.profiles.timetable import Timetable, estimated_end, told_rate

logger = logging.getLogger("ursa.register.orchestrator")


def ingest_announced(
    context: IngestContext,
    profile: Profile,
    what: Sequence[Path | str | IngestPlan] | None,
    *,
    timetable: Timetable,
    overwrite: bool = False,
    allow_partial: bool = False,
    as_planned: bool = False,
    progress: Callable[[str, UploadProgress], None] | None = None,
    on_ended: Callable[[BatchItem], None] | None = None,
    should_pause: Callable[[], bool] | None = None,
) -> list[BatchItem]:
    """Ingests each recording on its own, as `DataInterface.ingest_many` says, and announces it if it is large.

    What names nothing is a failure of its own, before all others. To know how large the ingest is, it is planned
    first, unless `what` are plans; where nothing would be posted it is not.
    """
    sources = [Source(source.name, source.path) for source in profile.sources]
    given = [one for one in what or () if isinstance(one, IngestPlan)]
    plans = list(given)
    names = [one for one in what or () if not isinstance(one, IngestPlan)]
    lost: list[BatchItem] = []

    def lose(name: str, error: UrsaError) -> None:
        lost.append(ended_by(error, BatchItem(name)))
        if on_ended is not None:
            on_ended(lost[-1])

    found = Targets({}, {})
    if names or what is None:
        found = find_targets(context, sources, names, on_error=lose)
    for source, why in found.unavailable.items():
        logger.warning("what lies on %s is left out: %s", source, why)
    targets = Targets({**targets_of(plans).directories, **found.directories}, {})
    if not targets.directories:
        return lost
    if profile.notifications.webhook is not None and is_large(profile, len(targets.directories)):
        stoppable = replace(context, check_stop=Watch(should_pause=should_pause).check_stop)
        plans += plan_many(stoppable, found, overwrite=overwrite, allow_partial=allow_partial)
    warn_if_silent(profile, len(targets.directories))
    with announced(profile, plans, by=context.writer.by, timetable=timetable) as announcement:

        def tell(item: BatchItem) -> None:
            if announcement is not None:
                announcement.ended(item)
            if on_ended is not None:
                on_ended(item)

        items = ingest_many(
            context,
            targets,
            overwrite=overwrite,
            allow_partial=allow_partial,
            planned=given if as_planned else (),
            progress=progress,
            on_ended=tell,
            should_pause=should_pause,
        )
    return [*lost, *items]


def is_large(profile: Profile, recordings: int) -> bool:
    """Whether an ingest of so many recordings is to be announced."""
    return recordings >= profile.notifications.announce_from


def begins(
    profile: Profile,
    by: str,
    recordings: int,
    size: int,
    *,
    measured: int | None = None,
    sources: Sequence[str] = (),
    timetable: Timetable,
) -> str:
    """The text that announces an ingest. `size` is in bytes, those of `measured` of the recordings if not of all."""
    now = datetime.now(UTC).astimezone()
    return ingest_begins(
        profile.name,
        by,
        recordings,
        size,
        measured=measured,
        sources=sources,
        rate=told_rate(timetable.rate_at(now)) if timetable.entries else "",
        until=estimated_end(timetable, size * recordings // (measured or recordings), now),
    )


def needs_announcement(profile: Profile, plans: Sequence[IngestPlan], *, by: str, timetable: Timetable) -> str:
    """The text that a person must post before this ingest, or "" if it is small, posted by us, or not production's."""
    going = _going(plans)
    if profile.family != "production" or profile.notifications.webhook is not None or not is_large(profile, len(going)):
        return ""
    return _announcement(profile, going, by, timetable)


@contextmanager
def announced(
    profile: Profile, plans: Sequence[IngestPlan], *, by: str, timetable: Timetable
) -> Iterator[Announcement | None]:
    """Around an ingest: posts that it begins, and how it ended, also when it was interrupted.

    None if nothing is posted, because the ingest is small or there is no webhook.
    """
    going = _going(plans)
    if profile.notifications.webhook is None or not is_large(profile, len(going)):
        yield None
        return
    announcement = Announcement(profile, {plan.rec_id: plan.directories for plan in going})
    try:
        # Interrupted here, it may have been posted: then its end must be told, too.
        post(profile, _announcement(profile, going, by, timetable))
        yield announcement
    finally:
        post(profile, announcement.text())


def warn_if_silent(profile: Profile, recordings: int) -> None:
    """Logs that nobody is told of a large ingest into production."""
    if profile.family == "production" and profile.notifications.webhook is None and is_large(profile, recordings):
        logger.warning(
            "nobody is told of this ingest of %d recordings: the profile %s has no notifications.webhook; tell the "
            "channel yourself",
            recordings,
            profile.name,
        )


@dataclass
class Announcement:
    """An ingest that was announced. `directories` are those of each of its recordings."""

    profile: Profile
    directories: dict[str, tuple[str, ...]]
    _items: dict[str, BatchItem] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ended(self, item: BatchItem) -> None:
        """Takes down how a recording came out; from any thread."""
        with self._lock:
            self._items[item.rec_id] = item

    def text(self) -> str:
        """How the ingest ended, of all that was announced. What was interrupted or never begun is not done."""
        with self._lock:
            items = [item for rec_id, item in self._items.items() if rec_id in self.directories]
        done = [item for item in items if item.error_type != "UploadInterrupted"]
        failed = [self._trouble(item) for item in done if item.state == "failed"]
        waiting = sum(item.state == "waiting" for item in done)
        return ingest_ended(
            self.profile.name,
            len(done) - len(failed) - waiting,
            failed,
            waiting=waiting,
            unknown=len(self.directories) - len(done),
        )

    def _trouble(self, item: BatchItem) -> Trouble:
        reason = item.reason
        for directory in self.directories[item.rec_id]:
            reason = reason.replace(directory, Path(directory).name).replace(str(Path(directory).parent), "its drive")
        return Trouble(item.rec_id, reason, item.error_type)


def _going(plans: Iterable[IngestPlan]) -> list[IngestPlan]:
    return [plan for plan in plans if plan.action == "ingest"]


def _announcement(profile: Profile, going: Sequence[IngestPlan], by: str, timetable: Timetable) -> str:
    size = sum(plan.bytes_to_send for plan in going)
    return begins(profile, by, len(going), size, sources=_sources(profile, going), timetable=timetable)


def _sources(profile: Profile, plans: Iterable[IngestPlan]) -> list[str]:
    def source_of(directory: str) -> str:
        parents = Path(directory).parents
        return next((one.name for one in profile.sources if one.path in parents), "another drive")

    found = {source_of(directory) for plan in plans for directory in plan.directories or ()}
    return sorted(found) + (["the bucket"] if any(not plan.directories for plan in plans) else [])
