"""Every snippet of the runbook runs as it is written there, and what its prose promises of each one holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.rig import stored, upload_as_rig
from tests.lab import Lab
from tests.recordings_on_disk import recording_hash_of, write_recording
from ursa_pipelines import DownloadProgress
from ursa_pipelines.errors import CatalogRowExists, ObjectsMissing
from ursa_pipelines.recordings.identity import derive_participant_id

HERE = Path(__file__).parent
REC = "rec_20260520_195628_b1dd"
FILES = {
    "camera_a/seg_0000.mp4": b"video" * 100,
    "camera_a/seg_0001.mp4": b"more video" * 100,
    "eeg_4559/seg_0000.edf": b"eeg" * 50,
    "mic/seg_0000.wav": b"audio" * 10,
}
HASH = recording_hash_of(FILES)

Run = Callable[..., dict[str, Any]]


def substitutions(lab: Lab) -> dict[str, str]:
    """All that is changed in a snippet before it runs: the package's name, the profile, and paths."""
    return {
        "from ursa import": "from ursa_pipelines import",
        'DataInterface(profile="r2")': f'DataInterface(config_path="{lab.config}")',
        'profile="r2", config_path=Path("/tmp/my-override.yaml")': f'profile="local", config_path=Path("{lab.config}")',
        "/Volumes/Shared_Drive/constellation-data/recordings": str(lab.nas),
        "<recording_hash>": HASH,
    }


@pytest.fixture
def run(lab: Lab) -> Run:
    """Runs a snippet with the given names defined; returns the names defined then."""

    def run(name: str, **names: Any) -> dict[str, Any]:
        code = _snippets()[name]
        for text, replacement in substitutions(lab).items():
            code = code.replace(text, replacement)
        exec(compile(code, f"runbook: {name}", "exec"), names)
        return names

    return run


def test_the_snippets_are_those_of_the_runbook():
    text = [line.strip() for line in (HERE / "runbook.txt").read_text(encoding="utf-8").splitlines()]
    code_in_text = {line for line in text if re.match(r"(from|import) [a-z]+|[a-z_]+ = |print\(|(for|def) .*:$", line)}
    code_in_snippets: set[str] = set()

    for name, code in _snippets().items():
        lines = [line.strip() for line in code.splitlines()]
        assert any(text[start : start + len(lines)] == lines for start in range(len(text))), name
        code_in_snippets.update(lines)

    assert code_in_text <= code_in_snippets


def test_path_a_uploads_and_registers(lab: Lab, run: Run, capsys: pytest.CaptureFixture[str]):
    write_recording(lab.nas, REC, FILES, participant="Aria Lin")

    result = run("path a")["result"]

    assert capsys.readouterr().out == f"ingested: {HASH}\nfiles uploaded: 4, skipped: 0\n"
    assert (result.bytes_uploaded, result.paused) == (sum(map(len, FILES.values())), False)
    assert {path: stored(lab, REC, path) for path in FILES} == FILES
    assert lab.data.get_recording(HASH) == result.recording
    assert len(lab.data.list_modalities({"recording_hash": HASH})) == 3
    (participant,) = lab.data.list_participants()
    assert participant.metadata == {"display_name": "Aria Lin"}
    lab.check_invariants()


def test_path_a_without_participant_txt_registers_no_participant(lab: Lab, run: Run):
    write_recording(lab.nas, REC, FILES)

    assert run("path a")["result"].recording.participant_ids == []


def test_path_a_skips_files_that_are_already_present(lab: Lab, run: Run, capsys: pytest.CaptureFixture[str]):
    directory = write_recording(lab.nas, REC, FILES)
    upload_as_rig(lab, directory, except_for="mic/seg_0000.wav")

    run("path a")

    assert "files uploaded: 1, skipped: 3" in capsys.readouterr().out


def test_path_a_refuses_to_overwrite_a_row_and_overwrite_replaces_it(lab: Lab, run: Run):
    write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    names = run("path a")
    right = names["result"].recording
    lab.data.register_recording(
        recording_hash=HASH,
        start_time=right.start_time,
        duration=right.duration + timedelta(hours=1),
        participant_ids=right.participant_ids,
        device_info=right.device_info,
        metadata=right.metadata,
        on_conflict="overwrite",
    )
    with pytest.raises(CatalogRowExists):
        run("path a")

    result = run("path a with overwrite", **names)["result"]

    assert (result.files_uploaded, result.files_skipped) == (0, 4)
    assert lab.data.get_recording(HASH).comparable() == right.comparable()


def test_path_b_registers_what_is_in_the_bucket(lab: Lab, run: Run, capsys: pytest.CaptureFixture[str]):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest={"participant": "Somebody Else"}))
    before = lab.objects(REC)

    result = run("path b")["result"]

    assert capsys.readouterr().out == f"registered: {HASH}\n"
    assert result.recording.participant_ids == [derive_participant_id("Aria Lin")]
    assert len(lab.data.list_modalities({"recording_hash": HASH})) == 3
    assert lab.objects(REC) == before
    lab.check_invariants()


def test_path_b_refuses_if_anything_is_missing(lab: Lab, run: Run):
    directory = write_recording(lab.nas, REC, FILES)
    upload_as_rig(lab, directory, except_for="camera_a/seg_0001.mp4")

    with pytest.raises(ObjectsMissing, match=r"camera_a/seg_0001\.mp4"):
        run("path b")

    assert lab.data.list_recordings() == []


def test_path_c_reconstructs_by_the_command_line_and_path_b_follows(lab: Lab, run: Run):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest={"files": []}, participant="Aria Lin"))

    done = _reconstruct(lab, "--rec-id", REC, "--yes")

    assert done.returncode == 0, done.stderr
    assert REC in done.stdout
    assert HASH in done.stdout
    manifest = stored(lab, REC, "manifest.json")
    assert b'"participant": "Aria Lin"' in manifest
    assert run("path b")["result"].recording.recording_hash == HASH

    again = _reconstruct(lab, "--rec-id", REC, "--yes")

    assert again.returncode == 0, again.stderr
    assert "nothing was written" in again.stdout
    assert stored(lab, REC, "manifest.json") == manifest


def test_path_c_on_the_command_line_writes_nothing_without_yes_and_tells_errors_in_words(lab: Lab):
    upload_as_rig(lab, write_recording(lab.nas, REC, FILES, manifest=False))

    unconfirmed = _reconstruct(lab, "--rec-id", REC)
    unknown = _reconstruct(lab, "--rec-id", "rec_20260101_000000_aaaa", "--yes")

    assert (unconfirmed.returncode, unknown.returncode) == (2, 1)
    assert "--yes" in unconfirmed.stderr
    assert "rec_20260101_000000_aaaa: " in unknown.stderr
    assert "Traceback" not in unknown.stderr
    assert "manifest.json" not in lab.objects(REC)


def test_progress_is_told_file_by_file(lab: Lab, run: Run, capsys: pytest.CaptureFixture[str]):
    directory = write_recording(lab.nas, REC, FILES)

    run("progress", data=lab.data, manifest=directory / "manifest.json", rec_dir=directory, participant=None)

    total = sum(map(len, FILES.values()))
    told = [line.rpartition(": ") for line in capsys.readouterr().out.splitlines()]
    assert {file.strip() for file, _, _ in told} == FILES.keys()
    assert told[-1][2] == f"{total:,}/{total:,}"


def test_the_batch_loop_goes_on_after_a_failure(lab: Lab, run: Run, capsys: pytest.CaptureFixture[str]):
    bad, bare, again = "rec_20260520_195629_bad0", "rec_20260520_195630_ba4e", "rec_20260520_195631_a9a1"
    for rec_id in (REC, bad, bare, again):
        write_recording(lab.nas, rec_id, FILES | {"mic/id.wav": rec_id.encode()}, manifest=rec_id != bare)
    (lab.nas / bad / "manifest.json").write_text("{")
    lab.data.ingest(source_dir=lab.nas / again)

    run("batch loop")

    ok, fail, skip, unchanged = capsys.readouterr().out.splitlines()
    assert ok == f"OK {REC}: 5 uploaded, 0 skipped"
    assert fail.startswith(f"FAIL {bad}: ManifestInvalid: {bad}: manifest.json: ")
    assert skip == f"SKIP {bare}: no manifest (run reconstruct first)"
    assert unchanged == f"OK {again}: 0 uploaded, 5 skipped"
    assert {row.rec_id for row in lab.data.list_recordings()} == {REC, again}

    write_recording(lab.nas, bad, FILES | {"mic/id.wav": bad.encode()})
    run("batch loop")

    assert capsys.readouterr().out.splitlines()[:2] == [
        f"OK {REC}: 0 uploaded, 5 skipped",
        f"OK {bad}: 5 uploaded, 0 skipped",
    ]


def test_verification_shows_the_rows(lab: Lab, run: Run, capsys: pytest.CaptureFixture[str]):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES, participant="Aria Lin"))

    run("verification")

    assert capsys.readouterr().out.splitlines() == [
        f"recording: rec_id={REC}, participants=['{derive_participant_id('Aria Lin')}']",
        "modalities: [('camera', 'a'), ('eeg', '4559'), ('mic', None)]",
    ]


def test_a_file_makes_the_round_trip(lab: Lab, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    names = run("round trip", data=lab.interface(writes=False), rec=lab.data.get_recording(HASH))

    (result,) = names["results"]
    assert result.modalities.keys() == {"camera"}
    (dest,) = tmp_path.glob("ursa_verify_*")
    downloaded = {path.relative_to(dest / REC).as_posix(): path.read_bytes() for path in dest.rglob("*.*")}
    assert downloaded == {path: content for path, content in FILES.items() if path.startswith("camera_a/")}


def test_a_download_tells_of_its_six_phases(lab: Lab, tmp_path: Path):
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES))
    told: list[DownloadProgress] = []

    lab.data.download(lab.data.query(recording_hash=HASH), dest=tmp_path / "down", progress=told.append)

    assert [one.phase for one in told[:3]] == ["start", "plan_done", "modality_start"]
    assert told[-1].phase == "finish"
    assert {one.phase for one in told} == {
        "start",
        "plan_done",
        "modality_start",
        "file_done",
        "modality_done",
        "finish",
    }
    assert (told[-1].files_done, told[-1].bytes_done) == (len(FILES), sum(map(len, FILES.values())))


@pytest.mark.parametrize("workers, keys", [(["eeg_4559"], ["eeg"]), (["eeg_a", "eeg_b"], ["eeg_a", "eeg_b"])], ids=str)
def test_modalities_of_a_query_are_keyed_by_family_and_told_apart_by_worker(
    lab: Lab, workers: list[str], keys: list[str]
):
    files = {f"{worker}/seg_0000.edf": worker.encode() for worker in workers}
    lab.data.ingest(source_dir=write_recording(lab.nas, REC, files))

    (result,) = lab.data.query(modalities=["eeg"])

    assert list(result.modalities) == keys


@pytest.mark.parametrize("snippet", ["config selection", "config selection with an override"])
def test_the_configuration_comes_from_arguments_alone(
    lab: Lab, run: Run, snippet: str, monkeypatch: pytest.MonkeyPatch
):
    for name in ("URSA_CONFIG", "URSA_PROFILE"):
        monkeypatch.setenv(name, "/nowhere/else.yaml")

    data = run(snippet, DataInterface=type(lab.data))["data"]

    assert (data.profile.buckets.raw, data.profile.buckets.assets) == (lab.raw.name, lab.assets.name)
    assert data.catalog.prefix == lab.data.catalog.prefix


def test_conflict_policies_extend_and_merge_leave_modalities_alone(lab: Lab):
    row = lab.data.ingest(source_dir=write_recording(lab.nas, REC, FILES, participant="Aria Lin")).recording
    assert row is not None
    modalities = lab.data.list_modalities()
    same: dict[str, Any] = {
        "recording_hash": HASH,
        "start_time": row.start_time,
        "device_info": row.device_info,
        "metadata": row.metadata,
    }

    longer = lab.data.register_recording(**same, duration=row.duration * 2, on_conflict="extend")
    shorter = lab.data.register_recording(**same, duration=row.duration, on_conflict="extend")
    merged = lab.data.register_recording(
        **same, duration=longer.duration, participant_ids=["p_second"], on_conflict="merge_participants"
    )

    assert longer.duration == shorter.duration == row.duration * 2
    assert merged.participant_ids == sorted([*row.participant_ids, "p_second"])
    assert lab.data.list_modalities() == modalities
    with pytest.raises(ValueError, match="extend"):
        lab.data.register_modality(
            recording_hash=HASH,
            modality="notes",
            format="raw_jsonl",
            on_conflict="extend",  # type: ignore[arg-type]
        )
    lab.data.register_modality(recording_hash=HASH, modality="notes", format="raw_jsonl", on_conflict="error")
    assert {one.modality for one in lab.data.list_modalities()} == {"camera", "eeg", "mic", "notes"}


def _snippets() -> dict[str, str]:
    text = (HERE / "runbook_snippets.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (.+?)\n\n```text\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL))


def _reconstruct(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = HERE.parent / "examples" / "reconstruct_missing_manifests.py"
    return subprocess.run(
        [sys.executable, str(script), "--profile", "local", "--config", str(lab.config), *arguments],
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
