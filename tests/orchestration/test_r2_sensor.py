"""The sensor of the raw bucket: what rigs put there arrives once, and what we put there does not echo."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.orchestration.ticks import arrivals, cursor_of, later, patient, quarantined, tick, told
from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.ingest.batch import Batch, BatchItem
from ursa_pipelines.ingest.sources import directories_of
from ursa_pipelines.orchestration.definitions import INGEST_JOB, build_definitions
from ursa_pipelines.orchestration.partitions import RECORDING
from ursa_pipelines.orchestration.states import Mark

TODAY = datetime.now(UTC)
FIRST, SECOND = (f"rec_{TODAY:%Y%m%d}_00000{digit}_b1dd" for digit in "12")
CAMERA, MIC = "camera_a/seg_0000.mp4", "mic/seg_0000.wav"
FILES = {CAMERA: b"video", MIC: b"audio"}


@pytest.fixture
def config(lab: Lab) -> Path:
    """The lab's profile, in which a complete recording has settled at once, and nothing else within an hour."""
    return patient(lab, quiet_period=0, reconstruct_after_bucket=3600)


def look(lab: Lab, instance: dg.DagsterInstance, config: Path, after: dg.SensorResult | None = None) -> dg.SensorResult:
    return tick(lab, instance, after, config=config, name="r2_sensor")


def reported(result: dg.SensorResult) -> list[str | None]:
    return list(arrivals(result, "r2_recording"))


def make_hasty(config: Path) -> None:
    """From now on whatever is there has settled."""
    config.write_text(config.read_text().replace("reconstruct_after_bucket: 3600", "reconstruct_after_bucket: 0"))


def test_what_a_rig_uploaded_arrives_once(lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path):
    for rec_id in (SECOND, FIRST):
        upload_as_rig(lab, write_recording(tmp_path, rec_id, FILES))

    first = look(lab, instance, config)
    second = look(lab, instance, config, first)

    assert reported(first) == [FIRST, SECOND]
    assert instance.get_dynamic_partitions("recordings") == [FIRST, SECOND]
    assert first.asset_events[0].metadata["dagster/uri"].value == f"r2://{lab.raw.name}/recordings/{FIRST}/"
    assert reported(second) == []
    assert told(second) == "2 recordings, 0 newly settled, 0 waiting"


def test_looking_writes_nothing(lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path):
    upload_as_rig(lab, write_recording(tmp_path, FIRST, FILES))
    before = lab.everything()

    look(lab, instance, config)

    assert lab.everything() == before


@pytest.mark.parametrize("path", ["A", "B", "C+A"])
def test_what_is_registered_does_not_arrive(
    path: str, lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path
):
    directory = write_recording(tmp_path, FIRST, FILES, manifest=path != "C+A", participant="Aria Lin")
    if path == "B":
        upload_as_rig(lab, directory)
        lab.data.ingest_from_r2(FIRST)
    else:
        lab.data.ingest(source_dir=directory)
    make_hasty(config)

    result = look(lab, instance, config)

    assert reported(result) == []
    assert told(result) == "1 recordings, 0 newly settled, 0 waiting"


def test_what_is_registered_with_another_start_does_not_arrive(
    lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path
):
    document = manifest_of(FIRST, FILES)
    past = {"started_at": "2020-01-01T00:00:00Z", "ended_at": "2020-01-01T00:01:00Z"}
    files = [one | past for one in document["files"]]
    lab.data.ingest(source_dir=write_recording(tmp_path, FIRST, FILES, manifest={**past, "files": files}))
    make_hasty(config)

    assert reported(look(lab, instance, config)) == []


def test_an_upload_of_ours_does_not_echo_at_any_step(lab: Lab, instance: dg.DagsterInstance, config: Path):
    write_recording(lab.nas, FIRST, FILES)
    batch = Batch(lab.data.ingest_context(), lambda rec_id: directories_of(rec_id, lab.data.sources))
    result, items = None, [BatchItem(FIRST)]

    seen = []
    for step in ("discover", "hash", "reconstruct_manifest", "upload", "register"):
        items = batch.step(step, items)
        result = look(lab, instance, config, result)
        seen.append(told(result))

        assert reported(result) == []

    assert items[0].state == "registered"
    assert f"{FIRST}: uploaded from here, not registered yet" in seen[3]
    assert seen[4] == "1 recordings, 0 newly settled, 0 waiting"


def test_what_we_uploaded_and_never_registered_arrives_in_the_end(lab: Lab, instance: dg.DagsterInstance, config: Path):
    write_recording(lab.nas, FIRST, FILES)
    batch = Batch(lab.data.ingest_context(), lambda rec_id: directories_of(rec_id, lab.data.sources))
    batch.step("upload", [BatchItem(FIRST)])
    waiting = look(lab, instance, config)
    make_hasty(config)

    assert reported(waiting) == []
    assert reported(look(lab, instance, config, waiting)) == [FIRST]


def test_an_upload_under_way_waits_and_says_why(lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path):
    directory = write_recording(tmp_path, FIRST, FILES)
    upload_as_rig(lab, directory, except_for="manifest.json")
    without_manifest = look(lab, instance, config)
    lab.raw.create(f"recordings/{FIRST}/manifest.json", (directory / "manifest.json").read_bytes())

    assert reported(without_manifest) == []
    assert f"{FIRST}: no manifest yet, quiet for" in told(without_manifest)
    assert reported(look(lab, instance, config, without_manifest)) == [FIRST]


def test_what_has_no_manifest_arrives_once_it_is_left_alone(
    lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path
):
    upload_as_rig(lab, write_recording(tmp_path, FIRST, FILES, manifest=False))
    make_hasty(config)
    open_upload = {"Bucket": lab.raw.name, "Key": f"recordings/{FIRST}/eeg_4559/seg_0000.edf"}
    upload_id = lab.raw.multipart_client.create_multipart_upload(**open_upload)["UploadId"]

    being_sent = look(lab, instance, config)
    lab.raw.multipart_client.abort_multipart_upload(**open_upload, UploadId=upload_id)

    assert reported(being_sent) == []
    assert f"{FIRST}: no manifest yet, and a file is being sent in parts" in told(being_sent)
    assert reported(look(lab, instance, config, being_sent)) == [FIRST]


def test_listed_files_that_are_missing_are_waited_for(
    lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path
):
    upload_as_rig(lab, write_recording(tmp_path, FIRST, FILES), except_for=MIC)

    waiting = look(lab, instance, config)
    lab.raw.create(f"recordings/{FIRST}/{MIC}", FILES[MIC])

    assert f"{FIRST}: 1 of 2 listed files are not there yet, quiet for" in told(waiting)
    assert reported(look(lab, instance, config, waiting)) == [FIRST]


def test_a_broken_manifest_arrives_so_that_the_refusal_is_seen(lab: Lab, instance: dg.DagsterInstance, config: Path):
    lab.raw.create(f"recordings/{FIRST}/{MIC}", FILES[MIC])
    lab.raw.create(f"recordings/{FIRST}/manifest.json", b"{")

    assert reported(look(lab, instance, config)) == [FIRST]


def test_a_late_half_of_a_registered_recording_arrives(
    lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path
):
    lab.data.ingest(source_dir=write_recording(lab.nas, FIRST, {MIC: b"audio"}, node="green-mantis"))
    first = look(lab, instance, config)
    late = {"eeg_4559/seg_0000.edf": b"eeg"}
    half = write_recording(tmp_path, FIRST, late, manifest=False)
    upload_as_rig(lab, half)
    waiting = look(lab, instance, config, first)
    half_manifest = write_recording(tmp_path / "manifest", FIRST, late, node="green-motor") / "manifest.json"
    lab.raw.create(f"recordings/{FIRST}/_node_manifests/green-motor.json", half_manifest.read_bytes())

    arrived = look(lab, instance, config, waiting)

    assert reported(first) == reported(waiting) == []
    assert f"{FIRST}: 1 files are there that no manifest lists" in told(waiting)
    assert reported(arrived) == [FIRST]
    assert lab.data.ingest_from_r2(FIRST).outcome == "changed"
    assert reported(look(lab, instance, config, arrived)) == []


def test_older_recordings_are_left_to_the_reconciliation(
    lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path
):
    days = {days: f"rec_{TODAY - timedelta(days=days):%Y%m%d}_000000_b1dd" for days in (6, 9)}
    for rec_id in days.values():
        upload_as_rig(lab, write_recording(tmp_path, rec_id, FILES))

    assert reported(look(lab, instance, config)) == [days[6]]


def test_what_never_settles_is_quarantined_and_passed_by_until_a_retry(
    lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path
):
    upload_as_rig(lab, write_recording(tmp_path, FIRST, FILES, manifest=False))
    waiting = look(lab, instance, config)

    held = look(lab, instance, config, later(waiting, 90_000))
    make_hasty(config)
    still_held = look(lab, instance, config, held)
    instance.report_runless_asset_event(Mark(FIRST, "retried", by="somebody").observation())

    assert list(quarantined(held)) == [FIRST]
    assert reported(still_held) == []
    assert cursor_of(still_held)["held"] == [FIRST]
    assert reported(look(lab, instance, config, still_held)) == [FIRST]


def test_it_needs_no_role_that_writes(
    lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    upload_as_rig(lab, write_recording(tmp_path, FIRST, FILES))
    config.write_text(config.read_text().replace("family: local", "family: test"))
    roles = []
    bucket = DataInterface._bucket

    def opened(self: DataInterface, role):
        roles.append(role)
        return bucket(self, role)

    monkeypatch.setattr(DataInterface, "_bucket", opened)

    assert reported(look(lab, instance, config)) == [FIRST]
    assert set(roles) == {"assets_ro", "raw_ro"}


def test_a_recording_is_not_reported_while_an_ingest_of_it_runs(
    lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path
):
    upload_as_rig(lab, write_recording(tmp_path, FIRST, FILES))
    instance.add_dynamic_partitions("recordings", [FIRST])
    run = instance.create_run_for_job(
        build_definitions(None, config).resolve_job_def(INGEST_JOB),
        tags={"dagster/partition": FIRST},
        asset_selection={RECORDING},
        status=dg.DagsterRunStatus.STARTED,
    )

    waiting = look(lab, instance, config)
    instance.report_run_failed(run)

    assert reported(waiting) == []
    assert f"{FIRST}: an ingest of it is running" in told(waiting)
    assert reported(look(lab, instance, config, waiting)) == [FIRST]


def test_what_a_killed_ingest_left_in_the_bucket_is_no_arrival(
    lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path
):
    directory = write_recording(lab.usb, FIRST, FILES)
    tick(lab, instance, config=config, name="usb_sensor")
    upload_as_rig(lab, directory, except_for="manifest.json")
    directory.rename(tmp_path / FIRST)
    make_hasty(config)

    waiting = look(lab, instance, config)
    lab.raw.create(f"recordings/{FIRST}/manifest.json", (tmp_path / FIRST / "manifest.json").read_bytes())

    assert reported(waiting) == []
    assert f"{FIRST}: was seen on usb; its upload has not been finished" in told(waiting)
    assert reported(look(lab, instance, config, later(waiting, 90_000))) == [FIRST]


def test_no_more_than_fit_among_the_waiting_are_put_off(
    lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ursa_pipelines.orchestration.sensors.rounds.WAITING_AT_MOST", 1)
    for rec_id in (FIRST, SECOND):
        upload_as_rig(lab, write_recording(tmp_path, rec_id, FILES))
        instance.report_runless_asset_event(Mark(rec_id, "failed", "the line broke", retryable=True).observation())

    waiting = look(lab, instance, config)

    assert reported(waiting) == []
    assert list(cursor_of(waiting)["waiting"]) == [FIRST]


def test_what_a_failed_ingest_left_in_the_bucket_is_no_arrival(
    lab: Lab, instance: dg.DagsterInstance, config: Path, tmp_path: Path
):
    upload_as_rig(lab, write_recording(tmp_path, FIRST, FILES))
    instance.add_dynamic_partitions("recordings", [FIRST])
    instance.report_runless_asset_event(Mark(FIRST, "failed", "the line broke", retryable=True).observation())

    waiting = look(lab, instance, config)

    assert reported(waiting) == []
    assert f"{FIRST}: its ingest failed" in told(waiting)
    assert quarantined(look(lab, instance, config, later(waiting, 90_000))) == {}
