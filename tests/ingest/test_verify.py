"""`verify`: sizes by LIST, bytes when asked, and the level that the row tells (DESIGN section 5, Path B)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import Command
from tests.faults.detour import Detour
from tests.faults.proxy import Fault, Refuse
from tests.ingest.rig import upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines import DataInterface, UploadProgress
from ursa_pipelines.catalog import policies
from ursa_pipelines.errors import CatalogRowNotFound, RecordingIdInvalid, UploadInterrupted, UrsaError
from ursa_pipelines.ingest import verify as verifying
from ursa_pipelines.ingest.context import IngestContext
from ursa_pipelines.recordings.rows import ModalityRow, RecordingRow, Rows

REC = "rec_20260520_195628_b1dd"
CAMERA, MIC, EEG = "camera_a/seg_0000.mp4", "mic/seg_0000.wav", "eeg_4559/seg_0000.edf"
FILES = {CAMERA: b"video" * 800_000, MIC: b"audio" * 10, EEG: b"eeg" * 10}
PEER = {"mic/seg_0001.wav": b"more audio", "eeg_77/seg_0000.edf": b"EEG" * 10}


@pytest.fixture
def ursa(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(lab.config, capsys, monkeypatch)


def by_path_b(lab: Lab, files: dict[str, bytes] | None = None, **options: object) -> Path:
    """A recording that a rig has uploaded, registered by the sizes of its objects."""
    directory = write_recording(lab.nas, REC, files or FILES, **options)  # type: ignore[arg-type]
    upload_as_rig(lab, directory)
    assert lab.data.ingest_from_r2(rec_id=REC).outcome == "created"
    return directory


def put(lab: Lab, path: str, content: bytes) -> None:
    """Writes over an object, which nobody should be able to do."""
    key = f"recordings/{REC}/{path}"
    lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=key, Body=bytearray(content))


def delete(lab: Lab, path: str) -> None:
    lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=f"recordings/{REC}/{path}")


def level(lab: Lab) -> str | None:
    (row,) = lab.data.list_recordings()
    return (row.metadata or {}).get("verification")


def operations(lab: Lab) -> list[str]:
    entry = lab.data.catalog.entry_of_rec_id(REC)
    assert entry is not None
    return [item.op for item in entry.log]


def test_sizes_are_compared_without_reading_anything(lab: Lab, detour: Detour):
    by_path_b(lab)
    before = lab.everything()

    found = detour.interface().verify(REC)

    assert (found.ok, found.level, found.recorded, found.files) == (True, "size", False, 3)
    assert [one.request for one in detour.proxy.seen if "/seg_0000" in one.request] == []
    assert lab.everything() == before


def test_a_deep_look_raises_the_level_of_the_row_in_one_write(lab: Lab):
    by_path_b(lab)
    assert level(lab) == "size"
    before = lab.data.get_recording(lab.data.list_recordings()[0].recording_hash)

    found = lab.data.verify(REC, deep=True)

    assert (found.ok, found.level, found.recorded) == (True, "sha256", True)
    assert (level(lab), operations(lab)) == ("sha256", ["ingest", "verify"])
    assert lab.data.list_recordings()[0].comparable() == before.comparable()
    unchanged = lab.everything()
    again = lab.data.verify(REC, deep=True)
    assert (again.ok, again.level, again.recorded) == (True, "sha256", False)
    assert lab.everything() == unchanged
    lab.check_invariants()


@pytest.mark.parametrize("roles", [(), ("raw_rw",)])
def test_without_assets_rw_a_deep_look_notes_nothing(lab: Lab, roles: tuple):
    by_path_b(lab)
    before = lab.everything()
    data = DataInterface(config_path=lab.config)
    data.enable_writes(roles=roles)

    found = data.verify(REC, deep=True)

    assert (found.ok, found.level, found.recorded) == (True, "sha256", False)
    assert lab.everything() == before


def _missing(lab: Lab) -> str:
    delete(lab, MIC)
    return f"{MIC} is listed but not in the bucket"


def _of_another_size(lab: Lab) -> str:
    put(lab, MIC, b"audio")
    return f"{MIC} has 5 bytes in the bucket, but 50 are listed"


def _of_other_bytes(lab: Lab) -> str:
    put(lab, MIC, b"AUDIO" * 10)
    digests = [hashlib.sha256(content).hexdigest() for content in (b"AUDIO" * 10, FILES[MIC])]
    return f"{MIC} has SHA-256 {digests[0]} in the bucket, but {digests[1]} is listed"


def _of_other_bytes_and_large(lab: Lab) -> str:
    put(lab, CAMERA, b"VIDEO" * 800_000)
    digests = [hashlib.sha256(content).hexdigest() for content in (b"VIDEO" * 800_000, FILES[CAMERA])]
    return f"{CAMERA} has SHA-256 {digests[0]} in the bucket, but {digests[1]} is listed"


def _in_no_manifest(lab: Lab) -> str:
    put(lab, "mic/seg_0009.wav", b"audio")
    return "mic/seg_0009.wav is in the bucket but in no manifest"


@pytest.mark.parametrize(
    "damage", [_missing, _of_another_size, _of_other_bytes, _of_other_bytes_and_large, _in_no_manifest]
)
def test_each_kind_of_damage_is_told_apart_and_nothing_is_noted(lab: Lab, damage: Callable[[Lab], str]):
    by_path_b(lab)
    told = damage(lab)

    found = lab.data.verify(REC, deep=True)

    assert told in found.object_problems
    assert len([problem for problem in found.problems if problem.startswith(told.partition(" ")[0])]) == 1
    assert (found.ok, found.recorded) == (False, False)
    assert (level(lab), operations(lab)) == ("size", ["ingest"])


def test_rows_that_differ_from_the_bucket_are_told_apart_from_objects_that_do(lab: Lab):
    by_path_b(lab)
    (mic,) = lab.data.list_modalities({"modality": "mic"})
    fields = mic.model_dump(include={"recording_hash", "modality", "format", "raw_storage_uri", "worker_id", "bytes"})
    lab.data.register_modality(**fields, segment_count=7, on_conflict="overwrite")

    found = lab.data.verify(REC)

    assert found.object_problems == ()
    assert (
        found.row_problems == found.problems == ("the row of mic says (7, 50) (segments, bytes), the bucket (1, 50)",)
    )


def test_how_many_participants_and_which_nodes_a_recording_has_is_told(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, node="mantis", participant="Aria Lin")
    lab.data.ingest(source_dir=directory)

    found = lab.data.verify(REC)

    assert (found.participants, found.nodes, found.nodes_missing) == (1, ("mantis",), ())


def test_a_stated_digest_does_not_hide_other_bytes(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    lab.data.ingest(source_dir=directory)
    stated = {"sha256": hashlib.sha256(FILES[MIC]).hexdigest()}
    key = f"recordings/{REC}/{MIC}"
    lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=key, Body=bytearray(50), Metadata=stated)

    assert lab.data.verify(REC).ok

    (problem,) = lab.data.verify(REC, deep=True).problems
    assert MIC in problem
    assert hashlib.sha256(bytes(50)).hexdigest() in problem


class Meanwhile(Fault):
    """Does something as soon as the first bytes of a segment were asked for."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._acts = [act]

    def after(self, request: str) -> None:
        if request.startswith("GET ") and "/seg_0000" in request and self._acts:
            self._acts.pop()()


@pytest.mark.parametrize(
    ("path", "change", "told"),
    [
        (MIC, lambda lab: delete(lab, MIC), "vanished from"),
        (CAMERA, lambda lab: delete(lab, CAMERA), "vanished from"),
        (MIC, lambda lab: put(lab, MIC, b"AUDIO" * 10), "was replaced in"),
    ],
    ids=["vanishes before it is read", "vanishes after it was read", "is replaced"],
)
def test_an_object_that_changes_while_the_recording_is_read_is_named(
    lab: Lab, detour: Detour, path: str, change: Callable[[Lab], None], told: str
):
    by_path_b(lab)
    detour.proxy.fault = Meanwhile(lambda: change(lab))

    found = detour.interface().verify(REC, deep=True)

    assert found.problems == (f"{path} {told} the bucket while the recording was read",)
    assert (found.recorded, level(lab)) == (False, "size")


def test_an_object_that_is_gone_when_it_is_asked_for_is_named_though_it_comes_back(lab: Lab, detour: Detour):
    by_path_b(lab)
    detour.proxy.fault = Refuse(f"^GET .*/{MIC}", 404, "NoSuchKey")

    found = detour.interface().verify(REC, deep=True)

    assert found.problems == (f"{MIC} vanished from the bucket while the recording was read",)


def test_a_pause_ends_a_deep_look_and_progress_counts_bytes(lab: Lab):
    by_path_b(lab)
    told: list[UploadProgress] = []

    with pytest.raises(UploadInterrupted):
        lab.data.verify(REC, deep=True, progress=told.append, should_pause=lambda: bool(told))
    assert level(lab) == "size"

    assert lab.data.verify(REC, deep=True, progress=told.append, should_pause=lambda: False).recorded
    total = sum(map(len, FILES.values()))
    assert (told[-1].bytes_uploaded, told[-1].bytes_total, told[-1].files_done) == (total, total, 3)


def test_a_recording_that_is_not_registered_is_not_verified(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES))

    with pytest.raises(CatalogRowNotFound, match=REC):
        lab.data.verify(REC, deep=True)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("by_rig", [False, True])
@pytest.mark.parametrize("owned", ["by node manifests", "by workers", "by worker, but one"])
def test_only_files_of_the_missing_node_may_be_missing(lab: Lab, owned: str, by_rig: bool, lost: bool):
    second = "mic/seg_0001.wav"
    host, motor = {MIC: FILES[MIC], second: b"more audio"}, {EEG: FILES[EEG]}
    document: dict[str, object] | bool = False
    if owned == "by node manifests":
        for node, files in (("host", host), ("motor", motor)):
            manifest = json.dumps(manifest_of(REC, files, node=node)).encode()
            write_recording(lab.nas, REC, {f"_node_manifests/{node}.json": manifest}, manifest=False)
    else:
        nodes = {"host": ["mic"], "motor": ["eeg_4559"] if owned == "by workers" else []}
        document = {**manifest_of(REC, host | motor, node=None), "nodes": nodes}
    directory = write_recording(lab.nas, REC, host, node=None, manifest=document)
    if by_rig:
        upload_as_rig(lab, directory)
        lab.data.ingest_from_r2(rec_id=REC)
    else:
        lab.data.ingest(source_dir=directory)
    if lost:
        delete(lab, second)

    found, read = lab.data.verify(REC), lab.data.verify(REC, deep=True)

    told = (f"{second} is listed but not in the bucket",) if lost else ()
    assert (found.object_problems, read.object_problems) == (told, told)
    assert read.level == ("size" if lost else "sha256")


def test_what_the_marker_names_is_missing_though_the_rows_have_forgotten_it(lab: Lab):
    files = {MIC: FILES[MIC], EEG: FILES[EEG]}
    document = {**manifest_of(REC, files, node=None), "nodes": {"host": ["mic"], "motor": []}}
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, files, node=None, manifest=document))
    delete(lab, EEG)
    lab.data.ingest_from_r2(rec_id=REC, overwrite=True)

    found = lab.data.verify(REC)

    assert (found.nodes_missing, [row.modality for row in lab.data.list_modalities()]) == (("motor",), ["mic"])
    assert found.object_problems == (f"{EEG} is listed but not in the bucket",)


def test_one_unforeseen_failure_leaves_the_other_recordings(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    others = (f"rec_20260520_19562{digit}_b1dd" for digit in (1, 2))
    sound = [
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, {MIC: rec_id.encode()})).rec_id for rec_id in others
    ]
    real = verifying.verify

    def fails_for_one(context: IngestContext, rec_id: str, **options: Any) -> verifying.Verification:
        if rec_id == REC:
            raise KeyError("Aria Lin")
        return real(context, rec_id, **options)

    monkeypatch.setattr(verifying, "verify", fails_for_one)
    with caplog.at_level(logging.ERROR):
        found = verifying.verify_many(lab.data.reading_context, [sound[0], REC, sound[1]])

    assert [getattr(found[rec_id], "ok", False) for rec_id in sound] == [True, True]
    assert isinstance(found[REC], UrsaError)
    assert str(found[REC]).startswith(f"{REC}: unforeseen KeyError. ")
    assert "Aria Lin" not in str(found[REC])
    assert [one.exc_info[0] for one in caplog.records if one.exc_info] == [KeyError]


@pytest.mark.parametrize("name", ["../x", "", "nonsense", "/etc", f"{REC}/.."])
def test_what_is_no_id_is_refused_in_one_line(ursa: Command, lab: Lab, name: str):
    with pytest.raises(RecordingIdInvalid):
        lab.data.catalog.entry_of_rec_id(name)
    found = verifying.verify_many(lab.data.reading_context, [name])

    assert isinstance(found[name], RecordingIdInvalid)
    assert ursa("verify", name, code=1).count("\n") == 1


def unattested(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [{"path": path, "size_bytes": len(content)} for path, content in files.items()]


def test_a_hash_that_was_derived_from_the_bytes_attests_them(lab: Lab):
    by_path_b(lab, manifest={"files": unattested(FILES)})

    assert lab.data.verify(REC, deep=True).recorded

    put(lab, MIC, b"AUDIO" * 10)
    found = lab.data.verify(REC, deep=True)
    assert (found.ok, found.level) == (True, "size")


def test_bytes_that_nothing_attests_prove_nothing(lab: Lab):
    by_path_b(lab, manifest={"files": unattested(FILES), "recording_hash": "ab" * 32})

    found = lab.data.verify(REC, deep=True)

    assert (found.ok, found.level, found.recorded) == (True, "size", False)
    assert level(lab) == "size"


def test_what_the_marker_attests_counts_where_the_manifest_says_nothing(lab: Lab):
    files = {"files": unattested(FILES), "recording_hash": "ab" * 32}
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES, manifest=files))
    assert lab.data.verify(REC, deep=True).level == "sha256"

    put(lab, MIC, b"AUDIO" * 10)

    (problem,) = lab.data.verify(REC, deep=True).problems
    assert hashlib.sha256(FILES[MIC]).hexdigest() in problem


@pytest.mark.parametrize("overwrite", [False, True])
def test_path_a_after_path_b_raises_the_level_once(lab: Lab, overwrite: bool):
    directory = by_path_b(lab)

    raised = lab.data.ingest(source_dir=directory, overwrite=overwrite)

    assert (raised.outcome, raised.files_uploaded, level(lab)) == ("changed", 0, "sha256")
    assert len(operations(lab)) == 2
    before = lab.everything()
    assert lab.data.ingest(source_dir=directory, overwrite=overwrite).outcome == "unchanged"
    assert lab.everything() == before


def test_path_b_after_path_a_does_not_lower_the_level(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    lab.data.ingest(source_dir=directory)
    before = lab.everything()

    assert lab.data.ingest_from_r2(rec_id=REC).outcome == "unchanged"
    assert lab.everything() == before
    assert lab.data.ingest_from_r2(rec_id=REC, participant="Aria Lin").outcome == "changed"
    assert level(lab) == "sha256"


def test_what_path_b_adds_by_size_lowers_the_level_until_it_is_proved(lab: Lab):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES, node="mantis"))
    for path, content in PEER.items():
        put(lab, path, content)
    put(lab, "_node_manifests/motor.json", json.dumps(manifest_of(REC, PEER, node="motor")).encode())

    assert lab.data.ingest_from_r2(rec_id=REC).outcome == "changed"

    assert level(lab) == "size"
    assert lab.data.verify(REC, deep=True).recorded
    assert (level(lab), operations(lab)[-1]) == ("sha256", "verify")


def test_a_proof_of_fewer_files_than_the_row_has_does_not_raise_it(lab: Lab):
    by_path_b(lab)
    entry = lab.data.catalog.entry_of_rec_id(REC)
    assert entry is not None
    recording = entry.recording.model_copy(update={"metadata": {**(entry.recording.metadata or {}), "files": 2}})
    seen = Rows(recording, tuple(row for row in entry.modalities if row.modality != "mic"), ())

    rows = entry.rows
    assert policies.verified(seen)(rows) is rows
    assert not lab.data.catalog.record_verification(seen, lab.data.ingest_context().writer)
    assert policies.verified(rows)(rows).recording.metadata["verification"] == "sha256"  # type: ignore[index]


def test_rows_that_were_given_by_hand_keep_saying_nothing():
    rows = rows_of(None)

    assert policies.ingest(rows_of("size"), overwrite=False)(rows) is rows


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [("sha256", "size", "size"), ("size", "sha256", "size"), ("sha256", "sha256", "sha256")],
)
def test_halves_that_know_nothing_of_each_other_have_the_lower_level_together(first: str, second: str, both: str):
    rows = policies.ingest(rows_of(second, "motor", 2), overwrite=False)(rows_of(first, "mantis", 1))

    assert (rows.recording.metadata or {})["nodes"] == ["mantis", "motor"]
    assert (rows.recording.metadata or {})["verification"] == both


def rows_of(level: str | None, node: str = "mantis", segments: int = 1) -> Rows:
    """A recording of one worker, of whose segments this node has some."""
    metadata = {"nodes": [node], "files": segments} | ({"verification": level} if level else {})
    recording_hash = "ab" * 32
    recording = {"recording_hash": recording_hash, "start_time": "2026-05-20T19:56:28Z", "duration": 60}
    mic = {"recording_hash": recording_hash, "modality": "mic", "format": "raw_audio", "segment_count": segments}
    return Rows(RecordingRow.model_validate(recording | {"metadata": metadata}), (ModalityRow.model_validate(mic),), ())


def test_the_command_asks_before_it_notes_and_can_only_look(ursa: Command, lab: Lab):
    by_path_b(lab)
    before = lab.everything()

    assert ursa("verify", REC).endswith(f"OK {REC}: 3 files by size\n")
    assert "--yes" in ursa("verify", REC, "--deep", code=2)
    ursa("verify", REC, "--deep", typed="n", code=3)
    assert ursa("verify", REC, "--deep", "--no-record").endswith(f"OK {REC}: 3 files by sha256\n")
    assert lab.everything() == before

    assert ursa("verify", REC, "--deep", "--yes").endswith(f"OK {REC}: 3 files by sha256, noted in the row\n")
    assert ursa("verify", REC, "--deep", "--yes").endswith(f"OK {REC}: 3 files by sha256\n")
    assert level(lab) == "sha256"
