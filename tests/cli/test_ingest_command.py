"""`ursa plan`, `apply` and `ingest`: what they tell before and after, what they refuse, how they exit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
import yaml

from tests.cli.test_commands import BAD, FILES, GOOD, LATE, OTHER, Command, production_profile, stored_without_a_row
from tests.cli.test_commands import ursa as ursa  # the fixture
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.cli.main import main
from ursa_pipelines.cli.plans import Planned
from ursa_pipelines.cli.progress import Tally
from ursa_pipelines.ingest.plan import Action, IngestPlan
from ursa_pipelines.ingest.plan_file import write_plan

ENDLESS = 64 * 1024**3
HALF = {"nodes": {"green-mantis": ["camera_a", "mic"], "green-motor": ["eeg_4559"]}}


def rec_ids(lab: Lab) -> list[str | None]:
    return sorted(row.rec_id for row in lab.data.list_recordings())


def row_of(told: str, rec_id: str) -> list[str]:
    """The cells of a recording's row in the first table that has one."""
    return re.split(r"\s{2,}", next(line for line in told.splitlines() if line.startswith(f" {rec_id}")).strip())


def changed(config: Path, **fields: Any) -> Path:
    """The profile with these fields in place of its own."""
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | fields))
    return config


def test_plan_says_what_would_be_done_and_does_nothing(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES, manifest=HALF)
    write_recording(lab.nas, BAD, FILES, manifest={"recording_id": GOOD})
    write_recording(lab.nas, LATE, {**FILES, "session.lock": b""})
    before = lab.everything()

    told = ursa("plan", lab.nas, code=1)
    document = ursa.json("plan", lab.nas, code=1)

    assert row_of(told, GOOD) == [GOOD, "A", "1 of 2", "2", "550 bytes", "550 bytes", "ingest"]
    assert row_of(told, BAD)[-1] == "refused"
    assert f"refused {BAD}: manifest.json" in told
    assert f"waits {LATE}: " in told
    assert (
        "1 recording to ingest: 2 files, 550 bytes to send, no upload cap.\nLeft alone: 1 waiting, 1 refused." in told
    )
    first, second, third = document["items"]
    assert (first["path"], first["files"], first["files_to_send"], first["bytes_to_hash"]) == ("A", 2, 2, 0)
    assert (second["action"], second["error_type"], third["action"]) == ("refused", "ManifestInvalid", "waits")
    assert document["summary"]["bytes_to_send"] == 550
    assert lab.everything() == before


def test_plan_without_a_word_takes_all_sources_and_tells_of_one_that_is_away(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    lab.usb.rename(lab.usb.with_name("unplugged"))

    told = ursa("plan", code=1)

    assert row_of(told, GOOD)[-1] == "ingest"
    assert "source usb is not read" in told
    assert list(ursa.json("plan", code=1)["summary"]["unavailable"]) == ["usb"]


def test_plan_tells_how_long_it_takes_under_the_cap(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    changed(lab.config, settings={"bandwidth": "10B/s"})

    assert re.search(r"about 55 s at 10 bytes/s, until \d\d:\d\d", ursa("plan"))


def test_a_rec_id_stands_for_its_directories_or_for_the_copy_in_the_bucket(ursa: Command, lab: Lab, tmp_path: Path):
    write_recording(lab.nas, GOOD, FILES)
    stored_without_a_row(lab, write_recording(tmp_path, OTHER, {"mic/seg_0000.wav": b"other"}))

    told = ursa("ingest", GOOD, OTHER, "--yes")

    assert [row_of(told, rec_id)[1] for rec_id in (GOOD, OTHER)] == ["A", "B"]
    assert rec_ids(lab) == [GOOD, OTHER]


def test_ingest_shows_its_plan_and_a_line_for_each_recording_that_ended(ursa: Command, lab: Lab):
    directory = write_recording(lab.nas, GOOD, FILES, participant="Aria Lin")

    told = ursa("ingest", directory, "--yes")

    assert told.index("Plan") < told.index(f"OK {GOOD} created: 2 files, 550 bytes sent")
    assert told.endswith("1 registered (550 bytes sent).\n")
    assert "\x1b" not in told
    assert "Aria" not in told
    assert rec_ids(lab) == [GOOD]


def test_nothing_to_do_is_said_without_a_question(ursa: Command, lab: Lab):
    lab.data.ingest(source_dir=write_recording(lab.nas, GOOD, FILES))

    told = ursa("ingest")
    (item,) = ursa.json("ingest")["items"]

    assert row_of(told, GOOD)[-1] == "nothing to do"
    assert told.endswith("Nothing to do: 1 already registered.\n")
    assert (item["status"], item["outcome"], item["files_skipped"]) == ("OK", "unchanged", 2)


def test_many_that_need_nothing_are_counted_and_not_listed(capsys: pytest.CaptureFixture[str], lab: Lab):
    plans = [IngestPlan(f"rec_20260520_1956{second:02}_b1dd", action="nothing") for second in range(41)]

    Planned(lab.data, [*plans, IngestPlan(GOOD, "A", 2, 550, 2, 550)]).show()

    told = capsys.readouterr().out
    assert told.count("rec_") == 1
    assert (
        "1 recording to ingest: 2 files, 550 bytes to send, no upload cap.\nLeft alone: 41 already registered" in told
    )


def test_of_very_many_a_page_is_listed_and_the_rest_counted(lab: Lab, capsys: pytest.CaptureFixture[str]):
    actions: tuple[Action, ...] = ("ingest", "refused")
    plans = [
        IngestPlan(f"rec_20260520_195628_{number:04x}", action=action, reason="no" if action == "refused" else "")
        for number, action in enumerate(action for action in actions for _ in range(300))
    ]

    Planned(lab.data, plans).show()

    told = capsys.readouterr().out
    assert len(told.splitlines()) < 500
    assert "and 260 more to ingest" in told and "and 100 more refused" in told
    assert "300 recordings to ingest" in told and "Left alone: 300 refused." in told


def test_dry_run_writes_nothing_and_asks_nothing(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    before = lab.everything()

    assert row_of(ursa("ingest", "--dry-run"), GOOD)[-1] == "ingest"
    assert ursa.json("ingest", "--dry-run")["items"][0]["action"] == "ingest"
    assert lab.everything() == before


def test_ingest_as_json_is_one_document_with_all_recordings(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    write_recording(lab.nas, LATE, {**FILES, "session.lock": b""})

    document = ursa.json("ingest", "--yes", code=1)

    assert (document["command"], document["profile"], document["error"]) == ("ursa ingest", "lab", None)
    found = [(item["rec_id"], item["status"], item["outcome"]) for item in document["items"]]
    assert found == [(GOOD, "OK", "created"), (LATE, "SKIP", "")]
    assert (document["summary"]["OK"], document["summary"]["SKIP"], document["summary"]["bytes_sent"]) == (1, 1, 550)


def test_ingest_goes_on_after_a_failure_and_exits_with_1(ursa: Command, lab: Lab):
    directories = [write_recording(lab.nas, rec_id, FILES) for rec_id in (BAD, GOOD)]
    (directories[0] / "mic/seg_0000.wav").write_bytes(b"noise" * 10)
    write_recording(lab.nas, BAD, {}, manifest=False)

    told = ursa("ingest", "--yes", *directories, code=1)

    assert told.count(f"FAIL {BAD}: mic/seg_0000.wav") == 1
    assert told.endswith("1 registered (550 bytes sent), 1 failed.\n")
    assert rec_ids(lab) == [GOOD]


def test_what_the_plan_refuses_or_lets_wait_is_told_again_at_the_end(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    write_recording(lab.nas, BAD, FILES, manifest={"recording_id": GOOD})
    write_recording(lab.nas, LATE, {**FILES, "session.lock": b""})

    told = ursa("ingest", "--yes", lab.nas / "elsewhere", lab.nas, code=1)

    end = told[told.index("OK ") :]
    assert f"FAIL {BAD}: manifest.json" in end
    assert f"SKIP {LATE}: " in end
    assert "elsewhere" in end
    assert end.endswith("1 registered (550 bytes sent), 2 failed, 1 waiting.\n")


def test_ingest_of_nothing_but_what_is_refused_asks_nothing(ursa: Command, lab: Lab):
    assert GOOD in ursa("ingest", lab.nas / GOOD, code=1)


def test_a_no_on_the_terminal_writes_nothing(ursa: Command, lab: Lab):
    directory = write_recording(lab.nas, GOOD, FILES)
    before = lab.everything()

    ursa("ingest", directory, typed="n", code=3)
    assert lab.everything() == before
    ursa("ingest", directory, typed="y")

    assert rec_ids(lab) == [GOOD]


def test_a_plan_in_a_file_is_applied_as_it_is(ursa: Command, lab: Lab, tmp_path: Path):
    write_recording(lab.nas, GOOD, FILES)
    file = tmp_path / "plan.json"
    told = ursa("plan", "--out", file)
    write_recording(lab.nas, OTHER, FILES)

    assert f"ursa apply {file} --config {lab.config}" in told
    ursa("apply", file, "--dry-run")
    assert rec_ids(lab) == []
    assert f"OK {GOOD} created" in ursa("apply", file, "--yes")
    assert rec_ids(lab) == [GOOD]


def test_apply_names_what_the_plan_had_to_leave_out(ursa: Command, lab: Lab, tmp_path: Path):
    write_recording(lab.nas, GOOD, FILES)
    (write_recording(lab.nas, LATE, FILES) / "session.lock").touch()
    lab.usb.rename(lab.usb.with_name("unplugged"))
    file = tmp_path / "plan.json"
    ursa("plan", "--out", file, code=1)

    told = ursa("apply", file, "--yes", code=1)

    assert f"OK {GOOD} created" in told
    assert f"waits {LATE}: " in told and "usb is not read" in told


def drift_of_source(lab: Lab) -> None:
    write_recording(lab.nas, GOOD, {"mic/seg_0001.wav": b"late"}, manifest=False)


def drift_of_bucket(lab: Lab) -> None:
    lab.raw.create(f"recordings/{GOOD}/mic/seg_0000.wav", FILES["mic/seg_0000.wav"])


def drift_of_catalog(lab: Lab) -> None:
    lab.data.ingest(source_dir=lab.nas / GOOD)


@pytest.mark.parametrize(
    ("drift", "what"), [(drift_of_source, "source"), (drift_of_bucket, "bucket"), (drift_of_catalog, "catalog")]
)
def test_apply_refuses_what_is_no_longer_as_planned(drift: Any, what: str, ursa: Command, lab: Lab, tmp_path: Path):
    write_recording(lab.nas, GOOD, FILES)
    file = tmp_path / "plan.json"
    ursa("plan", "--out", file)
    drift(lab)
    before = lab.everything()

    told = ursa("apply", file, "--yes", code=3)
    document = ursa.json("apply", file, "--yes", code=3)

    assert re.search(rf"{GOOD}\s+{what}\s", told)
    assert "Make a new plan" in told
    assert (GOOD, what) in {(item["rec_id"], item["what"]) for item in document["items"]}
    assert document["error"]["type"] == "PlanDrifted"
    assert lab.everything() == before


def test_apply_looks_again_once_the_question_is_answered(
    ursa: Command, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_recording(lab.nas, GOOD, FILES)
    file = tmp_path / "plan.json"
    ursa("plan", "--out", file)
    before, confirm = lab.everything(), typer.confirm

    def answered_late(*arguments: Any, **options: Any) -> bool:
        drift_of_source(lab)
        return confirm(*arguments, **options)

    monkeypatch.setattr(typer, "confirm", answered_late)

    assert re.search(rf"{GOOD}\s+source\s", ursa("apply", file, typed="y", code=3))
    assert lab.everything() == before


def test_the_file_of_a_plan_does_not_choose_the_profile(
    capsys: pytest.CaptureFixture[str], lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_recording(lab.nas, GOOD, FILES)
    plan = lab.data.plan_file(lab.data.plan_many([lab.nas])).model_copy(update={"profile": "r2"})
    write_plan(plan, tmp_path / "plan.json")
    monkeypatch.setattr(sys, "argv", ["ursa", "apply", str(tmp_path / "plan.json"), "--yes"])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "the plan is for r2, this is local" in told and "`--profile r2`" in told


def test_only_a_plan_is_replaced_by_a_plan(ursa: Command, lab: Lab, tmp_path: Path):
    write_recording(lab.nas, GOOD, FILES)
    plan, notes = tmp_path / "plan.json", tmp_path / "notes.txt"
    notes.write_text("mine")
    ursa("plan", "--out", plan)
    ursa("plan", "--out", plan)

    assert "Name another file" in ursa("plan", "--out", notes, code=3)
    assert notes.read_text() == "mine"
    assert str(notes) in ursa("apply", notes, code=3)


def test_production_is_written_only_after_its_bucket_was_typed(
    ursa: Command, lab: Lab, store_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    directory = write_recording(lab.nas, GOOD, FILES)
    raw = f"production-{lab.raw.name}"
    ursa.config = production_profile(lab, store_state, raw, tmp_path, monkeypatch)

    assert "Run `ursa catalog init` once" in ursa("ingest", directory, typed=raw, code=3)
    ursa("catalog", "init", "--yes", typed=lab.raw.name, code=3)
    assert "catalog at ursa/catalog" in ursa("catalog", "init", typed=raw)
    assert "terminal" in ursa("ingest", "--yes", directory, code=3)
    ursa("ingest", "--yes", directory, typed="y", code=3)
    assert ursa.json("query")["items"] == []
    assert f"production, bucket {raw}" in ursa("plan")
    assert f"OK {GOOD} created" in ursa("ingest", directory, typed=raw)

    as_local = yaml.safe_load(lab.config.read_text()) | {"buckets": yaml.safe_load(ursa.config.read_text())["buckets"]}
    ursa.config = tmp_path / "as_local.yaml"
    ursa.config.write_text(yaml.safe_dump(as_local))
    write_recording(lab.nas, OTHER, FILES)
    assert "'family': 'production'" in ursa("ingest", "--yes", code=3)


def test_a_large_ingest_into_production_comes_with_the_text_that_announces_it(
    ursa: Command, lab: Lab, store_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_recording(lab.nas, GOOD, FILES)
    raw = f"production-{lab.raw.name}"
    ursa.config = production_profile(lab, store_state, raw, tmp_path, monkeypatch)
    ursa("catalog", "init", typed=raw)

    assert "nnounce" not in ursa("plan")
    changed(ursa.config, notifications={"announce_from": 1})
    told = ursa("plan")

    assert "Announce it first" in told
    assert "*Ingest begins* (production): 1 recording, 550B" in told


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_an_ingest_in_the_middle_of_a_file(lab: Lab, ending: signal.Signals):
    directory = write_recording(lab.nas, GOOD, FILES)
    with (directory / "mic/seg_0001.wav").open("wb") as endless:
        endless.truncate(ENDLESS)
    program = str(Path(sys.executable).with_name("ursa"))
    command = [program, "ingest", "--yes", "--config", str(lab.config), str(directory)]
    process = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not any(file.path.endswith("seg_0001.wav") for file in process.open_files()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(ending)
        told, _ = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert process.returncode == 130
    last = told.decode().splitlines()[-1]
    assert last.startswith("Interrupted. 0 registered, 1 not done. Run it again to go on")
    assert told.count(b"Interrupted") == 1
    assert lab.objects(GOOD) == {}
    assert lab.data.list_recordings() == []


def test_an_interrupted_ingest_answers_with_a_document(
    ursa: Command, lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for rec_id in (GOOD, OTHER):
        write_recording(lab.nas, rec_id, FILES | {"notes/a.txt": rec_id.encode()})

    def interrupt(tally: Tally, rec_id: str, progress: object) -> None:
        if not tally.is_stopping:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Tally, "tell", interrupt)

    document = ursa.json("ingest", "--yes", code=130)

    assert document["error"]["type"] == "Interrupted"
    assert [item["rec_id"] for item in document["items"]] == [GOOD, OTHER]
    assert json.dumps(rec_ids(lab)) == json.dumps(
        [item["rec_id"] for item in document["items"] if item["status"] == "OK"]
    )
