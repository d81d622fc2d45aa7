"""Asks a process of its own what media files tell, as they are untrusted and their parsers are written in C.

The files are opened here, as sources are, and handed over open; `media_reader` runs in the other process. That one may
crash, hang or talk nonsense: then so much is told of the file, and the next file gets a new process. A source that
hangs or fails is no file's problem; the one who waits for it gives it up.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from ursa_pipelines.recordings.inventory import Inventory, SourceFile, open_source, reading_source
from ursa_pipelines.recordings.layout import shown
from ursa_pipelines.recordings.media import LONGEST_SECONDS, MediaFacts, MediaReport, is_media, media_kind

_READER = Path(__file__).with_name("media_reader.py")
_PYTHON = (sys.executable, "-I", "-B")
_LIBRARIES = ("av", "soundfile")
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_ANSWER_BYTES, _TEXT_LIMIT, _STREAMS_LIMIT = 64 * 1024, 200, 32
_KNOWN_LIMIT = 100_000
PATIENCE_SECONDS = 20.0
_IDLE_SECONDS = 60.0
_FAILURES_LIMIT = 3

_Identity = tuple[int, int, int, int, int, str]


class ReaderFailed(Exception):
    """The reading process crashed, hung or talked nonsense; the text says which."""


class MediaProbe:
    """Reads media files, each once for as long as it stays as it is. Safe to use from several threads.

    `patience` is the seconds that one file may take. Each thread that asks at the same time has a process of its own;
    one that was asked nothing for `idle` seconds is ended, so that none is left of a probe that nobody closed.
    """

    def __init__(
        self, *, python: Sequence[str] = _PYTHON, patience: float = PATIENCE_SECONDS, idle: float = _IDLE_SECONDS
    ) -> None:
        self._python, self._patience, self._idle_seconds = tuple(python), patience, idle
        self._idle: list[_Reader] = []
        self._begin_anew()

    @staticmethod
    def is_installed() -> bool:
        """Whether there is any library to read media with (extra `[probe]`)."""
        return any(find_spec(library) for library in _LIBRARIES)

    def facts_of(self, stream: BinaryIO, kind: str) -> MediaFacts | None:
        """What an open file tells; None if there is no library for its kind. Raises `ReaderFailed` or `OSError`."""
        self._require_own_process()
        with self._lock:
            reader = self._idle.pop() if self._idle else None
        try:
            reader = reader or _Reader(self._python)
        except OSError:
            raise ReaderFailed("could not be started") from None
        try:
            facts = reader.ask(stream.fileno(), kind, self._patience)
        except ReaderFailed:
            reader.end()
            # A drive that fails or hangs does so here as well, and is not blamed on the file.
            _require_readable(stream, os.fstat(stream.fileno()).st_size)
            raise
        except BaseException:
            reader.end()
            raise
        with self._lock:
            reader.idle_since = time.monotonic()
            self._idle.append(reader)
            self._watch_idle()
        return facts

    @property
    def pids(self) -> list[int]:
        """The reading processes that wait for a file."""
        self._require_own_process()
        with self._lock:
            return [reader.pid for reader in self._idle]

    def report(
        self,
        inventory: Inventory,
        files: Iterable[SourceFile],
        gets_on: Callable[[], None] = lambda: None,
    ) -> MediaReport:
        """What those of the files that are media tell; `gets_on` is called for each that is looked at.

        Raises what opening a source raises: `SourceChanged`, `SourceUnavailable`, `SourceRefused`.
        """
        found: dict[str, MediaFacts] = {}
        unseen: set[str] = set()
        failures = 0
        for file in files:
            kind = media_kind(file.path)
            if kind is None:
                unseen |= {file.path} if is_media(file.path) else set()
                continue
            gets_on()
            if failures >= _FAILURES_LIMIT:
                found[file.path] = MediaFacts(kind, problem="was not looked at: the reader failed too often before it")
                continue
            try:
                facts = self._facts(inventory, file, kind)
            except ReaderFailed as failure:
                failures += 1
                facts = MediaFacts(kind, problem=f"cannot be read: its reader {failure}")
            if facts is not None:
                found[file.path] = facts
            else:
                unseen.add(file.path)
        return MediaReport(found, frozenset(unseen))

    def close(self) -> None:
        """Ends the reading processes. It may be used again, and then starts new ones."""
        self._require_own_process()
        self._end_idle(0)

    def _require_own_process(self) -> None:
        """After a fork the readers are the parent's: two who ask one reader would get each other's answers."""
        if os.getpid() != self._pid:
            for reader in self._idle:
                reader.leave()
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._idle = []
        self._known: dict[_Identity, MediaFacts | None] = {}
        self._lock = threading.Lock()
        self._watch: threading.Timer | None = None
        self._pid = os.getpid()

    def _watch_idle(self) -> None:
        if self._watch is None and self._idle:
            self._watch = threading.Timer(self._idle_seconds, self._end_idle, (self._idle_seconds,))
            self._watch.daemon = True
            self._watch.start()

    def _end_idle(self, seconds: float) -> None:
        """Ends those readers that were asked nothing for so long, and sees to the others later."""
        now = time.monotonic()
        with self._lock:
            ended = [reader for reader in self._idle if now - reader.idle_since >= seconds]
            self._idle = [reader for reader in self._idle if reader not in ended]
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None
            self._watch_idle()
        for reader in ended:
            reader.end()

    def _facts(self, inventory: Inventory, file: SourceFile, kind: str) -> MediaFacts | None:
        with open_source(inventory, file) as stream, reading_source(inventory.rec_id, file.path):
            status = os.fstat(stream.fileno())
            identity = (*_identity(status), kind)
            if identity not in self._known:
                facts = self.facts_of(stream, kind)
                if facts is not None and facts.problem:
                    _require_readable(stream, status.st_size)
                if len(self._known) >= _KNOWN_LIMIT:
                    self._known.clear()
                self._known[identity] = facts
            return self._known.get(identity)


class _Reader:
    """One reading process."""

    idle_since = 0.0

    def __init__(self, python: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            # Apart from the terminal: what interrupts the command must not look like a crash over a file.
            self._process = subprocess.Popen(
                [*python, str(_READER)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, descriptor: int, kind: str, patience: float) -> MediaFacts | None:
        until = time.monotonic() + patience
        answer = b""
        try:
            socket.send_fds(self._socket, [kind.encode()], [descriptor])
            while not answer.endswith(b"\n") and len(answer) <= _ANSWER_BYTES:
                self._socket.settimeout(max(until - time.monotonic(), 0.001))
                more = self._socket.recv(_ANSWER_BYTES)
                if not more:
                    raise ReaderFailed("crashed")
                answer += more
        except TimeoutError:
            raise ReaderFailed(f"gave no answer for {patience:g} s") from None
        except OSError:
            raise ReaderFailed("crashed") from None
        return _parsed(kind, answer, os.fstat(descriptor).st_size)

    def leave(self) -> None:
        """Lets go of a process that another one has started."""
        self._socket.close()
        self._process.returncode = 0

    def end(self) -> None:
        self._socket.close()
        self._process.kill()
        # A process that waits for a drive that is gone cannot be killed; it goes when the drive does.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)


def _parsed(kind: str, answer: bytes, size: int) -> MediaFacts | None:
    """The answer of a process that may have been taken over by the file it read."""
    try:
        document = json.loads(answer)
        if document.get("unknown") is True:
            return None
        seconds, streams, problem = document["seconds"], document["streams"], document["problem"]
        texts = [shown(str(text), _TEXT_LIMIT) for text in (problem, *streams[:_STREAMS_LIMIT])]
        # A file of fewer bytes than seconds holds no recording of that length, whatever its header says.
        longest = min(LONGEST_SECONDS, size)
        if seconds is not None and not (
            isinstance(seconds, (int, float)) and math.isfinite(seconds) and 0 <= seconds <= longest
        ):
            seconds = None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ReaderFailed("gave a senseless answer") from None
    return MediaFacts(kind, None if seconds is None else float(seconds), tuple(texts[1:]), texts[0])


def _identity(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _require_readable(stream: BinaryIO, size: int) -> None:
    """Raises the `OSError` of a drive that does not give the file's first and last byte, or hangs as it does."""
    for place in (0, max(size - 1, 0)):
        os.pread(stream.fileno(), 1, place)
