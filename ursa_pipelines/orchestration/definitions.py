"""One `Definitions` per profile. A code location serves exactly one profile (DESIGN section 8)."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from ursa_pipelines.orchestration.assets import external_assets, recording_asset
from ursa_pipelines.orchestration.resources import UrsaResource
from ursa_pipelines.orchestration.sensors import automation_sensor, nas_sensor
from ursa_pipelines.profiles import load_profile

INGEST_JOB = "ingest"


def build_definitions(profile: str | None, config_path: Path | None = None) -> dg.Definitions:
    """Assets, job, sensors and the resource for a profile. Reads the profile's YAML, no secret and no network."""
    loaded = load_profile(profile, config_path)
    recording = recording_asset(loaded)
    return dg.Definitions(
        assets=[*external_assets(loaded), recording],
        jobs=[
            dg.define_asset_job(
                INGEST_JOB,
                selection=[recording],
                description="Ingests the chosen recordings: discover, hash, reconstruct, upload, register, report.",
            )
        ],
        sensors=[*(nas_sensor(source.name, loaded) for source in loaded.sources), automation_sensor(loaded)],
        resources={"ursa": UrsaResource(profile=profile, config_path=str(config_path) if config_path else None)},
        executor=dg.in_process_executor,
    )
