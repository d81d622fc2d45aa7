"""What the bucket has already is proved, not assumed, and what the directory lacks may be there (DESIGN section 4)."""

from __future__ import annotations

import json

import pytest

from tests.faults.detour import Detour
from tests.ingest.rig import stored, upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, recording_hash_of, write_recording
from ursa_pipelines.errors import ObjectConflict, RecordingConflict, RecordingIncomplete

REC = "rec_20260520_195628_b1dd"
CAMERA, MIC, EEG = "camera_a/seg_0000.mp4", "mic/seg_0000.wav", "eeg_4559/seg_0000.edf"
FILES = {CAMERA: b"video" * 100, MIC: b"audio" * 10, EEG: b"eeg" * 10}


def test_bytes_that_a_rig_uploaded_are_proved_and_not_sent_again(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    upload_as_rig(lab, directory, except_for=MIC)
    before = lab.objects(REC)

    result = lab.data.ingest(source_dir=directory)

    assert (result.files_uploaded, result.files_skipped, result.bytes_uploaded) == (1, 2, len(FILES[MIC]))
    assert result.verification == "sha256"
    assert before.items() <= lab.objects(REC).items()
    lab.check_invariants()


def test_after_a_verified_upload_the_marker_proves_the_files_without_a_request_for_each(lab: Lab, detour: Detour):
    directory = write_recording(lab.nas, REC, FILES)
    lab.data.ingest(source_dir=directory)

    result = detour.interface().ingest(source_dir=directory)

    assert (result.files_uploaded, result.files_skipped, result.outcome) == (0, 3, "unchanged")
    assert [sent.request for sent in detour.proxy.seen if "/seg_0000" in sent.request] == []


def test_without_a_marker_the_stated_digest_proves_a_file_without_reading_it(lab: Lab, detour: Detour):
    directory = write_recording(lab.nas, REC, FILES)
    for path, content in FILES.items():
        (file,) = manifest_of(REC, {path: content})["files"]
        lab.raw.create(f"recordings/{REC}/{path}", content, sha256=file["sha256"])

    result = detour.interface().ingest(source_dir=directory)

    asked = {sent.request.partition(" ")[0] for sent in detour.proxy.seen if "/seg_0000" in sent.request}
    assert (result.files_skipped, asked) == (3, {"HEAD"})


@pytest.mark.parametrize("manifest", [True, False], ids=["attested", "without a manifest"])
def test_fault_61_an_object_of_the_same_size_with_other_bytes_is_a_conflict(lab: Lab, manifest: bool):
    theirs = lab.raw.create(f"recordings/{REC}/{MIC}", b"AUDIO" * 10)
    directory = write_recording(lab.nas, REC, FILES, manifest=manifest)

    with pytest.raises(ObjectConflict, match=r"mic/seg_0000\.wav"):
        lab.data.ingest(source_dir=directory)

    assert lab.data.list_recordings() == []
    assert lab.objects(REC)[MIC] == theirs.etag
    assert "manifest.json" not in lab.objects(REC)
    assert list(lab.raw.list_objects("manifests/")) == []


def test_a_rigs_marker_is_no_evidence_and_stays(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    theirs = lab.raw.create(f"manifests/{REC}/manifest.json", (directory / "manifest.json").read_bytes())
    lab.raw.create(f"recordings/{REC}/{MIC}", b"AUDIO" * 10)

    with pytest.raises(ObjectConflict):
        lab.data.ingest(source_dir=directory)

    assert [info.etag for info in lab.raw.list_objects("manifests/")] == [theirs.etag]


def test_our_marker_goes_beside_a_rigs(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    theirs = lab.raw.create(f"manifests/{REC}/manifest.json", (directory / "manifest.json").read_bytes())

    lab.data.ingest(source_dir=directory)

    markers = {info.key: info.etag for info in lab.raw.list_objects("manifests/")}
    assert markers.keys() == {f"manifests/{REC}/manifest.json", f"manifests/{REC}/ursa_pipelines.json"}
    assert markers[f"manifests/{REC}/manifest.json"] == theirs.etag
    again = lab.interface().ingest(source_dir=directory)
    assert (again.files_skipped, again.outcome) == (3, "unchanged")


def test_fault_27_a_file_that_no_manifest_lists_is_kept_in_a_supplement(lab: Lab):
    listed = {path: FILES[path] for path in (CAMERA, MIC)}
    directory = write_recording(lab.nas, REC, FILES, manifest=manifest_of(REC, listed, stated_hash=True))

    result = lab.data.ingest(source_dir=directory)

    assert result.files_uploaded == 3
    assert stored(lab, REC, "manifest.json") == (directory / "manifest.json").read_bytes()
    supplement = json.loads(stored(lab, REC, "_node_manifests/green-mantis.json"))
    assert supplement["reconstruction"]["added_files"] == [EEG]
    (added,) = supplement["files"]
    (expected,) = manifest_of(REC, {EEG: FILES[EEG]})["files"]
    assert (added["path"], added["sha256"]) == (EEG, expected["sha256"])
    assert "recording_hash" not in supplement
    assert result.recording is not None
    assert result.recording.recording_hash == recording_hash_of(listed)
    assert {row.modality for row in lab.data.list_modalities()} == {"camera", "mic", "eeg"}
    lab.check_invariants()
    before = lab.everything()
    assert lab.interface().ingest(source_dir=directory).outcome == "unchanged"
    assert lab.everything() == before


def test_a_file_that_came_after_the_first_ingest_is_added(lab: Lab):
    listed = {path: FILES[path] for path in (CAMERA, MIC)}
    directory = write_recording(lab.nas, REC, listed)
    first = lab.data.ingest(source_dir=directory).recording
    write_recording(lab.nas, REC, {EEG: FILES[EEG]}, manifest=False)

    late = lab.interface().ingest(source_dir=directory)

    assert (late.outcome, late.files_uploaded, late.files_skipped) == ("changed", 1, 2)
    assert first is not None
    assert late.recording is not None
    assert late.recording.recording_hash == first.recording_hash
    assert {row.modality for row in lab.data.list_modalities()} == {"camera", "mic", "eeg"}
    lab.check_invariants()


def test_a_listed_file_that_only_the_bucket_has_is_no_loss(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    upload_as_rig(lab, directory, except_for=MIC)
    (directory / CAMERA).unlink()

    result = lab.data.ingest(source_dir=directory)

    assert (result.files_uploaded, result.files_skipped) == (1, 1)
    assert {row.modality for row in lab.data.list_modalities()} == {"camera", "mic", "eeg"}
    lab.check_invariants()


def test_a_listed_file_of_which_the_bucket_has_other_bytes_is_a_conflict(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    (directory / CAMERA).unlink()
    lab.raw.create(f"recordings/{REC}/{CAMERA}", b"VIDEO" * 100)

    with pytest.raises(ObjectConflict, match=r"camera_a/seg_0000\.mp4"):
        lab.data.ingest(source_dir=directory)

    assert lab.data.list_recordings() == []


@pytest.mark.parametrize("in_bucket", [None, b"video"], ids=["nowhere", "there in another size"])
def test_a_listed_file_that_is_nowhere_makes_the_recording_incomplete(lab: Lab, in_bucket: bytes | None):
    directory = write_recording(lab.nas, REC, FILES)
    (directory / CAMERA).unlink()
    if in_bucket is not None:
        lab.raw.create(f"recordings/{REC}/{CAMERA}", in_bucket)
    before = lab.everything()

    with pytest.raises(RecordingIncomplete, match=r"camera_a/seg_0000\.mp4"):
        lab.data.ingest(source_dir=directory)

    assert lab.everything() == before


def test_allow_partial_ingests_what_is_there_and_a_later_ingest_adds_the_rest(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    camera = (directory / CAMERA).rename(lab.usb / "kept.mp4")

    partial = lab.data.ingest(source_dir=directory, allow_partial=True)

    assert partial.files_uploaded == 2
    assert {row.modality for row in lab.data.list_modalities()} == {"mic", "eeg"}
    assert list(lab.raw.list_objects("manifests/")) == []

    camera.rename(directory / CAMERA)
    whole = lab.interface().ingest(source_dir=directory)

    assert (whole.outcome, whole.files_uploaded, whole.files_skipped) == ("changed", 1, 2)
    assert {row.modality for row in lab.data.list_modalities()} == {"camera", "mic", "eeg"}
    assert len(list(lab.raw.list_objects("manifests/"))) == 1
    lab.check_invariants()


def test_a_copy_whose_file_the_buckets_manifest_lists_with_other_bytes_is_a_conflict(lab: Lab):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    copy = write_recording(lab.usb, REC, FILES | {MIC: b"AUDIO" * 10}, manifest=False)
    before = lab.everything()

    with pytest.raises(RecordingConflict, match=r"mic/seg_0000\.wav"):
        lab.data.ingest(source_dir=copy)

    assert lab.everything() == before


def test_clutter_is_neither_uploaded_nor_listed(lab: Lab):
    clutter = {".DS_Store": b"x", "mic/._seg_0000.wav": b"x", "Thumbs.db": b"x", "@eaDir/mic/x.jpg": b"x"}
    directory = write_recording(lab.nas, REC, FILES | clutter, manifest=False)

    result = lab.data.ingest(source_dir=directory)

    assert result.files_uploaded == len(FILES)
    assert set(lab.objects(REC)) == {*FILES, "manifest.json"}


def test_fault_22_an_empty_file_is_uploaded_and_attested(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES | {"notes/empty.jsonl": b""}, manifest=False)

    lab.data.ingest(source_dir=directory)

    assert stored(lab, REC, "notes/empty.jsonl") == b""
    lab.check_invariants()
