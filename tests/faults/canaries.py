"""Values that must never be seen again, and a search for them in whatever form and container they may turn up.

Each canary has a random token of its own, and so half a leak is found as well. A find is told by the canary's name and
never by its value.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq

_LEAST_BASE64 = 12


@dataclass(frozen=True, repr=False)
class Canary:
    """A value, and the part of it that occurs nowhere else."""

    name: str
    value: str
    token: str

    def __repr__(self) -> str:
        return f"Canary({self.name})"


def make_canary(name: str, form: str = "{}") -> Canary:
    """A canary whose value is `form` around a random token."""
    token = f"c{secrets.token_hex(9)}"
    return Canary(name, form.format(token), token)


@dataclass(frozen=True)
class Find:
    """Which canary is where; `place` ends in what a container held it in."""

    canary: str
    place: str


class Scanner:
    """Looks for canaries. `scanned` and `places` count what it has looked at."""

    def __init__(self, canaries: Iterable[Canary]) -> None:
        self._needles = [(canary.name, needle) for canary in canaries for needle in sorted(forms_of(canary))]
        self.scanned, self.places = 0, 0

    def in_text(self, text: str, place: str) -> list[Find]:
        return self.in_bytes(text.encode("utf-8", "surrogateescape"), place)

    def in_bytes(self, content: bytes, place: str) -> list[Find]:
        """The canaries in these bytes, and in what they hold if they are an archive, a database or a table."""
        finds: dict[Find, None] = {}
        for where, part in _unpacked(content, place):
            self.scanned += len(part)
            self.places += 1
            for name, needle in self._needles:
                if needle in part:
                    finds[Find(name, where)] = None
        return list(finds)

    def in_tree(self, directory: Path, *, without: Callable[[Path], bool] = lambda path: False) -> list[Find]:
        """The canaries in the names and contents of all files below a directory but those left out."""
        finds = []
        for path in sorted(directory.rglob("*")):
            if without(path):
                continue
            finds += self.in_text(str(path.relative_to(directory)), f"the name of {path}")
            if path.is_symlink():
                finds += self.in_text(str(path.readlink()), f"the link {path}")
            elif path.is_file():
                finds += self.in_bytes(path.read_bytes(), str(path))
        return finds


def forms_of(canary: Canary) -> set[bytes]:
    """How a canary may be written: plain, upper case, escaped, quoted, UTF-16, hex and base64 at any offset."""
    forms: set[bytes] = set()
    for text in (canary.value, canary.token):
        plain = text.encode()
        forms |= {plain, text.upper().encode(), quote(text, safe="").encode(), quote(text).encode()}
        forms |= {json.dumps(text)[1:-1].encode(), repr(text)[1:-1].encode(), ascii(text)[1:-1].encode()}
        forms |= {text.encode("utf-16-le"), text.encode("utf-16-be")}
        forms |= {plain.hex().encode(), plain.hex().upper().encode(), plain[::-1]}
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            for offset in range(3):
                # Of the outermost characters others have a share.
                encoded = encode(b"\0" * offset + plain)[4 if offset else 0 :].rstrip(b"=")[:-1]
                assert len(encoded) >= _LEAST_BASE64
                forms.add(encoded)
    return forms


def _unpacked(content: bytes, place: str) -> Iterator[tuple[str, bytes]]:
    """The content, and what it holds if it is compressed or kept in pages, in which a search could miss it."""
    yield place, content
    if content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield f"{place}!{name}", name.encode()
                yield from _unpacked(archive.read(name), f"{place}!{name}")
    elif content.startswith((b"\x1f\x8b", b"\x78\x9c", b"\x78\xda")):
        try:
            inner = zlib.decompress(content, 47)
        except zlib.error:
            return
        if inner[257:262] == b"ustar":
            with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
                for member in archive:
                    yield f"{place}!{member.name}", member.name.encode()
                    if member.isfile():
                        yield from _unpacked(archive.extractfile(member).read(), f"{place}!{member.name}")
        else:
            yield from _unpacked(inner, f"{place}!")
    elif content.startswith(b"SQLite format 3\0"):
        yield f"{place}!rows", _rows_of(content)
    elif content.startswith(b"PAR1") and content.endswith(b"PAR1"):
        yield f"{place}!rows", json.dumps(pq.read_table(io.BytesIO(content)).to_pylist(), default=str).encode()


def _rows_of(database: bytes) -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.text_factory = bytes
    try:
        # As written in its own journal mode it could only be opened from a file with its journal beside it.
        connection.deserialize(database[:18] + b"\x01\x01" + database[20:])
        tables = [name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        rows = [row for table in tables for row in connection.execute(f'SELECT * FROM "{table}"')]
    finally:
        connection.close()
    return b"\n".join(value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)
