"""What a source has reported already, as the events of its asset tell."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import dagster as dg

from ursa_pipelines.orchestration.partitions import recordings

_PAGE = 1_000
_KEYS_PER_QUERY = 500
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
            # A partition that somebody deleted is reported again, which adds it.
            keys = instance.get_dynamic_partitions(str(recordings.name))
            states = instance.get_status_by_partition(self._asset, keys, recordings) or {}
            self._rec_ids = {rec_id for rec_id, state in states.items() if state is not None}
            self._read_at = time.monotonic()
        for record in _pages(instance, dg.AssetRecordsFilter(self._asset, after_storage_id=self._newest), True):
            self._newest = record.storage_id
            if record.partition_key:
                self._rec_ids.add(record.partition_key)
        return self._rec_ids

    def versions(self, instance: dg.DagsterInstance, rec_ids: Sequence[str]) -> dict[str, str]:
        """The fingerprints with which these were reported last; those that never were are not among them."""
        found: dict[str, str] = {}
        for start in range(0, len(rec_ids), _KEYS_PER_QUERY):
            some = list(rec_ids[start : start + _KEYS_PER_QUERY])
            for record in _pages(instance, dg.AssetRecordsFilter(self._asset, asset_partitions=some), False):
                event = record.asset_materialization
                if event is not None and event.partition is not None:
                    found.setdefault(event.partition, (event.tags or {}).get("dagster/data_version", ""))
        return found


def _pages(
    instance: dg.DagsterInstance, records: dg.AssetRecordsFilter, ascending: bool
) -> Iterator[dg.EventLogRecord]:
    cursor = None
    while True:
        page = instance.fetch_materializations(records, limit=_PAGE, cursor=cursor, ascending=ascending)
        yield from page.records
        if not page.has_more:
            return
        cursor = page.cursor
