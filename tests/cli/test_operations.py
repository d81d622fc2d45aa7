"""`ursa backfill`, `retry`, `quarantine`, `waive`, `history`: what they take, what they refuse, how they exit."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import dagster as dg
import pytest

from tests.cli.test_commands import Command
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.cli import operations
from ursa_pipelines.orchestration.instance import open_instance

OLD, GOOD, BAD, ABSENT = (f"rec_2026{day}_195621_b1dd" for day in ("0430", "0520", "0521", "0522"))
FILES = {"camera_a/seg_0000.mp4": b"video" * 100}


@pytest.fixture
def ursa(
    lab: Lab, store_state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, nobody: str
) -> Command:
    """The command on an instance of the test's own, with nothing listening where it looks for a webserver."""
    home = store_state / f"dagster-{secrets.token_hex(4)}"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setattr(operations, "DEFAULT_URL", nobody)
    return Command(lab.config, capsys, monkeypatch)


@pytest.fixture
def nobody() -> str:
    """A URL at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def write_bad(lab: Lab) -> None:
    (write_recording(lab.nas, BAD, FILES) / "camera_a/seg_0000.mp4").write_bytes(b"VIDEO" * 100)


def test_a_backfill_shows_what_it_takes_and_ingests_that_here_if_no_dagster_runs(ursa: Command, lab: Lab):
    write_recording(lab.nas, OLD, FILES)
    write_recording(lab.nas, GOOD, FILES)
    write_bad(lab)

    told = ursa("backfill", "--since", "2026-05-01", "--yes", code=1)

    assert "2 recordings to ingest" in told
    assert "in this process" in told
    assert "1 done, 1 failed, 0 wait" in told
    assert "camera_a/seg_0000.mp4: its SHA-256 is" in told
    assert [row.rec_id for row in lab.data.list_recordings()] == [GOOD]
    with open_instance("lab") as instance:
        tags = [record.dagster_run.tags for record in instance.get_run_records()]
        assert set(instance.get_dynamic_partitions("recordings")) == {GOOD, BAD}
    assert {(one["ursa/trigger"], one["ursa/by"]) for one in tags} == {("backfill", lab.data.writer.by)}

    (again,) = ursa.json("backfill", "--failed", "--dry-run")["items"]
    assert (again["rec_id"], again["places"]) == (BAD, ["nas"])
    assert again["state"].startswith("failed")


def test_what_the_catalog_lacks_is_found_on_sources_and_in_the_bucket(ursa: Command, lab: Lab):
    write_recording(lab.nas, OLD, FILES)
    ursa("ingest", lab.nas / OLD, "--yes")
    write_recording(lab.usb, GOOD, FILES)
    lab.raw.create(f"recordings/{BAD}/camera_a/seg_0000.mp4", b"video")

    found = ursa.json("backfill", "--missing", "--dry-run")

    assert [(one["rec_id"], one["places"], one["state"]) for one in found["items"]] == [
        (GOOD, ["usb"], "not ingested"),
        (BAD, ["bucket"], "not ingested"),
    ]


def test_a_dry_run_changes_nothing(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    before = lab.everything()

    ursa("backfill", GOOD, "--dry-run")

    assert lab.everything() == before
    with open_instance("lab") as instance:
        assert instance.get_dynamic_partitions("recordings") == []


def test_a_backfill_asks_before_it_begins(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)

    ursa("backfill", GOOD, code=2)
    ursa("backfill", GOOD, typed="n", code=3)

    assert lab.data.list_recordings() == []


def test_a_backfill_of_nothing_is_a_mistake_of_usage(ursa: Command):
    assert "--missing" in ursa("backfill", "--yes", code=2)
    ursa("retry", "--yes", code=2)


def test_a_recording_that_is_nowhere_is_refused_and_the_others_go_on(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)

    told = ursa("backfill", GOOD, ABSENT, "no-id", "--yes", code=1)

    assert f"{ABSENT}: no recording of this id" in told
    assert "no-id: no recording of this id" in told
    assert [row.rec_id for row in lab.data.list_recordings()] == [GOOD]
    with open_instance("lab") as instance:
        assert instance.get_dynamic_partitions("recordings") == [GOOD]


def test_an_unmounted_source_is_told_and_the_rest_is_done(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    (lab.usb / "README.txt").unlink()

    told = ursa("backfill", "--missing", "--yes", code=1)

    assert "the source usb is empty" in told
    assert "1 done, 0 failed" in told


def test_an_interrupted_backfill_registers_nothing_and_begins_no_further_run(lab: Lab, ursa: Command):
    (write_recording(lab.nas, GOOD, FILES) / "manifest.json").unlink()
    with (lab.nas / GOOD / "camera_a" / "endless.mp4").open("wb") as endless:
        endless.truncate(64 * 1024**3)
    write_recording(lab.nas, ABSENT, FILES)
    with open_instance("lab") as instance:
        # Between the two, so that each gets a run of its own.
        instance.add_dynamic_partitions("recordings", [GOOD, BAD, ABSENT])
        program = str(Path(sys.executable).with_name("ursa"))
        command = subprocess.Popen(
            [program, "backfill", GOOD, ABSENT, "--in-process", "--config", str(lab.config), "--yes"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 300
        while not is_hashing(instance) and command.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        command.send_signal(signal.SIGINT)

        printed, _ = command.communicate(timeout=300)

        assert command.returncode == 130, printed
        assert b"Interrupted" in printed
        assert len(instance.get_run_records()) == 1
    assert lab.data.list_recordings() == []


def is_hashing(instance: dg.DagsterInstance) -> bool:
    """Whether the step has begun in which an endless file is read."""
    return any(
        event.dagster_event is not None and event.dagster_event.event_type == dg.DagsterEventType.STEP_START
        for record in instance.get_run_records()
        for event in instance.all_logs(record.dagster_run.run_id)
        if event.dagster_event and str(event.dagster_event.step_key).endswith("hash")
    )


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """The URL of something that answers every question with this."""

    class Site(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Nothing is logged."""

    server = HTTPServer(("127.0.0.1", 0), Site)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"errors": null}',
        b'{"errors": ["x"]}',
        b'{"errors": 3, "data": {}}',
        b'{"data": {}}',
        b'{"data": {"assetNodeOrError": 1}}',
        b'{"data": {"assetNodeOrError": {"x": 1}}}',
        b'{"data": {"assetNodeOrError": {"repository": {"name": "a", "location": {"name": "b"}}}}}',
    ],
)
def test_what_is_no_dagster_of_ours_is_refused(body: bytes, ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    with answering(body) as url:
        told = ursa("backfill", GOOD, "--url", url, "--yes", code=3)

    assert "not our Dagster" in told
    assert url in told
    assert lab.data.list_recordings() == []


def test_whatever_answers_there_it_is_done_here_if_that_is_said(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    with answering(b"<html>") as url:
        told = ursa("backfill", GOOD, "--url", url, "--in-process", "--yes")

    assert "in this process" in told
    assert [row.rec_id for row in lab.data.list_recordings()] == [GOOD]


def test_a_dagster_that_was_named_and_does_not_answer_is_not_done_without(ursa: Command, lab: Lab, nobody: str):
    write_recording(lab.nas, GOOD, FILES)

    told = ursa("backfill", GOOD, "--url", nobody, "--yes", code=3)

    assert nobody in told
    assert "--in-process" in told
    assert lab.data.list_recordings() == []


@pytest.mark.parametrize("url", ["foo", "", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "http://["])
@pytest.mark.filterwarnings("error")
def test_what_is_no_url_is_a_mistake_of_usage(url: str, ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)

    assert "--url" in ursa("backfill", GOOD, "--url", url, "--yes", code=2)
    assert "--url" in ursa("retry", GOOD, "--url", url, "--yes", code=2)
    assert "nothing has happened" in ursa("history", GOOD, code=1)


def test_only_what_writes_there_makes_a_dagster_home_the_profiles_own(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    stamp = Path(os.environ["DAGSTER_HOME"]) / "ursa_profile"

    ursa("history", GOOD, code=1)
    ursa("backfill", GOOD, "--dry-run")
    ursa("retry", ABSENT, "--yes", code=1)
    ursa("retry", "--failed", "--yes")
    assert not stamp.exists()

    ursa("quarantine", GOOD, "--reason", "damaged", "--yes")
    assert stamp.read_text().split()[0] == "lab"

    stamp.unlink()
    ursa("backfill", GOOD, "--yes")
    assert stamp.read_text().split()[0] == "lab"


@pytest.mark.parametrize("arguments", [["history", GOOD], ["backfill", GOOD, "--yes"], ["retry", GOOD, "--yes"]])
def test_a_dagster_home_that_is_not_there_is_refused(
    arguments: list[str], ursa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nowhere"))

    told = ursa(*arguments, code=3)

    assert str(tmp_path / "nowhere") in told
    assert "DAGSTER_HOME" in told


def test_quarantine_and_waiver_are_passed_by_until_somebody_names_them(ursa: Command, lab: Lab):
    for rec_id in (OLD, GOOD, BAD):
        write_recording(lab.nas, rec_id, FILES | {"mic/a.wav": rec_id.encode()})

    ursa("quarantine", OLD, "--reason", "the rig's clock was wrong", "--yes")
    ursa("waive", GOOD, "--reason", "only a test", "--yes")
    found = ursa.json("backfill", "--since", "2026-01-01", "--dry-run")

    assert [one["rec_id"] for one in found["items"]] == [BAD]
    assert [(one["rec_id"], one["state"], one["reason"]) for one in found["summary"]["passed_by"]] == [
        (OLD, "quarantined", "the rig's clock was wrong"),
        (GOOD, "waived", "only a test"),
    ]

    ursa("backfill", OLD, "--yes")

    assert [row.rec_id for row in lab.data.list_recordings()] == [OLD]
    again = ursa.json("backfill", OLD, "--dry-run")
    assert again["items"][0]["state"] == "registered"


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 501])
def test_a_reason_is_one_line_that_says_something(reason: str, ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)

    ursa("quarantine", GOOD, "--reason", reason, "--yes", code=2)

    assert "nothing has happened" in ursa("history", GOOD, code=1)


def test_decisions_about_what_is_not_there_are_refused_and_the_others_taken(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)

    told = ursa("quarantine", ABSENT, GOOD, "--reason", "damaged", "--yes", code=1)

    assert f"{ABSENT}: no recording of this id" in told
    assert f"{GOOD} is quarantined" in told
    assert ABSENT in ursa("retry", ABSENT, "--yes", code=1)


def test_a_retry_lifts_quarantine_and_says_what_to_do_where_no_dagster_runs(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES)
    ursa("quarantine", GOOD, "--reason", "damaged", "--yes")

    told = ursa("retry", "--quarantined", "--yes")

    assert "reported on nas_recording" in told
    assert "ursa backfill --failed" in told
    ursa("backfill", "--failed", "--yes")
    assert [row.rec_id for row in lab.data.list_recordings()] == [GOOD]
    assert "Nothing is to be tried again" in ursa("retry", "--quarantined", "--failed", "--yes")


def test_the_history_tells_who_did_what_and_why(ursa: Command, lab: Lab):
    write_recording(lab.nas, GOOD, FILES, participant="Aria Lin")
    ursa("quarantine", GOOD, "--reason", "looks damaged", "--yes")
    ursa("retry", GOOD, "--yes")
    ursa("backfill", GOOD, "--yes")

    happened = ursa.json("history", GOOD)["items"]

    assert [one["what"] for one in happened] == ["quarantined", "retried", "arrived on nas", "registered (created)"]
    assert {one["by"] for one in happened} == {lab.data.writer.by}
    assert happened[0]["why"] == "looks damaged"
    assert happened[-1]["why"].startswith("backfill, run ")
    told = ursa("history", GOOD)
    assert "looks damaged" in told
    assert "Aria" not in told
    ursa("history", ABSENT, code=1)
    assert "no recording id" in ursa("history", "nonsense", code=2)
