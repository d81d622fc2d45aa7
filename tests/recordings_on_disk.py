"""Small recordings for tests, written in a moment; independent of the package, so that both can be compared."""

from __future__ import annotations

import hashlib
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

_BESIDE_THE_SEGMENTS = ("manifest.json", "participant.txt", "session.lock")
_NODE_DIRECTORIES = ("_node_manifests", "_node_participants")
_CLUTTER_DIRECTORIES = {"@eaDir", ".Spotlight-V100", ".fseventsd", ".Trashes"}
_NEVER_LISTED = (".DS_Store", "._*", "Thumbs.db", "desktop.ini", "*.part", "*.partial", "*.tmp", "*.crdownload")


def write_recording(
    root: Path,
    rec_id: str,
    files: dict[str, bytes],
    *,
    manifest: bool | dict = True,
    participant: str | None = None,
    node: str | None = "green-mantis",
    stated_hash: bool = False,
    age_s: float = 3600,
) -> Path:
    """Writes `files` (path below the recording: content) and returns the directory `root/rec_id`.

    `manifest` True adds a complete top-level one, False none, and a dict a complete one with these fields
    in place of its own (None removes a field). `participant` becomes participant.txt. A manifest.json or
    participant.txt among `files` goes before either. Everything in the directory was changed `age_s`
    seconds ago. Files already there are kept, or replaced if named again.
    """
    directory = root / rec_id
    contents: dict[str, bytes] = {}
    if manifest is not False:
        document = manifest_of(rec_id, files, node=node, stated_hash=stated_hash)
        if isinstance(manifest, dict):
            document = {name: value for name, value in (document | manifest).items() if value is not None}
        contents["manifest.json"] = json.dumps(document, indent=2).encode()
    if participant is not None:
        contents["participant.txt"] = f"{participant}\n".encode()
    directory.mkdir(parents=True, exist_ok=True)
    for path, content in (contents | files).items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    set_age(directory, age_s)
    return directory


def manifest_of(
    rec_id: str, files: dict[str, bytes], *, node: str | None = "green-mantis", stated_hash: bool = False
) -> dict[str, Any]:
    """A complete manifest (format 1) of those `files` that are segments, also good as a node's."""
    segments = {path: content for path, content in sorted(files.items()) if _is_segment(path)}
    began = _began(rec_id)
    times = {"started_at": _zulu(began), "ended_at": _zulu(began + timedelta(minutes=1))}
    return {
        "manifest_version": 1,
        "recording_id": rec_id,
        **({"recording_hash": recording_hash_of(segments)} if stated_hash else {}),
        **({"node": node} if node else {}),
        **times,
        "device_info": {"rig": "green"},
        "files": [
            {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **times}
            for path, content in segments.items()
        ],
    }


def recording_hash_of(files: dict[str, bytes]) -> str:
    """DESIGN section 2: SHA-256 of the segments' sorted hex digests joined by newlines."""
    digests = sorted(hashlib.sha256(content).hexdigest() for path, content in files.items() if _is_segment(path))
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def set_age(directory: Path, age_s: float) -> None:
    """Gives the directory and everything below it a change time `age_s` seconds ago; links are not followed."""
    moment = time.time() - age_s
    for path in (*directory.rglob("*"), directory):
        if not path.is_symlink():
            os.utime(path, (moment, moment))


def _is_segment(path: str) -> bool:
    pure = PurePosixPath(path)
    if path in _BESIDE_THE_SEGMENTS or pure.parts[0] in _NODE_DIRECTORIES or _CLUTTER_DIRECTORIES & set(pure.parts):
        return False
    return not any(pure.match(pattern) for pattern in _NEVER_LISTED)


def _began(rec_id: str) -> datetime:
    try:
        return datetime.strptime(rec_id[:19], "rec_%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        # Tests of bad ids need a manifest as well.
        return datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)


def _zulu(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
