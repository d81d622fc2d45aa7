"""Brings segments to a directory: planned first, verified, renamed into place (ursa-facts section 11)."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ursa_pipelines.errors import ContentMismatch
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.proof import stored_digest
from ursa_pipelines.objects.store import Bucket

logger = logging.getLogger("ursa.download")

Layout = Literal["by_recording", "by_modality", "flat"]
Phase = Literal["start", "plan_done", "modality_start", "file_done", "modality_done", "finish"]


@dataclass(frozen=True)
class DownloadProgress:
    """One of six phase boundaries of a download. Bytes and files count what is on the disk and verified."""

    phase: Phase
    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    rec_id: str | None = None
    modality: str | None = None
    current_file: str | None = None


@dataclass(frozen=True)
class WantedFile:
    """A segment to bring: its path in the recording, its size in bytes, and its digest where one is known."""

    rec_id: str
    modality: str
    path: str
    size: int
    sha256: str | None


def target_of(wanted: WantedFile, dest: Path, layout: Layout) -> Path:
    """Where a segment goes below `dest`. Raises `ValueError` for a layout that does not exist."""
    if layout == "by_recording":
        return dest / wanted.rec_id / wanted.path
    if layout == "by_modality":
        return dest / wanted.modality / wanted.rec_id / wanted.path
    if layout == "flat":
        return dest / f"{wanted.rec_id}__{wanted.path.replace('/', '__')}"
    raise ValueError(f"layout={layout!r}: it is by_recording, by_modality or flat")


def download_files(
    raw: Bucket,
    plan: Callable[[], Iterable[WantedFile]],
    dest: Path,
    *,
    layout: Layout,
    progress: Callable[[DownloadProgress], None] | None,
) -> list[Path]:
    """Downloads what `plan` names and returns the paths written, in the plan's order.

    A file appears under its name only when its size and digest are right; one that is there already with the
    right content is kept. Raises `ContentMismatch`, `FileExistsError` for a file with other content, and
    `ValueError` before anything is written if two files would have the same name in this layout.
    """
    files_done = bytes_done = files_total = bytes_total = 0

    def tell(phase: Phase, wanted: WantedFile | None = None) -> None:
        event = DownloadProgress(
            phase,
            files_done,
            files_total,
            bytes_done,
            bytes_total,
            wanted.rec_id if wanted else None,
            wanted.modality if wanted else None,
            wanted.path if wanted and phase == "file_done" else None,
        )
        logger.debug("%s", phase, extra={"download": event})
        if progress is not None:
            progress(event)

    tell("start")
    planned = [(wanted, target_of(wanted, dest, layout)) for wanted in plan()]
    doubled = next((target for target, count in Counter(target for _, target in planned).items() if count > 1), None)
    if doubled is not None:
        raise ValueError(f"layout={layout!r} would give two files the name {doubled.name}; choose by_recording")
    files_total, bytes_total = len(planned), sum(wanted.size for wanted, _ in planned)
    tell("plan_done")
    previous: WantedFile | None = None
    for wanted, target in planned:
        if previous is None or (previous.rec_id, previous.modality) != (wanted.rec_id, wanted.modality):
            if previous is not None:
                tell("modality_done", previous)
            tell("modality_start", wanted)
        _bring(raw, wanted, target)
        files_done, bytes_done = files_done + 1, bytes_done + wanted.size
        tell("file_done", wanted)
        previous = wanted
    if previous is not None:
        tell("modality_done", previous)
    tell("finish")
    return [target for _, target in planned]


def _bring(raw: Bucket, wanted: WantedFile, target: Path) -> None:
    if target.exists():
        digest = wanted.sha256 or stored_digest(raw, raw_key(wanted.rec_id, wanted.path))
        if target.stat().st_size == wanted.size and _digest_of_file(target) == digest:
            return
        raise FileExistsError(f"{target} exists with other content; move it away or choose another directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".ursa-", dir=target.parent)
    try:
        state, size = hashlib.sha256(), 0
        with os.fdopen(descriptor, "wb") as stream:
            for chunk in raw.stream(raw_key(wanted.rec_id, wanted.path)):
                state.update(chunk)
                size += stream.write(chunk)
        if size != wanted.size or (wanted.sha256 and state.hexdigest() != wanted.sha256):
            raise ContentMismatch(
                "the downloaded bytes are not what the manifest lists",
                recording=wanted.rec_id,
                place=wanted.path,
                remedy="Download it again; if it stays so, run `ursa verify --deep` for this recording.",
            )
        Path(temporary).chmod(0o644)
        Path(temporary).rename(target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
