"""Finding recording directories on the mounted sources. Sources are only ever read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ursa_pipelines.errors import SourceUnavailable
from ursa_pipelines.recordings.identity import is_rec_id

_ENTRIES_BETWEEN_SIGNS = 100

_Looked = Path | SourceUnavailable | None


@dataclass(frozen=True)
class Source:
    """A NAS share or drive by name, and where it is mounted. `if_missing` says what to do if it is not there, and
    `site` where it is mounted if not everywhere.
    """

    name: str
    root: Path
    if_missing: str = field(default="", compare=False)
    site: str = ""


def list_recordings(
    source: Source, *, known: Container[str] = (), gets_on: Callable[[], None] = lambda: None
) -> list[str]:
    """The rec_ids of the directories in a source, sorted. `gets_on` is called now and then.

    Names that are `known` to be rec_ids are not parsed again. Raises `SourceUnavailable` if it is not mounted, or
    empty as an unmounted mount point is: never "0 recordings".
    """
    names: list[tuple[str, bool]] = []
    try:
        with os.scandir(source.root) as entries:
            for number, entry in enumerate(entries):
                if number % _ENTRIES_BETWEEN_SIGNS == 0:
                    gets_on()
                names.append((entry.name, entry.is_dir(follow_symlinks=False)))
    except OSError as error:
        raise SourceUnavailable(
            f"the source {source.name} is not there ({error.strerror})",
            place=str(source.root),
            remedy=source.if_missing if isinstance(error, FileNotFoundError) else None,
        ) from None
    if not names:
        raise SourceUnavailable(
            f"the source {source.name} is empty, as a drive is that is not mounted", place=str(source.root)
        )
    return sorted(name for name, is_directory in names if is_directory and (name in known or is_rec_id(name)))


@dataclass
class Directories:
    """Finds the directories of recordings on sources. `reading(rec_id, place, call)` gives up a call that hangs; a
    source that hung once is not asked again.
    """

    sources: Sequence[Source]
    reading: Callable[[str, str, Callable[[], _Looked]], _Looked]
    _hung: dict[str, SourceUnavailable] = field(default_factory=dict)

    def of(self, rec_id: str) -> list[Path]:
        """Every directory of this recording, in the order of the sources: halves or copies of one recording.

        A source that fails is passed by if another has it: what it holds arrives once it is back. Raises
        `SourceUnavailable` if none has it and one is not mounted or fails, since it may be on that one.
        """
        looked = [self._look(rec_id, source) for source in self.sources]
        found = [one for one in looked if isinstance(one, Path)]
        if not found:
            for source, one in zip(self.sources, looked, strict=True):
                if isinstance(one, SourceUnavailable):
                    raise SourceUnavailable(one.problem, recording=rec_id, place=one.place)
                list_recordings(source)
        return found

    def _look(self, rec_id: str, source: Source) -> _Looked:
        if source.name in self._hung:
            return self._hung[source.name]
        try:
            return self.reading(rec_id, str(source.root), partial(_directory, rec_id, source))
        except SourceUnavailable as error:
            self._hung[source.name] = error
            return error


def directories_of(rec_id: str, sources: Iterable[Source]) -> list[Path]:
    """As `Directories.of`, without giving up on what hangs."""
    return Directories(list(sources), lambda rec_id, place, call: call()).of(rec_id)


def changed_at(directory: Path, gets_on: Callable[[], None] = lambda: None) -> float:
    """When anything in the directory was last changed, in seconds since 1970 UTC; 0 if it is not there any more.

    By ctime, which no copying tool sets back. What cannot be read is told by the look that follows.
    """
    newest = 0.0
    for parent, _, files in os.walk(directory):
        for path in (parent, *(f"{parent}/{name}" for name in files)):
            gets_on()
            with suppress(OSError):
                newest = max(newest, os.lstat(path).st_ctime)
    return newest


def _directory(rec_id: str, source: Source) -> _Looked:
    directory = source.root / rec_id
    try:
        return directory if stat.S_ISDIR(directory.stat().st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return SourceUnavailable(
            f"the source {source.name} is not there ({error.strerror})", recording=rec_id, place=str(source.root)
        )
