"""How fast uploads may go, and when (DESIGN section 5): `08:00-19:00 5MB/s, 25MB/s`.

Entries are divided by commas, each `[days] [window] rate`. Days are `Sat` or `Mon-Fri`. A window is local time and may
pass midnight; it then belongs to the day it begins on. A rate is bytes or bits per second (`5MB/s`, `40Mbit/s`), or
`off` or `unlimited`. The entry with neither days nor window is the rate of the rest, which is unlimited without one.

The profile's timetable holds unless the file `bandwidth` in the state directory has another: for all that runs there,
from the next look at it. A file that cannot be followed changes nothing, so that a slip never lifts a cap.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

logger = logging.getLogger("ursa.register.orchestrator")

EXAMPLE = "Mon-Fri 08:00-19:00 5MB/s, 25MB/s"

_ESTIMATE_STEP, _ESTIMATE_LIMIT = timedelta(minutes=10), timedelta(days=30)

_OVERRIDE = "bandwidth"
_OVERRIDE_BYTES = 4096
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY, _WEEK = 24 * 60, 7 * 24 * 60
_ENTRY = re.compile(
    rf"((?P<first>{'|'.join(_DAYS)})(\s?-\s?(?P<last>{'|'.join(_DAYS)}))?\s)?"
    r"((?P<start>\d\d:\d\d)\s?-\s?(?P<end>\d\d:\d\d)\s)?"
    r"(?P<rate>\S.*)",
    re.ASCII | re.IGNORECASE,
)
_RATE = re.compile(r"(?P<number>\d{1,15}(\.\d{1,6})?)\s?(?P<unit>[a-z]+)\s?/\s?s", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """A rate and when it holds: minutes of the week from Monday 00:00, half-open; none for the rest."""

    told: str
    rate: float | None
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Timetable:
    """Which rate holds when. `str()` is what `parse` takes."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Timetable:
        """The timetable in a text. Raises `ValueError`, which names the entry and shows an example."""
        entries = tuple(_entry(" ".join(part.split())) for part in text.split(","))
        if sum(not entry.spans for entry in entries) > 1:
            raise _refusal(entries[-1].told, "is a second rate for the same time")
        spans = sorted((*span, entry.told) for entry in entries for span in entry.spans)
        for (_, end, one), (start, _, other) in pairwise(spans):
            if start < end:
                raise _refusal(other, f"overlaps {one!r}")
        return cls(entries)

    def rate_at(self, moment: datetime) -> float | None:
        """Bytes per second, or None for unlimited. A moment without a time zone is local time."""
        local = moment.astimezone()
        minute = local.weekday() * _DAY + local.hour * 60 + local.minute
        rest = None
        for entry in self.entries:
            if any(start <= minute < end for start, end in entry.spans):
                return entry.rate
            if not entry.spans:
                rest = entry.rate
        return rest

    def __str__(self) -> str:
        return ", ".join(entry.told for entry in self.entries) or "unlimited"


@dataclass(frozen=True)
class Estimate:
    """How long `size` bytes take under a cap from `start` on. `rate` is that at the start, bytes per second.

    `until` is None where no cap holds for part of the time: no rate is made up then.
    """

    size: int
    start: datetime
    rate: float | None
    until: datetime | None

    def __str__(self) -> str:
        """`about 12 min at 5.0MB/s, until 14:05`, or `no cap`; "" if there is nothing to send."""
        if not self.size:
            return ""
        if self.until is None:
            return "no cap" if self.rate is None else f"{told_rate(self.rate)} now, the end is not known"
        minutes = max(1, round((self.until - self.start).total_seconds() / 60))
        hours, rest = divmod(minutes, 60)
        took = f"{hours} h {rest:02} min" if hours else f"{minutes} min"
        ending = f"{self.until:%H:%M}" if self.until.date() == self.start.date() else f"{self.until:%a %d %b %H:%M}"
        return f"about {took} at {told_rate(self.rate)}, until {ending}"


def estimate(timetable: Timetable, size: int, start: datetime) -> Estimate:
    """How long so many bytes take from then on."""
    return Estimate(size, start, timetable.rate_at(start), estimated_end(timetable, size, start) if size else start)


def estimated_end(timetable: Timetable, size: int, start: datetime) -> datetime | None:
    """When so many bytes will have left under a cap; None where none holds for part of the time, or beyond 30 days."""
    left, moment = float(size), start
    while moment - start < _ESTIMATE_LIMIT:
        rate = timetable.rate_at(moment)
        if rate is None:
            return None
        in_step = rate * _ESTIMATE_STEP.total_seconds()
        if left <= in_step:
            return moment + _ESTIMATE_STEP * (left / in_step)
        left, moment = left - in_step, moment + _ESTIMATE_STEP
    return None


class Bandwidth:
    """The cap of what runs with one state directory: the profile's, or the one set there. For one thread at a time.

    Raises `ValueError` if the profile's is malformed.
    """

    def __init__(self, profile: str | None, state: Path | None) -> None:
        self.profile = Timetable() if profile is None else Timetable.parse(profile)
        self.override: Timetable | None = None
        self._path = state / _OVERRIDE if state else None
        self.problem = ""
        self._seen: tuple[int, ...] | None = None

    def rate_at(self, moment: datetime) -> float | None:
        """Bytes per second, or None for unlimited, by the timetable in force."""
        return self.in_force().rate_at(moment)

    def in_force(self) -> Timetable:
        """Looks at the state directory and returns the timetable in force.

        `override` is then that of the directory, and `problem` says why its file is not followed.
        """
        if self._path is not None:
            try:
                self._look(self._path)
            except FileNotFoundError:
                self.override, self._seen, self.problem = None, None, ""
            except (OSError, ValueError) as error:
                problem = f"{self._path} is not followed: {error}"
                if problem != self.problem:
                    self.problem = problem
                    logger.warning("the upload cap stays %s: %s", self.override or self.profile, problem)
        return self.override or self.profile

    def _look(self, path: Path) -> None:
        found = path.stat()
        signature = (found.st_ino, found.st_mtime_ns, found.st_size)
        if signature == self._seen:
            return
        if not stat.S_ISREG(found.st_mode) or found.st_size > _OVERRIDE_BYTES:
            raise ValueError(f"it is not a file of at most {_OVERRIDE_BYTES} bytes")
        raw = path.read_bytes()
        self._seen = signature
        self.override = Timetable.parse(raw.decode())
        self.problem = ""


def set_override(state: Path, text: str) -> Timetable:
    """Puts a timetable in force for everything that runs with this state directory. Raises `ValueError`, `OSError`."""
    timetable = Timetable.parse(text)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=f"{_OVERRIDE}.", dir=state)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{timetable}\n")
        Path(fresh).replace(state / _OVERRIDE)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
    return timetable


def clear_override(state: Path) -> None:
    """Returns to the profile's timetable. Raises `OSError`."""
    (state / _OVERRIDE).unlink(missing_ok=True)


def told_rate(rate: float | None) -> str:
    """A rate for people: `5.0MB/s`, `unlimited`."""
    return "unlimited" if rate is None else f"{ByteSize(rate).human_readable(decimal=True)}/s"


def _entry(told: str) -> Entry:
    found = _ENTRY.fullmatch(told)
    if found is None:
        raise _refusal(told, "is an empty entry")
    rate, rate_told = _rate(told, found["rate"])
    when = told[: found.start("rate")]
    return Entry(when + rate_told, rate, tuple(_spans(told, found)))


def _rate(entry: str, told: str) -> tuple[float | None, str]:
    if told.lower() in {"off", "unlimited"}:
        return None, "unlimited"
    found = _RATE.fullmatch(told)
    if found is None:
        raise _refusal(entry, "has no rate that is understood, such as 5MB/s or unlimited")
    number, unit = found["number"], found["unit"]
    if unit.endswith("b"):
        raise _refusal(entry, f"may mean bytes or bits: write {unit[:-1]}B or {unit[:-1]}bit")
    try:
        rate = _byte_size().validate_python(f"{number}{unit}")
    except ValidationError:
        raise _refusal(entry, f"has the unknown unit {unit!r}") from None
    if rate < 1:
        raise _refusal(entry, "would stop every upload")
    return float(rate), f"{number}{unit}/s"


@cache
def _byte_size() -> TypeAdapter[ByteSize]:
    return TypeAdapter(ByteSize)


def _spans(told: str, found: re.Match[str]) -> Iterator[tuple[int, int]]:
    if not found["first"] and not found["start"]:
        return
    first = _DAYS.index(found["first"].lower()) if found["first"] else 0
    last = _DAYS.index((found["last"] or found["first"]).lower()) if found["first"] else 6
    start, end = (_minute(told, found["start"]), _minute(told, found["end"])) if found["start"] else (0, _DAY)
    if start in {end, _DAY}:
        raise _refusal(told, "begins when it ends")
    length = end - start if end > start else end - start + _DAY
    for ahead in range((last - first) % 7 + 1):
        begin = (first + ahead) % 7 * _DAY + start
        yield begin, min(begin + length, _WEEK)
        if begin + length > _WEEK:
            yield 0, begin + length - _WEEK


def _minute(told: str, clock: str) -> int:
    hour, minute = int(clock[:2]), int(clock[3:])
    if minute > 59 or hour * 60 + minute > _DAY:
        raise _refusal(told, f"has no time of day in {clock!r}")
    return hour * 60 + minute


def _refusal(told: str, why: str) -> ValueError:
    return ValueError(f"{told[:80]!r} {why}; write it like {EXAMPLE!r}")
