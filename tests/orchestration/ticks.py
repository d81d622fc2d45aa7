"""Ticks of the sensors that discover, without a daemon, and what they come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from tests.lab import Lab
from ursa_pipelines.orchestration.definitions import build_definitions
from ursa_pipelines.orchestration.resources import UrsaResource


def tick(
    lab: Lab,
    instance: dg.DagsterInstance,
    after: dg.SensorResult | None = None,
    *,
    config: Path | None = None,
    sensor: dg.SensorDefinition | None = None,
    name: str = "nas_sensor",
) -> dg.SensorResult:
    """One tick with the cursor that the one before left; does what the daemon does with what it asks for."""
    config = config or lab.config
    sensor = sensor or build_definitions(None, config).resolve_sensor_def(name)
    with dg.build_sensor_context(
        instance=instance,
        cursor=after.cursor if after else None,
        resources={"ursa": UrsaResource(config_path=str(config))},
    ) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    assert not result.run_requests
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    for request in result.dynamic_partitions_requests or ():
        instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
    return result


def arrivals(result: dg.SensorResult, asset: str = "nas_recording") -> dict[str | None, str]:
    """What a tick reported as arrived, in its order: partition and data version."""
    found = {}
    for event in result.asset_events:
        if isinstance(event, dg.AssetMaterialization):
            assert event.asset_key == dg.AssetKey(asset)
            assert event.tags is not None
            found[event.partition] = event.tags["dagster/data_version"]
    return found


def quarantined(result: dg.SensorResult) -> dict[str | None, str]:
    """What a tick quarantined: partition and reason."""
    marks = [event for event in result.asset_events if isinstance(event, dg.AssetObservation)]
    assert all(event.metadata["mark"].value == "quarantined" for event in marks)
    return {event.partition: str(event.metadata["reason"].value) for event in marks}


def told(result: dg.SensorResult) -> str:
    """What the tick's page says."""
    assert isinstance(result.skip_reason, dg.SkipReason)
    return str(result.skip_reason.skip_message)


def cursor_of(result: dg.SensorResult) -> dict[str, Any]:
    return json.loads(result.cursor or "")


def later(result: dg.SensorResult, seconds: float) -> dg.SensorResult:
    """The tick as if everything waited for so many seconds more, and was looked at all the while."""
    return _earlier(result, seconds, "since", "first_seen")


def after_a_pause(result: dg.SensorResult, seconds: float) -> dg.SensorResult:
    """The tick as if it and those before had been so many seconds earlier, and none since."""
    return _earlier(result, seconds, "since", "first_seen", "looked_at")


def _earlier(result: dg.SensorResult, seconds: float, *times: str) -> dg.SensorResult:
    cursor = cursor_of(result)
    for one in cursor["waiting"].values():
        one.update({time: one[time] - seconds for time in times})
    return result._replace(cursor=json.dumps(cursor))


def patient(lab: Lab, **settings: float) -> Path:
    """The lab's profile with other settings."""
    profile = yaml.safe_load(lab.config.read_text())
    profile["settings"] |= settings
    config = lab.config.with_name("patient.yaml")
    config.write_text(yaml.safe_dump(profile))
    return config
