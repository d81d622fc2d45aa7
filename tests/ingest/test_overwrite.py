"""`ingest(overwrite=...)`: what a re-ingest does to rows that exist (DESIGN section 6, Conflict policies)."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.ingest.test_two_halves import MOTOR, own_manifests
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import RecordingRow
from ursa_pipelines.errors import CatalogRowExists
from ursa_pipelines.recordings.identity import derive_participant_id

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}
ARIA, BO = derive_participant_id("Aria Lin"), derive_participant_id("Bo Kim")


@pytest.fixture
def directory(lab: Lab) -> Path:
    """A recording that is registered already."""
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    lab.data.ingest(source_dir=directory)
    return directory


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_identical_recording_writes_nothing(lab: Lab, directory: Path, overwrite: bool):
    before = lab.everything()

    assert lab.interface().ingest(source_dir=directory, overwrite=overwrite).outcome == "unchanged"

    assert lab.everything() == before


def test_fault_7_a_different_row_is_refused_and_named(lab: Lab, directory: Path):
    row = _falsify(lab)
    before = lab.everything()

    with pytest.raises(CatalogRowExists) as caught:
        lab.interface().ingest(source_dir=directory)

    assert (caught.value.table, caught.value.primary_key) == (
        "recordings",
        (("recording_hash", row.recording_hash),),
    )
    assert caught.value.recording == REC
    assert "duration" in str(caught.value)
    assert "overwrite=True" in caught.value.remedy
    assert lab.everything() == before


def test_fault_7_overwrite_replaces_a_different_row_and_no_object(lab: Lab, directory: Path):
    right = lab.data.list_recordings()[0]
    _falsify(lab)
    raw = {info.key: info.etag for info in lab.raw.list_objects("")}

    result = lab.interface().ingest(source_dir=directory, overwrite=True)

    assert result.outcome == "changed"
    assert (result.files_uploaded, result.files_skipped) == (0, 2)
    assert lab.data.list_recordings()[0].comparable() == right.comparable()
    assert {info.key: info.etag for info in lab.raw.list_objects("")} == raw
    lab.check_invariants()


def test_a_different_modality_row_is_refused_and_overwrite_replaces_it(lab: Lab, directory: Path):
    (right,) = lab.data.list_modalities({"modality": "mic"})
    lab.data.register_modality(
        recording_hash=right.recording_hash,
        modality="mic",
        format="raw_binary",
        raw_storage_uri=right.raw_storage_uri,
        on_conflict="overwrite",
    )

    with pytest.raises(CatalogRowExists) as caught:
        lab.interface().ingest(source_dir=directory)
    assert caught.value.table == "modalities"
    assert ("modality", "mic") in caught.value.primary_key

    lab.interface().ingest(source_dir=directory, overwrite=True)
    assert lab.data.list_modalities({"modality": "mic"}) == [right]


def test_a_further_participant_is_added_without_overwrite(lab: Lab, directory: Path):
    result = lab.interface().ingest(source_dir=directory, participant="Bo Kim")

    assert result.outcome == "changed"
    assert result.recording is not None
    assert result.recording.participant_ids == sorted([ARIA, BO])


def test_overwrite_replaces_the_participants(lab: Lab, directory: Path):
    result = lab.interface().ingest(source_dir=directory, participant="Bo Kim", overwrite=True)

    assert result.recording is not None
    assert result.recording.participant_ids == [BO]
    assert [row.participant_id for row in lab.data.list_participants()] == [BO]


def test_overwriting_one_half_leaves_the_others_modalities_and_participants(lab: Lab):
    halves = own_manifests(lab)
    lab.data.ingest(source_dir=halves.host)
    lab.interface().ingest(source_dir=halves.motor)
    before = lab.data.list_modalities()
    _falsify(lab)

    result = lab.interface().ingest(source_dir=halves.host, overwrite=True)

    assert result.recording is not None
    assert result.recording.metadata is not None
    assert MOTOR in result.recording.metadata["nodes"]
    assert lab.data.list_modalities() == before
    assert result.recording.participant_ids == sorted([ARIA, BO])
    lab.check_invariants()


def test_overwrite_creates_what_does_not_exist(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)

    assert lab.data.ingest(source_dir=directory, overwrite=True).outcome == "created"


def test_overwriting_from_the_bucket_follows_the_same_rules(lab: Lab, directory: Path):
    right = lab.data.list_recordings()[0]
    _falsify(lab)

    with pytest.raises(CatalogRowExists):
        lab.interface().ingest_from_r2(rec_id=REC)
    assert lab.interface().ingest_from_r2(rec_id=REC, overwrite=True).outcome == "changed"

    assert lab.data.list_recordings()[0].comparable() == right.comparable()


def _falsify(lab: Lab) -> RecordingRow:
    """Gives the recording's row a duration that its manifest does not."""
    (row,) = lab.data.list_recordings()
    return lab.data.register_recording(
        recording_hash=row.recording_hash,
        start_time=row.start_time,
        duration=row.duration + timedelta(hours=1),
        participant_ids=row.participant_ids,
        device_info=row.device_info,
        metadata=row.metadata,
        on_conflict="overwrite",
    )
