"""Where downloaded segments go, and what stands there already.

Names come from rows and manifests and are not trusted: a target is always below the directory that was asked for,
and no link below that directory is followed. What is there and is not ours is never touched.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.filesize import decimal

from ursa_pipelines.errors import DestinationConflict, DestinationFull, DestinationUnusable, SourceRefused, UrsaError
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.recordings.layout import shown

Layout = Literal["by_recording", "by_modality", "flat"]

_PART_PREFIX, _PART_SUFFIX = ".ursa-", ".part"
_NAME_BYTES = 255
_WITHOUT_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_AGAIN = "then run it again; what is there is kept."
_REMEDIES = {
    errno.EACCES: f"Give yourself the right to read and write there, or choose another directory, {_AGAIN}",
    errno.EPERM: f"Give yourself the right to read and write there, or choose another directory, {_AGAIN}",
    errno.ENAMETOOLONG: f"Choose the layout by_recording, a directory with a shorter path, or another disk, {_AGAIN}",
    errno.EFBIG: "The disk takes no file so large (FAT: 4 GB). Choose a directory on another one, then run it again.",
    errno.EROFS: "Choose a directory on a disk that takes writes, then run it again.",
}


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

    Raises `ValueError` for a layout that does not exist and if two files would have the same name in it,
    `SourceRefused` for a name that leads elsewhere, and `DestinationUnusable` for one that is too long for the disk.
    """
    _require_layout(layout)
    once = {(one.rec_id, one.path): one for one in reversed(list(wanted))}
    planned = [Planned(one, target_of(one, dest, layout)) for one in reversed(once.values())]
    counts = Counter(one.target for one in planned)
    doubled = next((target for target, count in counts.items() if count > 1), None)
    if doubled is not None:
        raise ValueError(f"layout={layout!r} would give two files the name {doubled.name}; choose by_recording")
    limit = _name_limit(dest)
    for one in planned:
        _require_short(one, dest, limit)
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

    Raises `DestinationConflict` for anything else there, and for a link on the way to it; `DestinationUnusable`.
    """
    with on_disk(planned):
        for place in _directories(planned, dest):
            try:
                _require_plain_directory(planned, place)
            except FileNotFoundError:
                return False
        try:
            status = planned.target.lstat()
        except FileNotFoundError:
            return False
        if stat.S_ISREG(status.st_mode) and status.st_size == planned.wanted.size:
            return True
        raise other_content(planned)


def make_directories(planned: Planned, dest: Path) -> None:
    """Makes the directories on the way to the file; no link among them is followed. Raises as `is_there` does."""
    for place in _directories(planned, dest):
        with suppress(FileExistsError):
            place.mkdir()
        _require_plain_directory(planned, place)


def make_destination(dest: Path) -> None:
    """Makes the directory that everything goes to. Raises `DestinationUnusable`."""
    try:
        dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(error, dest) from None


def require_directory(dest: Path) -> None:
    """Raises `DestinationConflict` if a file stands where the directory is or would be; `DestinationUnusable`."""
    place = _nearest(dest)
    if not place.is_dir():
        raise DestinationConflict("is no directory", place=str(place))


@contextmanager
def on_disk(planned: Planned) -> Iterator[None]:
    """Within it, what the operating system says of a file names the recording, the file and what to do.

    Raises `DestinationFull`, and `DestinationUnusable`, which names no recording if it is about the whole disk.
    """
    try:
        yield
    except UrsaError:
        raise
    except OSError as error:
        place, rec_id = str(planned.target), planned.wanted.rec_id
        if error.errno in _FULL:
            raise DestinationFull("the disk is full", recording=rec_id, place=place) from None
        if error.errno in _WITHOUT_LOCKS:
            raise DestinationUnusable(
                "the file system knows no locks, so that two downloads could mix their bytes",
                place=str(planned.target.parent),
            ) from None
        raise _unusable(error, planned.target, rec_id) from None


def still_to_come(planned: Iterable[Planned], dest: Path) -> int:
    """The bytes that a download of these would fetch, by the sizes of what is there."""
    return _to_come(one for one in planned if not _stands(one, dest))


def other_content(planned: Planned) -> DestinationConflict:
    """What to say where a file with other content stands."""
    return conflict(planned, "exists with other content", planned.target)


def require_room(absent: Iterable[Planned], dest: Path) -> None:
    """Raises `DestinationFull` if the disk has not enough room for what is still to come."""
    needed, free = _to_come(absent), free_bytes(dest)
    if needed > free:
        raise DestinationFull(
            f"{decimal(needed)} are still to come and {decimal(free)} are free: "
            f"{decimal(needed - free)} are missing; nothing was fetched",
            place=str(dest),
        )


def free_bytes(dest: Path) -> int:
    """What the disk that `dest` is on, or will be on, has free. Raises `DestinationUnusable`."""
    return shutil.disk_usage(_nearest(dest)).free


def remove_outdated_parts(absent: Iterable[Planned]) -> None:
    """Removes what was gathered of other versions of these objects, unless somebody is writing it."""
    wanted: dict[Path, dict[str, str]] = defaultdict(dict)
    for one in absent:
        if one.wanted.etag:
            wanted[one.target.parent][_part_stem(one.wanted.key)] = one.part.name
    for directory, stems in wanted.items():
        # What cannot be looked at is told when a file is to go there.
        with suppress(OSError):
            for found in directory.iterdir():
                stem, _, _ = found.name.rpartition("-")
                if found.suffix == _PART_SUFFIX and stems.get(f"{stem}-", found.name) != found.name:
                    _remove_unless_in_use(found)


def _directories(planned: Planned, dest: Path) -> list[Path]:
    return [dest / above for above in reversed(planned.target.relative_to(dest).parents[:-1])]


def _require_plain_directory(planned: Planned, place: Path) -> None:
    mode = place.lstat().st_mode
    if not stat.S_ISDIR(mode):
        raise conflict(planned, "is a link" if stat.S_ISLNK(mode) else "is no directory", place)


def _require_short(planned: Planned, dest: Path, limit: int) -> None:
    longest = max((len(os.fsencode(name)) for name in planned.target.relative_to(dest).parts), default=0)
    if longest > limit:
        raise DestinationUnusable(
            f"its name would have {longest} bytes, and this disk takes {limit}",
            recording=planned.wanted.rec_id,
            place=shown(planned.wanted.path),
            remedy=_REMEDIES[errno.ENAMETOOLONG],
        )


def _name_limit(dest: Path) -> int:
    try:
        return os.pathconf(_nearest(dest), "PC_NAME_MAX")
    except (OSError, ValueError):
        return _NAME_BYTES


def _nearest(dest: Path) -> Path:
    """The directory itself, or the nearest above it that exists."""
    place = dest.absolute()
    try:
        while not place.exists():
            place = place.parent
    except OSError as error:
        raise _unusable(error, dest) from None
    return place


def _unusable(error: OSError, place: Path, rec_id: str | None = None) -> DestinationUnusable:
    problem = f"it cannot be read or written there: {error.strerror or type(error).__name__}"
    remedy = _REMEDIES.get(error.errno or 0, f"Look at this directory, or choose another one, {_AGAIN}")
    return DestinationUnusable(problem, recording=rec_id, place=str(place), remedy=remedy)


def _stands(planned: Planned, dest: Path) -> bool:
    try:
        return is_there(planned, dest)
    except (DestinationConflict, DestinationUnusable):
        return False


def _to_come(absent: Iterable[Planned]) -> int:
    return sum(one.wanted.size - _size_of_part(one) for one in absent)


def _remove_unless_in_use(part: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
        finally:
            os.close(descriptor)


def conflict(planned: Planned, problem: str, place: Path) -> DestinationConflict:
    """What to say where something stands in the way of a file."""
    return DestinationConflict(problem, recording=planned.wanted.rec_id, place=str(place))


def _require_layout(layout: str) -> None:
    if layout not in get_args(Layout):
        raise ValueError(f"layout={layout!r}: it is by_recording, by_modality or flat")


def _size_of_part(planned: Planned) -> int:
    try:
        return min(planned.part.lstat().st_size, planned.wanted.size)
    except OSError:
        return 0


def _part_stem(key: str) -> str:
    return f"{_PART_PREFIX}{_short(key)}-"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
