"""Sensors that only discover, and the one that launches.

A NAS sensor adds partitions and reports settled arrivals on `nas_recording`; it launches nothing. The automation
sensor turns arrivals into backfills of `recording` (DESIGN section 8).
"""

import json
import time
from collections.abc import Iterable
from typing import Any

import dagster as dg

from ursa_pipelines.embedded.sources import ensure_local_sources
from ursa_pipelines.ingest.sources import Source, list_recordings
from ursa_pipelines.ingest.watch import Arrival, look_at
from ursa_pipelines.orchestration.partitions import PARTITIONS_PER_REQUEST, arrival_asset, recordings
from ursa_pipelines.orchestration.resources import UrsaResource, require_profile
from ursa_pipelines.profiles import Profile

_TICK_SECONDS = 20.0
_REASONS_SHOWN = 20


def nas_sensor(source_name: str, profile: Profile, *, tick_seconds: float = _TICK_SECONDS) -> dg.SensorDefinition:
    """The sensor of one source of the profile. On `local` it runs from the start, elsewhere once it is turned on.

    A tick looks at directories for `tick_seconds`, at one at least; the cursor holds what was seen of each, the one
    looked at longest ago first.
    """
    is_local = profile.family == "local"

    @dg.sensor(
        name=f"{source_name}_sensor",
        minimum_interval_seconds=5 if is_local else 30,
        default_status=dg.DefaultSensorStatus.RUNNING if is_local else dg.DefaultSensorStatus.STOPPED,
        description=f"Reports recordings that have settled on the source {source_name}. Launches nothing.",
    )
    def _sensor(context: dg.SensorEvaluationContext, ursa: UrsaResource):
        data = ursa.data()
        require_profile(context.instance, data.profile.name)
        if is_local:
            ensure_local_sources(data.sources)
        source = next(one for one in data.sources if one.name == source_name)
        cursor: dict[str, dict[str, Any]] = json.loads(context.cursor) if context.cursor else {}
        seen = {rec_id: Arrival.from_cursor(item) for rec_id, item in cursor.items()}
        found = list_recordings(source)
        there = set(found)
        looked_at = dict(_look(source, found, seen, data.profile, tick_seconds))
        in_turn = {rec_id: one for rec_id, one in seen.items() if rec_id in there and rec_id not in looked_at}
        kept = in_turn | looked_at
        arrived = sorted(rec_id for rec_id, one in looked_at.items() if one.settled and one != seen.get(rec_id))
        waiting = [f"{rec_id}: {one.reason}" for rec_id, one in sorted(kept.items()) if not one.settled]
        known = set(context.instance.get_dynamic_partitions(str(recordings.name)))
        new = [rec_id for rec_id in arrived if rec_id not in known]
        return dg.SensorResult(
            cursor=json.dumps({rec_id: one.to_cursor() for rec_id, one in kept.items()}),
            dynamic_partitions_requests=[
                recordings.build_add_request(new[start : start + PARTITIONS_PER_REQUEST])
                for start in range(0, len(new), PARTITIONS_PER_REQUEST)
            ],
            asset_events=[
                dg.AssetMaterialization(
                    arrival_asset(source_name),
                    partition=rec_id,
                    tags={"dagster/data_version": looked_at[rec_id].fingerprint},
                    metadata={"directory": dg.MetadataValue.path(str(source.root / rec_id))},
                )
                for rec_id in arrived
            ],
            skip_reason=_told(found, arrived, waiting),
        )

    return _sensor


def automation_sensor(profile: Profile) -> dg.AutomationConditionSensorDefinition:
    """The only sensor that launches: it evaluates the condition of `recording`."""
    is_local = profile.family == "local"
    return dg.AutomationConditionSensorDefinition(
        "ingest_automation",
        target=["recording"],
        minimum_interval_seconds=5 if is_local else 30,
        default_status=dg.DefaultSensorStatus.RUNNING if is_local else dg.DefaultSensorStatus.STOPPED,
        run_tags={"ursa/trigger": "arrival"},
        description="Launches an ingest of recordings that arrived or changed.",
    )


def _look(
    source: Source, found: list[str], seen: dict[str, Arrival], profile: Profile, seconds: float
) -> Iterable[tuple[str, Arrival]]:
    """Looks at directories until the tick's time is up; the rest wait for the next.

    New ones go first, then those that wait, then the settled ones; of each kind, the one looked at longest ago.
    """
    turn = {rec_id: (1 + one.settled, position) for position, (rec_id, one) in enumerate(seen.items())}
    deadline = time.monotonic() + seconds
    for rec_id in sorted(found, key=lambda rec_id: turn.get(rec_id, (0, 0))):
        yield (
            rec_id,
            look_at(
                source.root / rec_id,
                seen.get(rec_id),
                now=time.time(),
                quiet_period=profile.settings.quiet_period,
                reconstruct_after=profile.settings.reconstruct_after,
            ),
        )
        if time.monotonic() >= deadline:
            return


def _told(found: list[str], arrived: list[str], waiting: list[str]) -> str:
    told = f"{len(found)} recordings, {len(arrived)} newly settled, {len(waiting)} waiting"
    more = f"; and {len(waiting) - _REASONS_SHOWN} more" if len(waiting) > _REASONS_SHOWN else ""
    return "; ".join([told, *waiting[:_REASONS_SHOWN]]) + more
