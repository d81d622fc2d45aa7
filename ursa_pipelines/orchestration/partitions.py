"""One partition per recording; its key is the rec_id. Partitions are added, sorted, and never deleted by us."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import dagster as dg

recordings = dg.DynamicPartitionsDefinition(name="recordings")

PARTITIONS_PER_REQUEST = 5_000
"""Some SQLite builds refuse one insert of more than about 36,000 keys (dagster issue 16260)."""

RECORDING = dg.AssetKey("recording")
R2_RECORDING = dg.AssetKey("r2_recording")


def arrival_asset(source: str) -> dg.AssetKey:
    """The external asset on which the arrivals of a source are reported: one per source, so that each keeps its own
    fingerprints, and a recording that lies on two of them arrives on each.
    """
    return dg.AssetKey(f"{source}_recording")


def add_partitions(instance: dg.DagsterInstance, rec_ids: Collection[str]) -> Sequence[str]:
    """Adds, sorted, the partitions that are missing; all that there are then, in the order in which they were added."""
    name = str(recordings.name)
    new = sorted(set(rec_ids).difference(instance.get_dynamic_partitions(name)))
    for start in range(0, len(new), PARTITIONS_PER_REQUEST):
        instance.add_dynamic_partitions(name, new[start : start + PARTITIONS_PER_REQUEST])
    return instance.get_dynamic_partitions(name)
