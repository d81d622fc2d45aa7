"""The verbs of `ursa` as scripts and operators use them: what they print, what they refuse, how they exit."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.cli.main import main
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.objects.parts import has_open_uploads
from ursa_pipelines.objects.unfinished import UnfinishedUploads

GOOD, BAD, LATE, OTHER = (f"rec_20260520_19562{digit}_b1dd" for digit in "1234")
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}
ENDLESS = 64 * 1024**3


class Command:
    """`ursa` in this process, away from a terminal unless something is typed."""

    def __init__(self, config: Path, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.config, self._capture, self._patch = config, capture, patch
        patch.setenv("COLUMNS", "200")

    def __call__(self, *arguments: str | Path, code: int = 0, typed: str | None = None) -> str:
        """What the command prints; on standard error, too, if it fails."""
        with self._patch.context() as patch, Path(os.devnull).open() as nobody:
            patch.setattr(sys, "argv", ["ursa", *map(str, arguments), "--config", str(self.config)])
            patch.setattr(sys, "stdin", nobody if typed is None else _terminal(typed))
            with pytest.raises(SystemExit) as exit:
                main()
                raise SystemExit(0)
        printed = self._capture.readouterr()
        assert (exit.value.code or 0) == code, printed
        return printed.out + printed.err if code else printed.out

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))


def _terminal(typed: str) -> Any:
    controller, terminal = pty.openpty()
    os.write(controller, f"{typed}\n".encode())
    return os.fdopen(terminal)


@pytest.fixture
def ursa(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(lab.config, capsys, monkeypatch)


def stored_without_a_row(lab: Lab, directory: Path) -> None:
    """What a rig's uploader leaves that dies before it registers."""
    for file in directory.rglob("*"):
        if file.is_file():
            lab.raw.create(f"recordings/{directory.name}/{file.relative_to(directory)}", file.read_bytes())


def test_plan_says_what_would_be_done_and_does_nothing(ursa: Command, lab: Lab):
    good = write_recording(lab.nas, GOOD, FILES)
    bad = write_recording(lab.nas, BAD, FILES, manifest={"recording_id": GOOD})
    before = lab.everything()

    told = ursa("plan", good, bad)
    (first, second) = ursa.json("plan", good, bad)

    assert GOOD in told
    assert "refused" in told
    assert (first["path"], first["files"], first["files_to_send"], first["bytes_to_hash"]) == ("A", 2, 2, 0)
    assert BAD in second["reason"]
    assert lab.everything() == before


def test_ingest_shows_its_plan_and_what_came_of_it(ursa: Command, lab: Lab):
    directory = write_recording(lab.nas, GOOD, FILES, participant="Aria Lin")

    told = ursa("ingest", "--yes", directory)
    again = ursa("ingest", "--yes", directory)

    assert told.index("Plan") < told.index("OK created")
    assert "OK unchanged" in again
    assert "Aria" not in told
    assert [row.rec_id for row in lab.data.list_recordings()] == [GOOD]


def test_ingest_as_json_is_one_document(ursa: Command, lab: Lab):
    items = ursa.json("ingest", "--yes", write_recording(lab.nas, GOOD, FILES))

    (item,) = items
    assert (item["rec_id"], item["status"], item["outcome"], item["files_uploaded"]) == (GOOD, "OK", "created", 2)


def test_ingest_goes_on_after_a_failure_and_exits_with_1(ursa: Command, lab: Lab):
    directories = [write_recording(lab.nas, rec_id, FILES) for rec_id in (BAD, GOOD)]
    (directories[0] / "mic/seg_0000.wav").write_bytes(b"noise" * 10)
    write_recording(lab.nas, BAD, {}, manifest=False)

    told = ursa("ingest", "--yes", *directories, code=1)

    assert f"FAIL {BAD}: mic/seg_0000.wav" in told
    assert [row.rec_id for row in lab.data.list_recordings()] == [GOOD]


def test_ingest_of_a_recording_that_waits_is_not_all_done(ursa: Command, lab: Lab):
    directory = write_recording(lab.nas, LATE, {**FILES, "session.lock": b""})

    assert f"SKIP {LATE}" in ursa("ingest", "--yes", directory, code=1)


def test_ingest_of_a_directory_that_is_not_there_fails_by_name(ursa: Command, lab: Lab):
    assert GOOD in ursa("ingest", "--yes", lab.nas / GOOD, code=1)


@pytest.mark.parametrize(
    "arguments", [["ingest", GOOD], ["register", GOOD], ["reconstruct", GOOD], ["catalog", "init"]]
)
def test_nothing_is_written_without_yes_away_from_a_terminal(arguments: list[str], ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    before = lab.everything()

    told = ursa(*(lab.nas / GOOD if argument == GOOD else argument for argument in arguments), code=2)

    assert "--yes" in told
    assert lab.everything() == before


def test_a_no_on_the_terminal_writes_nothing(ursa: Command, lab: Lab):
    directory = write_recording(lab.nas, GOOD, FILES)
    before = lab.everything()

    ursa("ingest", directory, typed="n", code=3)
    assert lab.everything() == before
    ursa("ingest", directory, typed="y")

    assert [row.rec_id for row in lab.data.list_recordings()] == [GOOD]


def test_unknown_options_are_a_matter_of_usage(ursa: Command):
    assert "--frobnicate" in ursa("query", "--frobnicate", code=2)


def test_a_profile_that_does_not_exist_is_refused(ursa: Command):
    assert "there is no profile 'elsewhere'" in ursa("query", "--profile", "elsewhere", code=3)


def test_register_writes_the_rows_of_what_the_bucket_has(ursa: Command, lab: Lab, tmp_path: Path):
    stored_without_a_row(lab, write_recording(tmp_path, GOOD, FILES))

    told = ursa("register", GOOD, "--participant", "Aria Lin", "--yes")

    assert told == f"{GOOD}: created, 2 files, verified by size\n"
    assert [row.metadata["display_name"] for row in lab.data.list_participants() if row.metadata] == ["Aria Lin"]


def test_register_refuses_what_the_bucket_lacks(ursa: Command, lab: Lab, tmp_path: Path):
    directory = write_recording(tmp_path, GOOD, FILES)
    (directory / "mic/seg_0000.wav").unlink()
    stored_without_a_row(lab, directory)

    assert "mic/seg_0000.wav" in ursa("register", GOOD, "--yes", code=3)
    assert lab.data.list_recordings() == []


def test_reconstruct_makes_the_manifests_that_are_missing(ursa: Command, lab: Lab, tmp_path: Path):
    stored_without_a_row(lab, write_recording(tmp_path, GOOD, FILES, manifest=False))
    stored_without_a_row(lab, write_recording(tmp_path, OTHER, FILES))

    told = ursa("reconstruct", GOOD, OTHER, "--yes")
    ursa("register", GOOD, "--yes")

    assert told == f"{GOOD}: manifest of 2 files written\n{OTHER}: has a manifest already\n"
    assert [row.rec_id for row in lab.data.list_recordings()] == [GOOD]


def test_reconstruct_goes_on_after_a_recording_that_is_not_there(ursa: Command, lab: Lab, tmp_path: Path):
    stored_without_a_row(lab, write_recording(tmp_path, OTHER, FILES, manifest=False))

    told = ursa("reconstruct", BAD, OTHER, "--yes", code=1)

    assert BAD in told
    assert f"{OTHER}: manifest of 2 files written" in told


def test_verify_tells_each_recording_apart(ursa: Command, lab: Lab):
    for rec_id in (GOOD, OTHER):
        lab.data.ingest(source_dir=write_recording(lab.nas, rec_id, {**FILES, "notes/a.jsonl": rec_id.encode()}))
    assert ursa("verify", GOOD, OTHER) == f"{GOOD}: ok, 3 files by size\n{OTHER}: ok, 3 files by size\n"
    key = f"recordings/{GOOD}/mic/seg_0000.wav"
    lab.raw.multipart_client.put_object(Bucket=lab.raw.name, Key=key, Body=b"noise" * 10)

    told = ursa("verify", BAD, GOOD, OTHER, "--deep", "--no-record", code=1)

    assert f"{GOOD}: mic/seg_0000.wav has SHA-256" in told
    assert f"{OTHER}: ok, 3 files by sha256" in told
    assert f"{BAD}: it is not in the catalog" in told


def test_query_filters_and_speaks_json(ursa: Command, lab: Lab):
    eeg = {"eeg_4559/seg_0000.edf": b"eeg"}
    lab.data.ingest(source_dir=write_recording(lab.nas, GOOD, FILES, participant="Aria Lin"))
    lab.data.ingest(source_dir=write_recording(lab.nas, OTHER, eeg, participant="Björn Ek"))

    everything = ursa.json("query")
    by_name = ursa.json("query", "--participant", "aria lin")
    by_family = ursa.json("query", "--modality", "eeg")

    rec_ids = [[row["metadata"]["manifest_recording_id"] for row in rows] for rows in (everything, by_name, by_family)]
    assert rec_ids == [[GOOD, OTHER], [GOOD], [OTHER]]
    assert GOOD in ursa("query")
    assert "Aria" not in ursa("query")


def test_doctor_shows_unfinished_uploads_and_ends_those_that_are_idle(ursa: Command, lab: Lab):
    key, uploads = f"recordings/{GOOD}/camera_a/seg_0000.mp4", UnfinishedUploads(lab.raw, lab.assets)
    upload = uploads.open(key, size=10 * 1024**2, sha256="0" * 64, part_size=5 * 1024**2)
    upload.send(1, memoryview(bytes(5 * 1024**2)))

    assert "unfinished uploads: 1 with 5.2 MB stored" in ursa("doctor")
    assert "0 unfinished uploads ended" in ursa("doctor", "--clean-uploads", "--yes")
    told = ursa("doctor", "--clean-uploads", "--idle-hours", "0", "--yes")

    assert f"ended {key}" in told
    assert "unfinished uploads: none" in told
    assert uploads.survey() == []
    assert not has_open_uploads(lab.raw, key)


def test_doctor_names_what_is_wrong_and_the_remedy(ursa: Command, lab: Lab):
    assert ursa("doctor").count("ok    ") == 6
    lab.nas.rename(lab.nas.with_name("unplugged"))

    told = ursa("doctor", code=1)

    assert "FAIL  source nas: " in told
    assert "Check the cable or the mount" in told
    assert "ok    source usb: 0 recordings" in told


def test_catalog_init_leaves_what_is_there(ursa: Command, lab: Lab):
    before = lab.everything()

    assert ursa("catalog", "init", "--yes") == f"catalog at {lab.data.catalog.prefix}\n"
    assert lab.everything() == before


def test_production_is_written_only_after_its_bucket_was_typed(
    ursa: Command, lab: Lab, store_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    directory = write_recording(lab.nas, GOOD, FILES)
    raw = f"production-{lab.raw.name}"
    ursa.config = production_profile(lab, store_state, raw, tmp_path, monkeypatch)

    assert "terminal" in ursa("ingest", "--yes", directory, code=3)
    assert "run `ursa catalog init` once" in ursa("ingest", directory, typed=raw, code=3)
    ursa("catalog", "init", "--yes", typed=lab.raw.name, code=3)
    assert "catalog at ursa/catalog" in ursa("catalog", "init", typed=raw)
    ursa("ingest", "--yes", directory, typed="y", code=3)
    assert ursa.json("query") == []
    assert "OK created" in ursa("ingest", directory, typed=raw)

    as_local = yaml.safe_load(lab.config.read_text()) | {"buckets": yaml.safe_load(ursa.config.read_text())["buckets"]}
    ursa.config = tmp_path / "as_local.yaml"
    ursa.config.write_text(yaml.safe_dump(as_local))
    assert "'family': 'production'" in ursa("ingest", "--yes", directory, code=3)


def production_profile(lab: Lab, state: Path, raw: str, directory: Path, patch: pytest.MonkeyPatch) -> Path:
    """A profile of the family production in the embedded store, and a stand-in `op` that opens it."""
    buckets = {"raw": raw, "assets": f"production-{lab.assets.name}"}
    store = open_store(state, tuple(buckets.values()))
    keys = {"access_key_id": store.access_key_id, "secret_access_key": store.secret_access_key}
    programs = directory / "programs"
    programs.mkdir()
    for name, value in keys.items():
        (programs / name).write_text(value)
    op = programs / "op"
    op.write_text(f'#!/bin/sh\nexec cat "{programs}/${{3##*/}}"\n')
    op.chmod(0o700)
    patch.setenv("PATH", str(programs), prepend=os.pathsep)
    references = {name: f"op://Vault/Store/{name}" for name in keys}
    profile = {
        "name": "production",
        "family": "production",
        "endpoint": store.endpoint,
        "buckets": buckets,
        "credentials": dict.fromkeys(("assets_ro", "assets_rw", "raw_ro", "raw_rw"), references),
        "sources": [{"name": "nas", "path": str(lab.nas)}],
    }
    config = directory / "production.yaml"
    config.write_text(yaml.safe_dump(profile))
    return config


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_an_ingest_in_the_middle_of_a_file(lab: Lab, ending: signal.Signals):
    directory = write_recording(lab.nas, GOOD, FILES)
    with (directory / "mic/seg_0001.wav").open("wb") as endless:
        endless.truncate(ENDLESS)
    program = str(Path(sys.executable).with_name("ursa"))
    command = [program, "ingest", "--yes", "--config", str(lab.config), str(directory)]
    process = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 30
        while not any(file.path.endswith("seg_0001.wav") for file in process.open_files()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(ending)
        told, _ = process.communicate(timeout=10)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert process.returncode == 130
    assert b"Interrupted. Run it again to go on" in told
    assert lab.objects(GOOD) == {}
    assert lab.data.list_recordings() == []


def test_help_is_there_before_anything_heavy_is_imported():
    heavy = ("dagster", "boto3", "obstore", "pyarrow", "pandas", "deltalake", "pydantic")
    program = (
        "import sys, ursa_pipelines\n"
        "from ursa_pipelines.cli.main import main\n"
        "sys.argv = ['ursa', '--help']\n"
        "try: main()\n"
        f"except SystemExit: print([name for name in {heavy} if name in sys.modules], file=sys.stderr)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stderr == "[]\n"
    for verb in (
        "demo",
        "dev",
        "plan",
        "ingest",
        "register",
        "reconstruct",
        "verify",
        "query",
        "bandwidth",
        "catalog",
        "doctor",
    ):
        assert verb in done.stdout
