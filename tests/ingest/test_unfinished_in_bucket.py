"""A recording whose bytes are still on their way to the bucket is not mistaken for one without a manifest."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.errors import RecordingNotSettled, SourceRefused
from ursa_pipelines.ingest.batch import Batch
from ursa_pipelines.ingest.sources import directories_of

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}


def batch(data: DataInterface) -> Batch:
    return Batch(data.ingest_context(), lambda rec_id: directories_of(rec_id, data.sources))


def test_an_unmounted_source_is_an_error_and_not_the_bucket_alone(lab: Lab):
    lab.raw.create(f"recordings/{REC}/mic/seg_0000.wav", FILES["mic/seg_0000.wav"])
    shutil.rmtree(lab.nas)
    before = lab.everything()

    item = batch(lab.data).run(REC)

    assert (item.status, item.error_type) == ("FAIL", "SourceUnavailable")
    assert lab.everything() == before


def test_the_buckets_copy_without_a_manifest_is_left_alone_until_it_is_quiet(lab: Lab, tmp_path: Path):
    lab.raw.create(f"recordings/{REC}/mic/seg_0000.wav", FILES["mic/seg_0000.wav"])
    profile = yaml.safe_load(lab.config.read_text())
    profile["settings"]["reconstruct_after_bucket"] = 3600
    patient = tmp_path / "patient.yaml"
    patient.write_text(yaml.safe_dump(profile))
    data = DataInterface(config_path=patient)
    data.enable_writes(roles=("assets_rw", "raw_rw"))
    before = lab.everything()

    waiting = batch(data).run(REC)

    assert (waiting.status, waiting.error_type) == ("SKIP", "RecordingNotSettled")
    assert "ursa reconstruct" in waiting.reason
    assert lab.everything() == before
    assert batch(lab.data).run(REC).status == "OK"


def test_an_open_multipart_upload_keeps_a_recording_waiting(lab: Lab):
    lab.raw.create(f"recordings/{REC}/mic/seg_0000.wav", FILES["mic/seg_0000.wav"])
    lab.raw.multipart_client.create_multipart_upload(Bucket=lab.raw.name, Key=f"recordings/{REC}/camera_a/seg_0000.mp4")

    assert batch(lab.data).run(REC).error_type == "RecordingNotSettled"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("session.lock", RecordingNotSettled),
        ("mic/seg_0001.wav.part", RecordingNotSettled),
        ("mic/seg_\u202e.wav", SourceRefused),
    ],
)
def test_nothing_in_the_bucket_is_left_out_of_a_manifest_silently(lab: Lab, name: str, error: type[Exception]):
    lab.raw.create(f"recordings/{REC}/mic/seg_0000.wav", FILES["mic/seg_0000.wav"])
    lab.raw.create(f"recordings/{REC}/{name}", b"more")

    with pytest.raises(error):
        lab.data.reconstruct_manifest(REC)

    assert "manifest.json" not in lab.objects(REC)


def test_a_digest_in_another_form_is_not_believed(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    body = FILES["mic/seg_0000.wav"]
    lab.raw.create(f"recordings/{REC}/mic/seg_0000.wav", body, sha256="A" * 64)

    assert lab.data.ingest(source_dir=directory).files_skipped == 1
    lab.check_invariants()


def test_a_late_half_after_path_b_leaves_nothing_to_write_the_next_time(lab: Lab):
    host = write_recording(lab.nas, REC, {"mic/seg_0000.wav": b"audio"}, node="green-mantis")
    for file in host.rglob("*"):
        if file.is_file():
            lab.raw.create(f"recordings/{REC}/{file.relative_to(host)}", file.read_bytes())
    lab.data.ingest_from_r2(REC)
    motor = write_recording(lab.usb, REC, {"eeg_4559/seg_0000.edf": b"eeg"}, node="green-motor")
    assert lab.data.ingest(source_dir=motor).outcome == "changed"
    before = lab.everything()

    assert lab.data.ingest(source_dir=motor).outcome == "unchanged"
    assert lab.everything() == before
