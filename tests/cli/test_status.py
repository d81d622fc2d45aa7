"""`ursa status`: each state in one lab, what is told of it, how the table is narrowed and paged, and the exit code."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from rich.console import Console

from tests.cli.test_commands import Command
from tests.lab import Lab
from tests.recordings_on_disk import manifest_of, write_recording
from ursa_pipelines.cli import operations
from ursa_pipelines.cli import status as module
from ursa_pipelines.objects.keys import ACTIVE_POINTER, raw_key
from ursa_pipelines.orchestration.definitions import build_definitions
from ursa_pipelines.orchestration.instance import open_instance
from ursa_pipelines.orchestration.partitions import RECORDING
from ursa_pipelines.orchestration.states import Mark

FILES = {"mic/seg_0000.wav": b"sound", "camera_a/seg_0000.mp4": b"video"}
DONE, LOST, NEW, COPIED, STORED, HALF, FAILED, HELD, WAIVED, RUNNING = (
    f"rec_202605{day:02}_195621_b1dd" for day in range(10, 20)
)
ABSENT = "rec_20260601_195621_b1dd"
SIZE = sum(map(len, FILES.values())) + 2 * len(DONE)


@pytest.fixture
def ursa(
    lab: Lab, store_state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    """The command, where there is no Dagster instance and no webserver."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setattr(operations, "DEFAULT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("DAGSTER_HOME", str(store_state / f"dagster-{secrets.token_hex(4)}"))
        yield Command(lab.config, capsys, monkeypatch)


@pytest.fixture
def instance(ursa: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance of the profile's."""
    home = Path(os.environ["DAGSTER_HOME"])
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with open_instance("lab") as instance:
        yield instance


def written(root: Path, rec_id: str, **options: Any) -> Path:
    return write_recording(root, rec_id, {path: body + rec_id.encode() for path, body in FILES.items()}, **options)


def registered_by_hand(lab: Lab, rec_id: str) -> None:
    row = lab.data.list_recordings()[0]
    lab.data.register_recording(
        recording_hash=rec_id.encode().hex()[:64].ljust(64, "0"),
        start_time=row.start_time,
        duration=timedelta(minutes=1),
        participant_ids=[],
        device_info={},
        metadata={**(row.metadata or {}), "manifest_recording_id": rec_id},
    )


def shown(printed: str) -> dict[str, str]:
    """The lines of a table away from a terminal, by recording."""
    return {line.split()[0]: line for line in printed.splitlines() if line.startswith("rec_")}


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int, height: int = 200) -> None:
    """Colours left out, so that what is read is the text."""
    terminal = Console(force_terminal=True, color_system=None, width=width, height=height)
    monkeypatch.setattr(module, "console", terminal)


def test_each_state_is_told_with_its_evidence_and_one_thing_to_do(
    ursa: Command, lab: Lab, instance: dg.DagsterInstance
):
    lab.data.ingest(source_dir=written(lab.nas, DONE))
    registered_by_hand(lab, LOST)
    written(lab.nas, LOST)
    written(lab.nas, NEW)
    (written(lab.usb, COPIED) / "mic" / "seg_0001.wav.part").touch()
    lab.raw.create(raw_key(STORED, "mic/seg_0000.wav"), b"sound")
    half = {"camera_a/seg_0000.mp4": b"video"}
    whole = manifest_of(HALF, {**half, "mic/seg_0000.wav": b"sound"}, node=None)
    nodes = {"nodes": {"green-mantis": ["camera_a"], "green-motor": ["mic"]}}
    lab.data.ingest(source_dir=write_recording(lab.nas, HALF, half, manifest=whole | nodes, node=None))
    for rec_id in (FAILED, HELD, WAIVED, RUNNING):
        written(lab.nas, rec_id)
    for mark in (
        Mark(FAILED, "failed", "the store is away", retryable=True),
        Mark(HELD, "quarantined", "the digest is wrong"),
        Mark(WAIVED, "waived", "a test"),
    ):
        instance.report_runless_asset_event(mark.observation())
    instance.add_dynamic_partitions("recordings", [RUNNING])
    instance.create_run_for_job(
        build_definitions(None, lab.config).resolve_job_def("ingest"),
        tags={"dagster/partition": RUNNING},
        asset_selection={RECORDING},
        status=dg.DagsterRunStatus.STARTED,
    )

    told = ursa("status", code=1)

    lines = shown(told)
    assert list(lines) == [LOST, HELD, FAILED, HALF, NEW, COPIED, STORED, RUNNING, WAIVED]
    for rec_id, *parts in (
        (LOST, "lost", f"nas 2 files {SIZE} bytes · catalog sha256", f"`ursa ingest {LOST}` sends the copy on nas."),
        (HELD, "quarantined", "the digest is wrong", f"`ursa retry {HELD}`"),
        (FAILED, "failed", "attempt 1 of 4: the store is away", f"`ursa retry {FAILED}`"),
        (HALF, "partial", "bucket · catalog sha256 · 1 of 2 nodes", "Bring the drive of green-motor", HALF),
        (NEW, "waiting", f"nas 2 files {SIZE} bytes", f"`ursa ingest {NEW}`"),
        (COPIED, "waiting", "seg_0001.wav.part is still being copied", "Wait until it is whole on usb"),
        (STORED, "waiting", " bucket (in the bucket, not registered)", f"`ursa ingest {STORED}`"),
        (RUNNING, "running", "Nothing"),
        (WAIVED, "waived", "a test", "Nothing"),
    ):
        assert all(part in lines[rec_id] for part in parts), lines[rec_id]
    summary = next(line for line in told.splitlines() if line.startswith("10 recordings"))
    assert "registered 1 (" in summary
    assert "waiting 3 (" in summary
    document = ursa.json("status", "--all", code=1)
    assert [item["rec_id"] for item in document["items"]] == sorted([DONE, *lines])
    assert document["summary"]["states"]["waiting"]["recordings"] == 3
    assert document["summary"]["not_known"] is None
    (alone,) = ursa.json("status", HELD, code=1)["items"]
    assert (alone["state"], alone["next"]) == ("quarantined", f"Mend it, then `ursa retry {HELD}`.")


def test_doing_what_it_says_settles_it(ursa: Command, lab: Lab):
    lab.data.ingest(source_dir=written(lab.nas, LOST))
    for key in (raw_key(LOST, path) for path in (*FILES, "manifest.json")):
        lab.raw.multipart_client.delete_object(Bucket=lab.raw.name, Key=key)
    for path, body in FILES.items():
        lab.raw.create(raw_key(STORED, path), body)

    for item in ursa.json("status", code=1)["items"]:
        _, command, _ = item["next"].split("`")
        ursa(*command.split()[1:], "--yes")

    assert ursa.json("status", LOST, STORED)["summary"]["states"].keys() == {"registered"}


def test_where_all_is_well_it_says_so_and_that_it_does_not_know_of_runs(ursa: Command, lab: Lab):
    lab.data.ingest(source_dir=written(lab.nas, DONE))

    told = ursa("status")

    assert shown(told) == {}
    assert f"1 recording, {SIZE} bytes: registered 1 ({SIZE} bytes)" in told
    assert "automatic retries and quarantines are not known" in told
    assert "bucket, marker · catalog sha256" in shown(ursa("status", DONE))[DONE]


def test_what_waits_needs_nobody_yet(ursa: Command, lab: Lab):
    written(lab.nas, NEW)

    assert f"`ursa ingest {NEW}`" in shown(ursa("status", code=0))[NEW]


def test_a_source_that_is_not_mounted_is_told_and_needs_a_person(ursa: Command, lab: Lab):
    lab.raw.create(raw_key(STORED, "mic/seg_0000.wav"), b"sound")
    shutil.rmtree(lab.usb)

    told = ursa("status", code=1)

    assert "usb cannot be read" in shown(told)[STORED]
    assert f"Mount usb, then `ursa ingest {STORED}`" in shown(told)[STORED]
    assert any(line.startswith("usb cannot be read") for line in told.splitlines())
    assert "usb" in ursa.json("status", code=1)["summary"]["sources_unavailable"]


def test_a_recording_that_is_nowhere_is_unknown(ursa: Command):
    assert "check the id" in shown(ursa("status", ABSENT, code=1))[ABSENT]


def test_named_recordings_days_and_states_narrow_it(ursa: Command, lab: Lab):
    for rec_id in (DONE, NEW, STORED, ABSENT):
        written(lab.nas, rec_id)
    lab.data.ingest(source_dir=lab.nas / DONE)

    def of(*arguments: str) -> list[str]:
        return list(shown(ursa("status", *arguments)))

    assert of() == [NEW, STORED, ABSENT]
    assert of(NEW, DONE) == [NEW, DONE]
    assert of("--since", "2026-05-12", "--until", "2026-05-14") == [NEW]
    assert of("--since", "2026-05-14") == [STORED, ABSENT]
    assert of("--until", "2026-05-12", "--all") == [DONE]
    assert of("--state", "registered") == [DONE]
    assert of("--state", "failed", "--state", "lost") == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rec_2026_b1dd"], "no recording id"),
        (["--state", "stored"], "registered"),
        (["--page", "0"], "--page"),
        (["--page", "2", "--json"], "no pages"),
        ([NEW, "--since", "2026-07-01"], "none of these"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], told: str, ursa: Command):
    assert told in ursa("status", *arguments, code=2)


def test_a_page_is_as_long_as_it_says_and_the_next_goes_on(ursa: Command, lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_ROWS_OFF_A_TERMINAL", 2)
    for rec_id in (NEW, STORED, ABSENT):
        written(lab.nas, rec_id)

    first, second, third = (ursa("status", "--page", str(number)) for number in (1, 2, 3))

    assert (list(shown(first)), list(shown(second)), shown(third)) == ([NEW, STORED], [ABSENT], {})
    assert "Page 1 of 2; `--page 2` shows the next" in first
    assert "There is no page 3: 2 pages" in third
    assert len(ursa.json("status")["items"]) == 3


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_every_command_stands_whole_on_a_line(
    width: int, ursa: Command, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    on_a_terminal(monkeypatch, width)
    long_id = f"{NEW}0123456789"
    written(lab.nas, long_id)
    (written(lab.nas, COPIED) / "session.lock").touch()

    printed = ursa("status")

    assert f"ursa ingest {long_id}" in printed
    assert f"ursa ingest {COPIED}" in printed
    assert all(len(line.rstrip()) <= width for line in printed.splitlines() if "rec_" in line)


def test_a_hostile_name_of_a_file_is_shown_as_text(ursa: Command, lab: Lab, monkeypatch: pytest.MonkeyPatch):
    (written(lab.nas, NEW) / "mic" / "[red]\x1b[2J.part").touch()

    off = ursa("status")
    on_a_terminal(monkeypatch, 120)
    on = ursa("status")

    assert "\x1b" not in off + on
    assert "[red]" in off
    assert "[red]" in on


def test_the_document_names_no_participant(ursa: Command, lab: Lab):
    lab.data.ingest(source_dir=written(lab.nas, DONE, participant="Aria Lin"))

    assert "Aria" not in json.dumps(ursa.json("status", "--all"))


def test_a_pointer_to_no_catalog_is_never_an_empty_one(ursa: Command, lab: Lab):
    pointer = json.loads(lab.assets.get(ACTIVE_POINTER)[0])
    _put(lab, ACTIVE_POINTER, pointer | {"prefix": "ursa/none"})

    for command in ("status", "plan", "query"):
        assert "ursa doctor" in ursa(command, code=3)


def test_a_catalog_of_a_newer_version_is_read_and_told(ursa: Command, lab: Lab):
    lab.data.ingest(source_dir=written(lab.nas, DONE))
    key = f"{lab.data.catalog.prefix}/CATALOG.json"
    _put(lab, key, json.loads(lab.assets.get(key)[0]) | {"version": 99})

    told = ursa("status", DONE, ABSENT, code=1)

    assert "registered" in shown(told)[DONE]
    assert "Until then it is only read." in told


def test_a_source_of_this_machine_that_was_not_made_says_what_makes_it(ursa: Command, lab: Lab, store_state: Path):
    profile = yaml.safe_load(lab.config.read_text())
    profile["sources"] = [{"name": "nas", "path": str(store_state / "nas")}]
    lab.config.write_text(yaml.safe_dump(profile))

    for command, code in (("status", 1), ("plan", 3)):
        assert "`ursa dev` and `ursa demo` make it" in ursa(command, code=code)


def _put(lab: Lab, key: str, document: object) -> None:
    lab.assets.multipart_client.put_object(Bucket=lab.assets.name, Key=key, Body=json.dumps(document).encode())
