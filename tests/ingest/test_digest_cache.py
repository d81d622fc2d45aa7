"""Unattested files are not hashed twice across retries, and a kept digest that is wrong does no harm (DESIGN 5)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.objects.test_digests import write_over_and_restore_mtime
from tests.recordings_on_disk import recording_hash_of, write_recording
from tests.snapshot import snapshot
from ursa_pipelines.errors import ContentMismatch, ObjectConflict, RecordingConflict, SourceChanged
from ursa_pipelines.ingest.context import IngestContext, Watch
from ursa_pipelines.ingest.pipeline import ingest
from ursa_pipelines.objects.digests import DigestCache
from ursa_pipelines.recordings.inventory import take_inventory

REC = "rec_20260520_195628_b1dd"
CAMERA, MIC, EEG = "camera_a/seg_0000.mp4", "mic/seg_0000.wav", "eeg_4559/seg_0000.edf"
FILES = {CAMERA: b"video" * 1_000_000, MIC: b"audio" * 10, EEG: b"eeg" * 10}
SHA256 = {path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()}
WRONG = hashlib.sha256(b"other bytes").hexdigest()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def context(lab: Lab, state: Path) -> IngestContext:
    """The lab's, with a digest cache of its own."""
    return replace(lab.data.ingest_context(), digests=DigestCache(state))


def known(state: Path, directory: Path) -> dict[str, str]:
    """What a process that starts now knows of the files."""
    inventory = take_inventory(directory)
    return DigestCache(state).recall(inventory, list(inventory.files.values())).digests


def make_believe(context: IngestContext, directory: Path, path: str) -> None:
    """Keeps a digest that is wrong, as if the file had changed without a trace."""
    inventory = take_inventory(directory)
    assert context.digests is not None
    context.digests.recall(inventory, [inventory.files[path]]).keep(inventory.files[path], WRONG)
    context.digests.flush()


def test_digests_are_kept_where_the_host_keeps_its_state(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, manifest=False)
    before = snapshot(directory)

    lab.data.ingest(source_dir=directory)

    assert known(lab.data.state, directory) == SHA256
    assert snapshot(directory) == before


def test_what_an_interrupted_hash_step_had_found_is_kept(lab: Lab, context: IngestContext, state: Path):
    files = {f"mic/seg_{number:04}.wav": b"audio %d" % number for number in range(60)}
    directory = write_recording(lab.nas, REC, files, manifest=False)
    asked = iter(range(10_000))

    paused = ingest(context, directory, watch=Watch(should_pause=lambda: next(asked) > 100))

    found = known(state, directory)
    assert paused.paused
    assert 0 < len(found) < len(files)
    assert found.items() <= {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}.items()
    assert lab.objects(REC) == {}
    assert ingest(context, directory).outcome == "created"
    lab.check_invariants()


def test_a_large_file_is_kept_as_soon_as_it_is_hashed(lab: Lab):
    files = {CAMERA: bytes(20 * 1024**2), MIC: bytes(100 * 1024**2)}
    directory = write_recording(lab.nas, REC, files, manifest=False)

    paused = lab.data.ingest(source_dir=directory, should_pause=lambda: bool(known(lab.data.state, directory)))

    assert paused.paused
    assert known(lab.data.state, directory).keys() == {CAMERA}


def test_attested_files_are_not_hashed_beforehand(lab: Lab, context: IngestContext, state: Path):
    directory = write_recording(lab.nas, REC, FILES)

    assert ingest(context, directory).outcome == "created"

    assert known(state, directory) == {}


@pytest.mark.parametrize("path", [CAMERA, MIC], ids=["large", "small"])
def test_a_known_file_is_not_read_until_it_is_sent_and_then_it_shows_that_it_changed(
    lab: Lab, context: IngestContext, state: Path, path: str
):
    directory = write_recording(lab.nas, REC, FILES, manifest=False)
    make_believe(context, directory, path)

    with pytest.raises(SourceChanged, match=path):
        ingest(context, directory)

    assert path not in lab.objects(REC)
    assert "manifest.json" not in lab.objects(REC)
    assert path not in known(state, directory)
    result = ingest(context, directory)
    assert result.outcome == "created"
    assert result.recording is not None
    assert result.recording.recording_hash == recording_hash_of(FILES)
    lab.check_invariants()


@pytest.mark.parametrize("stated", [True, False], ids=["with evidence", "without"])
def test_a_kept_digest_that_speaks_against_an_object_is_forgotten(lab: Lab, context: IngestContext, stated: bool):
    directory = write_recording(lab.nas, REC, FILES, manifest=False)
    key = f"recordings/{REC}/{MIC}"
    if stated:
        lab.raw.create(key, FILES[MIC], sha256=SHA256[MIC])
    else:
        lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=key, Body=bytearray(FILES[MIC]))
    make_believe(context, directory, MIC)

    with pytest.raises((ObjectConflict, ContentMismatch, SourceChanged), match=MIC):
        ingest(context, directory)

    assert ingest(context, directory).outcome == "created"
    lab.check_invariants()


def test_a_kept_digest_is_no_evidence_against_what_the_bucket_says(lab: Lab, context: IngestContext, state: Path):
    directory = write_recording(lab.nas, REC, FILES, manifest=False)
    ingest(context, directory)
    before = lab.everything()
    make_believe(context, directory, MIC)

    assert ingest(context, directory).outcome == "unchanged"

    assert known(state, directory) == SHA256
    assert lab.everything() == before


def test_a_file_that_is_exchanged_after_its_ingest_is_still_found_out(lab: Lab, context: IngestContext):
    directory = write_recording(lab.nas, REC, FILES, manifest=False)
    ingest(context, directory)
    write_over_and_restore_mtime(directory / MIC)

    with pytest.raises(RecordingConflict, match=MIC):
        ingest(context, directory)


def test_an_ingest_does_without_the_cache(lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "in the way").write_text("not a directory")
    context = replace(lab.data.ingest_context(), digests=DigestCache(tmp_path / "in the way"))

    assert ingest(context, write_recording(lab.nas, REC, FILES, manifest=False)).outcome == "created"

    assert caplog.text.count("digests are not kept") == 1
    lab.check_invariants()
