"""Reading what is stored again, what was verified longest ago first, within what a day allows (docs/operating.md).

A recording counts as verified when a scrub last read it through; before that when it was registered, since an ingest
hashes what it sends; one that was registered by sizes alone counts from the beginning of its month. Rows are read a
month at a time, and only of months that may hold the oldest.

It is read by `ingest.verify`, deep: every byte against the digest that the manifest, or our marker, has of it. A file
that has none is read and told of, and its recording is not noted as found sound. Large recordings are read in slices of
whole objects, and go on at the next object in the next run. What seems to be wrong is looked at a second time before it
is told. What an ingest that is under way explains, and what only the network or the store explains, is no failure.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ursa_pipelines import failpoints
from ursa_pipelines.errors import (
    CatalogError,
    CatalogNotInitialized,
    CatalogPointerInvalid,
    CatalogRowNotFound,
    CatalogUpgradeNeeded,
    CatalogVersionUnknown,
    RecordingIdInvalid,
    RecordingRefused,
    StoreDenied,
    StoreUnavailable,
    UrsaError,
)
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.several import several_at_once
from ursa_pipelines.ingest.verify import Verification, WrongObject, requests_to_look, verify
from ursa_pipelines.maintenance.scrub_ledger import (
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
from ursa_pipelines.maintenance.scrub_queue import Due, Queue
from ursa_pipelines.objects.digests import requests_to_digest
from ursa_pipelines.objects.store import ObjectInfo, requests_to_read
from ursa_pipelines.objects.stored import is_segment, list_recording

logger = logging.getLogger("ursa.scrub")

RUNS_UNREAD = 3
"""After so many runs in a row in which the store does not give a recording, and gives others, that is a failure."""

FAILURES_AT_MOST = 50
"""After so many in one run something else is wrong than recordings, and the run ends."""

_SLICE = Amount(8 * 1024**3, 5_000)
_FLUSHED_EVERY_SECONDS = 300.0
# So many in a row before a run is given up, and so many before it is if nothing at all could be read.
_UNAVAILABLE_AT_MOST, _UNAVAILABLE_AT_LEAST = 64, 8
_FATAL = (StoreDenied, CatalogVersionUnknown, CatalogUpgradeNeeded, CatalogNotInitialized, CatalogPointerInvalid)

Outcome = Literal["sound", "part", "failed", "settling", "unread", "gone", "unaffordable"]


@dataclass(frozen=True)
class Finding:
    """What came of reading a recording, or a slice of it.

    `sound`: read through, and right. `part`: right as far as it was read. `failed`: `wrong`, `of_rows` or `error` say
    why. `settling`: what is wrong may be an ingest that is under way. `unread`: the store did not give it, which is no
    failure. `gone`: it is in the catalog no more. `unaffordable`: nothing was read, the day's budget is used up.
    `remarks` do not make it fail. `began` is when it was begun, `after` the last path of the slice if there is more.
    """

    due: Due
    outcome: Outcome
    found: Verification | None = None
    error: UrsaError | None = None
    wrong: tuple[WrongObject, ...] = ()
    of_rows: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    cost: Amount = field(default_factory=Amount)
    began: float = 0.0
    after: str = ""

    @property
    def rec_id(self) -> str:
        return self.due.rec_id

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it failed, a line for each."""
        told = (self.error.told,) if self.error is not None else ()
        return (*told, *(one.told for one in self.wrong), *self.of_rows)


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
        self._for_failed = Amount()
        self._lock = threading.Lock()
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
        self._for_failed = Amount(self.budget.bytes // 2, self.budget.requests // 2) - used.used
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
        try:
            return self._read(due)
        except _FATAL:
            raise
        except (CatalogRowNotFound, RecordingIdInvalid) as error:
            return Finding(due, "gone", error=error)
        except (RecordingRefused, CatalogError) as error:
            # Such as a manifest that is none any more.
            return Finding(due, "failed", error=error, began=self.now())
        except UrsaError as error:
            if self._is_to_stop():
                return Finding(due, "unaffordable")
            if isinstance(error, StoreUnavailable) and self._state.unread.get(due.rec_id, 0) >= RUNS_UNREAD - 1:
                return Finding(due, "failed", error=error, began=self.now())
            logger.warning("%s", error, extra={"recording": due.rec_id})
            return Finding(due, "unread", error=error)
        except Exception as error:
            # One recording must not stop the others.
            logger.exception("unforeseen failure", extra={"recording": due.rec_id})
            # Its text is in the log only: nobody has made sure that it holds no name.
            told = UrsaError(f"unforeseen {type(error).__name__}", recording=due.rec_id)
            return Finding(due, "unread", error=told)

    def _read(self, due: Due) -> Finding:
        is_first = due.among is not None and due.rec_id not in self._later
        if self._is_to_stop() or (is_first and min(self._for_failed.bytes, self._for_failed.requests) < 0):
            return Finding(due, "unaffordable")
        objects = list_recording(self.context.raw, due.rec_id)
        after, began = self._cursor(due)
        segments = sorted(path for path in objects if is_segment(path))
        left = [path for path in segments if path > after]
        if due.among is not None:
            left = [path for path in segments if path in due.among]
        base = Amount(0, 1 + requests_to_look(objects, deep=True))
        infos = [objects[path] for path in left]
        if is_first and not self._is_in_half(sum(map(_cost, infos), base)):
            return Finding(due, "unaffordable")
        some, taken = self._affordable(infos, base, whole=due.among is not None)
        if taken is None:
            return Finding(due, "unaffordable")
        paths = left[: len(some)]
        is_whole, is_last = due.among is None and paths == segments, len(paths) == len(left)
        counted = _Counted(base)
        try:
            found = self._verify(due, counted, among=None if is_whole else paths, record=is_whole)
            wrong, of_rows = _failures(found)
            remarks = tuple(one.told for one in found.wrong if one.kind in {"unlisted", "changed"})
            if found.unattested:
                remarks += (f"nothing attests the bytes of {found.unattested:,} files; they can be read",)
            if wrong or of_rows:
                if _may_be_an_ingest(wrong, objects, self.now() - self.context.reconstruct_after_bucket):
                    return Finding(due, "settling", found, remarks=(*(one.told for one in wrong), *of_rows, *remarks))
                first = found
                found = self._verify(due, counted, among=[one.path for one in wrong])
                wrong, of_rows = _failures(found)
                remarks += _misread(first, found)
        finally:
            self._purse.give_back(taken, counted.amount)
        outcome: Outcome = "failed" if wrong or of_rows else "sound" if is_last else "part"
        if outcome != "failed" and any(one.kind == "changed" for one in found.wrong):
            # Somebody writes there: it is looked at again another day.
            return Finding(due, "settling", found, remarks=remarks, cost=counted.amount)
        return Finding(
            due,
            outcome,
            found,
            wrong=wrong,
            of_rows=of_rows,
            remarks=remarks,
            cost=counted.amount,
            began=began,
            after="" if is_last else paths[-1],
        )

    def _verify(self, due: Due, counted: _Counted, **options: Any) -> Verification:
        watch = Watch(counted.tell, self._is_to_stop)
        counted.begin()
        found = verify(self.context, due.rec_id, deep=True, watch=watch, **options)
        counted.end(Amount(found.bytes_read, found.requests))
        failpoints.reached("scrub.read")
        return found

    def _cursor(self, due: Due) -> tuple[str, float]:
        """After which path it goes on, and when it was begun. One that is older than the last full reading is void."""
        known: tuple[str, float] | None = self._known("cursors", due.rec_id)
        if due.among is not None or known is None or known[1] <= due.at:
            return "", self.now()
        return known

    def _affordable(
        self, infos: list[ObjectInfo], base: Amount, *, whole: bool
    ) -> tuple[list[ObjectInfo], Amount | None]:
        """As many of the objects, from the first, as one slice and the day's budget allow, and what was taken for them;
        None if there is not enough for the first one, or for all of them where only the `whole` will do.
        """
        costs = list(map(_cost, infos))
        count, wanted = 0, base
        for cost in costs:
            if count and not whole and not (wanted + cost).fits(base + _SLICE):
                break
            count, wanted = count + 1, wanted + cost
        taken = self._purse.take(wanted, wanted if whole else base + (costs[0] if costs else Amount()))
        if taken is None:
            return [], None
        while count > 1 and not wanted.fits(taken):
            count -= 1
            wanted -= costs[count]
        return infos[:count], taken

    def _is_in_half(self, wanted: Amount) -> bool:
        with self._lock:
            if not wanted.fits(self._for_failed):
                return False
            self._for_failed -= wanted
            return True

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
            return
        self._forget("cursors", rec_id)
        is_proved = finding.found is not None and not finding.found.unattested
        is_sound = is_proved and self._known("unsound", rec_id) is None
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


def _cost(info: ObjectInfo) -> Amount:
    return Amount(info.size, requests_to_digest(info.size))


def _failures(found: Verification) -> tuple[tuple[WrongObject, ...], tuple[str, ...]]:
    wrong = tuple(one for one in found.wrong if one.kind in {"missing", "size", "bytes", "manifest"})
    # What no manifest lists yet is not in the rows either.
    return wrong, found.row_problems


def _may_be_an_ingest(wrong: tuple[WrongObject, ...], objects: dict[str, ObjectInfo], since: float) -> bool:
    """Whether an ingest that is under way explains it. Other bytes it never does, nor what was stored long ago."""
    if any(one.kind in {"size", "bytes"} for one in wrong):
        return False
    return any(info.modified > since for info in objects.values())


def _misread(first: Verification, again: Verification) -> tuple[str, ...]:
    still = {(one.path, one.kind) for one in again.wrong}
    return tuple(
        f"once, and not when it was read again: {one.told}"
        for one in first.wrong
        if one.kind == "bytes" and (one.path, one.kind) not in still
    )


class _Counted:
    """What the looks at a recording have cost, also if one is broken off."""

    def __init__(self, base: Amount) -> None:
        self._base, self._ended, self._bytes, self._files, self._is_open = base, Amount(0, 1), 0, 0, False

    def begin(self) -> None:
        self._bytes, self._files, self._is_open = 0, 0, True

    def tell(self, progress: Any) -> None:
        self._bytes, self._files = progress.bytes_uploaded, progress.files_done

    def end(self, cost: Amount) -> None:
        self._ended, self._is_open = self._ended + cost, False

    @property
    def amount(self) -> Amount:
        if not self._is_open:
            return self._ended
        begun = Amount(self._bytes, self._base.requests + self._files + requests_to_read(self._bytes))
        return self._ended + begun
