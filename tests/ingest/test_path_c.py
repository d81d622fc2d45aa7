"""Path C: a recording without a usable manifest gets one, from the directory or in the bucket (runbook, Path C)."""

from __future__ import annotations

import json

import pytest

from tests.ingest.rig import stored, upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, recording_hash_of, write_recording
from tests.snapshot import snapshot
from ursa_pipelines import DataInterface, UploadProgress
from ursa_pipelines.errors import RecordingConflict, RoleNotEnabled, SourceNotFound, WritesNotEnabled

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10, "eeg_4559/seg_0000.edf": b"eeg"}


def test_a_directory_without_manifest_gets_one_in_the_bucket(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, manifest=False, participant="Aria Lin")

    result = lab.data.ingest(source_dir=directory)

    assert (result.path, result.outcome, result.files_uploaded) == ("C+A", "created", 3)
    _check_reconstructed(lab, participant="Aria Lin", reconstructed_participant=False, source="nas")
    assert result.recording is not None
    assert result.recording.recording_hash == recording_hash_of(FILES)
    lab.check_invariants()


def test_bytes_in_the_bucket_get_a_manifest_and_can_then_be_registered(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest=False, participant="Aria Lin"))

    manifest = lab.data.reconstruct_manifest(rec_id=REC)

    assert manifest is not None
    _check_reconstructed(lab, participant="Aria Lin", reconstructed_participant=False, source="r2")
    row = lab.data.ingest_from_r2(rec_id=REC).recording
    assert row is not None
    assert row.recording_hash == recording_hash_of(FILES)
    lab.check_invariants()


@pytest.mark.parametrize("participant", [None, " \t"], ids=["absent", "blank"])
@pytest.mark.parametrize("source", ["nas", "r2"])
def test_without_a_name_the_participant_is_unknown_and_nobody_is_registered(
    lab: Lab, source: str, participant: str | None
):
    directory = write_recording(lab.nas, REC, FILES, manifest=False, participant=participant)
    if source == "nas":
        lab.data.ingest(source_dir=directory)
    else:
        upload_as_rig(lab, directory)
        lab.data.reconstruct_manifest(rec_id=REC)
        lab.data.ingest_from_r2(rec_id=REC)

    _check_reconstructed(lab, participant="__unknown__", reconstructed_participant=True, source=source)
    assert lab.data.list_participants() == []


def test_the_source_directory_is_never_written_to(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, manifest={"files": []}, participant="Aria Lin")
    before = snapshot(directory)

    lab.data.ingest(source_dir=directory)

    assert snapshot(directory) == before


def test_reconstructing_from_a_directory_again_changes_nothing(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, manifest=False, participant="Aria Lin")
    lab.data.ingest(source_dir=directory)
    before = lab.everything()

    again = lab.interface().ingest(source_dir=directory)

    assert (again.outcome, again.files_skipped) == ("unchanged", 3)
    assert lab.everything() == before


def test_a_usable_manifest_in_the_bucket_is_left_alone(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES))
    before = lab.everything()

    assert lab.data.reconstruct_manifest(rec_id=REC) is None

    assert lab.everything() == before


def test_node_manifests_are_usable_manifests(lab: Lab):
    node = {"_node_manifests/green-mantis.json": json.dumps(manifest_of(REC, FILES)).encode()}
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES | node, manifest=False))
    before = lab.everything()

    assert lab.data.reconstruct_manifest(rec_id=REC) is None

    assert lab.everything() == before


def test_reconstructing_in_the_bucket_twice_writes_once(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest=False))
    assert lab.data.reconstruct_manifest(rec_id=REC) is not None
    before = lab.everything()

    assert lab.interface().reconstruct_manifest(rec_id=REC) is None

    assert lab.everything() == before


def test_a_stub_in_the_bucket_is_replaced_by_what_is_reconstructed_there(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest={"files": []}, participant="Aria Lin"))

    lab.data.reconstruct_manifest(rec_id=REC)

    _check_reconstructed(lab, participant="Aria Lin", reconstructed_participant=False, source="r2")
    assert set(lab.objects(REC)) == {*FILES, "manifest.json", "participant.txt"}


@pytest.mark.parametrize("on_disk", [False, {"files": []}], ids=["no manifest", "a stub"])
def test_a_stub_in_the_bucket_is_replaced_by_what_is_reconstructed_from_a_directory(lab: Lab, on_disk: bool | dict):
    lab.raw.create(f"recordings/{REC}/manifest.json", json.dumps({"recording_id": REC, "files": []}).encode())
    directory = write_recording(lab.nas, REC, FILES, manifest=on_disk)

    lab.data.ingest(source_dir=directory)

    _check_reconstructed(lab, participant="__unknown__", reconstructed_participant=True, source="nas")
    assert set(lab.objects(REC)) == {*FILES, "manifest.json"}
    lab.check_invariants()


def test_a_stub_in_the_bucket_is_replaced_by_the_rigs_own_manifest(lab: Lab):
    lab.raw.create(f"recordings/{REC}/manifest.json", json.dumps({"recording_id": REC, "files": []}).encode())
    directory = write_recording(lab.nas, REC, FILES)

    lab.data.ingest(source_dir=directory)

    assert stored(lab, REC, "manifest.json") == (directory / "manifest.json").read_bytes()


@pytest.mark.parametrize("stub", [True, False], ids=["over a stub", "where none was"])
def test_a_manifest_that_comes_while_one_is_reconstructed_is_never_overwritten(lab: Lab, stub: bool):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest={"files": []} if stub else False))
    key = f"recordings/{REC}/manifest.json"
    theirs = json.dumps(manifest_of(REC, FILES | {"mic/seg_0000.wav": b"AUDIO" * 10})).encode()

    def somebody_else_is_faster(_: UploadProgress) -> None:
        now = lab.objects(REC).get("manifest.json")
        if now is None:
            lab.raw.create(key, theirs)
        elif lab.raw.get(key)[0] != theirs:
            lab.raw.replace(key, theirs, now)

    with pytest.raises(RecordingConflict, match=r"manifest\.json"):
        lab.data.reconstruct_manifest(rec_id=REC, progress=somebody_else_is_faster)

    assert stored(lab, REC, "manifest.json") == theirs


def test_two_that_reconstruct_at_once_agree(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest=False))
    other = lab.interface()
    others: list[object] = []

    def also(_: UploadProgress) -> None:
        if not others:
            others.append(other.reconstruct_manifest(rec_id=REC))

    assert lab.data.reconstruct_manifest(rec_id=REC, progress=also) is not None

    assert others[0] is not None
    _check_reconstructed(lab, participant="__unknown__", reconstructed_participant=True, source="r2")
    assert set(lab.objects(REC)) == {*FILES, "manifest.json"}


def test_a_directory_whose_bytes_the_bucket_has_gets_a_manifest_without_sending_them(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, manifest=False)
    upload_as_rig(lab, directory)

    result = lab.data.ingest(source_dir=directory)

    assert (result.files_uploaded, result.files_skipped) == (0, 3)
    _check_reconstructed(lab, participant="__unknown__", reconstructed_participant=True, source="nas")
    lab.check_invariants()


def test_a_manifest_that_attests_nothing_is_completed_by_hashing(lab: Lab):
    document = manifest_of(REC, FILES)
    unattested = [{"path": file["path"], "size_bytes": file["size_bytes"]} for file in document["files"]]
    directory = write_recording(lab.nas, REC, FILES, manifest={"files": unattested})

    result = lab.data.ingest(source_dir=directory)

    assert result.recording is not None
    assert result.recording.recording_hash == recording_hash_of(FILES)
    assert stored(lab, REC, "manifest.json") == (directory / "manifest.json").read_bytes()
    marker = json.loads(lab.raw.get(f"manifests/{REC}/manifest.json")[0])
    attested = {file["path"]: file["sha256"] for file in document["files"]}
    assert {path: entry["sha256"] for path, entry in marker["files"].items()} == attested


def test_nothing_is_made_up_for_a_recording_without_bytes(lab: Lab):
    lab.raw.create(f"recordings/{REC}/participant.txt", b"Aria Lin")
    before = lab.everything()

    with pytest.raises(SourceNotFound, match=REC):
        lab.data.reconstruct_manifest(rec_id=REC)

    assert lab.everything() == before


def test_reconstructing_needs_raw_rw_and_nothing_else(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest=False))
    data = DataInterface(config_path=lab.config)
    with pytest.raises(WritesNotEnabled):
        data.reconstruct_manifest(rec_id=REC)
    data.enable_writes()
    with pytest.raises(RoleNotEnabled, match="raw_rw"):
        data.reconstruct_manifest(rec_id=REC)
    assert "manifest.json" not in lab.objects(REC)

    data = DataInterface(config_path=lab.config)
    data.enable_writes(roles=("raw_rw",))

    assert data.reconstruct_manifest(rec_id=REC) is not None


def _check_reconstructed(lab: Lab, *, participant: str, reconstructed_participant: bool, source: str) -> None:
    document = json.loads(stored(lab, REC, "manifest.json"))
    expected = manifest_of(REC, FILES)["files"]
    assert [(file["path"], file["size_bytes"], file["sha256"]) for file in document["files"]] == [
        (file["path"], file["size_bytes"], file["sha256"]) for file in expected
    ]
    assert document["recording_id"] == REC
    assert document["recording_hash"] == recording_hash_of(FILES)
    assert document["participant"] == participant
    assert document["reconstruction"]["reconstructed_participant"] is reconstructed_participant
    assert document["reconstruction"]["source"] == source
