"""The uplink, which all uploads on a host share when it is capped (DESIGN section 5).

Every sender books the line for its next chunk and waits until that begins: the bookings of all processes with one
state directory stand in one file there, as the moment until which the line is booked. Senders are thus served in
turn. A file with many senders has one booking at a time (`Flow`), so that files get equal shares. The clock is the
monotonic one, which the processes of a host have in common; what was booked before a reboot does not count.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

logger = logging.getLogger("ursa.register.orchestrator")

_FILE = "line"
_CHUNK_SECONDS = 0.05
_LEAST_CHUNK_BYTES, _MOST_CHUNK_BYTES = 4 * 1024, 128 * 1024
_SLICE_SECONDS = 0.2
_LOOK_SECONDS = 0.5
# A sender that comes at most so late catches up; after that the line counts as idle, which earns nothing.
_LATE_SECONDS = 0.2
_LOCK_SECONDS = 0.2
_PLAUSIBLE_BYTES = 1024**3
# The moment of boot is an estimate: it moves when the clock is set.
_SAME_BOOT_SECONDS = 10.0


class Rates(Protocol):
    """Which cap holds when."""

    def rate_at(self, moment: datetime) -> float | None:
        """Bytes per second, or None for unlimited."""


class Line:
    """The uplink of a host, or of this process alone without a `state` directory that can be used. Thread-safe.

    `rates` is asked twice a second, by one thread at a time. Any number of `Line`s may share a state directory.
    """

    def __init__(self, rates: Rates, state: Path | None) -> None:
        self._rates, self._state = rates, state
        self._rate: float | None = None
        self._look_again = -math.inf
        self._looking, self._booking = threading.Lock(), threading.Lock()
        self._booked_until, self._booked_rate = -math.inf, 1.0
        self._warned = False

    @property
    def capped(self) -> bool:
        """Whether a cap is in force now."""
        return self._rate_now() is not None

    def flow(self) -> Flow:
        """The way of one file onto the line."""
        return Flow(self)

    def take(self, wanted: int, check_stop: Callable[[], None]) -> int:
        """Waits until it is the caller's turn; how many bytes may go now: 1 to `wanted`, all where nothing is capped.

        `check_stop` is called while it waits, every 0.2 s or more often, and may raise.
        """
        while (rate := self._rate_now()) is not None:
            count = min(wanted, max(_LEAST_CHUNK_BYTES, min(_MOST_CHUNK_BYTES, int(rate * _CHUNK_SECONDS))))
            if self._has_come(count, rate, check_stop):
                return count
        return wanted

    def _has_come(self, count: int, rate: float, check_stop: Callable[[], None]) -> bool:
        """Books and waits; False if the cap changed meanwhile. A booking that is not used is given back."""
        start, came = self._book(count, rate), False
        try:
            while (left := start - time.monotonic()) > 0:
                time.sleep(min(left, _SLICE_SECONDS))
                check_stop()
                if self._rate_now() != rate:
                    return False
                if left > _SLICE_SECONDS:
                    # Others may have given theirs back, or a cap just raised may have brought the end forward.
                    start = min(start, self._book(0, rate) - count / rate)
            came = True
        finally:
            if not came:
                self._book(-count, rate)
        return came

    def _rate_now(self) -> float | None:
        if time.monotonic() >= self._look_again:
            with self._looking:
                if time.monotonic() >= self._look_again:
                    self._rate = self._rates.rate_at(datetime.now())
                    self._look_again = time.monotonic() + _LOOK_SECONDS
        return self._rate

    def _book(self, count: int, rate: float) -> float:
        """Books the line for `count` more bytes; the moment until which it was booked before."""
        with self._booking:
            try:
                with _locked(self._state) as descriptor:
                    start = self._free_at(rate, _read(descriptor))
                    _write(descriptor, start + count / rate, rate)
            except OSError as error:
                if self._state is not None and not self._warned:
                    self._warned = True
                    logger.warning("other processes do not share the upload cap: %s: %s", self._state / _FILE, error)
                start = self._free_at(rate, None)
            self._booked_until, self._booked_rate = start + count / rate, rate
            return start

    def _free_at(self, rate: float, booked: tuple[float, float] | None) -> float:
        # Where the file says nothing that can be believed, what this process knows counts: it never runs uncapped.
        until, booked_rate = booked or (self._booked_until, self._booked_rate)
        now = time.monotonic()
        if until <= now:
            return until if until > now - _LATE_SECONDS else now
        # What is booked are bytes: under another cap they take another time.
        return now + (until - now) * booked_rate / rate


class Flow:
    """The way of one file onto the line, for any number of its senders: they go one after another, as they came."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    def take(self, wanted: int, check_stop: Callable[[], None]) -> int:
        """As `Line.take`, after the file's other senders that came before."""
        if not self._line.capped:
            return wanted
        with self._turn(check_stop):
            return self._line.take(wanted, check_stop)

    @contextmanager
    def _turn(self, check_stop: Callable[[], None]) -> Iterator[None]:
        # A lock would let a quick sender pass the others again and again, until the server gives their requests up.
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            self._waiting[0].set()
        try:
            while not mine.wait(_SLICE_SECONDS):
                check_stop()
            yield
        finally:
            with self._lock:
                self._waiting.remove(mine)
                if self._waiting:
                    self._waiting[0].set()


@contextmanager
def _locked(state: Path | None) -> Iterator[int]:
    """The file of bookings, opened anew each time: a lock belongs to an open file, which threads and forks share."""
    if state is None:
        raise FileNotFoundError("there is no state directory")
    try:
        descriptor = os.open(state / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_up = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Held for microseconds, unless its holder is suspended: that must not hold up all the others.
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.0005)
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> tuple[float, float] | None:
    """Until when the line is booked and under which rate; None if the file was not written by us since the boot."""
    try:
        booted, until, rate = map(float, os.pread(descriptor, 256, 0).split())
    except ValueError:
        return None
    sound = 0 < rate < math.inf and -math.inf < (until - time.monotonic()) * rate < _PLAUSIBLE_BYTES
    return (until, rate) if sound and abs(booted - _booted()) < _SAME_BOOT_SECONDS else None


def _write(descriptor: int, until: float, rate: float) -> None:
    text = f"{_booted():.3f} {until:.6f} {rate:.6f}\n".encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def _booted() -> float:
    return time.time() - time.monotonic()
