"""The recordings of `ursa demo`: one for each case that a rig, a NAS and a bucket can leave behind.

The seven cases follow the runbook's paths A, B and C, its dual-node caveat and DESIGN section 4. All
media are real and play (`media`). Ids, bytes and times are fixed: making the recordings over a tree that
holds them changes nothing, and a file that is there, whatever its content, is never replaced or removed.
Files are as old as their recording, so that they count as settled, but for the case still being copied.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ursa_pipelines.embedded import media
from ursa_pipelines.recordings.identity import derive_recording_hash, parse_rec_id
from ursa_pipelines.recordings.layout import MANIFEST, NODE_MANIFESTS, PARTICIPANT, split_worker

HOST_NODE = "green-mantis"
EEG_NODE = "green-motor"

_SECONDS = 6
_SHAPES = {"camera": (3, "mp4"), "screen": (1, "mp4"), "mic": (2, "wav"), "eeg": (1, "edf")}
_EVENT_SHAPE = (1, "jsonl")
_BEING_COPIED = ".part"


@dataclass(frozen=True)
class DemoRecording:
    """One recording of the demo.

    Attributes: `rec_id`; `case`, a few words for a person; `directories`, where on disk its parts lie;
    `objects`, the full keys (`recordings/<rec_id>/...`) and bytes that belong into the raw bucket
    beforehand, for the case that has no directory.
    """

    rec_id: str
    case: str
    directories: tuple[Path, ...] = ()
    objects: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    """A file to make, last changed at `ended_at`, or now if it is still being copied."""

    path: str
    content: bytes
    began_at: datetime
    ended_at: datetime
    being_copied: bool = False


def make_demo_recordings(nas: Path, usb: Path) -> list[DemoRecording]:
    """Makes what is missing of the demo's recordings below the two roots and returns all of them.

    Below each root lies a directory for each rec_id. Raises `OSError` if a root cannot be written.
    """
    return [
        _manifest_complete(nas),
        _manifest_missing(nas),
        _manifest_is_a_stub(nas),
        _two_halves(nas, usb),
        _in_the_bucket_without_a_row(),
        _one_file_corrupted(nas),
        _still_being_copied(nas),
    ]


def _manifest_complete(nas: Path) -> DemoRecording:
    rec_id = "rec_20260520_195628_b1dd"
    segments = _segments(rec_id, "camera_a", "mic", "eeg_4559", "notes", "browser", "keyboard")
    beside = [_manifest(rec_id, segments, stated_hash=_hash_of(segments)), _participant(rec_id, "Aria Lin")]
    return DemoRecording(rec_id, "manifest complete", (_place(nas, rec_id, [*segments, *beside]),))


def _manifest_missing(nas: Path) -> DemoRecording:
    rec_id = "rec_20260521_101502_4c7e"
    segments = _segments(rec_id, "camera_b", "mic", "eeg_4559", "notes")
    files = [*segments, _participant(rec_id, "Björn Ek")]
    return DemoRecording(rec_id, "manifest missing", (_place(nas, rec_id, files),))


def _manifest_is_a_stub(nas: Path) -> DemoRecording:
    rec_id = "rec_20260521_143310_9a02"
    segments = _segments(rec_id, "camera_a", "screen", "mic", "eeg_4559", "notes")
    files = [*segments, _manifest(rec_id, [])]
    return DemoRecording(rec_id, "manifest is a stub, participant unknown", (_place(nas, rec_id, files),))


def _two_halves(nas: Path, usb: Path) -> DemoRecording:
    rec_id = "rec_20260522_090145_d41f"
    of_host = _segments(rec_id, "camera_a", "mic", "notes")
    of_eeg = _segments(rec_id, "eeg_4559", "battery")
    session: dict[str, Any] = {"stated_hash": _hash_of([*of_host, *of_eeg]), "nodes": [HOST_NODE, EEG_NODE]}
    host_manifest = _manifest(rec_id, of_host, node=HOST_NODE, name=f"{NODE_MANIFESTS}/{HOST_NODE}.json", **session)
    eeg_manifest = _manifest(rec_id, of_eeg, node=EEG_NODE, name=f"{NODE_MANIFESTS}/{EEG_NODE}.json", **session)
    host_half = _place(nas, rec_id, [*of_host, host_manifest, _participant(rec_id, "Björn Ek")])
    eeg_half = _place(usb, rec_id, [*of_eeg, eeg_manifest])
    return DemoRecording(rec_id, "two nodes, a half on each drive", (host_half, eeg_half))


def _in_the_bucket_without_a_row() -> DemoRecording:
    rec_id = "rec_20260522_160722_07ab"
    segments = _segments(rec_id, "camera_a", "mic", "eeg_4559", "notes", "browser")
    files = [*segments, _participant(rec_id, "Aria Lin"), _manifest(rec_id, segments)]
    objects = {f"recordings/{rec_id}/{file.path}": file.content for file in files}
    return DemoRecording(rec_id, "bytes in the bucket, no row", objects=objects)


def _one_file_corrupted(nas: Path) -> DemoRecording:
    rec_id = "rec_20260523_112859_e3c6"
    segments = _segments(rec_id, "camera_b", "mic", "eeg_4559", "notes")
    beside = [_manifest(rec_id, segments), _participant(rec_id, "Aria Lin")]
    as_copied = [_with_one_byte_flipped(file) if file.path.startswith("eeg") else file for file in segments]
    return DemoRecording(rec_id, "one file corrupted", (_place(nas, rec_id, [*as_copied, *beside]),))


def _still_being_copied(nas: Path) -> DemoRecording:
    rec_id = "rec_20260524_083017_5f18"
    segments = _segments(rec_id, "camera_a", "mic", "eeg_4559", "notes")
    beside = [_manifest(rec_id, segments), _participant(rec_id, "Björn Ek")]
    *copied, last = segments[:3]
    # All its bytes are there, so that renaming it is enough to see the recording go on.
    in_flight = replace(last, path=last.path + _BEING_COPIED, being_copied=True)
    files = [*copied, in_flight, *segments[3:], *beside]
    return DemoRecording(rec_id, "still being copied", (_place(nas, rec_id, files),))


def _segments(rec_id: str, *workers: str) -> list[_File]:
    began = parse_rec_id(rec_id)
    segments = []
    for worker in workers:
        count, suffix = _SHAPES.get(split_worker(worker)[0], _EVENT_SHAPE)
        seconds = _SECONDS // count
        for index in range(count):
            path = f"{worker}/seg_{index:04}.{suffix}"
            starts = began + timedelta(seconds=index * seconds)
            content = _content(rec_id, path, worker, index, starts, seconds)
            segments.append(_File(path, content, starts, starts + timedelta(seconds=seconds)))
    return segments


def _content(rec_id: str, path: str, worker: str, index: int, starts: datetime, seconds: int) -> bytes:
    label = f"{rec_id}/{path}"
    family = split_worker(worker)[0]
    match family:
        case "camera":
            return media.video(f"{'side' if worker == 'camera_b' else 'front'}_{index}", label=label)
        case "screen":
            return media.video("screen", label=label)
        case "mic":
            return media.wav(label=label, seconds=seconds)
        case "eeg":
            return media.edf_plus(label=label, investigation=rec_id, began=starts, seconds=seconds)
        case _:
            return media.jsonl(family, label=label, began=starts, seconds=seconds)


def _hash_of(segments: Sequence[_File]) -> str:
    return derive_recording_hash(hashlib.sha256(file.content).hexdigest() for file in segments)


def _manifest(
    rec_id: str,
    segments: Sequence[_File],
    *,
    name: str = MANIFEST,
    node: str = HOST_NODE,
    nodes: list[str] | None = None,
    stated_hash: str | None = None,
) -> _File:
    """A manifest as a rig writes it (DESIGN section 3); without segments, the stub that a dashboard leaves."""
    began, ended = parse_rec_id(rec_id), _end_of(rec_id)
    document: dict[str, Any] = {"manifest_version": 1, "recording_id": rec_id}
    if stated_hash:
        document["recording_hash"] = stated_hash
    document["node"] = node
    if nodes:
        document["nodes"] = nodes
    document |= {"started_at": _zulu(began), "ended_at": _zulu(ended), "participant": None}
    document["device_info"] = {"rig": "green", "demo": True}
    document["files"] = [_listed(file) for file in sorted(segments, key=lambda file: file.path)]
    return _File(name, (json.dumps(document, indent=2) + "\n").encode(), began, ended)


def _listed(file: _File) -> dict[str, Any]:
    return {
        "path": file.path,
        "size_bytes": len(file.content),
        "sha256": hashlib.sha256(file.content).hexdigest(),
        "started_at": _zulu(file.began_at),
        "ended_at": _zulu(file.ended_at),
    }


def _zulu(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _participant(rec_id: str, display_name: str) -> _File:
    return _File(PARTICIPANT, f"{display_name}\n".encode(), parse_rec_id(rec_id), _end_of(rec_id))


def _end_of(rec_id: str) -> datetime:
    return parse_rec_id(rec_id) + timedelta(seconds=_SECONDS)


def _with_one_byte_flipped(file: _File) -> _File:
    damaged = bytearray(file.content)
    damaged[len(damaged) // 2] ^= 0xFF
    return replace(file, content=bytes(damaged))


def _place(root: Path, rec_id: str, files: Sequence[_File]) -> Path:
    """Makes the files that are missing; returns the recording's directory.

    A new directory appears whole, by one rename, so that nobody finds half of a recording in it.
    """
    directory = root / rec_id
    missing = [file for file in files if not _is_there(directory, file.path)]
    if not missing:
        return directory
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".demo_") as staging:
        staged = Path(staging) / rec_id
        for file in missing:
            _write(staged, file)
        if not any(file.being_copied for file in missing):
            _age_directories(staged, _end_of(rec_id))
        if directory.exists():
            for file in missing:
                (directory / file.path).parent.mkdir(parents=True, exist_ok=True)
                (staged / file.path).rename(directory / file.path)
        else:
            staged.rename(directory)
    return directory


def _is_there(directory: Path, path: str) -> bool:
    # A finished copy, too, stands for its unfinished one; lexists, because a dangling link is somebody's as well.
    return os.path.lexists(directory / path) or os.path.lexists(directory / path.removesuffix(_BEING_COPIED))


def _write(directory: Path, file: _File) -> None:
    target = directory / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.content)
    if not file.being_copied:
        _date(target, file.ended_at)


def _age_directories(directory: Path, moment: datetime) -> None:
    for path in (directory, *(below for below in directory.rglob("*") if below.is_dir())):
        _date(path, moment)


def _date(path: Path, moment: datetime) -> None:
    os.utime(path, (moment.timestamp(), moment.timestamp()))
