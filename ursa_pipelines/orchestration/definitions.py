"""One `Definitions` per profile. A code location serves exactly one profile (DESIGN section 8)."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from ursa_pipelines.orchestration.assets import external_assets, recording_asset
from ursa_pipelines.orchestration.catalog_asset import (
    CATALOG_JOB,
    catalog,
    catalog_schedules,
    tables_agree,
    tail_is_short,
)
from ursa_pipelines.orchestration.jobs import REGISTER_ONLY_JOB, jobs
from ursa_pipelines.orchestration.notices import notices_sensors
from ursa_pipelines.orchestration.reconciliation import NIGHTLY_JOB, nightly_schedule, reconciliation
from ursa_pipelines.orchestration.resources import UrsaResource
from ursa_pipelines.orchestration.scrub import scrub_job, scrub_schedule
from ursa_pipelines.orchestration.sensors import automation_sensor, nas_sensor, r2_sensor
from ursa_pipelines.orchestration.sites import ALONE, require_site, sites_of
from ursa_pipelines.profiles import load_profile

INGEST_JOB = "ingest"

RUN_SECONDS = 24 * 3600
"""After which a run of the ingest is ended by Dagster's run monitoring."""


def build_definitions(profile: str | None, config_path: Path | None = None) -> dg.Definitions:
    """Assets, job, sensors and the resource for a profile. Reads the profile's YAML, no secret and no network.

    The sensors of sources that are mounted at a site only are in `build_site_definitions`.
    """
    loaded = load_profile(profile, config_path)
    recording = recording_asset(loaded)
    return dg.Definitions(
        assets=[*external_assets(loaded), recording, catalog, reconciliation],
        asset_checks=[tail_is_short, tables_agree],
        jobs=[
            dg.define_asset_job(
                INGEST_JOB,
                selection=[recording],
                tags={"dagster/max_runtime": RUN_SECONDS},
                description="Ingests the chosen recordings: discover, hash, reconstruct, upload, register, report.",
            ),
            dg.define_asset_job(
                CATALOG_JOB,
                selection=[catalog],
                tags={ALONE: "upkeep"},
                description="Brings the catalog's tables up to date, and checks them.",
            ),
            dg.define_asset_job(
                NIGHTLY_JOB,
                selection=[reconciliation, catalog],
                tags={ALONE: "upkeep"},
                description="Compares sources, bucket and catalog, reports what is due, and folds the tables.",
            ),
            *jobs(),
            scrub_job,
        ],
        schedules=[
            *catalog_schedules(loaded),
            nightly_schedule(loaded),
            *(nightly_schedule(loaded, site) for site in sites_of(loaded)),
            scrub_schedule(loaded),
        ],
        sensors=[
            *(nas_sensor(source.name, loaded) for source in loaded.sources if not source.site),
            r2_sensor(loaded),
            automation_sensor(loaded),
            *notices_sensors(loaded, {INGEST_JOB, REGISTER_ONLY_JOB}),
        ],
        resources=_resources(profile, config_path),
        executor=dg.in_process_executor,
    )


def build_site_definitions(profile: str | None, config_path: Path | None, site: str) -> dg.Definitions:
    """What a site's own code server serves: the sensors of the sources that are mounted there, and nothing else.

    Raises `ProfileInvalid` if no source of the profile is at this site.
    """
    loaded = load_profile(profile, config_path)
    require_site(loaded, site)
    return dg.Definitions(
        sensors=[nas_sensor(source.name, loaded) for source in loaded.sources if source.site == site],
        resources=_resources(profile, config_path),
    )


def _resources(profile: str | None, config_path: Path | None) -> dict[str, UrsaResource]:
    return {"ursa": UrsaResource(profile=profile, config_path=str(config_path) if config_path else None)}
