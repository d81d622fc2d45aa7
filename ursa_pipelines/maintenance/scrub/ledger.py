"""What the scrub remembers between two runs, in the assets bucket; docs/operating.md, "Scrub".

`ursa/scrub/<YYYY-MM>.jsonl.gz`, one for each month in which recordings started, says when each of them was last read
through, when it was last found sound, and by whom: a line for each. `ursa/scrub/state.json` says what was used of
today's budget, how far large recordings have been read, which recordings are not sound, and from when on each month
may have something that is due.

All of it is changed by compare-and-swap, and none of it is needed for anything else: what is lost or damaged is begun
anew, which means that recordings are read earlier than they had to be, and that a day's budget may be used twice.
"""

from __future__ import annotations

import gzip
import json
import logging
import secrets
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ursa_pipelines.errors import ETagMismatch, ObjectExists, ObjectNotFound
from ursa_pipelines.objects.keys import scrub_ledger_key, scrub_state_key
from ursa_pipelines.objects.store import Bucket

logger = logging.getLogger("ursa.scrub")

FORMAT = 1

_DRAWS_PER_DAY = 50

_until_nobody_was_faster = retry(
    retry=retry_if_exception_type((ETagMismatch, ObjectExists)),
    wait=wait_random_exponential(0.05, max=2),
    stop=stop_after_attempt(20),
    reraise=True,
)


class Read(NamedTuple):
    """When a recording was last read through, and when it was last found sound (None: never by a scrub); by whom.

    Times are seconds since 1970 UTC.
    """

    at: float
    sound_at: float | None
    by: str


@dataclass(frozen=True)
class Amount:
    """What reading costs, or may cost."""

    bytes: int = 0
    requests: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.bytes + other.bytes, self.requests + other.requests)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.bytes - other.bytes, self.requests - other.requests)

    def fits(self, into: Amount) -> bool:
        return self.bytes <= into.bytes and self.requests <= into.requests


@dataclass
class State:
    """The document `state.json`. `day` is the one whose use `runs` tell, by run; `carried` is what was used too much
    before. `cursors` are recordings that were read in part: (path of the last object, when it was begun). `unsound`
    are those that failed and have not been found sound since: (month, since when, paths). `unread` counts the runs in
    a row in which the store did not give a recording. `floors` say of a month from when on something of it may be due.
    """

    day: str = ""
    carried: Amount = field(default_factory=Amount)
    runs: dict[str, Amount] = field(default_factory=dict)
    cursors: dict[str, tuple[str, float]] = field(default_factory=dict)
    unsound: dict[str, tuple[str, float, list[str]]] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)

    @property
    def used(self) -> Amount:
        """What was used of the day's budget, or is about to be."""
        return sum(self.runs.values(), self.carried)

    @classmethod
    def parsed(cls, raw: bytes) -> State:
        """Raises `ValueError` for a document that is none of ours."""
        try:
            document = json.loads(raw)
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']!r}")
            return cls(
                day=str(document["day"]),
                carried=_amount(document["carried"]),
                runs={str(run): _amount(told) for run, told in document["runs"].items()},
                cursors={str(key): (str(path), float(began)) for key, (path, began) in document["cursors"].items()},
                unsound={
                    str(key): (str(month), float(since), [str(path) for path in paths])
                    for key, (month, since, paths) in document["unsound"].items()
                },
                unread={str(key): int(count) for key, count in document["unread"].items()},
                floors={str(month): float(floor) for month, floor in document["floors"].items()},
            )
        except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(f"not as it is written ({type(error).__name__})") from None

    def dumped(self) -> bytes:
        told = {
            "format": FORMAT,
            "day": self.day,
            "carried": _listed(self.carried),
            "runs": {run: _listed(amount) for run, amount in self.runs.items()},
            "cursors": self.cursors,
            "unsound": self.unsound,
            "unread": self.unread,
            "floors": self.floors,
        }
        return json.dumps(told, indent=1, sort_keys=True).encode()


def read_state(assets: Bucket) -> State:
    """The state as it is; an empty one if there is none, or if it is damaged."""
    return _read_state(assets)[0]


@_until_nobody_was_faster
def change_state(assets: Bucket, change: Callable[[State], None]) -> State:
    """Changes the state in one compare-and-swap. `change` may be called again, on what somebody else has written."""
    state, etag = _read_state(assets)
    change(state)
    body = state.dumped()
    if etag is None:
        assets.create(scrub_state_key(), body)
    else:
        assets.replace(scrub_state_key(), body, etag)
    return state


def read_month(assets: Bucket, month: str) -> dict[str, Read]:
    """By rec_id, what is known of the recordings that started in a month; nothing if the ledger is damaged."""
    return _read_month(assets, month)[0]


@_until_nobody_was_faster
def note(assets: Bucket, month: str, reads: Mapping[str, Read]) -> None:
    """Adds to a month's ledger. Of two that tell of one recording the later one counts."""
    known, etag = _read_month(assets, month)
    for rec_id, read in reads.items():
        before = known.get(rec_id)
        known[rec_id] = read if before is None or read.at >= before.at else before
    lines = [json.dumps([rec_id, *read]) for rec_id, read in sorted(known.items())]
    body = gzip.compress(
        "\n".join([json.dumps({"format": FORMAT, "month": month}), *lines]).encode(), compresslevel=5, mtime=0
    )
    if etag is None:
        assets.create(scrub_ledger_key(month), body)
    else:
        assets.replace(scrub_ledger_key(month), body, etag)


class Purse:
    """What this run may still read today, drawn from the day's budget a little at a time.

    Each run notes what it has drawn in all, before it uses it: so runs that go at the same time share one budget, one
    that is killed has used what it drew, and an answer that was lost counts nothing twice. An object that a whole day's
    budget does not cover is begun as long as anything is left of the day; what that takes too much, the following days
    lack. Safe to use from several threads.
    """

    def __init__(self, assets: Bucket, run: str, budget: Amount, now: Callable[[], float]) -> None:
        # A step that is tried again in the same run has drawn nothing yet, and what was drawn before is used.
        self._run = f"{run}/{secrets.token_hex(4)}"
        self._assets, self.budget, self._now = assets, budget, now
        self._lock = threading.Lock()
        self._drawn, self._taken, self._out, self._day = Amount(), Amount(), Amount(), ""
        self.spent = Amount()

    def take(self, wanted: Amount, at_least: Amount) -> Amount | None:
        """So much of what is wanted as there is, but no less than `at_least`; None if there is not even that."""
        with self._lock:
            left = self._drawn - self._taken
            if not wanted.fits(left) or self._day != day_of(self._now()):
                left = self._draw(wanted)
            is_too_large = not at_least.fits(self.budget)
            granted = Amount(min(wanted.bytes, left.bytes), min(wanted.requests, left.requests))
            if not at_least.fits(granted):
                if not is_too_large or left.bytes <= 0 or left.requests <= 0:
                    return None
                granted = at_least
            self._taken += granted
            self._out += granted
            if not granted.fits(left):
                self._settle()
            return granted

    def give_back(self, taken: Amount, spent: Amount) -> None:
        """What was taken comes back, but for what was spent."""
        with self._lock:
            self._out -= taken
            self._taken += spent - taken
            self.spent += spent

    def close(self) -> None:
        """Returns what was drawn and not used."""
        with self._lock:
            if self._day:
                self._drawn = self._taken
                self._settle()

    def _draw(self, wanted: Amount) -> Amount:
        """Draws more, and returns what is there then. Of what was taken on a day that is over, the new day counts what
        is not given back yet.
        """

        def draw(state: State) -> None:
            today = day_of(self._now())
            roll(state, today, self.budget)
            if self._day != state.day:
                self._day, self._taken = state.day, self._out
            state.runs.pop(self._run, None)
            left = self.budget - state.used
            lump = Amount(self.budget.bytes // _DRAWS_PER_DAY, self.budget.requests // _DRAWS_PER_DAY)
            drawn = self._taken + wanted + lump
            self._drawn = Amount(
                max(self._taken.bytes, min(drawn.bytes, left.bytes)),
                max(self._taken.requests, min(drawn.requests, left.requests)),
            )
            state.runs[self._run] = self._drawn

        change_state(self._assets, draw)
        return self._drawn - self._taken

    def _settle(self) -> None:
        def settle(state: State) -> None:
            roll(state, day_of(self._now()), self.budget)
            if state.day == self._day:
                state.runs[self._run] = self._taken
            self._drawn = self._taken

        change_state(self._assets, settle)


def roll(state: State, today: str, budget: Amount) -> None:
    """Begins a new day, if it is one: what the days before used too much is carried on."""
    if state.day == today:
        return
    days = _days_between(state.day, today)
    # A clock that was set back a little begins no new day; one that was far ahead must not hold up everything.
    if -2 < days < 0:
        return
    used = state.used
    days = max(days, 1)
    state.carried = Amount(max(0, used.bytes - days * budget.bytes), max(0, used.requests - days * budget.requests))
    state.day, state.runs = today, {}


def day_of(moment: float) -> str:
    """The UTC day of a moment in seconds since 1970."""
    return datetime.fromtimestamp(moment, UTC).date().isoformat()


def _days_between(before: str, after: str) -> int:
    try:
        return (datetime.fromisoformat(after) - datetime.fromisoformat(before)).days
    except ValueError:
        return 1


def _read_state(assets: Bucket) -> tuple[State, str | None]:
    try:
        raw, info = assets.get(scrub_state_key())
    except ObjectNotFound:
        return State(), None
    try:
        return State.parsed(raw), info.etag
    except ValueError as error:
        logger.warning("the state of the scrub is damaged, and begun anew: %s", error)
        return State(), info.etag


def _read_month(assets: Bucket, month: str) -> tuple[dict[str, Read], str | None]:
    try:
        raw, info = assets.get(scrub_ledger_key(month))
    except ObjectNotFound:
        return {}, None
    try:
        # Its end is a checksum, so that a bit that flipped is noticed.
        return _parsed(gzip.decompress(raw).decode().splitlines()), info.etag
    except (ValueError, TypeError, KeyError, EOFError, OSError, zlib.error, RecursionError) as error:
        logger.warning("the ledger of %s is damaged, and begun anew: %s", month, type(error).__name__)
        return {}, info.etag


def _parsed(lines: Iterable[str]) -> dict[str, Read]:
    head, *rest = lines
    if json.loads(head)["format"] != FORMAT:
        raise ValueError("another format")
    found = {}
    for line in rest:
        rec_id, at, sound_at, by = json.loads(line)
        found[str(rec_id)] = Read(float(at), None if sound_at is None else float(sound_at), str(by))
    return found


def _amount(told: Any) -> Amount:
    size, requests = told
    return Amount(int(size), int(requests))


def _listed(amount: Amount) -> list[int]:
    return [amount.bytes, amount.requests]
