"""The only sensor that launches."""

from __future__ import annotations

import dagster as dg

from ursa_pipelines.orchestration.resources import BY_ARRIVAL, TRIGGER
from ursa_pipelines.profiles import Profile


def automation_sensor(profile: Profile) -> dg.AutomationConditionSensorDefinition:
    """It evaluates the condition of `recording`. On `local` it runs from the start, elsewhere once it is turned on."""
    is_local = profile.family == "local"
    return dg.AutomationConditionSensorDefinition(
        "ingest_automation",
        target=["recording"],
        minimum_interval_seconds=5 if is_local else 30,
        default_status=dg.DefaultSensorStatus.RUNNING if is_local else dg.DefaultSensorStatus.STOPPED,
        run_tags={TRIGGER: BY_ARRIVAL},
        description="Launches an ingest of recordings that arrived or changed: one backfill for many of them. While "
        "it is off, arrivals are kept, and ingested once it is turned on.",
    )
