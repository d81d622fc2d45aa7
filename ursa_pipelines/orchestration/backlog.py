"""Which recordings Dagster knows of that are in no catalog yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import dagster as dg

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.errors import RecordingIdInvalid
from ursa_pipelines.orchestration.partitions import PARTITIONS_PER_REQUEST, RECORDING, recordings
from ursa_pipelines.orchestration.states import History, read_histories
from ursa_pipelines.recordings.identity import parse_rec_id


def find_backlog(instance: dg.DagsterInstance, catalog: Catalog) -> dict[str, History]:
    """What became so far of the recordings that arrived and are not registered, in their order.

    Recordings that came into the catalog without Dagster, and those that are quarantined or waived, are not among
    them. The catalog is read only if there are any, one column of it.
    """
    arrived = instance.get_dynamic_partitions(str(recordings.name))
    statuses = instance.get_status_by_partition(RECORDING, arrived, recordings) or {} if arrived else {}
    missing = unregistered(arrived, statuses, catalog)
    backlog: dict[str, History] = {}
    ordered = sorted(missing)
    for start in range(0, len(ordered), PARTITIONS_PER_REQUEST):
        some = ordered[start : start + PARTITIONS_PER_REQUEST]
        histories = read_histories(instance, some)
        backlog |= {rec_id: histories.get(rec_id) or History(rec_id) for rec_id in some}
    return {rec_id: history for rec_id, history in backlog.items() if not history.is_held}


def unregistered(
    arrived: Iterable[str], statuses: Mapping[str, dg.AssetPartitionStatus | None], catalog: Catalog
) -> set[str]:
    """Those of the recordings that neither a run nor anything else has registered. Reads the catalog if need be."""
    missing = {rec_id for rec_id in arrived if statuses.get(rec_id) != dg.AssetPartitionStatus.MATERIALIZED}
    if missing:
        for batch in catalog.scan("recordings", None, ["rec_id"]):
            missing.difference_update(batch.column("rec_id").to_pylist())
    return missing


def age_in_hours(rec_id: str, now: datetime | None = None) -> float:
    """How long ago the recording was made, by its id; 0 for one that tells no time."""
    try:
        made = parse_rec_id(rec_id)
    except RecordingIdInvalid:
        return 0.0
    return max(((now or datetime.now(UTC)) - made).total_seconds() / 3600, 0.0)
