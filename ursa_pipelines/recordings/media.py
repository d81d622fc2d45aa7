"""What media files tell of a recording: how long it was, of what streams, and what is cut off (extra `[probe]`).

Only what is known is told. Segments of one worker that are named alike but for a trailing number follow one another;
what is named otherwise runs beside them (DESIGN section 2, worker and segments).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ursa_pipelines.recordings.layout import worker_of

_KINDS = {
    ".mp4": "mp4",
    ".mov": "mp4",
    ".m4v": "mp4",
    ".wav": "wav",
    ".flac": "flac",
    ".edf": "edf",
    ".bdf": "edf",
}
_TRAILING_NUMBER = re.compile(r"[0-9]*\Z")
LONGEST_SECONDS = 366 * 86_400.0


@dataclass(frozen=True)
class MediaFacts:
    """One file. `seconds` is None where nothing tells its length; `problem` begins with `truncated: ` if it is."""

    kind: str
    seconds: float | None = None
    streams: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class MediaReport:
    """What is known of those media files of a recording that were looked at, by path."""

    facts: dict[str, MediaFacts] = field(default_factory=dict)

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong, by path: `truncated: ...`, `cannot be read: ...` or why it was not looked at."""
        return {path: facts.problem for path, facts in sorted(self.facts.items()) if facts.problem}

    @property
    def truncated(self) -> dict[str, str]:
        """Those of the problems that tell of a file that is cut off."""
        return {path: problem for path, problem in self.problems.items() if problem.startswith("truncated")}

    @property
    def ended_after(self) -> float | None:
        """Seconds from the recording's start to the end of its longest worker; None if no worker's length is known."""
        workers: dict[str, dict[str, MediaFacts]] = defaultdict(dict)
        for path, facts in self.facts.items():
            workers[worker_of(path) or ""][path] = facts
        lengths = [length for of_worker in workers.values() if (length := _length(of_worker)) is not None]
        longest = max(lengths, default=None)
        return longest if longest is None or longest <= LONGEST_SECONDS else None


def media_kind(path: str) -> str | None:
    """How a file of this name is read, or None if it is no media file that can be."""
    return _KINDS.get(PurePosixPath(path).suffix.lower())


def kind_in_part(kind: str) -> str:
    """How the same is read where only begin and end of the file are there, and only its length is asked."""
    return f"{kind} in part" if kind in {"mp4", "flac"} else kind


def _length(of_worker: Mapping[str, MediaFacts]) -> float | None:
    tracks: dict[tuple[str, str], float] = defaultdict(float)
    for path, facts in of_worker.items():
        if facts.seconds is None:
            return None
        pure = PurePosixPath(path)
        name = _TRAILING_NUMBER.sub("", str(pure.with_suffix("")))
        tracks[name, pure.suffix.lower()] += facts.seconds
    return max(tracks.values(), default=None)
