"""How an ingest gets on: two lines and one for each recording under way on a terminal, else a line now and then.

What is told comes from several threads, which hold locks of their own: nothing here keeps them waiting.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from ursa_pipelines.cli.failures import EXIT_INTERRUPTED
from ursa_pipelines.cli.printing import errors as errors

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import ConsoleOptions, RenderResult

    from ursa_pipelines.ingest.batch import BatchItem
    from ursa_pipelines.ingest.context import UploadProgress

STYLES = {"OK": "green", "SKIP": "yellow", "FAIL": "red"}

_RATE_SECONDS, _SAMPLE_SECONDS = 10.0, 0.25
_LINE_EVERY_SECONDS = 30.0
_WIDEST_BAR = 60


@dataclass(frozen=True)
class Expected:
    """What a recording will come to, as planned. `doing` says what is done before its first byte is sent."""

    rec_id: str
    files: int
    bytes: int
    doing: str = "being looked at"


@dataclass
class _Progress:
    """One recording: `before` and `files_before` are of its halves that are done already."""

    expected: Expected
    bytes: int = 0
    files: int = 0
    before: int = 0
    files_before: int = 0
    current: str = ""

    @property
    def done(self) -> int:
        return min(self.before + self.bytes, self.expected.bytes)

    @property
    def files_done(self) -> int:
        return min(self.files_before + self.files, self.expected.files)


class Tally:
    """Counts recordings, files and bytes, and how fast they go. Thread-safe; `clock` is in seconds.

    It keeps sums, since it is asked several times a second about what may be a hundred thousand recordings.
    """

    def __init__(
        self, expected: Iterable[Expected], at_once: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # In the order in which they are taken up.
        self._open = {one.rec_id: _Progress(one) for one in expected}
        self._recordings = len(self._open)
        self._size = sum(one.expected.bytes for one in self._open.values())
        self._files = sum(one.expected.files for one in self._open.values())
        self._bytes_done = self._files_done = 0
        self._at_once, self._clock = at_once, clock
        self._lock = threading.Lock()
        self.ended: list[BatchItem] = []
        self.sent = 0
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])
        self.is_stopping = False

    def tell(self, rec_id: str, progress: UploadProgress) -> None:
        """Takes in how far a recording has come."""
        with self._lock:
            one = self._open.get(rec_id)
            if one is None:
                return
            done, files_done = one.done, one.files_done
            if progress.files_done < one.files:
                # The next half of it, or the next step.
                one.before, one.files_before, one.bytes = done, files_done, 0
            elif progress.files_done == one.files:
                # With the end of a file comes what had not to be sent of it.
                self.sent += progress.bytes_uploaded - one.bytes
            one.bytes, one.files, one.current = progress.bytes_uploaded, progress.files_done, progress.current_file
            self._bytes_done += one.done - done
            self._files_done += one.files_done - files_done
            now = self._clock()
            if now - self._samples[-1][0] >= _SAMPLE_SECONDS:
                self._samples.append((now, self.sent))
            while now - self._samples[0][0] > _RATE_SECONDS and len(self._samples) > 2:
                self._samples.popleft()

    def end(self, rec_id: str, item: BatchItem | None = None) -> None:
        """Takes in that nothing more is done for a recording, and what came of it."""
        with self._lock:
            if one := self._open.pop(rec_id, None):
                self._bytes_done += one.expected.bytes - one.done
                self._files_done += one.expected.files - one.files_done
            if item is not None:
                self.ended.append(item)

    @property
    def share(self) -> float:
        """From 0 to 1: of the bytes, or of the recordings where there are none to be counted."""
        with self._lock:
            if self._size:
                return self._bytes_done / self._size
            return (self._recordings - len(self._open)) / max(self._recordings, 1)

    def told(self) -> list[str]:
        """Recordings, files, bytes, rate and time left, each as a text; the most important first."""
        with self._lock:
            over = self._recordings - len(self._open)
            parts = [f"{over:,} of {counted_noun(self._recordings, 'recording')}"]
            done, size, rate = self._bytes_done, self._size, self._rate()
            parts.append(f"{_beside(done, size)}")
            if rate and done < size:
                parts += [f"{decimal(int(rate))}/s", f"{told_seconds((size - done) / rate)} left"]
            return [*parts, f"{self._files_done:,} of {self._files:,} files"]

    def under_way(self) -> list[tuple[str, str, str]]:
        """The recordings that are worked on: rec_id, how far, and the file or what else is done."""
        with self._lock:
            return [(one.expected.rec_id, *_told_progress(one)) for one in islice(self._open.values(), self._at_once)]

    def _rate(self) -> float:
        (first, before), (last, _) = self._samples[0], self._samples[-1]
        span = max(self._clock(), last) - first
        return max(0.0, (self.sent - before) / span) if span >= 1.0 else 0.0


@dataclass
class View:
    """What a terminal shows of a tally: it fits into any width and height."""

    tally: Tally
    title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        share = self.tally.share
        percent = f"{self.title}  {share:4.0%}  "
        bar = ProgressBar(1.0, min(share, 1.0), width=max(4, min(_WIDEST_BAR, width - len(percent))))
        yield Text(percent, style="bold", end="", no_wrap=True)
        yield bar
        yield Text()
        parts = self.tally.told()
        while len(parts) > 1 and len(" · ".join(parts)) > width:
            parts.pop()
        yield _clipped(" · ".join(parts), width)
        under_way = self.tally.under_way()
        room = max(1, (options.height or console.height) - 4)
        for rec_id, share_told, what in under_way[:room]:
            head = f"  {rec_id}  {share_told:>4}  "
            yield _clipped(f"{head}{_shortened(what, width - len(head))}", width)
        if self.tally.is_stopping:
            yield _clipped("Stopping between two chunks; Ctrl-C once more ends at once.", width, "yellow")
        elif len(under_way) > room:
            yield _clipped(f"  and {len(under_way) - room:,} more", width)


@contextmanager
def shown(tally: Tally, title: str, console: Console, *, line_every: float = _LINE_EVERY_SECONDS) -> Iterator[None]:
    """Shows on a terminal how far it is, and nothing of it afterwards; elsewhere a line every so many seconds."""
    with _log_lines(console):
        if console.is_terminal:
            with Live(View(tally, title), console=console, refresh_per_second=8, transient=True):
                yield
        else:
            with _heartbeat(tally, console, line_every):
                yield


def told_item(item: BatchItem) -> str:
    """One line about a recording that has ended."""
    if item.status != "OK":
        return f"{item.status} {item.reason or item.rec_id}"
    sent = f"{decimal(item.bytes_uploaded)} sent" if item.bytes_uploaded else "nothing to send"
    return f"OK {item.rec_id} {item.outcome}: {counted_noun(item.files, 'file')}, {sent}, {item.seconds:.1f} s"


def told_seconds(seconds: float) -> str:
    """A duration for people: `17 s`, `12 min`, `3 h 20 min`, `4 days`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{round(hours / 24)} days"


def say(on: Console, text: str, *, style: str | None = None, markup: bool = False) -> None:
    """A line; only on a terminal it is broken to the width, so that elsewhere it can be searched for in a log."""
    on.print(text, style=style, markup=markup, highlight=False, soft_wrap=not on.is_terminal)


def counted_noun(count: int, noun: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@contextmanager
def stopping(tally: Tally, console: Console) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM interrupts, which lets what is under way end between two chunks; a second one ends
    the process at once.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if tally.is_stopping:
            console.show_cursor(True)
            os._exit(EXIT_INTERRUPTED)
        tally.is_stopping = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _log_lines(console: Console) -> Iterator[None]:
    """Warnings that are not about one recording, whose end tells them, stand above the bars, each on a line."""
    handler = _Above(console)
    logger = logging.getLogger("ursa")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@dataclass
class _Above(logging.Handler):
    console: Console
    _formatter: logging.Formatter = field(default_factory=lambda: logging.Formatter("%(message)s"))

    def __post_init__(self) -> None:
        super().__init__(logging.WARNING)

    def __hash__(self) -> int:
        return id(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.WARNING or not hasattr(record, "recording"):
            say(self.console, self._formatter.format(record), style="yellow")


@contextmanager
def _heartbeat(tally: Tally, console: Console, every: float) -> Iterator[None]:
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every):
            going = "; ".join(" ".join(filter(None, one)) for one in tally.under_way())
            say(console, f"... {', '.join(tally.told())}{f'; {going}' if going else ''}")

    thread = threading.Thread(target=beat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _told_progress(one: _Progress) -> tuple[str, str]:
    if not one.current:
        return "", one.expected.doing
    share = one.done / one.expected.bytes if one.expected.bytes else 1.0
    # What is left then is small: manifests, the rows.
    return f"{min(share, 1.0):.0%}", one.current if share < 1 else "being registered"


def _beside(done: int, size: int) -> str:
    told, whole = decimal(done), decimal(size)
    number, _, unit = told.partition(" ")
    return f"{number if not done or unit == whole.partition(' ')[2] else told} of {whole}"


def _shortened(text: str, width: int) -> str:
    """Cut on the left, because files are told apart by their ends."""
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}" if width > 1 else ""


def _clipped(text: str, width: int, style: str = "") -> Text:
    clipped = Text(text, style=style, no_wrap=True, overflow="ellipsis")
    clipped.truncate(width, overflow="ellipsis")
    return clipped
