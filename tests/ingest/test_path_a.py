"""Path A: bytes in a directory are uploaded, then registered (runbook, Path A)."""

from tests.lab import Lab
from tests.recordings_on_disk import write_recording

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10, "eeg_4559/seg_0000.edf": b"eeg"}


def test_a_directory_becomes_objects_and_rows(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")

    result = lab.data.ingest(source_dir=directory)

    assert (result.files_uploaded, result.files_skipped, result.outcome) == (3, 0, "created")
    assert set(lab.objects(REC)) == {*FILES, "manifest.json", "participant.txt"}
    assert lab.data.get_recording(result.recording.recording_hash).rec_id == REC
    lab.check_invariants()


def test_ingesting_again_changes_nothing(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    lab.data.ingest(source_dir=directory)
    before = lab.everything()

    again = lab.interface().ingest(source_dir=directory)

    assert (again.files_uploaded, again.files_skipped, again.outcome) == (0, 3, "unchanged")
    assert lab.everything() == before
