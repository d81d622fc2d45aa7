"""What has become of recordings, kept as events of `recording` in the Dagster instance (DESIGN section 8).

A registration is a materialization. All else is a *mark*: an observation of the recording's partition that tells of a
failed run, or of what somebody decided. Marks are never changed; the newest event tells how things stand.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import dagster as dg

from ursa_pipelines.orchestration.partitions import RECORDING

MarkKind = Literal["waiting", "failed", "quarantined", "waived", "retried"]

AUTOMATIC_RETRIES = 3
"""How often a recording that failed for a passing reason is taken again before it is quarantined."""

_PAGE = 1_000


@dataclass(frozen=True)
class Mark:
    """One recording at one time. `at` is seconds since 1970 UTC; `by` is a person or the run that found it so.

    `reason` holds the `remedy` as well. `fingerprint` is that of the source when a run failed, if the run got so far.
    """

    rec_id: str
    kind: MarkKind
    reason: str = ""
    error_type: str = ""
    remedy: str = ""
    retryable: bool = False
    by: str = ""
    fingerprint: str = ""
    at: float = 0.0

    def observation(self) -> dg.AssetObservation:
        """The event that tells it, on the recording's partition."""
        told = {
            "what_to_do": self.remedy,
            "reason": self.reason,
            "mark": self.kind,
            "error": self.error_type,
            "by": self.by,
            "fingerprint": self.fingerprint,
        }
        return dg.AssetObservation(
            RECORDING,
            partition=self.rec_id,
            description=f"{self.kind}: {self.reason}" if self.reason else self.kind,
            metadata={
                **{name: dg.MetadataValue.text(value) for name, value in told.items() if value},
                "retryable": dg.MetadataValue.bool(self.retryable),
            },
        )


@dataclass(frozen=True)
class History:
    """What the events of a recording come to.

    `last` is the newest mark since the recording was registered, `attempts` the runs that failed in a row since then
    or since somebody asked for a retry. `fingerprint` is that of the source when it was last registered,
    `registered_at` when that was (seconds since 1970 UTC); both None if no run ever registered it. A registration or a
    retry ends `quarantined`; `waived` outlives registrations that change nothing.
    """

    rec_id: str
    fingerprint: str | None = None
    registered_at: float | None = None
    last: Mark | None = None
    quarantined: Mark | None = None
    waived: Mark | None = None
    attempts: int = 0

    @property
    def is_held(self) -> bool:
        """Whether nothing but a person may take it up: it is quarantined or waived."""
        return self.waived is not None or self.quarantined is not None

    @property
    def may_be_retried(self) -> bool:
        """Whether it failed for a passing reason, and not too often yet."""
        failed = self.last is not None and self.last.kind == "failed" and self.last.retryable
        return failed and self.attempts <= AUTOMATIC_RETRIES and not self.is_held


def read_histories(instance: dg.DagsterInstance, rec_ids: Iterable[str] | None = None) -> dict[str, History]:
    """The histories of these recordings, or of all of which there is an event. About 10,000 events a second."""
    wanted = sorted(set(rec_ids)) if rec_ids is not None else None
    if wanted == []:
        return {}
    records = dg.AssetRecordsFilter(RECORDING, asset_partitions=wanted)
    histories: dict[str, History] = {}
    for record in heapq.merge(
        _pages(instance.fetch_materializations, records),
        _pages(instance.fetch_observations, records),
        key=lambda record: record.storage_id,
    ):
        if rec_id := record.partition_key:
            history = histories.get(rec_id) or History(rec_id)
            histories[rec_id] = after_event(history, record)
    return histories


def _pages(fetch: Callable[..., dg.EventRecordsResult], records: dg.AssetRecordsFilter) -> Iterator[dg.EventLogRecord]:
    cursor = None
    while True:
        page = fetch(records, limit=_PAGE, cursor=cursor, ascending=True)
        yield from page.records
        if not page.has_more:
            return
        cursor = page.cursor


def after_event(history: History, record: dg.EventLogRecord) -> History:
    """What a history becomes by an event of its recording that comes after all those it knows of."""
    if materialization := record.asset_materialization:
        told = {name: value.value for name, value in materialization.metadata.items()}
        unchanged = told.get("outcome") == "unchanged"
        return History(
            history.rec_id,
            fingerprint=str(told.get("fingerprint") or ""),
            registered_at=record.timestamp,
            waived=history.waived if unchanged else None,
        )
    mark = mark_of(record)
    if mark is None:
        return history
    if mark.kind == "retried":
        return replace(history, last=mark, quarantined=None, waived=None, attempts=0)
    if mark.kind == "waived":
        return replace(history, last=mark, waived=mark)
    if mark.kind == "quarantined":
        return replace(history, last=mark, quarantined=mark)
    return replace(history, last=mark, attempts=history.attempts + (mark.kind == "failed"))


def mark_of(record: dg.EventLogRecord) -> Mark | None:
    """The mark that an event is, or None if it tells of something else."""
    observation = record.event_log_entry.asset_observation
    told = {name: value.value for name, value in observation.metadata.items()} if observation else {}
    kinds: tuple[MarkKind, ...] = get_args(MarkKind)
    kind = next((one for one in kinds if one == told.get("mark")), None)
    if kind is None:
        return None
    return Mark(
        str(record.partition_key),
        kind,
        reason=str(told.get("reason", "")),
        remedy=str(told.get("what_to_do", "")),
        error_type=str(told.get("error", "")),
        retryable=told.get("retryable") is True,
        by=str(told.get("by", "")),
        fingerprint=str(told.get("fingerprint", "")),
        at=record.timestamp,
    )
