"""Rows that people or other programs changed after the ingest, and an ingest that meets them."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import StorageFormat
from ursa_pipelines.errors import ObjectsMissing

REC = "rec_20260520_195628_b1dd"
FILES = {"mic/seg_0000.wav": b"audio", "mic/seg_0001.wav": b"more audio"}


def test_a_participant_can_be_added_to_a_recording_without_an_end(lab: Lab):
    row = lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES, manifest=False)).recording
    assert row.ended_at is None

    merged = lab.data.register_recording(
        recording_hash=row.recording_hash,
        start_time=row.start_time,
        duration=timedelta(0),
        metadata={"manifest_recording_id": REC},
        participant_ids=["p_0123456789abcdef"],
        on_conflict="merge_participants",
    )

    assert merged.participant_ids == ["p_0123456789abcdef"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_ingest_again_keeps_a_modality_that_was_processed_since(lab: Lab, overwrite: bool):
    directory = write_recording(lab.nas, REC, FILES)
    row = lab.data.ingest(source_dir=directory).recording
    (raw,) = lab.data.list_modalities({"recording_hash": row.recording_hash})
    processed = lab.data.register_modality(
        recording_hash=row.recording_hash,
        modality="mic",
        format=StorageFormat.ZARR,
        raw_storage_uri=raw.raw_storage_uri,
        storage_uri=f"r2://{lab.assets.name}/virgo/{row.recording_hash}/mic.zarr",
        ingestion_status="processed",
        on_conflict="overwrite",
    )

    lab.data.ingest(source_dir=directory, overwrite=overwrite)

    assert lab.data.list_modalities({"recording_hash": row.recording_hash}) == [processed]


def test_a_lost_segment_is_not_replaced_by_a_stray_object_when_downloaded(lab: Lab, tmp_path):
    row = lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES)).recording
    lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=f"recordings/{REC}/mic/seg_0001.wav")
    lab.raw.create(f"recordings/{REC}/mic/stray.wav", b"stray")

    with pytest.raises(ObjectsMissing, match=r"seg_0001\.wav"):
        lab.data.download(lab.data.query(recording_hash=row.recording_hash), tmp_path / "out")


def test_a_name_given_as_an_id_is_refused_without_being_repeated(lab: Lab):
    row = lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES)).recording

    with pytest.raises(ValidationError) as caught:
        lab.data.register_recording(
            recording_hash=row.recording_hash,
            start_time=row.start_time,
            duration=row.duration,
            participant_ids=["Aria Lin"],
        )

    assert "Aria" not in str(caught.value)
