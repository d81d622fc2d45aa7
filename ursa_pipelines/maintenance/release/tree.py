"""Directories of a source by descriptor: looked at, moved and removed without following a link or entering a mount.

Every name is opened from its parent's descriptor with `O_NOFOLLOW`. These are the only calls of the package that
change a source; what they are for is decided in `moving` and `purging`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ursa_pipelines.errors import ReleaseRefused, SourceChanged, SourceUnavailable
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.recordings.layout import PATH_DEPTH_LIMIT, shown

TRASH = ".ursa_trash"
ROOT = "."
"""How a tree names the directory itself."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_ALLOWED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the file system says of a file or directory: any change of it changes this. Times are nanoseconds."""

    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    links: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(
            status.st_mode,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
            status.st_dev,
            status.st_nlink,
        )

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


Tree = dict[str, Stamp]
"""Every file and directory below one, by its path as on the disk, and the directory itself as `ROOT`."""


@contextmanager
def opened(path: str, parent: int | None = None) -> Iterator[int]:
    """The descriptor of a directory. Raises `SourceChanged` if it is gone, `ReleaseRefused` if it is no directory."""
    with naming(path):
        try:
            descriptor = os.open(path, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                raise ReleaseRefused("it is a link, or no directory; links are never followed", place=path) from None
            raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def root_of(source: Source) -> Iterator[int]:
    """The descriptor of a source. Raises `SourceUnavailable` if it is not mounted, `ReleaseRefused` for a link."""
    with ExitStack() as stack:
        try:
            root = stack.enter_context(opened(str(source.root)))
        except SourceChanged:
            raise SourceUnavailable(
                f"the source {source.name} is not there", place=str(source.root), remedy=source.if_missing
            ) from None
        yield root


def look(parent: int, name: str, gets_on: Callable[[], None] = lambda: None) -> Tree:
    """All that lies in directory `name` of `parent`; `gets_on` is called for every entry.

    Raises `SourceChanged` for what is gone meanwhile, `ReleaseRefused` for a link in the place of a directory, and for
    one that something is mounted on.
    """
    tree: Tree = {}
    with opened(name, parent) as root:
        tree[ROOT] = Stamp.of(os.fstat(root))
        mount = _mount_of(parent)
        pending = [""]
        while pending:
            prefix = pending.pop()
            with ExitStack() as stack:
                descriptor = _descend(stack, root, PurePosixPath(prefix).parts)
                if _mount_of(descriptor) != mount:
                    raise ReleaseRefused(
                        "another file system is mounted there, or a part of this one", place=shown(prefix or name)
                    )
                names = names_in(descriptor, prefix or name)
                with naming(prefix or name):
                    for one in names:
                        gets_on()
                        stamp = Stamp.of(os.stat(one, dir_fd=descriptor, follow_symlinks=False))
                        tree[prefix + one] = stamp
                        if stamp.is_directory:
                            if prefix.count("/") >= PATH_DEPTH_LIMIT:
                                raise ReleaseRefused(f"it is more than {PATH_DEPTH_LIMIT} levels deep")
                            pending.append(f"{prefix}{one}/")
    return tree


def names_in(directory: int, place: str) -> list[str]:
    """What lies directly in a directory."""
    with naming(place), os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def stamp_of(parent: int, name: str) -> Stamp | None:
    """What lies under a name, a link being itself; None if nothing does."""
    with naming(name):
        try:
            return Stamp.of(os.stat(name, dir_fd=parent, follow_symlinks=False))
        except FileNotFoundError:
            return None


@contextmanager
def trash_of(root: int, *, create: bool = False) -> Iterator[int]:
    """The descriptor of a source's trash. Raises `ReleaseRefused` if it is a link or lies on another file system."""
    if create:
        with naming(TRASH), suppress(FileExistsError):
            os.mkdir(TRASH, dir_fd=root)
    with opened(TRASH, root) as trash:
        if os.fstat(trash).st_dev != os.fstat(root).st_dev:
            raise ReleaseRefused("the trash lies on another file system than the recordings", place=TRASH)
        yield trash


def rename(from_directory: int, name: str, to_directory: int, to_name: str) -> None:
    """Moves a directory by one rename within a file system, if nothing has the new name.

    A file or a directory that holds anything is never replaced, whoever puts it there in the last moment.
    """
    if stamp_of(to_directory, to_name) is not None:
        raise ReleaseRefused("something of this name is there already, and is left as it is", place=to_name)
    with naming(name):
        os.rename(name, to_name, src_dir_fd=from_directory, dst_dir_fd=to_directory)
    _keep(from_directory)
    _keep(to_directory)


def unlink(root: int, path: str, wanted: Stamp) -> None:
    """Removes a file below `root` that is exactly as `wanted`. Raises `SourceChanged` if it is not."""
    *directories, name = PurePosixPath(path).parts
    with ExitStack() as stack:
        parent = _descend(stack, root, directories)
        if stamp_of(parent, name) != wanted or not wanted.is_file:
            raise SourceChanged("it changed in the last moment", place=path)
        with naming(path):
            os.unlink(name, dir_fd=parent)


def remove_empty(root: int, path: str) -> None:
    """Removes a directory below `root` that holds nothing. Raises `SourceChanged` if it does."""
    *directories, name = PurePosixPath(path).parts
    with ExitStack() as stack:
        parent = _descend(stack, root, directories)
        with naming(path):
            try:
                os.rmdir(name, dir_fd=parent)
            except OSError as error:
                if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY}:
                    raise SourceChanged("something came into it, or is mounted there", place=path) from None
                raise
        _keep(parent)


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Turns what the file system says in the block into an error that names the place."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise SourceChanged("it is gone, or something else is there now", place=place) from None
    except OSError as error:
        told = os.strerror(error.errno or 0)
        if error.errno == errno.EXDEV:
            raise ReleaseRefused("it lies on another file system than the trash of its source", place=place) from None
        if error.errno in _NOT_ALLOWED:
            raise ReleaseRefused(
                f"this host may not change it ({told})",
                place=place,
                remedy="Mount the source writable on the one host that frees room there, or give this user the right.",
            ) from None
        raise SourceUnavailable(f"the drive failed ({told})", place=place) from None


def _mount_of(directory: int) -> str:
    """The mount that a directory belongs to, where the system tells. A bind mount has the device of what it shows."""
    try:
        with Path(f"/proc/self/fdinfo/{directory}").open(encoding="ascii") as told:
            return next((line for line in told if line.startswith("mnt_id:")), "")
    except FileNotFoundError:
        return ""


def _keep(directory: int) -> None:
    """Has the disk keep what was done. Not every network file system can; what is lost then was not done."""
    with suppress(OSError):
        os.fsync(directory)


def _descend(stack: ExitStack, root: int, parts: tuple[str, ...] | list[str]) -> int:
    descriptor = root
    for part in parts:
        descriptor = stack.enter_context(opened(part, descriptor))
    return descriptor
