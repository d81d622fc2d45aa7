"""`progress` and `should_pause`: what a caller is told, and how it stops an ingest (DESIGN section 5)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import UploadProgress

REC = "rec_20260520_195628_b1dd"
FILES = {
    "camera_a/seg_0000.mp4": b"video frame;" * (9 * 1024**2 // 12),
    "mic/seg_0000.wav": b"audio" * 10,
    "mic/seg_0001.wav": b"more audio" * 10,
    "eeg_4559/seg_0000.edf": b"",
}
TOTAL = sum(map(len, FILES.values()))


@pytest.mark.parametrize("manifest", [True, False], ids=["attested", "without a manifest"])
@pytest.mark.parametrize("calls", [0, 2, 4])
def test_a_pause_registers_nothing_and_a_rerun_completes(lab: Lab, calls: int, manifest: bool):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin", manifest=manifest)
    asked = iter(range(1000))

    paused = lab.data.ingest(source_dir=directory, should_pause=lambda: next(asked) >= calls)

    assert (paused.paused, paused.recording, paused.rec_id) == (True, None, REC)
    assert lab.data.list_recordings() == []
    assert "manifest.json" not in lab.objects(REC)
    assert list(lab.raw.list_objects("manifests/")) == []

    result = lab.interface().ingest(source_dir=directory, should_pause=lambda: False)

    assert (result.paused, result.outcome) == (False, "created")
    assert result.files_uploaded + result.files_skipped == len(FILES)
    lab.check_invariants()


def test_a_pause_is_heeded_even_if_nothing_needs_sending(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    upload_as_rig(lab, directory)

    assert lab.data.ingest(source_dir=directory, should_pause=lambda: True).paused

    assert lab.data.list_recordings() == []


@pytest.mark.parametrize("there", [(), ("mic/seg_0000.wav",), tuple(FILES)], ids=["nothing", "one file", "all"])
def test_progress_adds_up_whatever_is_there_already(lab: Lab, there: tuple[str, ...]):
    directory = write_recording(lab.nas, REC, FILES)
    for path in there:
        lab.raw.create(f"recordings/{REC}/{path}", FILES[path])
    told: list[UploadProgress] = []

    result = lab.data.ingest(source_dir=directory, progress=told.append)

    assert result.bytes_uploaded == TOTAL - sum(len(FILES[path]) for path in there)
    assert (told[-1].bytes_uploaded, told[-1].files_done) == (TOTAL, len(FILES))
    assert {(one.bytes_total, one.files_total) for one in told} == {(TOTAL, len(FILES))}
    assert {one.current_file for one in told} == FILES.keys()
    for before, after in pairwise(told):
        assert after.bytes_uploaded >= before.bytes_uploaded
        assert after.files_done - before.files_done in {0, 1}


def test_a_large_file_tells_its_progress_as_it_is_sent(lab: Lab):
    content = b"video frame;" * (33 * 1024**2 // 12)
    directory = write_recording(lab.nas, REC, {"camera_a/seg_0000.mp4": content})
    told: list[UploadProgress] = []

    lab.data.ingest(source_dir=directory, progress=told.append)

    assert next(one.bytes_uploaded for one in told if one.files_done == 0) < len(content)
    assert len({one.bytes_uploaded for one in told}) > 33


def test_an_error_in_the_callers_progress_function_stops_the_ingest_unregistered(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)

    def fail(_: UploadProgress) -> None:
        raise RuntimeError("the window was closed")

    with pytest.raises(RuntimeError, match="the window was closed"):
        lab.data.ingest(source_dir=directory, progress=fail)

    assert lab.data.list_recordings() == []
    assert lab.interface().ingest(source_dir=directory).outcome == "created"
    lab.check_invariants()
