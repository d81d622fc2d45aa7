"""Faults 52 to 58: answers that are lost on the way, and requests that the store refuses."""

from __future__ import annotations

import json

import pytest

from tests.faults.detour import Detour
from tests.faults.final_state import final_state
from tests.faults.proxy import Fault, LoseAnswer, Refuse
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines import UploadProgress
from ursa_pipelines.errors import StoreDenied

REC = "rec_20260520_195628_b1dd"
FILES = {
    "camera_a/seg_0000.mp4": b"video frame;" * (9 * 1024**2 // 12),
    "mic/seg_0000.wav": b"audio" * 100,
    "eeg_4559/seg_0000.edf": b"eeg" * 100,
}
SMALL_FILES = {path: content for path, content in FILES.items() if not path.startswith("camera_a/")}


@pytest.mark.parametrize(
    "write",
    [
        r"PUT /raw.*/mic/seg_0000\.wav",
        r"PUT /raw.*/participant\.txt",
        r"PUT /raw[^/]*/recordings/.*/manifest\.json",
        r"PUT /raw[^/]*/manifests/",
        r"PUT .*/tail/",
        r"PUT .*/rec_ids/",
        r"PUT .*/entries/",
    ],
    ids=["segment", "participant", "manifest", "commit marker", "tail marker", "claim", "entry"],
)
def test_fault_55_a_lost_answer_to_a_create_is_no_conflict(lab: Lab, detour: Detour, write: str):
    directory = write_recording(lab.nas, REC, SMALL_FILES, participant="Aria Lin")
    fault = detour.proxy.fault = LoseAnswer(write)

    result = detour.interface().ingest(source_dir=directory)

    assert fault.lost
    assert result.outcome == "created"
    assert result.files_uploaded + result.files_skipped == len(SMALL_FILES)
    _check_one_clean_recording(lab, SMALL_FILES)


@pytest.mark.parametrize(
    "lost",
    [r"POST /raw.*\?uploads", r"PUT /raw.*partNumber=2", r"POST /raw.*\?uploadId="],
    ids=["open", "part", "complete"],
)
def test_fault_56_a_lost_answer_in_a_multipart_upload_is_no_conflict(lab: Lab, detour: Detour, lost: str):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    fault = detour.proxy.fault = LoseAnswer(lost)
    told: list[UploadProgress] = []

    result = detour.interface().ingest(source_dir=directory, progress=told.append)

    assert fault.lost
    assert result.files_uploaded + result.files_skipped == len(FILES)
    assert (told[-1].bytes_uploaded, told[-1].files_done) == (told[-1].bytes_total, len(FILES))
    _check_one_clean_recording(lab, FILES)


@pytest.mark.parametrize(
    "refused",
    [
        r"PUT /raw.*/mic/seg_0000\.wav",
        r"PUT /raw.*partNumber=1",
        r"POST /raw.*\?uploadId=",
        r"PUT /raw[^/]*/recordings/.*/manifest\.json",
        r"PUT .*/entries/",
    ],
    ids=["segment", "part", "complete", "manifest", "entry"],
)
def test_fault_52_an_overloaded_store_is_asked_again(lab: Lab, detour: Detour, refused: str):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    fault = detour.proxy.fault = Refuse(refused, 503, "SlowDown", times=1)

    result = detour.interface().ingest(source_dir=directory)

    assert (fault.refused, result.files_uploaded) == (1, len(FILES))
    _check_one_clean_recording(lab, FILES)


def test_fault_57_an_error_in_an_answer_of_200_is_no_success(lab: Lab, detour: Detour):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    fault = detour.proxy.fault = Refuse(r"POST /raw.*\?uploadId=", 200, "InternalError", times=1)

    detour.interface().ingest(source_dir=directory)

    assert fault.refused == 1
    _check_one_clean_recording(lab, FILES)


@pytest.mark.parametrize(
    "refused",
    [r"PUT /raw.*/mic/", r"PUT /raw.*partNumber=2", r"POST /raw.*\?uploadId=", r"PUT .*/entries/"],
    ids=["segment", "part", "complete", "entry"],
)
def test_fault_58_a_credential_that_expires_stops_the_ingest_and_a_rerun_goes_on(
    lab: Lab, detour: Detour, refused: str
):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    detour.proxy.fault = Refuse(refused, 403, "AccessDenied")

    with pytest.raises(StoreDenied, match="credential"):
        detour.interface().ingest(source_dir=directory)

    assert lab.data.list_recordings() == []
    detour.proxy.fault = Fault()
    detour.interface().ingest(source_dir=directory)
    _check_one_clean_recording(lab, FILES)


def test_fault_55_a_lost_answer_to_the_swap_of_a_stub_stores_no_second_manifest(lab: Lab, detour: Detour):
    lab.raw.create(f"recordings/{REC}/manifest.json", _stub())
    directory = write_recording(lab.nas, REC, SMALL_FILES, participant="Aria Lin")
    fault = detour.proxy.fault = LoseAnswer(r"PUT /raw[^/]*/recordings/.*/manifest\.json")

    detour.interface().ingest(source_dir=directory)

    assert fault.lost
    _check_one_clean_recording(lab, SMALL_FILES)


def test_fault_55_a_lost_answer_to_a_reconstruction_is_no_conflict(lab: Lab, detour: Detour):
    for path, content in SMALL_FILES.items():
        lab.raw.create(f"recordings/{REC}/{path}", content)
    fault = detour.proxy.fault = LoseAnswer(r"PUT /raw[^/]*/recordings/.*/manifest\.json")

    manifest = detour.interface().reconstruct_manifest(REC)

    assert fault.lost
    assert manifest is not None
    assert lab.interface().reconstruct_manifest(REC) is None


def test_fault_85_every_write_is_conditional_and_nothing_is_deleted(lab: Lab, detour: Detour):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")

    detour.interface().ingest(source_dir=directory)

    for sent in detour.proxy.seen:
        puts_an_object = sent.request.startswith("PUT ") and "partNumber=" not in sent.request
        completes_one = sent.request.startswith("POST ") and "?uploadId=" in sent.request
        if puts_an_object or completes_one:
            assert sent.condition, sent.request
        assert not sent.request.startswith("DELETE "), sent.request


def test_ingesting_again_sends_only_reads(lab: Lab, detour: Detour):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    detour.interface().ingest(source_dir=directory)
    data = detour.interface()
    assert data.list_recordings()
    detour.proxy.seen.clear()

    data.ingest(source_dir=directory)

    sent = [sent.request for sent in detour.proxy.seen]
    assert {request.partition(" ")[0] for request in sent} <= {"GET", "HEAD"}, sent
    # Two of them are asked of an embedded store only, whose catalog is upgraded without being asked.
    assert len(sent) <= 12, sent


def test_a_stub_under_a_bucket_lock_stays_and_the_manifest_goes_beside_it(lab: Lab, detour: Detour):
    stub = lab.raw.create(f"recordings/{REC}/manifest.json", _stub())
    directory = write_recording(lab.nas, REC, SMALL_FILES)
    detour.proxy.fault = Refuse(r"PUT /raw[^/]*/recordings/.*/manifest\.json", 403, "AccessDenied")

    detour.interface().ingest(source_dir=directory)

    assert lab.objects(REC)["manifest.json"] == stub.etag
    assert (
        lab.raw.get(f"recordings/{REC}/_node_manifests/green-mantis.json")[0]
        == (directory / "manifest.json").read_bytes()
    )
    lab.check_invariants()


def test_a_stub_under_a_bucket_lock_does_not_stop_a_reconstruction(lab: Lab, detour: Detour):
    stub = lab.raw.create(f"recordings/{REC}/manifest.json", _stub())
    for path, content in SMALL_FILES.items():
        lab.raw.create(f"recordings/{REC}/{path}", content)
    detour.proxy.fault = Refuse(r"PUT /raw[^/]*/recordings/.*/manifest\.json", 403, "AccessDenied")

    assert detour.interface().reconstruct_manifest(REC) is not None

    assert lab.objects(REC)["manifest.json"] == stub.etag
    assert lab.data.ingest_from_r2(rec_id=REC).recording is not None
    lab.check_invariants()


def _stub() -> bytes:
    return json.dumps({"recording_id": REC, "files": []}).encode()


def _check_one_clean_recording(lab: Lab, files: dict[str, bytes]) -> None:
    assert set(lab.objects(REC)) == {*files, "manifest.json", "participant.txt"}
    state = final_state(lab)
    assert [key for key in state["stored"] if key.startswith("manifests/")] == [f"manifests/{REC}/manifest.json"]
    (entry,) = lab.data.catalog.entries()
    assert len(entry.log) == 1
    lab.check_invariants()
