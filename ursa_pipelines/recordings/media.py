"""What media files tell of a recording: how long it was, of what streams, and what is cut off (extra `[probe]`).

Only what is known is told. A worker's files follow one another where they lie in one directory and their names differ
in nothing but a number at their end that runs on without gaps, and that has two digits or is set apart (`seg_0000`,
`seg_0001`, but not `mic1`, `mic2`); several such series that begin with the same number run beside one another. How
long a worker with other names was, or with media files that cannot be looked at, is not known.
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
_OTHER_MEDIA = re.compile(
    r"\.(3gp|aac|aiff?|asf|avi|flv|m4a|mk[av]|mp3|mpe?g|mts|og[agv]|opus|ts|webm|wm[av]|cnt|eeg|gdf|set|vhdr|xdf)"
)
_NUMBERED = re.compile(r"(.*?)([0-9]+)", re.DOTALL)
LONGEST_SECONDS = 7 * 86_400.0


@dataclass(frozen=True)
class MediaFacts:
    """One file. `seconds` is None where nothing tells its length; `problem` begins with `truncated: ` if it is."""

    kind: str
    seconds: float | None = None
    streams: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class MediaReport:
    """What is known of a recording's media files that were looked at, by path; `unseen` are those that cannot be."""

    facts: dict[str, MediaFacts] = field(default_factory=dict)
    unseen: frozenset[str] = frozenset()

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
        for path in self.unseen:
            workers.pop(worker_of(path) or "", None)
        lengths = [length for of_worker in workers.values() if (length := _length(of_worker)) is not None]
        return max((length for length in lengths if length <= LONGEST_SECONDS), default=None)


def media_kind(path: str) -> str | None:
    """How a file of this name is read, or None if it is no media file that can be."""
    return _KINDS.get(PurePosixPath(path).suffix.lower())


def is_media(path: str) -> bool:
    """Whether a file of this name is sound, pictures or signals, even if it is of a kind that cannot be looked at."""
    return media_kind(path) is not None or _OTHER_MEDIA.fullmatch(PurePosixPath(path).suffix.lower()) is not None


def kind_in_part(kind: str) -> str:
    """How the same is read where only begin and end of the file are there, and only its length is asked."""
    return f"{kind} in part" if kind in {"mp4", "flac"} else kind


def _length(of_worker: Mapping[str, MediaFacts]) -> float | None:
    """The length of its longest series of files, or None unless each file's length and place in a series are known."""
    lengths = {path: facts.seconds for path, facts in of_worker.items() if facts.seconds is not None}
    if len(lengths) < len(of_worker) or len({PurePosixPath(path).parent for path in lengths}) != 1:
        return None
    if len(lengths) == 1:
        return sum(lengths.values())
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for path, length in lengths.items():
        name = PurePosixPath(path.lower())
        numbered = _NUMBERED.fullmatch(name.stem)
        if numbered is None or not (len(numbered[2]) > 1 or (numbered[1] and not numbered[1][-1].isalnum())):
            return None
        numbers[numbered[1], name.suffix].append(int(numbered[2]))
        seconds[numbered[1], name.suffix] += length
    first = min(map(min, numbers.values()))
    runs_on = all(sorted(one) == list(range(first, first + len(one))) for one in numbers.values())
    return max(seconds.values()) if runs_on else None
