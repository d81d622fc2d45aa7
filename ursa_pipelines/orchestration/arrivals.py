"""What the arrivals of its recordings mean for a run that an arrival has launched.

An arrival speaks of one directory. A copy or another half of the recording on a second source may still be written,
and what the bucket has of a recording that was seen on a drive may be the beginning of an upload that broke off.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg

from ursa_pipelines.errors import RecordingNotSettled, SourceUnavailable
from ursa_pipelines.ingest.discover import Discovery
from ursa_pipelines.ingest.sources import Source, changed_at
from ursa_pipelines.orchestration.partitions import arrival_asset
from ursa_pipelines.profiles.profile import IngestSettings
from ursa_pipelines.recordings.settling import Sighting, judge

_PAGE = 1_000


@dataclass(frozen=True)
class Arrivals:
    """The fingerprints with which recordings arrived last: by source, by rec_id."""

    sources: Sequence[Source]
    settings: IngestSettings
    fingerprints: dict[str, dict[str, str]]

    def require_settled(self, discovery: Discovery) -> None:
        """Raises `RecordingNotSettled` for a directory that has not arrived as it is now, and was changed lately."""
        inventory = discovery.inventory
        if inventory is None:
            return
        source = next((one for one in self.sources if one.root == inventory.directory.parent), None)
        arrived = self.fingerprints.get(source.name, {}) if source else {}
        if arrived.get(discovery.rec_id) == inventory.fingerprint:
            return
        verdict = judge(
            inventory,
            discovery.attested,
            Sighting(inventory.fingerprint, changed_at(inventory.directory)),
            now=time.time(),
            quiet_period=self.settings.quiet_period,
            reconstruct_after=self.settings.reconstruct_after,
        )
        if not verdict.settled:
            raise RecordingNotSettled(verdict.reason, recording=discovery.rec_id, place=str(inventory.directory))

    def require_never_on_a_source(self, rec_id: str) -> None:
        """Raises `SourceUnavailable` if it arrived on a source once, whose directory may have more than the bucket."""
        seen = [name for name, arrived in self.fingerprints.items() if rec_id in arrived]
        if seen:
            raise SourceUnavailable(
                f"the bucket has no manifest of it; it was seen on {' and '.join(seen)}, which has it no more",
                recording=rec_id,
                remedy="Bring that drive back. If the bucket has all of it, run `ursa reconstruct`.",
            )


def read_arrivals(
    instance: dg.DagsterInstance, sources: Sequence[Source], settings: IngestSettings, rec_ids: Iterable[str]
) -> Arrivals:
    """The arrivals of these recordings, one query for each source."""
    wanted = sorted(rec_ids)
    return Arrivals(
        sources, settings, {source.name: _fingerprints(instance, source.name, wanted) for source in sources}
    )


def _fingerprints(instance: dg.DagsterInstance, source: str, rec_ids: Sequence[str]) -> dict[str, str]:
    newest: dict[str, str] = {}
    cursor = None
    while rec_ids:
        records = dg.AssetRecordsFilter(arrival_asset(source), asset_partitions=rec_ids)
        page = instance.fetch_materializations(records, limit=_PAGE, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization
            if event and event.partition:
                newest.setdefault(event.partition, (event.tags or {}).get("dagster/data_version", ""))
        if not page.has_more:
            break
        cursor = page.cursor
    return newest
