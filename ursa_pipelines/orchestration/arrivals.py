"""Arrivals as the events of the sources' assets tell of them, and what they mean for a run.

An arrival speaks of one directory. A copy or another half of the recording on a second source may still be written,
and what the bucket has of a recording that was seen on a drive may be the beginning of an upload that broke off.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from ursa_pipelines.errors import RecordingNotSettled, SourceUnavailable
from ursa_pipelines.ingest.discover import Discovery
from ursa_pipelines.ingest.sources import Source, changed_at
from ursa_pipelines.orchestration.partitions import arrival_asset
from ursa_pipelines.profiles.profile import IngestSettings
from ursa_pipelines.recordings.settling import Sighting, judge

_KEYS_PER_QUERY = 500
_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class NewestArrival:
    """With which fingerprint a recording arrived on a source last, and when (seconds since 1970 UTC)."""

    fingerprint: str
    at: float


@dataclass(frozen=True)
class Arrivals:
    """The newest arrivals of a run's recordings: by source, by rec_id."""

    sources: Sequence[Source]
    settings: IngestSettings
    newest: Mapping[str, Mapping[str, NewestArrival]]

    def require_settled(self, discovery: Discovery) -> None:
        """Raises `RecordingNotSettled` for a directory that has not arrived as it is now, and was changed lately."""
        inventory = discovery.inventory
        if inventory is None:
            return
        source = next((one for one in self.sources if one.root == inventory.directory.parent), None)
        arrived = self.newest[source.name].get(discovery.rec_id) if source else None
        if arrived is not None and arrived.fingerprint == inventory.fingerprint:
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
        seen = [name for name, arrived in self.newest.items() if rec_id in arrived]
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
    arrived = {source.name: newest_arrivals(instance, arrival_asset(source.name), wanted) for source in sources}
    return Arrivals(sources, settings, arrived)


def newest_arrivals(
    instance: dg.DagsterInstance, asset: dg.AssetKey, rec_ids: Sequence[str]
) -> dict[str, NewestArrival]:
    """The newest arrival of each of these on a source's asset; those that never arrived are not among them."""
    newest: dict[str, NewestArrival] = {}
    for start in range(0, len(rec_ids), _KEYS_PER_QUERY):
        some = list(rec_ids[start : start + _KEYS_PER_QUERY])
        cursor = None
        while True:
            records = dg.AssetRecordsFilter(asset, asset_partitions=some)
            page = instance.fetch_materializations(records, limit=_PAGE, cursor=cursor)
            for record in page.records:
                event = record.asset_materialization
                if event is not None and event.partition is not None:
                    fingerprint = (event.tags or {}).get("dagster/data_version", "")
                    newest.setdefault(event.partition, NewestArrival(fingerprint, record.timestamp))
            if not page.has_more:
                break
            cursor = page.cursor
    return newest
