"""What a source has reported already, as the events of its asset tell."""

from __future__ import annotations

import time
from collections.abc import Sequence

import dagster as dg

from ursa_pipelines.orchestration.arrivals import newest_arrivals
from ursa_pipelines.orchestration.partitions import archived, partitions_in_order

_PAGE = 1_000
_READ_AGAIN_SECONDS = 3_600.0


class Reported:
    """The recordings of which an asset has an arrival.

    A process asks for all of them once an hour (0.7 s for 100,000), and between for the events since. Events that
    somebody wiped are missed until then; nothing else depends on what is kept here.
    """

    def __init__(self, asset: dg.AssetKey) -> None:
        self._asset = asset
        self._rec_ids: set[str] = set()
        self._newest = 0
        self._read_at: float | None = None

    def rec_ids(self, instance: dg.DagsterInstance) -> set[str]:
        """All of them, up to date. Not to be changed by the caller."""
        if self._read_at is None or time.monotonic() - self._read_at > _READ_AGAIN_SECONDS:
            newest = instance.fetch_materializations(self._asset, limit=1).records
            self._newest = newest[0].storage_id if newest else 0
            # A partition that somebody deleted is reported again, which adds it; one that was archived is not.
            keys = archived(instance).union(partitions_in_order(instance))
            self._rec_ids = keys & instance.get_materialized_partitions(self._asset)
            self._read_at = time.monotonic()
        while True:
            since = dg.AssetRecordsFilter(self._asset, after_storage_id=self._newest)
            page = instance.fetch_materializations(since, limit=_PAGE, ascending=True)
            for record in page.records:
                self._newest = record.storage_id
                if record.partition_key:
                    self._rec_ids.add(record.partition_key)
            if not page.has_more:
                return self._rec_ids

    def versions(self, instance: dg.DagsterInstance, rec_ids: Sequence[str]) -> dict[str, str]:
        """The fingerprints with which these were reported last; those that never were are not among them."""
        newest = newest_arrivals(instance, self._asset, rec_ids)
        return {rec_id: arrival.fingerprint for rec_id, arrival in newest.items()}
