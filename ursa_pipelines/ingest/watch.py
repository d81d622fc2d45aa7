"""What a sensor needs to know of a directory between two looks: its fingerprint, and whether it has settled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ursa_pipelines.errors import ManifestInvalid, UrsaError
from ursa_pipelines.ingest.discover import read_manifests
from ursa_pipelines.recordings.inventory import take_inventory
from ursa_pipelines.recordings.merge import merge_manifests
from ursa_pipelines.recordings.settling import Sighting, judge


@dataclass(frozen=True)
class Arrival:
    """A directory at one look. Times are seconds since 1970 UTC; `since` is when the fingerprint was first seen."""

    fingerprint: str
    since: float
    settled: bool
    reason: str = ""

    def to_cursor(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_cursor(cls, item: dict[str, Any]) -> Arrival:
        return cls(**item)


def look_at(
    directory: Path, previous: Arrival | None, *, now: float, quiet_period: float, reconstruct_after: float
) -> Arrival:
    """Lists a directory, judges whether it has settled, and remembers since when it is as it is.

    A directory that would be refused counts as settled once it is quiet, so that the refusal becomes visible as a
    failed recording instead of a silent wait. Reads manifests, no segments; never raises for the recording.
    """
    try:
        inventory = take_inventory(directory)
        try:
            merged = merge_manifests(inventory.rec_id, read_manifests(inventory))
        except ManifestInvalid:
            merged = None
    except UrsaError as error:
        since = previous.since if previous and previous.reason == str(error) else now
        return Arrival("refused", since, now - since >= quiet_period, str(error))
    unchanged = previous is not None and previous.fingerprint == inventory.fingerprint
    since = previous.since if previous and unchanged else now
    verdict = judge(
        inventory,
        merged,
        Sighting(inventory.fingerprint, since),
        now=now,
        quiet_period=quiet_period,
        reconstruct_after=reconstruct_after,
    )
    return Arrival(inventory.fingerprint, since, verdict.settled, verdict.reason)
