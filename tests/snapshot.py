"""A directory tree as it stands, to prove that a source was not written to."""

from __future__ import annotations

from pathlib import Path


def snapshot(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Inode, mode, mtime and content of everything below a directory and of itself, by path."""
    found = {}
    for path in (directory, *sorted(directory.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (status.st_ino, status.st_mode, status.st_mtime_ns, content)
    return found
