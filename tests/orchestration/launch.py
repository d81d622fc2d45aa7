"""Runs of the ingest job as an operator launches them, and what they left in the Dagster instance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from ursa_pipelines.orchestration.definitions import INGEST_JOB, build_definitions
from ursa_pipelines.orchestration.resources import BY_ARRIVAL, TRIGGER

RECORDING = dg.AssetKey("recording")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def make_job(config: str) -> dg.JobDefinition:
    """The ingest job of a profile's YAML, with a resource of its own, as a fresh process has it."""
    return build_definitions(None, Path(config)).resolve_job_def(INGEST_JOB)


def launch(
    config: Path,
    instance: dg.DagsterInstance,
    *rec_ids: str,
    run_config: dict[str, Any] | None = None,
    by_arrival: bool = False,
) -> dg.ExecuteInProcessResult:
    """Adds the partitions and runs the job over them, in one run, as a person or as the automation launches it.

    Returns the result, failed or not.
    """
    return make_job(str(config)).execute_in_process(
        instance=instance,
        run_config={**QUIET, **(run_config or {})},
        tags=_partitions(instance, rec_ids) | ({TRIGGER: BY_ARRIVAL} if by_arrival else {}),
        raise_on_error=False,
    )


def launch_stored(
    config: Path, instance: dg.DagsterInstance, *rec_ids: str, again: dg.ReexecutionOptions | None = None
) -> dg.JobExecutionResult:
    """As `launch`, with outputs of ops stored below the instance's directory, or re-executes such a run."""
    job = dg.build_reconstructable_job(__name__, make_job.__name__, (str(config),))
    tags = _partitions(instance, rec_ids) if rec_ids else None
    return dg.execute_job(job, instance, run_config=QUIET, tags=tags, reexecution_options=again)


def materializations(instance: dg.DagsterInstance, rec_id: str) -> list[dg.AssetMaterialization]:
    """Of the partition of `recording`, newest first."""
    wanted = dg.AssetRecordsFilter(asset_key=RECORDING, asset_partitions=[rec_id])
    records = instance.fetch_materializations(wanted, limit=100).records
    return [record.asset_materialization for record in records if record.asset_materialization]


def marks(instance: dg.DagsterInstance, rec_id: str) -> list[dict[str, Any]]:
    """What runs and people have noted of the recording, newest first."""
    wanted = dg.AssetRecordsFilter(asset_key=RECORDING, asset_partitions=[rec_id])
    records = instance.fetch_observations(wanted, limit=100).records
    return [values(record.asset_observation.metadata) for record in records if record.asset_observation]


def values(metadata: Any) -> dict[str, Any]:
    """Dagster's metadata as plain values."""
    return {name: value.value for name, value in metadata.items()}


def evaluations(result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> list[dg.AssetCheckEvaluation]:
    """What a run's checks found, in order."""
    return [
        event.asset_check_evaluation_data
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]


def verdicts(result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> dict[str | None, set[str]]:
    """The checks that did not pass, by each partition that was checked; None stands for the whole batch."""
    evaluated = evaluations(result)
    checks = {"rows_match_manifest", "objects_present", "participant_known", "modalities_complete"}
    whole = None if any(one.partition is None for one in evaluated) else evaluated[0].partition if evaluated else None
    assert {one.check_name for one in evaluated if one.partition == whole} == (checks if evaluated else set())
    return {
        partition: {one.check_name for one in evaluated if one.partition == partition and not one.passed}
        for partition in {one.partition for one in evaluated}
    }


def shown_table(result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> dict[str, dict[str, Any]]:
    """The table that a run's report shows, by recording."""
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.ASSET_OBSERVATION:
            table = event.asset_observation_data.asset_observation.metadata.get("recordings")
            if table is None:
                continue
            return {str(record.data["recording"]): dict(record.data) for record in table.value.records}
    raise AssertionError("the run shows no table")


def failures(result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> dict[str, str]:
    """Why each failed step failed, as the run's page shows it."""
    told = {}
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            by_us = data.user_failure_data
            told[str(event.step_key)] = (by_us.description if by_us else None) or str(data.error)
    return told


def _partitions(instance: dg.DagsterInstance, rec_ids: Sequence[str]) -> dict[str, str]:
    keys = sorted(rec_ids)
    instance.add_dynamic_partitions("recordings", keys)
    if len(keys) == 1:
        return {"dagster/partition": keys[0]}
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
