"""Reads of source files that cannot hold up anything else.

A read of a NAS that went away may never return, and nothing gets its thread out of it. So threads that read are
daemons, every call that touches a source is watched, and whoever waits for them gives up on one that takes longer
than the time allowed: the other recordings go on, and the process can end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO, TypeVar

from ursa_pipelines.errors import SourceUnavailable
from ursa_pipelines.recordings.inventory import Inventory, SourceFile, open_source, reading_source

_T = TypeVar("_T")

_LOOK_SECONDS = 0.25
_PATIENCE_AFTER_A_STOP = 5.0


class DaemonExecutor(Executor):
    """Runs calls in up to `threads` daemon threads, which a process does not wait for when it ends."""

    def __init__(self, threads: int, name: str) -> None:
        self._limit, self._name = threads, name
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock, self._started = threading.Lock(), 0

    def submit(self, call: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        future: Future[_T] = Future()
        self._calls.put((future, partial(call, *args, **kwargs)))
        with self._lock:
            if self._started < self._limit:
                self._started += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._started}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads when their calls are done; waits for none of them."""
        with self._lock:
            for _ in range(self._started):
                self._calls.put(None)

    def _run(self) -> None:
        while (given := self._calls.get()) is not None:
            future, call = given
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
                    future.set_exception(error)
                else:
                    future.set_result(result)
            # What an idle thread still names would stay in memory.
            del future, call, given


class Watchdog:
    """Knows which calls that touch a source are under way, and how long each may take, in seconds."""

    def __init__(self, rec_id: str, seconds: float) -> None:
        self._rec_id, self._seconds = rec_id, seconds
        self._since: dict[int, tuple[float, str]] = {}

    def watched(self, path: str, call: Callable[[], _T]) -> _T:
        """The result of a call that touches the file of this path; what the drive raises is named."""
        thread = threading.get_ident()
        self._since[thread] = (time.monotonic(), path)
        try:
            with reading_source(self._rec_id, path):
                return call()
        finally:
            del self._since[thread]

    def check(self) -> None:
        """Raises `SourceUnavailable` if a call has taken too long."""
        now = time.monotonic()
        for since, path in list(self._since.values()):
            if now - since > self._seconds:
                raise SourceUnavailable(f"it gave nothing for {self._seconds:g} s", recording=self._rec_id, place=path)

    def hanging(self, seconds: float) -> int:
        """How many calls have taken longer than this."""
        now = time.monotonic()
        return sum(now - since > seconds for since, _ in list(self._since.values()))


def unless_it_hangs(
    rec_id: str,
    place: str,
    seconds: float,
    call: Callable[[Callable[[], None]], _T],
    check_stop: Callable[[], None] = lambda: None,
) -> _T:
    """The result of a call that touches a source, made in a thread of its own.

    The call is given a function by which it tells that it gets on. Raises `SourceUnavailable` if it has neither
    ended nor told so for `seconds`, and whatever `check_stop` raises, which is called while it lasts.
    """
    told = [time.monotonic()]

    def gets_on() -> None:
        told[0] = time.monotonic()

    with DaemonExecutor(1, "source") as thread:
        result = thread.submit(call, gets_on)
        while not wait([result], timeout=_LOOK_SECONDS).done:
            check_stop()
            if time.monotonic() - told[0] > seconds:
                raise SourceUnavailable(f"it gave nothing for {seconds:g} s", recording=rec_id, place=place)
        return result.result()


@contextmanager
def open_watched(inventory: Inventory, file: SourceFile, watchdog: Watchdog) -> Iterator[BinaryIO]:
    """`open_source` with opening, comparing and closing watched. Read from it through `fill` or `read_whole`."""
    opened = open_source(inventory, file)
    stream = watchdog.watched(file.path, opened.__enter__)
    try:
        yield stream
    except BaseException as error:
        watchdog.watched(file.path, partial(opened.__exit__, type(error), error, error.__traceback__))
        raise
    else:
        watchdog.watched(file.path, partial(opened.__exit__, None, None, None))


def fill(stream: BinaryIO, buffer: bytearray | memoryview, path: str, watchdog: Watchdog) -> int:
    """Reads until the buffer is full or the file ends; the number of bytes."""
    view, filled = memoryview(buffer), 0
    while filled < len(view):
        rest = view[filled:]
        count = watchdog.watched(path, lambda rest=rest: stream.readinto(rest))  # type: ignore[attr-defined,misc]
        if not count:
            break
        filled += count
    return filled


def gather(
    futures: Collection[Future[_T]], watchdog: Watchdog, stop: threading.Event, check_stop: Callable[[], None]
) -> list[_T]:
    """The results, in order. The first error, a call that hangs, and a stop set `stop` and are raised.

    Before it is raised, what is under way gets a few seconds to end; a read that hangs, or an answer that does not
    come, is left behind.
    """
    ended: SimpleQueue[Future[_T]] = SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    left, look_again = len(futures), time.monotonic() + _LOOK_SECONDS
    try:
        while left:
            with suppress(Empty):
                ended.get(timeout=_LOOK_SECONDS).result()
                left -= 1
            if time.monotonic() >= look_again:
                look_again = time.monotonic() + _LOOK_SECONDS
                watchdog.check()
                check_stop()
        return [future.result() for future in futures]
    except BaseException:
        stop.set()
        running = [future for future in futures if not future.cancel()]
        give_up = time.monotonic() + _PATIENCE_AFTER_A_STOP
        while running and time.monotonic() < give_up and watchdog.hanging(_LOOK_SECONDS) < len(running):
            running = list(wait(running, timeout=_LOOK_SECONDS).not_done)
        raise


def outcome(future: Future[_T], check_stop: Callable[[], None]) -> _T:
    """The result of a call that may hang, for as long as `check_stop` does not raise."""
    while not wait([future], timeout=_LOOK_SECONDS).done:
        check_stop()
    return future.result()
