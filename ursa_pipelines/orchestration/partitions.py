"""One partition per recording; its key is the rec_id. Partitions are added, sorted, and deleted only by `archive`.

A recording that was archived has no partition any more, and its events are kept. It stays known by its key in a second
set of Dagster's dynamic partitions, which no asset has, so that no sensor takes it for new.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import dagster as dg

recordings = dg.DynamicPartitionsDefinition(name="recordings")
ARCHIVED = "recordings_archived"
"""The set of those whose partitions were archived. One that has come back is in both, and is a partition."""

PARTITIONS_PER_REQUEST = 5_000
"""Some SQLite builds refuse one insert of more than about 36,000 keys (dagster issue 16260)."""

FEW = 50
"""Up to so many partitions are asked for one by one, which does not grow with the number of all."""

RECORDING = dg.AssetKey("recording")
R2_RECORDING = dg.AssetKey("r2_recording")


def arrival_asset(source: str) -> dg.AssetKey:
    """The external asset on which the arrivals of a source are reported: one per source, so that each keeps its own
    fingerprints, and a recording that lies on two of them arrives on each.
    """
    return dg.AssetKey(f"{source}_recording")


def add_partitions(instance: dg.DagsterInstance, rec_ids: Collection[str]) -> None:
    """Adds, sorted, the partitions that are missing. Takes no longer if there are many others."""
    _add(instance, str(recordings.name), rec_ids)


def partitions_in_order(instance: dg.DagsterInstance) -> Sequence[str]:
    """All partitions in the order in which they were added, which is that of a run's range."""
    return instance.get_dynamic_partitions(str(recordings.name))


def archived(instance: dg.DagsterInstance) -> set[str]:
    """The recordings that were archived, also those of which there is a partition again."""
    return set(instance.get_dynamic_partitions(ARCHIVED))


def note_archived(instance: dg.DagsterInstance, rec_ids: Collection[str]) -> None:
    """Makes recordings known whose partitions are about to be deleted."""
    _add(instance, ARCHIVED, rec_ids)


def bring_back(instance: dg.DagsterInstance, rec_ids: Collection[str]) -> None:
    """Adds the partitions of those of these that were archived, whose arrival is about to be reported.

    They are materialized, and so are taken up for an arrival that comes while there is a partition, and for nothing
    else. Of a recording that is new it is the partition that comes last.
    """
    if len(rec_ids) <= FEW:
        back = [rec_id for rec_id in rec_ids if instance.has_dynamic_partition(ARCHIVED, rec_id)]
    else:
        back = sorted(archived(instance).intersection(rec_ids))
    add_partitions(instance, back)


def _add(instance: dg.DagsterInstance, name: str, rec_ids: Collection[str]) -> None:
    # Dagster passes by those that are there.
    keys = sorted(set(rec_ids))
    for start in range(0, len(keys), PARTITIONS_PER_REQUEST):
        instance.add_dynamic_partitions(name, keys[start : start + PARTITIONS_PER_REQUEST])
