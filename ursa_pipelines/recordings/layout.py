"""How a recording's directory and its prefix in the bucket are laid out, and which names are safe.

A path is untrusted input: it is refused, never mended (DESIGN section 3, Manifest).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

MANIFEST = "manifest.json"
PARTICIPANT = "participant.txt"
SESSION_LOCK = "session.lock"
NODE_MANIFESTS = "_node_manifests"
NODE_PARTICIPANTS = "_node_participants"
UNNAMED_NODE = "unnamed"
"""Stands for the node in the names of stored files whose node is not known."""

PATH_DEPTH_LIMIT = 32
KEY_BYTES_LIMIT = 1024

_KEY_OVERHEAD = len("recordings/") + len("/")
_PARTIAL_SUFFIXES = (".part", ".partial", ".tmp", ".crdownload")
_CLUTTER_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_CLUTTER_DIRECTORIES = frozenset({"@eaDir", ".Spotlight-V100", ".fseventsd", ".Trashes"})
_RESERVED_FILES = frozenset({MANIFEST, PARTICIPANT, SESSION_LOCK})
_RESERVED_DIRECTORIES = frozenset({NODE_MANIFESTS, NODE_PARTICIPANTS})
_INVISIBLE = frozenset(
    map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, 0xFFA0))
) | frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
_SURROGATE = re.compile("[\ud800-\udfff]")
_DRIVE = re.compile(r"(?:^|/)[A-Za-z]:")
_NODE_FILE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,62}?)(?:\.[0-9a-f]{8})?\.(?:json|txt)")
_SHOWN_LIMIT = 120


def refusal_of_path(path: str, *, rec_id: str) -> str | None:
    """Why a path must not be used in a recording, or None if it may.

    The rules are DESIGN section 3's: relative, POSIX, NFC, no component that is empty, `.` or `..`, no
    backslash, drive letter, control, bidi or zero-width character or surrogate, and a key of at most
    1,024 bytes. Names that have a meaning of their own or count as clutter are refused too.
    """
    if not path:
        return "is empty"
    components = path.split("/")
    for component in components:
        if component in {"", ".", ".."}:
            return f"has the component {component!r}"
    if "\\" in path:
        return "holds a backslash"
    if _DRIVE.search(path):
        return "holds a drive letter"
    hidden = hidden_in(path)
    if hidden:
        return hidden
    if unicodedata.normalize("NFC", path) != path:
        return "is not in Unicode form NFC"
    if len(components) > PATH_DEPTH_LIMIT:
        return f"is more than {PATH_DEPTH_LIMIT} levels deep"
    if len(path.encode()) + len(rec_id) + _KEY_OVERHEAD > KEY_BYTES_LIMIT:
        return f"makes a key of more than {KEY_BYTES_LIMIT} bytes"
    if _folded(components[0]) in _RESERVED_DIRECTORIES | _RESERVED_FILES:
        return "is reserved for the recording's own bookkeeping"
    if is_clutter(path) or is_partial_copy(path):
        return "is the name of clutter or of an unfinished copy, which is never ingested"
    return None


def hidden_in(text: str) -> str | None:
    """Why a text does not show all that it holds, or None if it does. Spaces of every kind are harmless."""
    if text.isascii() and text.isprintable():
        return None
    if _SURROGATE.search(text):
        return "holds an unpaired surrogate"
    for character in text:
        if unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp", "Cn", "Co"} or character in _INVISIBLE:
            return f"holds the control, bidi or invisible character U+{ord(character):04X}"
    return None


def colliding_paths(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two paths that some file system would take for one, or of which one is the other's directory; else None.

    Case and NFKC folding are applied to the comparison only, never to the paths themselves.
    """
    seen: dict[str, str] = {}
    for path in paths:
        folded = _folded(path)
        if folded in seen:
            return seen[folded], path
        seen[folded] = path
    for folded, path in seen.items():
        cut = folded.rfind("/")
        while cut > 0:
            if folded[:cut] in seen:
                return seen[folded[:cut]], path
            cut = folded.rfind("/", 0, cut)
    return None


def is_clutter(path: str) -> bool:
    """Whether operating systems put this file there on their own, so that it is ignored and counted."""
    components = path.split("/")
    name = components[-1]
    return (
        name in _CLUTTER_FILES
        or name.startswith("._")
        or any(component in _CLUTTER_DIRECTORIES for component in components)
    )


def is_clutter_directory(name: str) -> bool:
    """Whether operating systems put a directory of this name there on their own, with nothing of ours below it."""
    return name in _CLUTTER_DIRECTORIES


def is_partial_copy(path: str) -> bool:
    """Whether the name is that of a copy that has not finished."""
    return path.casefold().endswith(_PARTIAL_SUFFIXES)


def node_of_file(name: str) -> str | None:
    """The node a file directly below `_node_manifests/` or `_node_participants/` is named after, or None if none is.

    The name is `<node>.json`, or `<node>.<8 hex of its SHA-256>.json`; for participants `.txt`.
    """
    match = _NODE_FILE.fullmatch(name)
    return match.group(1) if match else None


def worker_of(path: str) -> str | None:
    """The worker subdirectory a segment belongs to; None for a file at the recording's root."""
    head, separator, _ = path.partition("/")
    return head if separator else None


def split_worker(worker: str) -> tuple[str, str | None]:
    """(modality, worker_id) of a worker subdirectory: `eeg_4559` is ("eeg", "4559"), `mic` is ("mic", None)."""
    modality, _, worker_id = worker.partition("_")
    return (modality, worker_id) if modality and worker_id else (worker, None)


def shown(text: str, limit: int = _SHOWN_LIMIT) -> str:
    """Untrusted text as an error or log line may repeat it: invisible characters escaped, at most `limit` long."""
    escaped = "".join(
        character
        if character.isprintable() and character not in _INVISIBLE
        else character.encode("unicode_escape").decode()
        for character in text[:limit]
    )
    return f"{escaped[: limit - 3]}..." if max(len(text), len(escaped)) > limit else escaped


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first names and how many more there are: an error must fit on a screen, however many it is about."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more:,} more" if more > 0 else "")


def _folded(path: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
