"""The assets: external sources of recordings, and the recording itself as bytes and rows."""

from __future__ import annotations

import inspect

import dagster as dg

from ursa_pipelines.orchestration import checks, ops
from ursa_pipelines.orchestration.partitions import R2_RECORDING, RECORDING, arrival_asset, recordings
from ursa_pipelines.orchestration.sites import sites_of
from ursa_pipelines.profiles import Profile

RECORDINGS_PER_RUN = 100

# `eager()` would never fire for a recording that only one of the sources has. `since_last_handled()` would forget
# what arrives while the recording is being ingested, or between a request and the tick after it.
_arrival = dg.AutomationCondition.newly_missing() | dg.AutomationCondition.any_deps_updated()
_handled = dg.AutomationCondition.newly_requested() & ~_arrival
on_arrival = (_arrival.since(_handled) & ~dg.AutomationCondition.in_progress()).with_label("on arrival or change")


def external_assets(profile: Profile) -> list[dg.AssetSpec]:
    """What sensors report arrivals on: one asset per source of the profile, and one for the raw bucket."""
    return [
        *(
            dg.AssetSpec(
                arrival_asset(source.name),
                partitions_def=recordings,
                group_name="sources",
                kinds={"filesystem", source.name},
                description=f"A recording directory on the source {source.name}. Its sensor reports it once it has "
                "settled, and again when it has changed.",
            )
            for source in profile.sources
        ),
        dg.AssetSpec(
            R2_RECORDING,
            partitions_def=recordings,
            group_name="sources",
            kinds={"r2"},
            description="A recording's bytes in the raw bucket that did not come through here.",
        ),
    ]


def recording_asset(profile: Profile) -> dg.AssetsDefinition:
    """The partitioned asset `recording`: the ops in their order, downstream of every source."""
    sources = [*(arrival_asset(source.name) for source in profile.sources), R2_RECORDING]
    names = [key.to_python_identifier() for key in sources]
    discover = ops.make_discover(names)

    def recording(**arrivals):
        registered = ops.register(ops.upload(ops.reconstruct_manifest(ops.hash_unattested(discover(**arrivals)))))
        verdicts = ops.check(registered)
        return {
            "result": ops.report(registered),
            **{f"recording_{name}": getattr(verdicts, name) for name in checks.NAMES},
        }

    # Dagster reads the inputs of a graph off its function, and each profile has sources of its own.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    recording.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
    return dg.graph_asset(
        name=RECORDING.to_python_identifier(),
        partitions_def=recordings,
        # A run goes to one site, and a range of partitions may have recordings of several.
        backfill_policy=dg.BackfillPolicy.multi_run(1 if sites_of(profile) else RECORDINGS_PER_RUN),
        group_name="ingest",
        kinds={"r2"},
        automation_condition=on_arrival,
        config=_settings(),
        check_specs=checks.check_specs(),
        ins={name: dg.AssetIn(key, dagster_type=dg.Nothing) for name, key in zip(names, sources, strict=True)},
        description="A recording whose bytes are proved to be in the bucket and whose rows are in the catalog. "
        "A red partition failed: its newest event under Events says why and what to do, and so does the run. Mend it, "
        "then re-execute the run from failure, or materialize the partition again.",
    )(recording)


def _settings() -> dg.ConfigMapping:
    """Lets the launch dialog take the settings as those of the asset, where their help texts show."""
    return dg.ConfigMapping(
        config_fn=lambda settings: {"discover": {"config": settings}},
        config_schema=ops.IngestConfig.to_config_schema(),
    )
