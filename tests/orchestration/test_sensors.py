"""The sensors that look at the sources: they report what has settled, say what waits, and launch nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml

from tests.lab import Lab
from tests.recordings_on_disk import set_age, write_recording
from tests.snapshot import snapshot
from ursa_pipelines.errors import ProfileInvalid, SourceUnavailable
from ursa_pipelines.orchestration.definitions import build_definitions
from ursa_pipelines.orchestration.resources import UrsaResource, require_profile
from ursa_pipelines.orchestration.sensors import nas_sensor
from ursa_pipelines.profiles import load_profile

FIRST, SECOND, THIRD = (f"rec_20260520_19562{digit}_b1dd" for digit in "123")
FILES = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}


def tick(
    lab: Lab,
    instance: dg.DagsterInstance,
    after: dg.SensorResult | None = None,
    *,
    config: Path | None = None,
    sensor: dg.SensorDefinition | None = None,
) -> dg.SensorResult:
    """One tick of the sensor of `lab.nas`, with what the one before left; adds the partitions it asks for."""
    config = config or lab.config
    sensor = sensor or build_definitions(None, config).resolve_sensor_def("nas_sensor")
    context = dg.build_sensor_context(
        instance=instance,
        cursor=after.cursor if after else None,
        resources={"ursa": UrsaResource(config_path=str(config))},
    )
    result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    assert not result.run_requests
    for request in result.dynamic_partitions_requests or ():
        instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
    return result


def arrivals(result: dg.SensorResult) -> dict[str | None, str]:
    """What a tick reported on `nas_recording`: partition and data version."""
    found = {}
    for event in result.asset_events:
        assert event.asset_key == dg.AssetKey("nas_recording")
        assert isinstance(event, dg.AssetMaterialization)
        assert event.tags is not None
        found[event.partition] = event.tags["dagster/data_version"]
    return found


def told(result: dg.SensorResult) -> str:
    """What the tick's page says."""
    assert isinstance(result.skip_reason, dg.SkipReason)
    return str(result.skip_reason.skip_message)


def patient(lab: Lab, **settings: float) -> Path:
    """The lab's profile with other settings."""
    profile = yaml.safe_load(lab.config.read_text())
    profile["settings"] |= settings
    config = lab.config.with_name("patient.yaml")
    config.write_text(yaml.safe_dump(profile))
    return config


def test_a_settled_directory_becomes_a_partition_and_an_arrival(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, SECOND, FILES)
    write_recording(lab.nas, FIRST, FILES)
    (lab.nas / "not_a_recording").mkdir()
    before = snapshot(lab.nas)

    result = tick(lab, instance)

    assert list(arrivals(result)) == [FIRST, SECOND]
    assert instance.get_dynamic_partitions("recordings") == [FIRST, SECOND]
    assert told(result) == "2 recordings, 2 newly settled, 0 waiting"
    assert snapshot(lab.nas) == before


def test_an_arrival_is_reported_once(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    first = tick(lab, instance)

    second = tick(lab, instance, first)

    assert arrivals(first)
    assert arrivals(second) == {}
    assert not second.dynamic_partitions_requests
    assert second.cursor == first.cursor


def test_a_changed_directory_arrives_again_with_another_version(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    write_recording(lab.nas, SECOND, FILES)
    first = tick(lab, instance)
    write_recording(lab.nas, FIRST, {**FILES, "eeg_4559/seg_0000.edf": b"late"})

    second = tick(lab, instance, first)

    assert list(arrivals(second)) == [FIRST]
    assert arrivals(second)[FIRST] != arrivals(first)[FIRST]
    assert not second.dynamic_partitions_requests


def test_the_tick_says_what_waits_and_why(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, {**FILES, "session.lock": b""})
    write_recording(lab.nas, SECOND, {**FILES, "mic/seg_0001.wav.part": b"half"})
    write_recording(lab.nas, THIRD, FILES, manifest=False)

    result = tick(lab, instance, config=patient(lab, reconstruct_after=3600))

    assert arrivals(result) == {}
    assert instance.get_dynamic_partitions("recordings") == []
    assert "3 recordings, 0 newly settled, 3 waiting" in told(result)
    assert f"{FIRST}: session.lock is present: the rig is still recording" in told(result)
    assert f"{SECOND}: mic/seg_0001.wav.part is still being copied" in told(result)
    assert f"{THIRD}: without a manifest for 0 s of 3600 s" in told(result)


def test_a_copy_arrives_once_its_file_has_its_final_name(lab: Lab, instance: dg.DagsterInstance):
    directory = write_recording(lab.nas, FIRST, FILES)
    (directory / "mic/seg_0000.wav").rename(directory / "mic/seg_0000.wav.part")
    waiting = tick(lab, instance)
    (directory / "mic/seg_0000.wav.part").rename(directory / "mic/seg_0000.wav")

    result = tick(lab, instance, waiting)

    assert arrivals(waiting) == {}
    assert list(arrivals(result)) == [FIRST]


def test_a_directory_without_a_manifest_arrives_after_it_was_left_alone(lab: Lab, instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES, manifest=False)
    waiting = tick(lab, instance)
    seen = json.loads(waiting.cursor or "")
    seen[FIRST]["since"] -= 3600

    result = tick(lab, instance, waiting._replace(cursor=json.dumps(seen)))

    assert arrivals(waiting) == {}
    assert list(arrivals(result)) == [FIRST]


def test_a_directory_that_will_be_refused_arrives_so_that_the_refusal_is_seen(lab: Lab, instance: dg.DagsterInstance):
    directory = write_recording(lab.nas, FIRST, FILES)
    (directory / "mic/link.wav").symlink_to("/etc/hostname")
    config = patient(lab, quiet_period=0)

    result = tick(lab, instance, config=config)

    assert list(arrivals(result)) == [FIRST]


@pytest.mark.parametrize("state", ["unmounted", "empty"])
def test_a_source_that_is_not_mounted_is_an_error(state: str, lab: Lab, instance: dg.DagsterInstance):
    shutil.rmtree(lab.nas)
    if state == "empty":
        lab.nas.mkdir()

    with pytest.raises(SourceUnavailable, match="source nas is"):
        tick(lab, instance)

    assert not lab.nas.exists() or not list(lab.nas.iterdir())


def test_what_was_seen_survives_an_unmounted_moment(lab: Lab, instance: dg.DagsterInstance, tmp_path: Path):
    write_recording(lab.nas, FIRST, FILES)
    first = tick(lab, instance)
    lab.nas.rename(tmp_path / "elsewhere")
    with pytest.raises(SourceUnavailable):
        tick(lab, instance, first)
    (tmp_path / "elsewhere").rename(lab.nas)

    assert arrivals(tick(lab, instance, first)) == {}


def test_a_tick_out_of_time_goes_on_where_it_stopped(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (FIRST, SECOND, THIRD):
        write_recording(lab.nas, rec_id, FILES)
    hurried = nas_sensor("nas", load_profile(None, lab.config), tick_seconds=0)

    results: list[dg.SensorResult] = []
    for _ in range(3):
        results.append(tick(lab, instance, results[-1] if results else None, sensor=hurried))

    assert [list(arrivals(result)) for result in results] == [[FIRST], [SECOND], [THIRD]]


def test_a_tick_out_of_time_comes_round_to_every_settled_directory(lab: Lab, instance: dg.DagsterInstance):
    for rec_id in (FIRST, SECOND, THIRD):
        write_recording(lab.nas, rec_id, FILES)
    hurried = nas_sensor("nas", load_profile(None, lab.config), tick_seconds=0)
    result = tick(lab, instance)
    for rec_id in (FIRST, SECOND, THIRD):
        set_age(lab.nas / rec_id, 60)

    again = []
    for _ in range(3):
        result = tick(lab, instance, result, sensor=hurried)
        again += arrivals(result)

    assert again == [FIRST, SECOND, THIRD]


def test_a_sensor_of_another_profile_is_refused(lab: Lab, stored_instance: dg.DagsterInstance):
    write_recording(lab.nas, FIRST, FILES)
    require_profile(stored_instance, "r2")

    with pytest.raises(ProfileInvalid, match="serves the profile 'r2', not 'lab'"):
        tick(lab, stored_instance)
