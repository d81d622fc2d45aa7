"""A scrub: reading what is stored again, what was verified longest ago first.

A recording counts as verified when a scrub last read it through; before that when it was registered, since an ingest
hashes what it sends; one that was registered by sizes alone counts from the beginning of its month. Rows are read a
month at a time, and only of months that may hold the oldest. A large recording goes on at its next object in the next
run. One of whose files nothing attests the bytes is not noted as found sound.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ursa_pipelines import failpoints
from ursa_pipelines.errors import StoreUnavailable
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.ingest.several import several_at_once
from ursa_pipelines.maintenance.scrub.ledger import (
    Amount,
    Purse,
    Read,
    State,
    change_state,
    day_of,
    note,
    read_month,
    read_state,
    roll,
)
from ursa_pipelines.maintenance.scrub.queue import Due, Queue
from ursa_pipelines.maintenance.scrub.reading import Finding, Ration, Reader, Start
from ursa_pipelines.objects.store import requests_to_read

RUNS_UNREAD = 3
"""After so many runs in a row in which the store does not give a recording, and gives others, that is a failure."""

FAILURES_AT_MOST = 50
"""After so many in one run something else is wrong than recordings, and the run ends."""

_FLUSHED_EVERY_SECONDS = 300.0
# So many in a row before a run is given up, and so many before it is if nothing at all could be read.
_UNAVAILABLE_AT_MOST, _UNAVAILABLE_AT_LEAST = 64, 8


@dataclass
class Scrub:
    """One run. `context` may write rows and no raw object; `run` names this run, `budget` is a day's.

    Times are seconds since 1970 UTC. After it has ended `ended` says why, `oldest_before` and `oldest_after` when what
    was verified longest ago was verified (None if there is nothing), and `spent` what was read.
    """

    context: IngestContext
    run: str
    budget: Amount
    rest_days: float = 30.0
    should_stop: Callable[[], bool] = lambda: False
    now: Callable[[], float] = time.time
    ended: str = ""
    oldest_before: float | None = None
    oldest_after: float | None = None

    def __post_init__(self) -> None:
        self._assets = self.context.catalog.assets
        self._purse = Purse(self._assets, self.run, self.budget, self.now)
        self._for_failed = Ration(Amount())
        self._later: dict[str, Due] = {}
        self._interrupted = threading.Event()
        self._state = State()
        self._notes: dict[str, dict[str, Read]] = {}
        self._changes: dict[str, dict[str, Any]] = {"cursors": {}, "unsound": {}, "unread": {}, "floors": {}}
        self._unread: dict[str, int] = {}
        self._mended: set[str] = set()
        self._postponed: list[Due] = []
        self._sound = self._failed = self._unavailable = 0
        self._last_unavailable: StoreUnavailable | None = None

    @property
    def spent(self) -> Amount:
        return self._purse.spent

    def findings(self) -> Generator[Finding, None, None]:
        """Reads until nothing is due, the day's budget is used up, or a stop is asked for, and tells what it finds.

        What a finding says is noted once the next one is asked for, so that nothing is noted of which nobody was told.
        To be closed, as by `contextlib.closing`. Raises `StoreUnavailable` if the store gives nothing any more,
        `StoreDenied`, and `CatalogError`.
        """
        queue = self._begin()
        again, put_off = deque(self._failed_before()), deque[Due]()
        flushed = time.monotonic()
        try:
            while not self.ended:
                lump = self._lump(queue, again, put_off)
                if not lump or self.should_stop():
                    self.ended = "a stop was asked for" if lump else "nothing more is due"
                    self._put_back(queue, lump)
                    break
                for finding in several_at_once(self._look, lump, self.context.recordings_at_once, self._interrupted):
                    if finding.outcome == "unaffordable":
                        if finding.due.among is not None and finding.rec_id not in self._later:
                            self._later[finding.rec_id] = finding.due
                            put_off.append(finding.due)
                            continue
                        is_stopped = self.should_stop()
                        self.ended = "a stop was asked for" if is_stopped else "the day's budget is used up"
                        self._put_back(queue, [finding.due])
                        continue
                    yield finding
                    self._note(finding)
                    if finding.after:
                        again.appendleft(finding.due)
                if time.monotonic() - flushed > _FLUSHED_EVERY_SECONDS:
                    self._flush()
                    flushed = time.monotonic()
            if self._last_unavailable and not self._sound and self._unavailable >= _UNAVAILABLE_AT_LEAST:
                raise self._last_unavailable
            self._put_back(queue, [*again, *self._postponed])
            self.oldest_after = queue.oldest()
            self._changes["floors"] |= queue.floors()
        finally:
            self._flush()
            self._purse.close()

    def mended(self, finding: Finding) -> None:
        """Tells that what the finding names as wrong has been put right and looked at since."""
        self._mended.add(finding.rec_id)

    def is_unsound(self, rec_id: str) -> bool:
        """Whether something of a recording was found wrong, in this run or before, and was not found sound since."""
        return self._known("unsound", rec_id) is not None

    def preview(self, at_most: int = 1_000) -> list[Due]:
        """Whose turn would come within what is left of today, by what their rows say; reads no object of them."""
        queue = self._begin()
        roll(self._state, day_of(self.now()), self.budget)
        left = self.budget - self._state.used
        chosen: list[Due] = []
        if min(left.bytes, left.requests) <= 0:
            return chosen
        while len(chosen) < at_most and (due := queue.pop()) is not None:
            left -= Amount(due.bytes, due.files + requests_to_read(due.bytes))
            if chosen and min(left.bytes, left.requests) < 0:
                break
            chosen.append(due)
        return chosen

    def _begin(self) -> Queue:
        self._state = read_state(self._assets)
        queue = Queue(self.context.catalog, dict(self._state.floors), self.now(), self.rest_days)
        self.oldest_before = queue.oldest()
        return queue

    def _failed_before(self) -> Iterator[Due]:
        """Those that failed before come first; of them only what was wrong is read.

        With half of a day's budget at most: what that does not cover comes after all that is due. Else objects that
        stay damaged would keep all others from being read.
        """
        used = replace(self._state)
        roll(used, day_of(self.now()), self.budget)
        self._for_failed = Ration(Amount(self.budget.bytes // 2, self.budget.requests // 2) - used.used)
        for rec_id, (month, since, paths) in self._state.unsound.items():
            known = read_month(self._assets, month).get(rec_id)
            sound_at, by = (known.sound_at, known.by) if known else (None, "")
            yield Due(since, rec_id, month, sound_at, by, among=tuple(paths))

    def _lump(self, queue: Queue, again: deque[Due], put_off: deque[Due]) -> list[Due]:
        lump: list[Due] = []
        while len(lump) < self.context.recordings_at_once:
            due = again.popleft() if again else queue.pop()
            if due is None and put_off and not lump:
                due = put_off.popleft()
            if due is None:
                break
            lump.append(due)
        return lump

    def _put_back(self, queue: Queue, dues: Iterable[Due]) -> None:
        for due in dues:
            if due.among is None:
                queue.put_back(due)

    def _look(self, due: Due) -> Finding:
        after, began = self._cursor(due)
        is_first = due.among is not None and due.rec_id not in self._later
        ration = self._for_failed if is_first else None
        was_unread = self._state.unread.get(due.rec_id, 0) >= RUNS_UNREAD - 1
        reader = Reader(self.context, self._purse, self._is_to_stop, self.now)
        return reader.look(due, Start(after, began, ration, was_unread))

    def _cursor(self, due: Due) -> tuple[str, float]:
        """After which path it goes on, and when it was begun. One that is older than the last full reading is void."""
        known: tuple[str, float] | None = self._known("cursors", due.rec_id)
        if due.among is not None or known is None or known[1] <= due.at:
            return "", self.now()
        return known

    def _is_to_stop(self) -> bool:
        return self._interrupted.is_set() or self.should_stop()

    def _note(self, finding: Finding) -> None:
        due, rec_id = finding.due, finding.rec_id
        if finding.outcome in {"unread", "settling"}:
            self._postponed.append(due)
            if isinstance(finding.error, StoreUnavailable):
                self._unread[rec_id] = self._state.unread.get(rec_id, 0) + 1
                self._unavailable += 1
                self._last_unavailable = finding.error
                if self._unavailable >= _UNAVAILABLE_AT_MOST:
                    raise finding.error
            return
        self._unavailable = 0
        if not isinstance(finding.error, StoreUnavailable):
            self._forget("unread", rec_id)
        if finding.outcome == "gone":
            self._forget("unsound", rec_id)
            self._forget("cursors", rec_id)
            return
        failed = finding.outcome == "failed" and rec_id not in self._mended
        self._sound += not failed
        if failed:
            self._note_failure(finding)
        elif due.among is not None or finding.outcome == "failed":
            # Of what is only found sound in its turn the quarantine is lifted when it is looked at as one that failed.
            self._forget("unsound", rec_id)
        if due.among is not None:
            return
        if finding.after:
            self._changes["cursors"][rec_id] = (finding.after, finding.began)
            if failed:
                # It comes by its failure from now on, of which only the ledger tells when it was verified.
                self._notes.setdefault(due.month, {})[rec_id] = Read(due.at, due.sound_at, due.by)
            return
        self._forget("cursors", rec_id)
        is_proved = finding.found is not None and not finding.found.unattested
        is_sound = is_proved and not self.is_unsound(rec_id)
        read = Read(finding.began, finding.began if is_sound else due.sound_at, self._by if is_sound else due.by)
        self._notes.setdefault(due.month, {})[rec_id] = read

    def _note_failure(self, finding: Finding) -> None:
        before = self._known("unsound", finding.rec_id)
        paths = dict.fromkeys([*(before[2] if before else ()), *(one.path for one in finding.wrong if one.path)])
        since = before[1] if before else finding.began
        # All of them: it is free again once these are sound.
        self._changes["unsound"][finding.rec_id] = (finding.due.month, since, list(paths))
        self._failed += before is None
        if self._failed >= FAILURES_AT_MOST:
            self.ended = f"{self._failed} recordings failed: something else is wrong than these recordings"

    def _known(self, name: str, rec_id: str) -> Any:
        return self._changes[name].get(rec_id, getattr(self._state, name).get(rec_id))

    def _forget(self, name: str, rec_id: str) -> None:
        if self._known(name, rec_id) is not None:
            self._changes[name][rec_id] = None

    @property
    def _by(self) -> str:
        return f"scrub {self.run[:8]} by {self.context.writer.by}"

    def _flush(self) -> None:
        """The ledgers first: what the state says is over is in them then."""
        for month in list(self._notes):
            note(self._assets, month, self._notes[month])
            del self._notes[month]
        failpoints.reached("scrub.noted")
        if self._sound:
            self._changes["unread"] |= self._unread
            self._unread = {}
        if not any(self._changes.values()):
            return
        _apply(self._changes, self._state)
        change_state(self._assets, lambda state: _apply(self._changes, state))
        self._changes = {name: {} for name in self._changes}


def _apply(changes: Mapping[str, Mapping[str, Any]], state: State) -> None:
    for name, told in changes.items():
        known = getattr(state, name)
        for key, value in told.items():
            if value is None:
                known.pop(key, None)
            else:
                known[key] = value
