"""manifest.json as a rig writes it: read, and written back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines.errors import ManifestInvalid, RecordingRefused, Retryable
from ursa_pipelines.recordings.manifest import (
    Manifest,
    ManifestFile,
    Reconstruction,
    manifest_bytes,
    parse_manifest,
)

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video", "mic/seg_0000.wav": b"audio"}


def parse(document: dict[str, Any] | bytes, place: str = "manifest.json") -> Manifest:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_manifest(raw, rec_id=REC, place=place)


def test_a_rigs_manifest_is_read_field_by_field(tmp_path: Path) -> None:
    directory = write_recording(tmp_path, REC, FILES, stated_hash=True)
    document = manifest_of(REC, FILES, stated_hash=True)

    manifest = parse((directory / "manifest.json").read_bytes())

    assert manifest.recording_id == REC
    assert manifest.recording_hash == document["recording_hash"]
    assert manifest.node == "green-mantis"
    assert manifest.started_at == datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
    assert manifest.ended_at == datetime(2026, 5, 20, 19, 57, 28, tzinfo=UTC)
    assert manifest.device_info == {"rig": "green"}
    assert [(file.path, file.size_bytes) for file in manifest.files] == [(path, len(FILES[path])) for path in FILES]
    assert [file.sha256 for file in manifest.files] == [file["sha256"] for file in document["files"]]
    assert not manifest.is_stub


def test_files_keep_their_order() -> None:
    paths = ["z/1", "a/1", "m/1"]
    manifest = parse({"recording_id": REC, "files": [{"path": path, "size_bytes": 0} for path in paths]})
    assert [file.path for file in manifest.files] == paths


def test_all_fields_but_the_id_may_be_absent() -> None:
    manifest = parse({"recording_id": REC})
    assert manifest.manifest_version == 1
    assert (manifest.recording_hash, manifest.node, manifest.started_at, manifest.device_info) == (None,) * 4
    assert manifest.files == []


@pytest.mark.parametrize("document", [{"recording_id": REC}, {"recording_id": REC, "files": []}], ids=["none", "empty"])
def test_fault_43_a_manifest_without_files_is_a_stub(document: dict[str, Any]) -> None:
    assert parse(document).is_stub
    assert not parse(manifest_of(REC, FILES)).is_stub


@pytest.mark.parametrize(
    "stated",
    [
        "2026-05-20T19:56:28Z",
        "2026-05-20T21:56:28+02:00",
        "2026-05-20 19:56:28+00:00",
        "20260520T195628Z",
        "2026-05-20T19:56:28.000Z",
        "2026-05-20T09:26:28-10:30",
    ],
)
def test_times_become_utc(stated: str) -> None:
    manifest = parse({"recording_id": REC, "started_at": stated})
    assert manifest.started_at == datetime(2026, 5, 20, 19, 56, 28, tzinfo=UTC)
    assert manifest.started_at.tzinfo is UTC
    assert json.loads(manifest_bytes(manifest))["started_at"] == "2026-05-20T19:56:28Z"


def test_a_manifest_made_here_is_one_that_can_be_read() -> None:
    made = Manifest(
        recording_id=REC,
        started_at=datetime(2026, 5, 20, 21, 56, 28, 500, tzinfo=timezone(timedelta(hours=2))),
        files=[ManifestFile(path="mic/gr\u00fcn.wav", size_bytes=3, sha256="0" * 64)],
        reconstruction=Reconstruction(reconstructed_at=datetime(2026, 6, 1, tzinfo=UTC), source="nas"),
    )
    raw = manifest_bytes(made)
    assert parse(raw) == made
    assert "gr\u00fcn".encode() in raw
    assert json.loads(raw)["started_at"] == "2026-05-20T19:56:28.000500Z"


def test_absent_fields_are_left_out_when_a_manifest_is_written() -> None:
    raw = manifest_bytes(Manifest(recording_id=REC, files=[ManifestFile(path="mic/x", size_bytes=3)]))
    expected = {"manifest_version": 1, "recording_id": REC, "files": [{"path": "mic/x", "size_bytes": 3}]}
    assert json.loads(raw) == expected


def test_unknown_fields_are_written_back_as_they_were_even_where_they_are_null() -> None:
    document = manifest_of(REC, FILES) | {"operator": None, "channels": [{"gain": None, "rate": 44100.5}]}
    document["files"][0]["codec"] = {"name": "h264", "profile": None}
    document["device_info"] = {"rig": None}
    assert json.loads(manifest_bytes(parse(document))) == document


def test_a_manifest_made_here_must_keep_the_rules_too() -> None:
    with pytest.raises(ValidationError, match="holds a backslash"):
        ManifestFile(path="mic\\x", size_bytes=1)
    with pytest.raises(ValidationError, match="has no time zone"):
        Manifest(recording_id=REC, started_at=datetime(2026, 5, 20))


def test_a_parsed_manifest_cannot_be_changed() -> None:
    manifest = parse(manifest_of(REC, FILES))
    with pytest.raises(ValidationError, match="frozen"):
        manifest.node = "other"


def test_an_error_names_the_key_or_file_it_was_read_from() -> None:
    key = f"recordings/{REC}/_node_manifests/green-motor.json"
    with pytest.raises(ManifestInvalid) as caught:
        parse({"recording_id": REC, "files": [{"path": "mic/x", "size_bytes": -1}]}, key)
    assert caught.value.recording == REC
    assert caught.value.place == f"{key}: files[0].size_bytes"
    assert str(caught.value).startswith(f"{REC}: {key}: files[0].size_bytes: ")
    assert isinstance(caught.value, RecordingRefused)
    assert not isinstance(caught.value, Retryable)


def test_a_hostile_place_is_shown_without_control_characters() -> None:
    with pytest.raises(ManifestInvalid) as caught:
        parse(b"", "_node_manifests/\x1b[31m\u202e\n" + "x" * 2000)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_the_first_field_that_is_wrong_is_named() -> None:
    document = manifest_of(REC, {f"mic/{number}": b"" for number in range(10, 30)})
    document["files"][17]["sha256"] = "short"
    document["files"][19]["path"] = "../x"
    with pytest.raises(ManifestInvalid, match=r"files\[17\]\.sha256"):
        parse(document)


def test_both_of_two_paths_that_collide_are_named() -> None:
    with pytest.raises(ManifestInvalid, match="the paths 'mic/A' and 'mic/a' collide"):
        parse(manifest_of(REC, {"mic/A": b"", "mic/a": b""}))


def test_fault_81_a_participants_name_in_a_manifest_is_not_in_its_repr() -> None:
    manifest = parse(manifest_of(REC, FILES) | {"participant": "Aria Lin"})
    assert manifest.participant == "Aria Lin"
    assert "Aria" not in repr(manifest) + str(manifest)


def test_fault_81_a_participants_name_is_not_in_the_error_about_another_field() -> None:
    with pytest.raises(ManifestInvalid) as caught:
        parse(manifest_of(REC, FILES) | {"participant": "Aria Lin", "node": "a b"})
    assert "Aria" not in str(caught.value)
