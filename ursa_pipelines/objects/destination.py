"""Where downloaded segments go, and what stands there already.

Names come from rows and manifests and are not trusted: a target is always below the directory that was asked for,
and no link below that directory is followed. What is there and is not ours is never touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ursa_pipelines.errors import DestinationConflict, DestinationFull, SourceRefused
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.recordings.layout import shown

Layout = Literal["by_recording", "by_modality", "flat"]

_PART_PREFIX, _PART_SUFFIX = ".ursa-", ".part"


@dataclass(frozen=True)
class WantedFile:
    """A segment to bring: its path in the recording, its size in bytes, its ETag and digest where they are known."""

    rec_id: str
    modality: str
    path: str
    size: int
    sha256: str | None
    etag: str = ""

    @property
    def key(self) -> str:
        return raw_key(self.rec_id, self.path)


@dataclass(frozen=True)
class Planned:
    """A segment and the file that it becomes."""

    wanted: WantedFile
    target: Path

    @property
    def part(self) -> Path:
        """Where its bytes are gathered: a hidden file beside it, of this version of the object and no other."""
        return self.target.parent / f"{_part_stem(self.wanted.key)}{_short(self.wanted.etag)}{_PART_SUFFIX}"


def lay_out(wanted: Iterable[WantedFile], dest: Path, layout: Layout) -> list[Planned]:
    """Each segment once, with its file below `dest`.

    Raises `ValueError` for a layout that does not exist and if two files would have the same name in it, and
    `SourceRefused` for a name that leads elsewhere.
    """
    _require_layout(layout)
    once = {(one.rec_id, one.path): one for one in reversed(list(wanted))}
    planned = [Planned(one, target_of(one, dest, layout)) for one in reversed(once.values())]
    counts = Counter(one.target for one in planned)
    doubled = next((target for target, count in counts.items() if count > 1), None)
    if doubled is not None:
        raise ValueError(f"layout={layout!r} would give two files the name {doubled.name}; choose by_recording")
    return planned


def target_of(wanted: WantedFile, dest: Path, layout: Layout) -> Path:
    """Where a segment goes below `dest`. Raises as `lay_out` does."""
    _require_layout(layout)
    place = {
        "by_recording": f"{wanted.rec_id}/{wanted.path}",
        "by_modality": f"{wanted.modality}/{wanted.rec_id}/{wanted.path}",
        "flat": f"{wanted.rec_id}__{wanted.path.replace('/', '__')}",
    }[layout]
    if "\0" in place or any(
        name in {"", ".", ".."} or name.startswith(_PART_PREFIX) for name in (*place.split("/"), wanted.rec_id)
    ):
        raise SourceRefused(
            "this name cannot be a file below the directory",
            recording=shown(wanted.rec_id),
            place=shown(wanted.path),
            remedy="Nothing of it was fetched. Look at this recording's row and manifest in the bucket.",
        )
    return dest / place


def is_there(planned: Planned, dest: Path) -> bool:
    """Whether a file of the right size stands under the name; its content is yet to be compared.

    Raises `DestinationConflict` for anything else there, and for a link on the way to it.
    """
    for above in reversed(planned.target.relative_to(dest).parents[:-1]):
        place = dest / above
        try:
            mode = place.lstat().st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            raise _conflict(planned, "is a link" if stat.S_ISLNK(mode) else "is no directory", place)
    try:
        status = planned.target.lstat()
    except FileNotFoundError:
        return False
    if stat.S_ISREG(status.st_mode) and status.st_size == planned.wanted.size:
        return True
    raise other_content(planned)


def still_to_come(planned: Iterable[Planned], dest: Path) -> int:
    """The bytes that a download of these would fetch, by the sizes of what is there."""
    return sum(one.wanted.size - _size_of_part(one) for one in planned if not _stands(one, dest))


def other_content(planned: Planned) -> DestinationConflict:
    """What to say where a file with other content stands."""
    return _conflict(planned, "exists with other content", planned.target)


def require_room(absent: Iterable[Planned], dest: Path) -> None:
    """Raises `DestinationFull` if the disk has not enough room for what is still to come."""
    needed = sum(one.wanted.size - _size_of_part(one) for one in absent)
    free = free_bytes(dest)
    if needed > free:
        raise DestinationFull(
            f"{_readable(needed)} are still to come and {_readable(free)} are free: "
            f"{_readable(needed - free)} are missing; nothing was fetched",
            place=str(dest),
        )


def free_bytes(dest: Path) -> int:
    """What the disk that `dest` is on, or will be on, has free."""
    place = dest.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def remove_outdated_parts(absent: Iterable[Planned]) -> None:
    """Removes what was gathered of other versions of these objects, unless somebody is writing it."""
    wanted: dict[Path, dict[str, str]] = defaultdict(dict)
    for one in absent:
        if one.wanted.etag:
            wanted[one.target.parent][_part_stem(one.wanted.key)] = one.part.name
    for directory, stems in wanted.items():
        with suppress(FileNotFoundError):
            for found in directory.iterdir():
                stem, _, _ = found.name.rpartition("-")
                if found.suffix == _PART_SUFFIX and stems.get(f"{stem}-", found.name) != found.name:
                    _remove_unless_in_use(found)


def _stands(planned: Planned, dest: Path) -> bool:
    try:
        return is_there(planned, dest)
    except DestinationConflict:
        return False


def _remove_unless_in_use(part: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
        finally:
            os.close(descriptor)


def _conflict(planned: Planned, problem: str, place: Path) -> DestinationConflict:
    return DestinationConflict(problem, recording=planned.wanted.rec_id, place=str(place))


def _require_layout(layout: str) -> None:
    if layout not in get_args(Layout):
        raise ValueError(f"layout={layout!r}: it is by_recording, by_modality or flat")


def _size_of_part(planned: Planned) -> int:
    try:
        return min(planned.part.stat().st_size, planned.wanted.size)
    except OSError:
        return 0


def _part_stem(key: str) -> str:
    return f"{_PART_PREFIX}{_short(key)}-"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _readable(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)
