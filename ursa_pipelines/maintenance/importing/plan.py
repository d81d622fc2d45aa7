"""What an import would do, and what one did."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar

from ursa_pipelines.maintenance.importing.recordings import Problem
from ursa_pipelines.maintenance.importing.rows import Participants
from ursa_pipelines.maintenance.importing.tables import SourceTable

_SHOWN = 10_000
_T = TypeVar("_T")


@dataclass
class Findings(Generic[_T]):
    """All are counted; the first 10,000 are kept."""

    count: int = 0
    shown: list[_T] = field(default_factory=list)

    def add(self, *found: _T) -> None:
        self.count += len(found)
        self.shown += found[: max(0, _SHOWN - len(self.shown))]


@dataclass(frozen=True)
class Difference:
    """A recording_hash or participant_id that the catalog has with other values in these columns."""

    key: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """A recording_hash or participant_id that was not written, and why."""

    key: str
    reason: str


@dataclass
class Staging:
    """The tables as they were read, one bucket of recordings to a file, and which of them are to be written.

    `withheld` are recordings that are not written although their bucket's list names them.
    """

    tables: dict[str, SourceTable]
    directory: TemporaryDirectory[str]
    participants: Participants = field(default_factory=Participants)
    buckets: int = 1
    withheld: set[str] = field(default_factory=set)

    @property
    def path(self) -> Path:
        return Path(self.directory.name)

    @property
    def has_modalities(self) -> bool:
        return "modalities" in self.tables

    def keep(self, bucket: int, seen: dict[str, str | None]) -> None:
        """Notes which recordings of a bucket are to be written, and the fingerprint of what each is to replace."""
        (self.path / f"write-{bucket:03}.json").write_text(json.dumps(seen))

    def kept(self, bucket: int) -> dict[str, str | None]:
        """The recordings of a bucket that are to be written, as they were noted."""
        noted = json.loads((self.path / f"write-{bucket:03}.json").read_text())
        return {key: seen for key, seen in noted.items() if key not in self.withheld}


@dataclass
class ImportPlan:
    """What an import would do. To be closed: it holds a copy of the tables in a temporary directory.

    Of the `recordings`, `new` would be created and `replaced` replaced, `equal` are here already, `conflicts` are here
    with other values and stay, and `refused` are not imported because of `problems`, counted by `kinds`. `merges` are
    participants, by id, and the one each is merged into. Told besides: participants `renamed` because their ids told
    their names, and those without a recording, which are not imported; `old_names` of modalities taken apart;
    recordings `without_rec_id`, and of `missing_bytes` (refused unless allowed); tables `left_out`.
    """

    staging: Staging = field(repr=False)
    overwrite: bool
    left_out: tuple[str, ...]
    rows: dict[str, int] = field(default_factory=dict)
    recordings: int = 0
    new: int = 0
    replaced: int = 0
    equal: int = 0
    refused: int = 0
    renamed: int = 0
    old_names: int = 0
    without_rec_id: int = 0
    missing_bytes: int = 0
    participants_without_recording: int = 0
    conflicts: Findings[Difference] = field(default_factory=Findings)
    participant_conflicts: Findings[Difference] = field(default_factory=Findings)
    problems: Findings[Problem] = field(default_factory=Findings)
    kinds: Counter[str] = field(default_factory=Counter)
    merges: dict[str, str] = field(default_factory=dict)

    def note(self, *problems: Problem) -> None:
        """Adds what is wrong with rows."""
        self.problems.add(*problems)
        self.kinds.update(problem.kind for problem in problems)

    @property
    def is_clean(self) -> bool:
        """Whether all of the source is, or would be, in the catalog as it stands in the source."""
        return not (
            self.problems.count
            or self.conflicts.count
            or self.participant_conflicts.count
            or self.participants_without_recording
        )

    @property
    def writes(self) -> int:
        """How many recordings and merges of participants there are to write."""
        return self.new + self.replaced + len(self.merges)

    def close(self) -> None:
        self.staging.directory.cleanup()

    def __enter__(self) -> ImportPlan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class ImportReport:
    """What an import did. What `failed` stands as it stood; the same import again tries only that.

    `folded` entries were brought into the tables; `fold_problem` is why they could not be, which a later fold mends.
    """

    created: int = 0
    changed: int = 0
    unchanged: int = 0
    merged_participants: int = 0
    folded: int = 0
    fold_problem: str = ""
    failed: Findings[Failure] = field(default_factory=Findings)
