"""What this process tries to write below watched directories, by CPython's audit events, whoever mounts them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_EVENTS = {
    "os.chmod",
    "os.chown",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.removexattr",
    "os.rename",
    "os.rmdir",
    "os.setxattr",
    "os.symlink",
    "os.truncate",
    "os.utime",
}
_OURS, _TESTS = (f"{os.sep}{name}{os.sep}" for name in ("ursa_pipelines", "tests"))
# Files below these are opened by descriptor, with a relative name.
_READERS = tuple(f"{_OURS}{room}{os.sep}" for room in ("recordings", f"maintenance{os.sep}release"))

_watches: list[tuple[tuple[str, ...], list[str]]] = []


@contextmanager
def watched(*roots: Path) -> Iterator[list[str]]:
    """Yields the list to which every attempt of the package (not of a test) to write below the roots is added."""
    _install()
    watch = (tuple(f"{root}{os.sep}" for root in roots), list[str]())
    _watches.append(watch)
    try:
        yield watch[1]
    finally:
        _watches.remove(watch)


@cache
def _install() -> None:
    sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watches or not (event in _EVENTS or (event == "open" and arguments[2] & _CHANGES)):
        return
    paths = [os.fsdecode(one) for one in arguments if isinstance(one, (str, bytes, os.PathLike))]
    caller = _caller()
    if _OURS not in caller:
        return
    for roots, writes in _watches:
        for path in paths:
            by_descriptor = not Path(path).is_absolute() and any(one in caller for one in _READERS)
            if by_descriptor or f"{Path.cwd() / path}{os.sep}".startswith(roots):
                writes.append(f"{event} of {path} in {caller}")


def _caller() -> str:
    """The file of the innermost call that is the package's or a test's."""
    frame = sys._getframe(2)
    while frame is not None:
        if _OURS in frame.f_code.co_filename or _TESTS in frame.f_code.co_filename:
            return frame.f_code.co_filename
        frame = frame.f_back  # type: ignore[assignment]
    return ""
