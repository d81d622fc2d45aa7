"""Whose turn it is to be read again: what was verified longest ago first."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.tables.schemas import PARTITION
from ursa_pipelines.maintenance.scrub.ledger import Read, read_month

_CANDIDATES = 1_000
_DAY = 86_400.0


@dataclass(frozen=True, order=True, slots=True)
class Due:
    """A recording whose turn it is. It was last read through, or else registered, `at` (seconds since 1970 UTC).

    `sound_at` and `by` tell when it was last found sound, and by whom. `among` are the only paths that are looked at,
    of one that failed before.
    """

    at: float
    rec_id: str
    month: str = field(compare=False)
    sound_at: float | None = field(default=None, compare=False)
    by: str = field(default="", compare=False)
    files: int = field(default=0, compare=False)
    bytes: int = field(default=0, compare=False)
    among: tuple[str, ...] | None = field(default=None, compare=False)


class Queue:
    """The recordings whose turn it is, what was verified longest ago first.

    A month is read when its floor says that it may hold the next one. Floors are bounds from below, since whatever is
    registered later is verified later; what breaks that rule, such as rows that were brought in from elsewhere, is
    found when the month is looked through in its turn, one month a day.
    """

    def __init__(self, catalog: Catalog, floors: dict[str, float], now: float, rest_days: float) -> None:
        self._catalog, self._now, self._limit = catalog, now, now - rest_days * _DAY
        months = catalog.snapshot().months("recordings")
        if months:
            floors.pop(months[int(now // _DAY) % len(months)], None)
        self._unread = [(floors.get(month, _beginning(month)), month) for month in months]
        heapq.heapify(self._unread)
        self._ready: list[Due] = []
        self._left: dict[str, int] = {}
        self._rest: dict[str, float] = {}
        self._seen: set[str] = set()

    def pop(self) -> Due | None:
        """The next one, or None if nothing more is due."""
        self._make_ready()
        if not self._ready or self._ready[0].at > self._limit:
            return None
        due = heapq.heappop(self._ready)
        self._seen.add(due.rec_id)
        self._left[due.month] -= 1
        if not self._left[due.month] and due.month in self._rest:
            heapq.heappush(self._unread, (self._rest.pop(due.month), due.month))
        return due

    def put_back(self, due: Due) -> None:
        """Takes back one that was not read, or not to its end."""
        heapq.heappush(self._ready, due)
        self._left[due.month] = self._left.get(due.month, 0) + 1

    def oldest(self) -> float | None:
        """When the one was verified that is next, due or not; None if there is none."""
        self._make_ready()
        if self._ready:
            return self._ready[0].at
        return self._now if self._seen else None

    def floors(self) -> dict[str, float]:
        """Of each month that was read, when the oldest that is left of it was verified."""
        found = dict.fromkeys(self._left, self._now)
        for month, floor in self._rest.items():
            found[month] = min(found[month], floor)
        for floor, month in self._unread:
            found.pop(month, None)
            if month in self._left:
                found[month] = floor
        for due in self._ready:
            found[due.month] = min(found.get(due.month, due.at), due.at)
        return found

    def _make_ready(self) -> None:
        while self._unread and (not self._ready or self._unread[0][0] <= self._ready[0].at):
            self._read(heapq.heappop(self._unread)[1])

    def _read(self, month: str) -> None:
        found = heapq.nsmallest(_CANDIDATES + 1, self._dues(month))
        if len(found) > _CANDIDATES:
            self._rest[month] = found.pop().at
        for due in found:
            heapq.heappush(self._ready, due)
        self._left[month] = self._left.get(month, 0) + len(found)

    def _dues(self, month: str) -> Iterator[Due]:
        known, beginning = read_month(self._catalog.assets, month), _beginning(month)
        names: set[str] = set()
        for batch in self._catalog.scan("recordings", {PARTITION: month}, ["rec_id", "metadata"]):
            for rec_id, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                # A recording that was registered twice is one in the bucket.
                if rec_id and rec_id not in self._seen and rec_id not in names:
                    names.add(rec_id)
                    yield _due(rec_id, month, json.loads(text) if text else {}, known.get(rec_id), beginning)


def _due(rec_id: str, month: str, metadata: dict[str, Any], known: Read | None, beginning: float) -> Due:
    size, files = _number(metadata.get("bytes")), _number(metadata.get("files"))
    if known is not None:
        return Due(known.at, rec_id, month, known.sound_at, known.by, files, size)
    registered = _moment(metadata.get("registered_at"))
    if metadata.get("verification") != "sha256" or registered is None:
        return Due(beginning, rec_id, month, None, "", files, size)
    return Due(registered, rec_id, month, registered, "its ingest", files, size)


def _beginning(month: str) -> float:
    try:
        return datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _number(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _moment(value: object) -> float | None:
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except (ValueError, OverflowError):
        return None
