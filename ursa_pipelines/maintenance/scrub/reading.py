"""Reading one recording that is stored, or a slice of it, against what attests its bytes.

It is read by `ingest.verify`, deep: every byte against the digest that the manifest, or our marker, has of it. A file
that has none is read and told of. A large recording is read in slices of whole objects. What seems to be wrong is
looked at again before it is told. What an ingest that is under way explains, and what only the network or the store
explains, is no failure.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
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
from ursa_pipelines.ingest.verify import Verification, WrongObject, requests_to_look, verify
from ursa_pipelines.maintenance.scrub.ledger import Amount, Purse
from ursa_pipelines.maintenance.scrub.queue import Due
from ursa_pipelines.objects.digests import requests_to_digest
from ursa_pipelines.objects.store import ObjectInfo, requests_to_read
from ursa_pipelines.objects.stored import is_segment, list_recording

logger = logging.getLogger("ursa.scrub")

_SLICE = Amount(8 * 1024**3, 5_000)
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


class Ration:
    """What is left for some of the recordings, of what a day allows for all. For any thread."""

    def __init__(self, left: Amount) -> None:
        self._left, self._lock = left, threading.Lock()

    @property
    def is_used_up(self) -> bool:
        return min(self._left.bytes, self._left.requests) < 0

    def take(self, wanted: Amount) -> bool:
        """Takes it if there is as much."""
        with self._lock:
            if not wanted.fits(self._left):
                return False
            self._left -= wanted
            return True


@dataclass(frozen=True)
class Start:
    """Where a recording goes on: after which of its paths, and when it was begun (seconds since 1970 UTC).

    `ration` bounds what it may cost, beside the purse. `was_unread` if the store has not given it in so many runs that
    not to get it is a failure from now on.
    """

    after: str
    began: float
    ration: Ration | None = None
    was_unread: bool = False


@dataclass(frozen=True)
class Reader:
    """Reads recordings, of any thread; `purse` says what may be read, `is_to_stop` when to break off."""

    context: IngestContext
    purse: Purse
    is_to_stop: Callable[[], bool]
    now: Callable[[], float]

    def look(self, due: Due, start: Start) -> Finding:
        """Reads it from there on, and says what came of it. Raises what would come of any other recording too."""
        try:
            return self._read(due, start)
        except _FATAL:
            raise
        except (CatalogRowNotFound, RecordingIdInvalid) as error:
            return Finding(due, "gone", error=error)
        except (RecordingRefused, CatalogError) as error:
            # Such as a manifest that is none any more.
            return Finding(due, "failed", error=error, began=self.now())
        except UrsaError as error:
            if self.is_to_stop():
                return Finding(due, "unaffordable")
            if isinstance(error, StoreUnavailable) and start.was_unread:
                return Finding(due, "failed", error=error, began=self.now())
            logger.warning("%s", error, extra={"recording": due.rec_id})
            return Finding(due, "unread", error=error)
        except Exception as error:
            # One recording must not stop the others.
            logger.exception("unforeseen failure", extra={"recording": due.rec_id})
            # Its text is in the log only: nobody has made sure that it holds no name.
            told = UrsaError(f"unforeseen {type(error).__name__}", recording=due.rec_id)
            return Finding(due, "unread", error=told)

    def _read(self, due: Due, start: Start) -> Finding:
        if self.is_to_stop() or (start.ration and start.ration.is_used_up):
            return Finding(due, "unaffordable")
        objects = list_recording(self.context.raw, due.rec_id)
        segments = sorted(path for path in objects if is_segment(path))
        left = [path for path in segments if path > start.after]
        if due.among is not None:
            left = [path for path in segments if path in due.among]
        base = Amount(0, 1 + requests_to_look(objects, deep=True))
        infos = [objects[path] for path in left]
        if start.ration and not start.ration.take(sum(map(_cost, infos), base)):
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
            self.purse.give_back(taken, counted.amount)
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
            began=start.began,
            after="" if is_last else paths[-1],
        )

    def _verify(self, due: Due, counted: _Counted, **options: Any) -> Verification:
        watch = Watch(counted.tell, self.is_to_stop)
        counted.begin()
        found = verify(self.context, due.rec_id, deep=True, watch=watch, **options)
        counted.end(Amount(found.bytes_read, found.requests))
        failpoints.reached("scrub.read")
        return found

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
        taken = self.purse.take(wanted, wanted if whole else base + (costs[0] if costs else Amount()))
        if taken is None:
            return [], None
        while count > 1 and not wanted.fits(taken):
            count -= 1
            wanted -= costs[count]
        return infos[:count], taken


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
