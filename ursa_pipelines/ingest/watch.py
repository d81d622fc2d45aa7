"""What a sensor needs to know of a directory between two looks: its fingerprint, and whether it has settled."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ursa_pipelines.errors import ManifestInvalid, Retryable, SourceUnavailable, UrsaError
from ursa_pipelines.ingest.discover import read_manifests
from ursa_pipelines.objects.reading import unless_it_hangs
from ursa_pipelines.recordings.inventory import take_inventory
from ursa_pipelines.recordings.merge import merge_manifests
from ursa_pipelines.recordings.settling import Sighting, judge

REFUSED, UNREAD = "refused", "unread"
"""Fingerprints of what an ingest will refuse, and of what gave no answer."""

_LOOKS_COUNT_FOR_SECONDS = 86_400.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Arrival:
    """A recording at one look. Times are seconds since 1970 UTC; `since` is when the fingerprint was first seen.

    `first_seen` is when the recording was first found waiting, in whatever state; `looked_at` when this look was, None
    if that is not known.
    """

    fingerprint: str
    since: float
    settled: bool
    reason: str = ""
    first_seen: float = 0.0
    looked_at: float | None = None

    def to_cursor(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_cursor(cls, item: dict[str, Any]) -> Arrival:
        return cls(**item)


def seen_now(
    fingerprint: str, settled: bool, reason: str, previous: Arrival | None, *, now: float, like_before: bool
) -> Arrival:
    """What this look found; `like_before` tells whether the one before found the same."""
    previous = _that_counts(previous, now)
    since = previous.since if previous and like_before else now
    return Arrival(fingerprint, since, settled, reason, previous.first_seen if previous else now, now)


def look_at(
    directory: Path,
    previous: Arrival | None,
    *,
    now: float,
    quiet_period: float,
    reconstruct_after: float,
    gets_on: Callable[[], None] = lambda: None,
) -> Arrival:
    """Lists a directory, judges whether it has settled, and remembers since when it is as it is.

    A directory that would be refused counts as settled once it is quiet, so that the refusal becomes visible as a
    failed recording instead of a silent wait; one whose drive fails waits. Reads manifests, no segments; never
    raises for the recording. `gets_on` is called for every entry.
    """
    previous = _that_counts(previous, now)
    try:
        inventory = take_inventory(directory, gets_on)
        try:
            merged = merge_manifests(inventory.rec_id, read_manifests(inventory))
        except ManifestInvalid:
            merged = None
    except Retryable as error:
        return unread(str(error), previous, now=now)
    except UrsaError as error:
        same = previous is not None and previous.reason == str(error)
        since = previous.since if previous and same else now
        return seen_now(REFUSED, now - since >= quiet_period, str(error), previous, now=now, like_before=same)
    unchanged = previous is not None and previous.fingerprint == inventory.fingerprint
    since = previous.since if previous and unchanged else now
    verdict = judge(
        inventory,
        merged,
        Sighting(inventory.fingerprint, since),
        now=now,
        quiet_period=quiet_period,
        reconstruct_after=reconstruct_after,
    )
    return seen_now(inventory.fingerprint, verdict.settled, verdict.reason, previous, now=now, like_before=unchanged)


def unread(reason: str, previous: Arrival | None, *, now: float) -> Arrival:
    """A look that was given no answer."""
    same = previous is not None and previous.fingerprint == UNREAD
    return seen_now(UNREAD, False, reason, previous, now=now, like_before=same)


def _that_counts(previous: Arrival | None, now: float) -> Arrival | None:
    """The look before, unless the clock was set since then, or nobody looked for so long that it may have been."""
    if previous is None or previous.since > now:
        return None
    looked_at = now if previous.looked_at is None else previous.looked_at
    return previous if now - looked_at <= _LOOKS_COUNT_FOR_SECONDS else None


class SourceHangs(SourceUnavailable):
    """So much hangs that asking for more would be in vain."""


class Patience:
    """Gives up calls that hang, for one process that looks at the same source again and again.

    Nothing gets a thread out of a call that hangs, so that what hangs is not asked again until it has answered, and
    once `in_all` calls hang, nothing is. In one round, in which time is short, `a_round` of them are enough.
    """

    def __init__(self, *, a_round: int = 2, in_all: int = 8) -> None:
        self._a_round, self._in_all = a_round, in_all
        self._hung = 0
        self._under_way: dict[str, float] = {}

    def begin(self) -> None:
        """A round begins."""
        self._hung = 0

    def call(self, place: str, seconds: float, at_most: float, call: Callable[[Callable[[], None]], _T]) -> _T:
        """The result of a call, which is given a function by which it tells that it gets on.

        Raises `SourceUnavailable` if it tells nothing for `seconds`, takes longer than `at_most` seconds, or if an
        earlier call for this place hangs still; `SourceHangs` if too many others do.
        """
        now = time.monotonic()
        if since := self._under_way.get(place):
            raise SourceUnavailable(f"it has hung for {now - since:.0f} s", place=place)
        if self._hung >= self._a_round or len(self._under_way) >= self._in_all:
            raise SourceHangs(f"{max(self._hung, len(self._under_way))} other looks hang", place=place)
        deadline = now + at_most

        def watched(gets_on: Callable[[], None]) -> _T:
            def still_in_time() -> None:
                gets_on()
                if time.monotonic() > deadline:
                    raise SourceUnavailable(f"it takes longer than {at_most:g} s", place=place)

            try:
                return call(still_in_time)
            finally:
                self._under_way.pop(place, None)

        self._under_way[place] = now
        try:
            return unless_it_hangs("", place, seconds, watched)
        except SourceUnavailable:
            self._hung += place in self._under_way
            raise
