"""The assets: two external sources of recordings, and the recording itself as bytes and rows."""

from __future__ import annotations

import warnings

import dagster as dg

from ursa_pipelines.orchestration import ops
from ursa_pipelines.orchestration.partitions import recordings

RECORDINGS_PER_RUN = 100

nas_recording = dg.AssetSpec(
    "nas_recording",
    partitions_def=recordings,
    group_name="sources",
    kinds={"nas"},
    description="A recording directory on a mounted NAS or USB drive. Sensors report it when it has settled.",
)
r2_recording = dg.AssetSpec(
    "r2_recording",
    partitions_def=recordings,
    group_name="sources",
    kinds={"r2"},
    description="A recording's bytes in the raw bucket that did not come through here.",
)

# `eager()` would never fire for a recording that only one of the two sources has. `since_last_handled()` would forget
# what arrives while the recording is being ingested, or between a request and the tick after it.
_arrival = dg.AutomationCondition.newly_missing() | dg.AutomationCondition.any_deps_updated()
_handled = dg.AutomationCondition.initial_evaluation() | (dg.AutomationCondition.newly_requested() & ~_arrival)
on_arrival = (_arrival.since(_handled) & ~dg.AutomationCondition.in_progress()).with_label("on arrival")


def _agreement() -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        # Checks on partitions are a preview in Dagster 1.13; an operator can do nothing about that.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(
            ops.CHECK,
            asset=ops.RECORDING,
            partitions_def=recordings,
            description="The catalog's rows, the manifests and the objects in the bucket say the same.",
        )


@dg.graph_asset(
    name="recording",
    partitions_def=recordings,
    backfill_policy=dg.BackfillPolicy.multi_run(RECORDINGS_PER_RUN),
    group_name="ingest",
    kinds={"r2"},
    automation_condition=on_arrival,
    check_specs=[_agreement()],
    ins={
        "nas_recording": dg.AssetIn("nas_recording", dagster_type=dg.Nothing),
        "r2_recording": dg.AssetIn("r2_recording", dagster_type=dg.Nothing),
    },
    description="A recording whose bytes are proved to be in the bucket and whose rows are in the catalog.",
)
def recording(nas_recording, r2_recording):
    discovered = ops.discover(nas_recording=nas_recording, r2_recording=r2_recording)
    registered = ops.register(ops.upload(ops.reconstruct_manifest(ops.hash_unattested(discovered))))
    return {
        "result": ops.report(registered),
        f"recording_{ops.CHECK}": ops.rows_and_objects_agree(registered),
    }
