"""The ingest job run in this process, on the instance that the UI shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg

from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.orchestration.assets import RECORDINGS_PER_RUN
from ursa_pipelines.orchestration.definitions import INGEST_JOB, build_definitions
from ursa_pipelines.orchestration.partitions import add_partitions, partitions_in_order
from ursa_pipelines.orchestration.resources import require_profile
from ursa_pipelines.profiles import load_profile

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def ingest_in_process(
    instance: dg.DagsterInstance,
    profile: str | None,
    config_path: Path | None,
    rec_ids: Collection[str],
    *,
    tags: Mapping[str, str],
    tell: Callable[[Sequence[BatchItem]], None] = lambda items: None,
) -> list[BatchItem]:
    """Adds the partitions that are missing, runs the job over these and no other, and returns how far each came.

    Runs cover at most `RECORDINGS_PER_RUN` partitions each and are kept in the instance; `tell` hears of each when it
    has ended. Ctrl-C ends the run under way, and none follows.
    """
    require_profile(instance, load_profile(profile, config_path))
    job = build_definitions(profile, config_path).resolve_job_def(INGEST_JOB)
    items: dict[str, BatchItem] = {}
    add_partitions(instance, rec_ids)
    for keys in contiguous(partitions_in_order(instance), rec_ids, RECORDINGS_PER_RUN):
        result = job.execute_in_process(
            instance=instance, run_config=_QUIET, raise_on_error=False, tags={**tags, **_partition_tags(keys)}
        )
        if _is_interrupted(result):
            raise KeyboardInterrupt
        came = _items(result, keys)
        items.update((item.rec_id, item) for item in came)
        tell(came)
    return [items[rec_id] for rec_id in rec_ids]


def contiguous(order: Sequence[str], chosen: Collection[str], most: int) -> Iterator[list[str]]:
    """The chosen keys in the order of the partitions, cut wherever one between them is not chosen, and after `most`.

    A run's range takes in every partition between its ends in the order in which they were added.
    """
    wanted = set(chosen)
    keys: list[str] = []
    for key in order:
        if keys and (key not in wanted or len(keys) == most):
            yield keys
            keys = []
        if key in wanted:
            keys.append(key)
    if keys:
        yield keys


def _partition_tags(keys: Sequence[str]) -> dict[str, str]:
    if len(keys) == 1:
        return {"dagster/partition": keys[0]}
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}


def _is_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether Ctrl-C ended the run, which Dagster only tells as a failure."""
    failures = (event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_FAILURE)
    errors = (event.step_failure_data.error for event in failures)
    return any(error is not None and error.cls_name == dg.DagsterExecutionInterruptedError.__name__ for error in errors)


def _items(result: dg.ExecuteInProcessResult, keys: Sequence[str]) -> list[BatchItem]:
    try:
        return list(result.output_for_node("recording.register").items)
    except dg.DagsterInvariantViolationError:
        reason = f"run {result.run_id} failed before it came to the recordings. Look at its log in the Dagster UI."
        return [BatchItem(key, state="failed", reason=f"{key}: {reason}", error_type="RunFailed") for key in keys]
