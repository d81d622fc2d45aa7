"""Which recordings a user means: directories, drives that hold such directories, recordings by their id, or all.

What lies on a source that cannot be read is never taken for absent (DESIGN section 4).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ursa_pipelines.errors import SourceNotFound, SourceUnavailable, UrsaError
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.ingest.sources import Directories, Source, list_recordings
from ursa_pipelines.recordings.identity import is_rec_id
from ursa_pipelines.recordings.layout import shown

_EXPECTED = "Name a recording directory rec_<YYYYMMDD>_<HHMMSS>_<hex>, a directory that holds some, or a REC_ID."
_PLACE_LIMIT = 300


@dataclass(frozen=True)
class Targets:
    """The directories of each recording, halves or copies in the order in which they are taken.

    An empty tuple means the bucket's copy. `unavailable` are sources that cannot be read, by name, and why; what
    lies on these is not among the directories.
    """

    directories: dict[str, tuple[Path, ...]]
    unavailable: dict[str, str]


def find_targets(
    context: IngestContext,
    sources: Sequence[Source],
    what: Sequence[Path | str] = (),
    *,
    on_error: Callable[[str, UrsaError], None] | None = None,
) -> Targets:
    """The recordings that are meant, in the order in which they are named; without `what` all on the sources.

    A rec_id that is no path is looked up on the sources; if none has it, the bucket's copy is meant. A directory whose
    name is no rec_id stands for all recordings in it. `on_error(name, error)` is told of each that names nothing, and
    the others are found; without it the first error is raised: `SourceNotFound`, `SourceUnavailable`.
    """
    if not what:
        return _on_all_sources(context, sources)
    lookup, found = Directories(sources, context.reading), dict[str, tuple[Path, ...]]()
    for one in what:
        try:
            named = _named(context, lookup, one)
        except UrsaError as error:
            if on_error is None:
                raise
            on_error(shown(Path(one).name or str(one)), error)
            continue
        for rec_id, directories in named:
            found[rec_id] = tuple(dict.fromkeys((*found.get(rec_id, ()), *directories)))
    return Targets(found, {})


def _on_all_sources(context: IngestContext, sources: Sequence[Source]) -> Targets:
    found: dict[str, tuple[Path, ...]] = {}
    unavailable: dict[str, str] = {}
    if not sources:
        raise SourceNotFound("the profile has no sources", remedy=_EXPECTED)
    for source in sources:
        try:
            rec_ids = _listed(context, source, list_recordings)
        except SourceUnavailable as error:
            unavailable[source.name] = str(error)
            continue
        for rec_id in rec_ids:
            found[rec_id] = (*found.get(rec_id, ()), source.root / rec_id)
    if len(unavailable) == len(sources):
        raise SourceUnavailable(
            f"none of the profile's sources can be read: {', '.join(unavailable)}",
            remedy=f"{next(iter(unavailable.values()))} Or name a directory or drive.",
        )
    return Targets(dict(sorted(found.items())), unavailable)


def _named(context: IngestContext, lookup: Directories, one: Path | str) -> Iterable[tuple[str, Sequence[Path]]]:
    # resolve() would follow a link given as directory.
    path = Path(os.path.abspath(one))  # noqa: PTH100
    if is_rec_id(path.name) and str(one) != path.name:
        # Not looked at: one that is not there is refused on its own, and one drive that hangs is waited for once.
        return [(path.name, [path])]
    mode = context.reading("", _place(path), partial(_mode, path))
    if is_rec_id(path.name):
        return [(path.name, _looked_up(lookup, path.name) if mode is None else [path])]
    if mode is None:
        raise SourceNotFound("there is no such directory", place=_place(path), remedy=_EXPECTED)
    if not stat.S_ISDIR(mode):
        raise SourceNotFound("it is no directory", place=_place(path), remedy=_EXPECTED)
    names = _listed(context, Source(shown(path.name), path), _recordings_of_drive)
    if not names:
        raise SourceNotFound("it holds no recordings", place=_place(path), remedy=_EXPECTED)
    return [(shown(name), [path / name]) for name in names]


def _looked_up(lookup: Directories, rec_id: str) -> list[Path]:
    try:
        return lookup.of(rec_id)
    except SourceUnavailable as error:
        raise SourceUnavailable(
            error.problem,
            recording=rec_id,
            place=error.place,
            remedy="It may lie there: check the mount, or name its directory; "
            f"`ursa register {rec_id}` takes the bucket's copy.",
        ) from None


def _listed(context: IngestContext, source: Source, look: Callable[..., list[str]]) -> list[str]:
    return context.listing("", _place(source.root), lambda gets_on: look(source, gets_on=gets_on))


def _recordings_of_drive(source: Source, gets_on: Callable[[], None]) -> list[str]:
    """The recordings, and what is named nearly as one is: that is refused one by one instead of passed over."""
    rec_ids = list_recordings(source, gets_on=gets_on)
    with os.scandir(source.root) as entries:
        nearly = [entry.name for entry in entries if entry.name.startswith("rec_") and entry.is_dir()]
    return sorted({*rec_ids, *nearly})


def _mode(path: Path) -> int | None:
    """What kind of thing the path names, or None if there is nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise SourceUnavailable(f"it cannot be read ({error.strerror})", place=_place(path)) from None


def _place(path: Path) -> str:
    return shown(str(path), _PLACE_LIMIT)
