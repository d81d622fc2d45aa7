"""One tick of a sensor that discovers: whom it looks at, in which order, and what it reports of them.

New recordings and those that wait take turns, so that neither keep the others from being looked at; then come a few of
those that were reported before, which arrive again if they have changed. The numbers of looks and events grow with what
is new, never with what is known.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, zip_longest

import dagster as dg

from ursa_pipelines.ingest.watch import UNREAD, Arrival, SourceHangs
from ursa_pipelines.orchestration.partitions import FEW, PARTITIONS_PER_REQUEST, bring_back, recordings
from ursa_pipelines.orchestration.sensors.cursor import WAITING_AT_MOST, Cursor
from ursa_pipelines.orchestration.sensors.reported import Reported
from ursa_pipelines.orchestration.states import History, Mark, read_histories

ARRIVALS_PER_TICK = 2_000
"""Dagster's daemon stores about 100 events a second, and no other sensor of its thread runs meanwhile."""

_REASONS_SHOWN = 20
_KEYS_PER_QUERY = 500

Look = Callable[[str, Arrival | None, str | None], Arrival | None]
"""Looks at a recording, given what the look before found and the fingerprint with which it was reported last, if it
was; None if there is nothing to report. Raises `SourceHangs` if looking at further ones would be in vain.
"""

NotNow = Callable[[dg.DagsterInstance, Mapping[str, Arrival], Mapping[str, History]], Mapping[str, str]]
"""Which of the settled recordings are not to be reported yet, and why."""


@dataclass(frozen=True)
class Rules:
    """Periods are seconds. A recording that a tick finds waiting for `wait_at_most`, and unchanged for
    `settles_within`, in which whatever settles by itself does so, is quarantined. `looks_again` is how many known ones
    a tick looks at.
    """

    tick_seconds: float
    wait_at_most: float
    settles_within: float
    looks_again: int


@dataclass
class Round:
    """A tick over the recordings that are `there` (sorted). `covered` were never reported, but need not be either:
    they are looked at in turn, as those are that were.
    """

    instance: dg.DagsterInstance
    asset: dg.AssetKey
    reported: Reported
    rules: Rules
    before: Cursor
    there: Sequence[str]
    look: Look
    about: Callable[[str], Mapping[str, dg.MetadataValue]]
    covered: frozenset[str] = frozenset()
    not_now: NotNow = lambda instance, settled, histories: {}
    _waiting: dict[str, Arrival] = field(default_factory=dict)
    _arrived: dict[str, Arrival] = field(default_factory=dict)
    _histories: dict[str, History] = field(default_factory=dict)
    _looked_at: set[str] = field(default_factory=set)
    _not_looked_at: int = 0
    _gave_up: str = ""
    _new_after: str = ""
    _known_after: str = ""

    def result(self) -> dg.SensorResult:
        """Looks around, and tells what Dagster should keep of it."""
        there, held_before = set(self.there), set(self.before.held)
        self._waiting = {rec_id: one for rec_id, one in self.before.waiting.items() if rec_id in there}
        self._read_histories(chain(held_before & there, self._waiting))
        released = {rec_id for rec_id in held_before & there if not self._is_held(rec_id)}
        held = {rec_id for rec_id in chain(held_before & there, self._waiting) if self._is_held(rec_id)}
        for rec_id in held:
            self._waiting.pop(rec_id, None)
        self._look_around(released, held)
        self._read_histories(self._arrived)
        held |= {rec_id for rec_id in self._arrived if self._is_held(rec_id)}
        settled = {rec_id: one for rec_id, one in self._arrived.items() if rec_id not in held}
        self._put_off(self.not_now(self.instance, settled, self._histories))
        arrived = sorted(self._arrived.keys() - held)
        bring_back(self.instance, arrived)
        overdue = self._overdue()
        marks = [
            Mark(rec_id, "quarantined", _overdue_reason(self._waiting.pop(rec_id)), by="ursa") for rec_id in overdue
        ]
        return dg.SensorResult(
            cursor=Cursor(self._waiting, tuple(sorted(held | set(overdue))), self._new_after, self._known_after).dump(),
            # None for those that are overdue: a partition that is new would be launched at once.
            dynamic_partitions_requests=self._requests(arrived),
            asset_events=[*(self._arrival(rec_id) for rec_id in arrived), *(mark.observation() for mark in marks)],
            skip_reason=self._told(len(arrived), sorted(held), marks),
        )

    def _look_around(self, released: set[str], held: set[str]) -> None:
        reported = self.reported.rec_ids(self.instance)
        new, known = [], []
        for rec_id in self.there:
            if rec_id in reported or rec_id in self.covered:
                known.append(rec_id)
            elif rec_id not in self._waiting and rec_id not in held:
                new.append(rec_id)
        new = _beginning_after(self.before.new_after, new)
        aside = held | released | self._waiting.keys()
        in_rotation = (one for one in _beginning_after(self.before.known_after, known) if one not in aside)
        again = list(islice(in_rotation, self.rules.looks_again))
        waiting = list(self._waiting)
        released_known = sorted(released & set(known))
        versions = self.reported.versions(
            self.instance, [rec_id for rec_id in (*released_known, *waiting, *again) if rec_id in reported]
        )
        looks = chain(
            _alternating(
                [("new", rec_id) for rec_id in (*released_known, *new)], [("waiting", one) for one in waiting]
            ),
            (("known", rec_id) for rec_id in again),
        )
        new_seen = 0
        for kind, rec_id in self._while_there_is_time(looks):
            try:
                arrival = self.look(rec_id, self._waiting.get(rec_id), versions.get(rec_id))
            except SourceHangs as error:
                self._gave_up = f"{error.problem}, so that no more are looked at now"
                break
            if kind == "new":
                new_seen += 1
                self._new_after = rec_id
            elif kind == "known":
                self._known_after = rec_id
            self._keep(rec_id, arrival)
        self._known_after = self._known_after or self.before.known_after
        self._not_looked_at = len(released_known) + len(new) - new_seen
        if self._not_looked_at == 0:
            self._new_after = ""

    def _while_there_is_time(self, looks: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        deadline = time.monotonic() + self.rules.tick_seconds
        for look in looks:
            yield look
            if time.monotonic() >= deadline or len(self._arrived) >= ARRIVALS_PER_TICK:
                return

    def _keep(self, rec_id: str, arrival: Arrival | None) -> None:
        self._looked_at.add(rec_id)
        self._waiting.pop(rec_id, None)
        if arrival is None:
            return
        if arrival.settled:
            self._arrived[rec_id] = arrival
        elif len(self._waiting) < WAITING_AT_MOST:
            self._waiting[rec_id] = arrival

    def _put_off(self, reasons: Mapping[str, str]) -> None:
        now = time.time()
        for rec_id, reason in sorted(reasons.items()):
            one = self._arrived.pop(rec_id)
            if len(self._waiting) < WAITING_AT_MOST:
                # That somebody else is at it is no reason for a quarantine, however long it takes.
                self._waiting[rec_id] = replace(one, settled=False, reason=reason, first_seen=now)

    def _overdue(self) -> list[str]:
        now = time.time()
        return sorted(
            rec_id
            for rec_id, one in self._waiting.items()
            # A drive that fails is not the recording's fault.
            if rec_id in self._looked_at
            and one.fingerprint != UNREAD
            and now - one.first_seen >= self.rules.wait_at_most
            and now - one.since >= self.rules.settles_within
        )

    def _read_histories(self, rec_ids: Iterable[str]) -> None:
        wanted = list(rec_ids)
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            self._histories |= read_histories(self.instance, wanted[start : start + _KEYS_PER_QUERY])

    def _is_held(self, rec_id: str) -> bool:
        return rec_id in self._histories and self._histories[rec_id].is_held

    def _requests(self, rec_ids: Sequence[str]) -> list[dg.AddDynamicPartitionsRequest]:
        name = str(recordings.name)
        if len(rec_ids) <= FEW:
            new = sorted(one for one in rec_ids if not self.instance.has_dynamic_partition(name, one))
        else:
            new = sorted(set(rec_ids) - set(self.instance.get_dynamic_partitions(name)))
        return [
            recordings.build_add_request(new[start : start + PARTITIONS_PER_REQUEST])
            for start in range(0, len(new), PARTITIONS_PER_REQUEST)
        ]

    def _arrival(self, rec_id: str) -> dg.AssetMaterialization:
        return dg.AssetMaterialization(
            self.asset,
            partition=rec_id,
            tags={"dagster/data_version": self._arrived[rec_id].fingerprint},
            metadata=self.about(rec_id),
        )

    def _told(self, arrived: int, held: list[str], marks: list[Mark]) -> str:
        """What the tick's page says. Dagster shows it as long as a tick requests no runs, which none of these does."""
        lines = [f"{rec_id}: {one.reason}" for rec_id, one in sorted(self._waiting.items())]
        lines += [f"{mark.rec_id}: quarantined now: {mark.reason}" for mark in marks]
        lines += [f"{rec_id}: {_why_held(self._histories[rec_id])}" for rec_id in held]
        told = f"{len(self.there)} recordings, {arrived} newly settled, {len(self._waiting)} waiting"
        told += f", {len(held) + len(marks)} quarantined or waived" if held or marks else ""
        told += f", {self._not_looked_at} not looked at yet" if self._not_looked_at else ""
        told += f"; {self._gave_up}" if self._gave_up else ""
        more = f"; and {len(lines) - _REASONS_SHOWN} more" if len(lines) > _REASONS_SHOWN else ""
        return "; ".join([told, *lines[:_REASONS_SHOWN]]) + more


def _beginning_after(position: str, rec_ids: list[str]) -> list[str]:
    start = bisect_right(rec_ids, position)
    return rec_ids[start:] + rec_ids[:start]


def _alternating(some: list[tuple[str, str]], others: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return (one for pair in zip_longest(some, others) for one in pair if one is not None)


def _overdue_reason(one: Arrival) -> str:
    hours = (time.time() - one.first_seen) / 3600
    return (
        f"it does not settle, {hours:.0f} h after it was found: {one.reason.rstrip('.')}. Mend it, then `ursa retry`."
    )


def _why_held(history: History) -> str:
    if history.waived is not None:
        return f"waived: {history.waived.reason}"
    return f"quarantined: {history.quarantined.reason}" if history.quarantined else "quarantined"
