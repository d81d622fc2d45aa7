"""What lies in a recording directory, found without ever following a link or blocking on a FIFO.

Directories are opened by descriptor with `O_NOFOLLOW`, files with `O_NOFOLLOW | O_NONBLOCK`, and what was
opened is compared with what was listed, so that a swap between the two is noticed (DESIGN section 4).
Nothing is ever written to the source. Needs a POSIX system.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from ursa_pipelines.errors import SourceChanged, SourceNotFound, SourceRefused, SourceUnavailable
from ursa_pipelines.recordings.identity import parse_rec_id
from ursa_pipelines.recordings.layout import (
    MANIFEST,
    NODE_MANIFESTS,
    NODE_PARTICIPANTS,
    PARTICIPANT,
    PATH_DEPTH_LIMIT,
    SESSION_LOCK,
    colliding_paths,
    is_clutter,
    is_clutter_directory,
    is_partial_copy,
    node_of_file,
    refusal_of_path,
    shown,
)

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PLACE_LIMIT = 300
_UNAVAILABLE = frozenset({errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.EHOSTDOWN, errno.ETIMEDOUT})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file as it was listed. `path` is NFC and relative; `disk_path` is spelled as on the disk."""

    path: str
    disk_path: str
    size: int
    mtime_ns: int
    device: int
    inode: int
    ctime_ns: int = 0

    def is_same_file(self, status: os.stat_result) -> bool:
        """Whether device, inode, size and mtime are still those that were listed."""
        found = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        return found == (self.device, self.inode, self.size, self.mtime_ns)


@dataclass(frozen=True)
class Inventory:
    """A recording directory as it stood when it was listed. Sizes are bytes, times nanoseconds since 1970 UTC.

    `files` are the segments by path. `ignored` counts clutter; a directory of clutter is one entry, ending in `/`.
    """

    directory: Path
    rec_id: str
    files: dict[str, SourceFile]
    manifest: SourceFile | None
    node_manifests: tuple[SourceFile, ...]
    participant: SourceFile | None
    locked: bool
    partial_copies: tuple[str, ...]
    ignored: tuple[str, ...]
    node_participants: tuple[SourceFile, ...] = ()

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files.values())

    @property
    def newest_mtime_ns(self) -> int:
        return max((file.mtime_ns for file in self._all_files()), default=0)

    @property
    def fingerprint(self) -> str:
        """Count, total bytes and newest mtime of everything but clutter; it changes when the directory does."""
        files = list(self._all_files())
        return f"{len(files)}-{sum(file.size for file in files)}-{self.newest_mtime_ns}"

    @property
    def state(self) -> str:
        """What each file is called and when and how it was last written, in one string per file and sorted.

        By ctime too, which tells of bytes that were replaced and given their old mtime, as `cp -p` does.
        """
        files = sorted((one.disk_path, one.size, one.mtime_ns, one.ctime_ns) for one in self._all_files())
        return "\n".join("\t".join(map(str, one)) for one in files)

    def _all_files(self) -> Iterator[SourceFile]:
        yield from self.files.values()
        yield from self.node_manifests
        yield from self.node_participants
        yield from (file for file in (self.manifest, self.participant) if file)


def take_inventory(directory: Path, gets_on: Callable[[], None] = lambda: None) -> Inventory:
    """Lists a recording directory, whose name must be a rec_id. `gets_on` is called for every entry.

    Raises `RecordingIdInvalid`; `SourceNotFound` if it is not there or is empty; `SourceRefused` for links,
    FIFOs, sockets, devices, unsafe or colliding names; `SourceUnavailable` if the drive fails.
    """
    directory = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() would follow a link given as directory
    rec_id = directory.name
    parse_rec_id(rec_id)
    found: list[SourceFile] = []
    ignored: list[str] = []
    with reading_source(rec_id, str(directory)), _open_directory(directory, rec_id) as root:
        for path, entry_stat, disk_path in _walk(root, rec_id):
            gets_on()
            if is_clutter(path):
                ignored.append(path)
                continue
            if not stat.S_ISREG(entry_stat.st_mode):
                raise SourceRefused(f"it is {_kind(entry_stat.st_mode)}", recording=rec_id, place=shown(path))
            found.append(
                SourceFile(
                    path,
                    disk_path,
                    entry_stat.st_size,
                    entry_stat.st_mtime_ns,
                    entry_stat.st_dev,
                    entry_stat.st_ino,
                    entry_stat.st_ctime_ns,
                )
            )
    return _sort_out(directory, rec_id, found, ignored)


@contextmanager
def open_source(inventory: Inventory, file: SourceFile) -> Iterator[BinaryIO]:
    """The file opened for reading, unbuffered, proved to be the one that was listed; compared again on leaving.

    Raises `SourceChanged` if it was replaced, grew, shrank or was rewritten; `SourceUnavailable` if the drive
    fails. What reading raises in the block is for `reading_source` to name. An error raised inside the block takes
    precedence over the second comparison.
    """
    rec_id = inventory.rec_id
    with ExitStack() as stack:
        with reading_source(rec_id, file.path):
            try:
                parent = stack.enter_context(_open_directory(inventory.directory, rec_id))
            except SourceNotFound:
                # It was there when it was listed, as a mount point's content is.
                raise SourceUnavailable("its directory is gone", recording=rec_id, place=file.path) from None
            *directories, name = PurePosixPath(file.disk_path).parts
            for part in directories:
                parent = stack.enter_context(_descriptor(part, _OPEN_DIRECTORY, parent, rec_id, file.path))
            descriptor = stack.enter_context(_descriptor(name, _OPEN_FILE, parent, rec_id, file.path))
            stream = stack.enter_context(os.fdopen(descriptor, "rb", buffering=0, closefd=False))
            require_unchanged(inventory, file, stream)
        yield stream
        with reading_source(rec_id, file.path):
            require_unchanged(inventory, file, stream)


@contextmanager
def reading_source(rec_id: str, place: str) -> Iterator[None]:
    """Turns what the drive raises in the block into `SourceUnavailable`, or `SourceRefused` for a missing right."""
    try:
        yield
    except PermissionError:
        raise _unreadable(rec_id, place) from None
    except OSError as error:
        _raise_unavailable(error, rec_id, place)


def require_unchanged(inventory: Inventory, file: SourceFile, stream: BinaryIO) -> None:
    """Raises `SourceChanged` unless what is open is still the regular file that was listed."""
    status = os.fstat(stream.fileno())
    if not stat.S_ISREG(status.st_mode) or not file.is_same_file(status):
        raise SourceChanged("it changed after it was listed", recording=inventory.rec_id, place=file.path)


def read_source(inventory: Inventory, file: SourceFile, *, limit: int) -> bytes:
    """The whole content of a small file, at most `limit` bytes; a larger one is `SourceRefused`."""
    if file.size > limit:
        raise SourceRefused(
            f"it has {file.size:,} bytes; at most {limit:,} are read", recording=inventory.rec_id, place=file.path
        )
    with open_source(inventory, file) as stream, reading_source(inventory.rec_id, file.path):
        content = b""
        while len(content) <= file.size and (more := stream.read(file.size + 1 - len(content))):
            content += more
    if len(content) != file.size:
        raise SourceChanged(
            f"it gave {len(content):,} bytes instead of {file.size:,}", recording=inventory.rec_id, place=file.path
        )
    return content


def _walk(root: int, rec_id: str) -> Iterator[tuple[str, os.stat_result, str]]:
    pending: list[tuple[str, str]] = [("", "")]
    while pending:
        prefix, disk_prefix = pending.pop()
        with ExitStack() as stack:
            descriptor = root
            for part in PurePosixPath(disk_prefix).parts:
                descriptor = stack.enter_context(_descriptor(part, _OPEN_DIRECTORY, descriptor, rec_id, prefix))
            with reading_source(rec_id, prefix or "."), os.scandir(descriptor) as entries:
                for entry in entries:
                    path = prefix + unicodedata.normalize("NFC", entry.name)
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(status.st_mode):
                        yield path, status, disk_prefix + entry.name
                    elif is_clutter_directory(entry.name):
                        yield f"{path}/", status, f"{disk_prefix}{entry.name}/"
                    elif path.count("/") >= PATH_DEPTH_LIMIT:
                        raise SourceRefused(
                            f"it is more than {PATH_DEPTH_LIMIT} levels deep", recording=rec_id, place=shown(path)
                        )
                    else:
                        pending.append((f"{path}/", f"{disk_prefix}{entry.name}/"))


def _sort_out(directory: Path, rec_id: str, found: list[SourceFile], ignored: list[str]) -> Inventory:
    segments: dict[str, SourceFile] = {}
    at_root: dict[str, SourceFile] = {}
    node_manifests: list[SourceFile] = []
    node_participants: list[SourceFile] = []
    partial_copies: list[str] = []
    place = shown(str(directory), _PLACE_LIMIT)
    collision = colliding_paths(file.path for file in found)
    if collision:
        raise SourceRefused(
            f"the names '{shown(collision[0])}' and '{shown(collision[1])}' collide",
            recording=rec_id,
            place=place,
        )
    for file in sorted(found, key=lambda file: file.path):
        head, _, tail = file.path.partition("/")
        if is_partial_copy(file.path):
            partial_copies.append(file.path)
        elif file.path in {MANIFEST, PARTICIPANT, SESSION_LOCK}:
            at_root[file.path] = file
        elif head == NODE_MANIFESTS and tail.endswith(".json") and node_of_file(tail):
            node_manifests.append(file)
        elif head == NODE_PARTICIPANTS and tail.endswith(".txt") and node_of_file(tail):
            node_participants.append(file)
        else:
            refusal = refusal_of_path(file.path, rec_id=rec_id)
            if refusal:
                raise SourceRefused(f"its name {refusal}", recording=rec_id, place=shown(file.path))
            segments[file.path] = file
    if not (segments or at_root or node_manifests or node_participants or partial_copies):
        raise SourceNotFound("the directory holds no files", recording=rec_id, place=place)
    return Inventory(
        directory=directory,
        rec_id=rec_id,
        files=segments,
        manifest=at_root.get(MANIFEST),
        node_manifests=tuple(node_manifests),
        participant=at_root.get(PARTICIPANT),
        locked=SESSION_LOCK in at_root,
        partial_copies=tuple(partial_copies),
        ignored=tuple(sorted(ignored)),
        node_participants=tuple(node_participants),
    )


@contextmanager
def _open_directory(directory: Path, rec_id: str) -> Iterator[int]:
    place = shown(str(directory), _PLACE_LIMIT)
    try:
        descriptor = os.open(directory, _OPEN_DIRECTORY)
    except FileNotFoundError:
        raise SourceNotFound("the directory does not exist", recording=rec_id, place=place) from None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise SourceRefused("it is a link or a file, not a directory", recording=rec_id, place=place) from None
        raise
    try:
        yield descriptor
    finally:
        with suppress(OSError):
            os.close(descriptor)


@contextmanager
def _descriptor(name: str, flags: int, parent: int, rec_id: str, place: str) -> Iterator[int]:
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except PermissionError:
        raise _unreadable(rec_id, place) from None
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO}:
            raise SourceChanged("it vanished or was replaced", recording=rec_id, place=shown(place)) from None
        raise
    try:
        yield descriptor
    finally:
        # Nothing was written; what a dead drive says at the end must not hide what it said before.
        with suppress(OSError):
            os.close(descriptor)


def _unreadable(rec_id: str, place: str) -> SourceRefused:
    return SourceRefused(
        "it may not be read",
        recording=rec_id,
        place=shown(place, _PLACE_LIMIT),
        remedy="Give this user the right to read it.",
    )


def _raise_unavailable(error: OSError, rec_id: str, place: str) -> NoReturn:
    kind = "the drive failed" if error.errno in _UNAVAILABLE else "it could not be read"
    raise SourceUnavailable(
        f"{kind} ({os.strerror(error.errno or 0)})", recording=rec_id, place=shown(place, _PLACE_LIMIT)
    ) from error


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")
