"""A night as the operator finds it in the morning: a drive, a copy under way, a network that goes and comes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml

from tests.faults.detour import Detour
from tests.faults.proxy import Fault, Refuse
from tests.lab import Lab
from tests.orchestration.launch import QUIET, RECORDING, failures
from tests.recordings_on_disk import set_age, write_recording
from tests.snapshot import snapshot
from tests.webhook import Webhook
from ursa_pipelines.cli.report import make_report
from ursa_pipelines.errors import SourceUnavailable
from ursa_pipelines.maintenance.report_page import render
from ursa_pipelines.orchestration.decisions import retry
from ursa_pipelines.orchestration.definitions import INGEST_JOB, build_definitions
from ursa_pipelines.orchestration.resources import UrsaResource
from ursa_pipelines.orchestration.states import read_histories

SOUND, BARE, COPIED, DAMAGED = (f"rec_20260520_22000{digit}_b1dd" for digit in "1234")
FILES = {"camera_a/seg_0000.mp4": b"video" * 1000, "mic/seg_0000.wav": b"audio" * 100}


@dataclass
class Night:
    """The instance of a lab whose sensors, automation and runs are worked by hand, one after the other."""

    config: Path
    instance: dg.DagsterInstance
    definitions: dg.Definitions
    cursors: dict[str, str | None]

    def tick(self, sensor: str) -> dg.SensorResult:
        """A tick of a sensor, and what the daemon does with its result."""
        resources = {"ursa": UrsaResource(config_path=str(self.config))}
        cursor = self.cursors.get(sensor)
        with dg.build_sensor_context(instance=self.instance, cursor=cursor, resources=resources) as context:
            result = self.definitions.resolve_sensor_def(sensor)(context)
        assert isinstance(result, dg.SensorResult)
        self.cursors[sensor] = result.cursor
        for request in result.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        for event in result.asset_events:
            assert not isinstance(event, dg.AssetCheckEvaluation)
            self.instance.report_runless_asset_event(event)
        return result

    def asked_for(self) -> set[str]:
        """What the automation asks for now."""
        evaluated = dg.evaluate_automation_conditions(
            self.definitions, self.instance, cursor=self.cursors.get("automation")
        )
        self.cursors["automation"] = evaluated.cursor
        return set(evaluated.get_requested_partitions(RECORDING))

    def run(self, rec_ids: set[str]) -> dg.ExecuteInProcessResult:
        """The run over these recordings, of which nothing lies between the first and the last."""
        keys = [key for key in self.instance.get_dynamic_partitions("recordings") if key in rec_ids]
        ends = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
        return self.definitions.resolve_job_def(INGEST_JOB).execute_in_process(
            instance=self.instance,
            run_config=QUIET,
            raise_on_error=False,
            tags=ends if len(keys) > 1 else {"dagster/partition": keys[0]},
        )

    def reconcile(self) -> dict[str, dg.MetadataValue]:
        """The nightly reconciliation; what it shows."""
        result = self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance, run_config=QUIET, asset_selection=[dg.AssetKey("reconciliation")]
        )
        (event,) = result.asset_materializations_for_node("reconciliation")
        return dict(event.metadata)

    def colours(self) -> dict[str, str]:
        """The status of each partition as its page shows it."""
        keys = self.instance.get_dynamic_partitions("recordings")
        recordings = dg.DynamicPartitionsDefinition(name="recordings")
        statuses = self.instance.get_status_by_partition(RECORDING, keys, recordings) or {}
        return {key: status.value for key, status in statuses.items() if status}


@pytest.fixture
def night(lab: Lab, detour: Detour, webhook: Webhook, instance: dg.DagsterInstance) -> Night:
    """Everything goes through the proxy of `detour`; what is quiet at all has settled."""
    profile = yaml.safe_load(detour.config.read_text())
    profile["settings"] |= {"quiet_period": 0, "reconstruct_after": 0}
    profile["notifications"] = {"webhook": webhook.url, "announce_from": 3}
    detour.config.write_text(yaml.safe_dump(profile))
    (lab.nas / "README.txt").write_text("mounted\n")
    night = Night(detour.config, instance, build_definitions(None, detour.config), {})
    assert night.asked_for() == set()
    return night


def test_a_night_ends_with_everything_registered_but_what_needs_a_person(
    night: Night, lab: Lab, detour: Detour, webhook: Webhook, tmp_path: Path
):
    (lab.usb / "README.txt").unlink()
    with pytest.raises(SourceUnavailable):
        night.tick("usb_sensor")

    # The drive is plugged in; one recording is still being copied onto it.
    write_recording(lab.usb, SOUND, FILES)
    write_recording(lab.usb, BARE, FILES | {"mic/seg_0000.wav": b"other"}, manifest=False)
    write_recording(lab.usb, COPIED, FILES | {"mic/seg_0000.wav": b"copied"})
    under_way = (lab.usb / COPIED / "mic" / "seg_0000.wav").rename(lab.usb / COPIED / "mic" / "seg_0000.wav.part")
    damaged = write_recording(lab.usb, DAMAGED, FILES | {"mic/seg_0000.wav": b"whole"}) / "mic" / "seg_0000.wav"
    damaged.write_bytes(b"wrong")
    set_age(lab.usb / DAMAGED, 3600)
    drive = snapshot(lab.usb)
    night.tick("usb_sensor")
    told = night.tick("usb_sensor").skip_reason
    assert told is not None
    assert f"{COPIED}: mic/seg_0000.wav.part is still being copied" in str(told)

    # The network is away when the recordings that have settled are taken up.
    detour.proxy.fault = Refuse(".", 503, "SlowDown")
    evening = night.run(night.asked_for())
    assert not evening.success
    assert night.colours() == dict.fromkeys((SOUND, BARE, DAMAGED), "FAILED")
    assert all(history.may_be_retried for history in read_histories(night.instance).values())
    assert lab.data.list_recordings() == []
    detour.proxy.fault = Fault()

    # It comes back; the copy is finished.
    under_way.rename(under_way.with_suffix(""))
    assert snapshot(lab.usb) != drive
    drive = snapshot(lab.usb)
    night.tick("usb_sensor")
    assert night.asked_for() == {COPIED}
    assert night.run({COPIED}).success

    # The reconciliation takes up what failed for a passing reason; what is damaged fails for good, and is set aside.
    night.reconcile()
    due = night.asked_for()
    assert due == {SOUND, BARE, DAMAGED}
    (reason,) = failures(night.run(due)).values() or ("",)
    assert night.colours() == {SOUND: "MATERIALIZED", BARE: "MATERIALIZED", COPIED: "MATERIALIZED", DAMAGED: "FAILED"}
    assert damaged.name in reason
    night.reconcile()
    assert night.asked_for() == set()
    assert read_histories(night.instance)[DAMAGED].is_held
    morning = night.reconcile()
    assert {row.rec_id for row in lab.data.list_recordings()} == {SOUND, BARE, COPIED}
    assert (morning["registered"].value, morning["quarantined"].value) == (3, 1)
    assert sum(DAMAGED in text and "Quarantined" in text for text in webhook.texts) == 1

    page = render(make_report(lab.data, night.instance))
    assert "1 quarantined" in page
    assert DAMAGED in page
    assert "The copy is damaged" in page

    # Somebody mends the file and says so.
    assert snapshot(lab.usb) == drive
    damaged.write_bytes(b"whole")
    set_age(lab.usb / DAMAGED, 3600)
    night.tick("usb_sensor")
    assert night.asked_for() == set()
    retry(lab.interface(writes=False), night.instance, [DAMAGED])
    assert night.asked_for() == {DAMAGED}
    assert night.run({DAMAGED}).success
    assert night.reconcile()["registered"].value == 4
    lab.check_invariants()
