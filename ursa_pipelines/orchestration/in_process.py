"""The ingest job run in this process, on the instance that the UI shows."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.orchestration.definitions import INGEST_JOB, build_definitions
from ursa_pipelines.orchestration.partitions import recordings
from ursa_pipelines.orchestration.resources import require_profile

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def ingest_in_process(profile: str, rec_ids: Sequence[str], *, trigger: str) -> list[BatchItem]:
    """Adds the partitions that are missing, runs the job over them, and returns how far each recording came.

    The run is kept in the instance of DAGSTER_HOME. Raises `ProfileInvalid` if that serves another profile.
    """
    with dg.DagsterInstance.get() as instance:
        require_profile(instance, profile)
        instance.add_dynamic_partitions(str(recordings.name), sorted(rec_ids))
        # A range follows the order in which partitions were added, which may have been by the sensors of `ursa dev`.
        keys = [key for key in instance.get_dynamic_partitions(str(recordings.name)) if key in rec_ids]
        result = (
            build_definitions(profile)
            .resolve_job_def(INGEST_JOB)
            .execute_in_process(
                instance=instance,
                run_config=_QUIET,
                raise_on_error=False,
                tags={
                    "dagster/asset_partition_range_start": keys[0],
                    "dagster/asset_partition_range_end": keys[-1],
                    "ursa/trigger": trigger,
                },
            )
        )
        items = {item.rec_id: item for item in result.output_for_node("recording.register").items}
    return [items[rec_id] for rec_id in rec_ids]
