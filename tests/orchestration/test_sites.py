"""A source that only some hosts mount: its runs go there, and read nothing that is elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest
import yaml

from tests.lab import Lab
from tests.orchestration.launch import RECORDING, make_job, materializations
from tests.recordings_on_disk import write_recording
from ursa_pipelines.errors import ProfileInvalid, UrsaError
from ursa_pipelines.orchestration.definitions import build_definitions, build_site_definitions
from ursa_pipelines.orchestration.partitions import R2_RECORDING, arrival_asset
from ursa_pipelines.orchestration.sites import CENTRAL, SITE, SiteRunCoordinator, site_tags
from ursa_pipelines.profiles import load_profile

HERE, THERE, BUCKET_ONLY = "rec_20260520_195628_b1dd", "rec_20260521_195628_b1dd", "rec_20260522_195628_b1dd"
RETRIED_WHOLE = {"dagster/retry_strategy": "ALL_STEPS", "dagster/retry_on_asset_or_op_failure": "false"}


@pytest.fixture
def config(lab: Lab) -> Path:
    """The lab's profile, its NAS at the site lab1 and its USB drive at lab2."""
    document = yaml.safe_load(lab.config.read_text())
    for source, site in zip(document["sources"], ("lab1", "lab2"), strict=True):
        source["site"] = site
    config = lab.config.with_name("sites.yaml")
    config.write_text(yaml.safe_dump(document))
    return config


def arrive(instance: dg.DagsterInstance, source: str | None, *rec_ids: str) -> None:
    instance.add_dynamic_partitions("recordings", list(rec_ids))
    for rec_id in rec_ids:
        asset = arrival_asset(source) if source else R2_RECORDING
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=rec_id))


def queued(instance: dg.DagsterInstance, config: Path, job: str = "ingest", **tags: str) -> dict[str, str]:
    """The tags that a run with these tags is given before it is queued."""
    tags = {name.replace("__", "/"): value for name, value in tags.items()}
    definition = build_definitions(None, config).resolve_job_def(job)
    run = instance.create_run_for_job(definition, tags=tags)
    return site_tags(instance, load_profile(None, config), run)


def test_a_run_goes_to_the_site_where_its_recording_arrived_last(instance: dg.DagsterInstance, config: Path) -> None:
    arrive(instance, None, HERE, THERE, BUCKET_ONLY)
    arrive(instance, "nas", HERE, THERE)
    arrive(instance, "usb", THERE)

    assert queued(instance, config, dagster__partition=HERE) == {
        SITE: "lab1",
        "dagster-celery/queue": "lab1",
        **RETRIED_WHOLE,
    }
    assert queued(instance, config, dagster__partition=THERE)["dagster-celery/queue"] == "lab2"
    assert queued(instance, config, dagster__partition=BUCKET_ONLY)[SITE] == CENTRAL
    # A backfill says it with a range of one.
    one = {"dagster__asset_partition_range_start": HERE, "dagster__asset_partition_range_end": HERE}
    assert queued(instance, config, **one)[SITE] == "lab1"
    # Somebody has said where.
    assert queued(instance, config, dagster__partition=HERE, ursa__site="lab2")["dagster-celery/queue"] == "lab2"


def test_a_tag_that_names_no_site_is_refused(instance: dg.DagsterInstance, config: Path) -> None:
    with pytest.raises(ProfileInvalid, match="no source is at the site 'lab3'"):
        queued(instance, config, dagster__partition=HERE, ursa__site="lab3")


def test_a_sites_night_waits_for_no_other_sites(config: Path) -> None:
    nights = {one.name: one for one in build_definitions(None, config).schedules or () if "nightly" in one.name}  # type: ignore[union-attr]
    assert {name: one.tags.get("ursa/alone") for name, one in nights.items()} == {  # type: ignore[union-attr]
        "nightly": None,
        "nightly_lab1": "upkeep-lab1",
        "nightly_lab2": "upkeep-lab2",
    }


def test_what_reads_no_source_goes_to_no_site(instance: dg.DagsterInstance, config: Path) -> None:
    arrive(instance, "nas", HERE)
    for job in ("verify", "register_only"):
        tags = queued(instance, config, job, dagster__partition=HERE)
        assert tags[SITE] == CENTRAL and tags["dagster-celery/queue"] == "dagster"
    assert queued(instance, config, "fold")[SITE] == CENTRAL


def test_a_run_over_recordings_of_several_sites_is_refused(instance: dg.DagsterInstance, config: Path) -> None:
    arrive(instance, "nas", HERE)
    arrive(instance, "usb", THERE)
    both = {"dagster__asset_partition_range_start": HERE, "dagster__asset_partition_range_end": THERE}
    with pytest.raises(UrsaError, match="several sites: lab1, lab2"):
        queued(instance, config, **both)
    policy = build_definitions(None, config).resolve_assets_def(RECORDING).backfill_policy
    assert policy is not None and policy.max_partitions_per_run == 1


def test_a_profile_without_sites_changes_no_run(instance: dg.DagsterInstance, lab: Lab) -> None:
    arrive(instance, "nas", HERE)
    assert queued(instance, lab.config, dagster__partition=HERE) == {}
    policy = build_definitions(None, lab.config).resolve_assets_def(RECORDING).backfill_policy
    assert policy is not None and policy.max_partitions_per_run == 100


def test_the_coordinator_of_the_deployed_settings_tags_what_it_queues(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "dagster.yaml").read_text())
    settings["run_coordinator"]["config"]["config_path"] = str(config)
    del settings["run_coordinator"]["config"]["profile"]
    del settings["storage"], settings["run_launcher"]
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        arrive(instance, "usb", THERE)
        job = build_definitions(None, config).resolve_job_def("ingest")
        run = instance.create_run_for_job(job, tags={"dagster/partition": THERE})
        coordinator = instance.run_coordinator
        assert isinstance(coordinator, SiteRunCoordinator)
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None and queue.max_concurrent_runs == -1 and len(queue.tag_concurrency_limits) == 2
        # Only a run that a code location was asked for can be queued.
        monkeypatch.setattr(dg.QueuedRunCoordinator, "submit_run", lambda self, asked: asked.dagster_run)
        coordinator.submit_run(dg.SubmitRunContext(run, workspace=None))  # type: ignore[arg-type]
        stored = instance.get_run_by_id(run.run_id)
        assert stored is not None and stored.tags[SITE] == stored.tags["dagster-celery/queue"] == "lab2"
        assert instance.run_monitoring_enabled and instance.run_retries_enabled
        assert not instance.run_retries_retry_on_asset_or_op_failure


def test_a_run_at_a_site_reads_what_is_mounted_there_and_nothing_else(
    lab: Lab, instance: dg.DagsterInstance, config: Path
) -> None:
    write_recording(lab.nas, HERE, {"mic/seg_0.wav": b"here"})
    # It would fail, were it looked at.
    write_recording(lab.usb, HERE, {"mic/seg_0.wav": b"something else"})
    instance.add_dynamic_partitions("recordings", [HERE])
    done = make_job(str(config)).execute_in_process(
        instance=instance, tags={"dagster/partition": HERE, SITE: "lab1"}, raise_on_error=False
    )
    assert done.success
    (made,) = materializations(instance, HERE)
    assert made.metadata["files"].value == 1


def test_a_run_of_no_site_registers_from_the_bucket_though_no_source_is_mounted(
    lab: Lab, instance: dg.DagsterInstance, config: Path
) -> None:
    directory = write_recording(lab.nas, BUCKET_ONLY, {"mic/seg_0.wav": b"from a rig"})
    for path in ("mic/seg_0.wav", "manifest.json"):
        lab.raw.create(f"recordings/{BUCKET_ONLY}/{path}", (directory / path).read_bytes())
    document = yaml.safe_load(config.read_text())
    for source in document["sources"]:
        source["path"] += "-not-mounted-here"
    config.write_text(yaml.safe_dump(document))
    instance.add_dynamic_partitions("recordings", [BUCKET_ONLY])
    done = make_job(str(config)).execute_in_process(
        instance=instance, tags={"dagster/partition": BUCKET_ONLY, SITE: CENTRAL}, raise_on_error=False
    )
    assert done.success
    (made,) = materializations(instance, BUCKET_ONLY)
    assert made.metadata["path"].value == "B"


def test_the_nightly_run_of_a_site_finds_what_lies_there_and_misses_no_other_source(
    lab: Lab, instance: dg.DagsterInstance, config: Path
) -> None:
    write_recording(lab.nas, HERE, {"mic/seg_0.wav": b"here"})
    document = yaml.safe_load(config.read_text())
    document["sources"][1]["path"] += "-not-mounted-here"
    config.write_text(yaml.safe_dump(document))
    definitions = build_definitions(None, config)
    nightly = definitions.resolve_schedule_def("nightly_lab1")
    assert nightly.tags[SITE] == "lab1" and definitions.resolve_schedule_def("nightly").tags[SITE] == CENTRAL
    done = definitions.resolve_job_def("nightly").execute_in_process(
        instance=instance, tags={SITE: "lab1"}, raise_on_error=False
    )
    assert done.success
    (told,) = [
        event.asset_materialization.metadata
        for event in instance.fetch_materializations(dg.AssetKey("reconciliation"), limit=1).records
        if event.asset_materialization
    ]
    assert told["on_sources"].value == {"nas": 1} and told["sources_unavailable"].value == {}
    assert told["arrivals"].value == 1


def test_halves_at_two_sites_become_one_recording_and_rest_then(
    lab: Lab, instance: dg.DagsterInstance, config: Path
) -> None:
    write_recording(lab.nas, HERE, {"mic/seg_0.wav": b"one half"}, node="green", stated_hash=True)
    first = lab.nas / HERE / "manifest.json"
    stated = json.loads(first.read_text())["recording_hash"]
    write_recording(lab.usb, HERE, {"eeg_a/seg_0.edf": b"the other"}, manifest={"recording_hash": stated}, node="blue")
    instance.add_dynamic_partitions("recordings", [HERE])
    definitions = build_definitions(None, config)
    for site in ("lab1", "lab2"):
        tags = {"dagster/partition": HERE, SITE: site}
        assert make_job(str(config)).execute_in_process(instance=instance, tags=tags, raise_on_error=False).success
    (row,) = lab.data.list_recordings()
    assert {one.modality for one in lab.data.list_modalities()} == {"mic", "eeg"}
    assert set((row.metadata or {})["nodes"]) == {"green", "blue"}
    for site in ("lab1", "lab2"):
        nightly = definitions.resolve_job_def("nightly")
        assert nightly.execute_in_process(instance=instance, tags={SITE: site}, raise_on_error=False).success
        (told,) = instance.fetch_materializations(dg.AssetKey("reconciliation"), limit=1).records
        assert told.asset_materialization is not None
        assert told.asset_materialization.metadata["arrivals"].value == 0, site


def test_a_sites_code_location_has_the_sensors_of_its_sources_only(config: Path) -> None:
    central = {sensor.name for sensor in build_definitions(None, config).sensors or ()}
    assert "r2_sensor" in central and not central & {"nas_sensor", "usb_sensor"}
    assert [sensor.name for sensor in build_site_definitions(None, config, "lab2").sensors or ()] == ["usb_sensor"]
    with pytest.raises(ProfileInvalid, match="no source is at the site 'lab3'; the profile names lab1, lab2"):
        build_site_definitions(None, config, "lab3")


@pytest.mark.parametrize("site", ["central", "dagster", "Lab 1", "1lab", "-"])
def test_a_name_that_is_no_sites_is_refused(config: Path, site: str) -> None:
    config.write_text(config.read_text().replace("site: lab1", f"site: {json.dumps(site)}"))
    with pytest.raises(ProfileInvalid, match="site"):
        load_profile(None, config)
