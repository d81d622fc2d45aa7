"""Finding recording directories on the mounted sources. Sources are only ever read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from ursa_pipelines.errors import SourceUnavailable
from ursa_pipelines.recordings.identity import is_rec_id

_ENTRIES_BETWEEN_SIGNS = 100


@dataclass(frozen=True)
class Source:
    """A NAS share or drive by name, and where it is mounted."""

    name: str
    root: Path


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
            f"the source {source.name} is not there ({error.strerror})", place=str(source.root)
        ) from None
    if not names:
        raise SourceUnavailable(
            f"the source {source.name} is empty, as a drive is that is not mounted", place=str(source.root)
        )
    return sorted(name for name, is_directory in names if is_directory and (name in known or is_rec_id(name)))


def directories_of(rec_id: str, sources: Iterable[Source]) -> list[Path]:
    """Every directory of this recording on the sources, in their order: halves or copies of one recording.

    Raises `SourceUnavailable` if a source fails, or if the recording is on none while one is not mounted, since it may
    be on that one.
    """
    sources = list(sources)
    found = [directory for source in sources if (directory := _directory(rec_id, source))]
    if not found:
        for source in sources:
            list_recordings(source)
    return found


def _directory(rec_id: str, source: Source) -> Path | None:
    directory = source.root / rec_id
    try:
        return directory if stat.S_ISDIR(directory.stat().st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SourceUnavailable(
            f"the source {source.name} is not there ({error.strerror})", recording=rec_id, place=str(source.root)
        ) from None
