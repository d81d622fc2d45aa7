"""Path B: bytes and manifest are in the bucket, only the rows are missing (runbook, Path B)."""

from __future__ import annotations

import json

import pytest

from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.errors import ManifestInvalid, ManifestNotFound, ObjectsMissing, SourceNotFound, WritesNotEnabled
from ursa_pipelines.recordings.identity import derive_participant_id

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10, "eeg_4559/seg_0000.edf": b"eeg"}


def test_rows_are_written_for_bytes_that_a_rig_uploaded(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES))

    result = lab.data.ingest_from_r2(rec_id=REC)

    assert (result.path, result.outcome) == ("B", "created")
    assert (result.files_uploaded, result.files_skipped, result.bytes_uploaded) == (0, 3, 0)
    assert result.recording is not None
    assert result.recording.rec_id == REC
    lab.check_invariants()


def test_path_b_writes_the_rows_that_path_a_would_write(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    upload_as_rig(lab, directory)
    by_size = lab.data.ingest_from_r2(rec_id=REC).recording

    by_bytes = lab.data.ingest(source_dir=directory)

    assert by_size is not None
    assert by_bytes.recording is not None
    assert by_size.metadata | {"verification": "sha256"} == by_bytes.recording.metadata
    assert by_bytes.recording == by_size.model_copy(update={"metadata": by_bytes.recording.metadata})
    assert lab.data.ingest(source_dir=directory).outcome == "unchanged"


def test_path_b_needs_only_assets_rw_and_leaves_the_raw_bucket_as_it_is(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, participant="Aria Lin"))
    before = {info.key: info.etag for info in lab.raw.list_objects("")}
    data = DataInterface(config_path=lab.config)
    data.enable_writes()

    data.ingest_from_r2(rec_id=REC)

    assert {info.key: info.etag for info in lab.raw.list_objects("")} == before
    assert [row.rec_id for row in data.list_recordings()] == [REC]


def test_path_b_without_enabled_writes_is_refused(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES))

    with pytest.raises(WritesNotEnabled):
        lab.interface(writes=False).ingest_from_r2(rec_id=REC)

    assert lab.data.list_recordings() == []


def test_a_missing_object_is_named_and_nothing_is_written(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    upload_as_rig(lab, directory, except_for="eeg_4559/seg_0000.edf")
    before = lab.everything()

    with pytest.raises(ObjectsMissing, match=r"eeg_4559/seg_0000\.edf") as caught:
        lab.data.ingest_from_r2(rec_id=REC)

    assert caught.value.recording == REC
    assert "Path A" in caught.value.remedy
    assert lab.everything() == before


def test_an_object_of_another_size_is_named_and_nothing_is_written(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    upload_as_rig(lab, directory, except_for="mic/seg_0000.wav")
    lab.raw.create(f"recordings/{REC}/mic/seg_0000.wav", b"audio")
    before = lab.everything()

    with pytest.raises(ObjectsMissing, match=r"mic/seg_0000\.wav"):
        lab.data.ingest_from_r2(rec_id=REC)

    assert lab.everything() == before


def test_node_manifests_alone_are_enough(lab: Lab):
    host = {"camera_a/seg_0000.mp4": FILES["camera_a/seg_0000.mp4"], "mic/host_0000.wav": b"host"}
    motor = {"eeg_4559/seg_0000.edf": b"eeg", "mic/motor_0000.wav": b"motor!"}
    nodes = {
        f"_node_manifests/{node}.json": json.dumps(manifest_of(REC, files, node=node)).encode()
        for node, files in (("green-mantis", host), ("green-motor", motor))
    }
    upload_as_rig(lab, write_recording(lab.nas, REC, host | motor | nodes, manifest=False))

    row = lab.data.ingest_from_r2(rec_id=REC).recording

    assert row is not None
    assert row.metadata is not None
    assert row.metadata["nodes"] == ["green-mantis", "green-motor"]
    (mic,) = lab.data.list_modalities({"recording_hash": row.recording_hash, "modality": "mic"})
    assert (mic.segment_count, mic.bytes) == (2, 10)
    assert mic.metadata == {"nodes": ["green-mantis", "green-motor"]}
    lab.check_invariants()


def test_the_manifests_participant_is_never_read(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest={"participant": "Somebody Else"}))

    row = lab.data.ingest_from_r2(rec_id=REC).recording

    assert row is not None
    assert row.participant_ids == []
    assert lab.data.list_participants() == []


def test_the_participant_argument_goes_before_participant_txt(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, participant="Typed On The Rig"))

    row = lab.data.ingest_from_r2(rec_id=REC, participant="Aria Lin").recording

    assert row is not None
    assert row.participant_ids == [derive_participant_id("Aria Lin")]
    (participant,) = lab.data.list_participants()
    assert participant.metadata == {"display_name": "Aria Lin"}


def test_participant_txt_in_the_bucket_counts_without_the_argument(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, participant="Aria Lin"))

    row = lab.data.ingest_from_r2(rec_id=REC).recording

    assert row is not None
    assert row.participant_ids == [derive_participant_id("Aria Lin")]


def test_the_row_says_that_only_sizes_were_compared(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES))

    row = lab.data.ingest_from_r2(rec_id=REC).recording

    assert row is not None
    assert row.metadata is not None
    assert (row.metadata["verification"], row.metadata["ingested_from"]) == ("size", "r2")


def test_a_recording_without_manifest_is_sent_to_path_c(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest=False))

    with pytest.raises(ManifestNotFound, match="ursa reconstruct"):
        lab.data.ingest_from_r2(rec_id=REC)

    assert lab.data.list_recordings() == []


def test_a_stub_counts_as_no_manifest(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest={"files": []}))

    with pytest.raises(ManifestNotFound):
        lab.data.ingest_from_r2(rec_id=REC)

    assert lab.data.list_recordings() == []


def test_a_recording_that_is_nowhere_is_not_found(lab: Lab):
    with pytest.raises(SourceNotFound, match=REC):
        lab.data.ingest_from_r2(rec_id=REC)


def test_a_bad_manifest_in_the_bucket_is_refused_by_its_key(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest={"files": [{"path": "../x", "size_bytes": 1}]}))
    before = lab.everything()

    with pytest.raises(ManifestInvalid, match=rf"recordings/{REC}/manifest.json: files\[0\].path"):
        lab.data.ingest_from_r2(rec_id=REC)

    assert lab.everything() == before
