"""An evening with a USB drive, as the terminal shows it: plan, ingest, Ctrl-C, ingest again, status, doctor.

Every screen is written into `artifacts/terminal`, or below what URSA_SCREENSHOTS says, to be looked at.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cli.test_commands import production_profile
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from tests.terminal.terminal import Terminal
from ursa_pipelines import DataInterface

SMALL, HALF, LARGE, BROKEN, COPIED = (
    f"rec_20260520_{clock}" for clock in ("195628_b1dd", "201502_4c1f", "204410_90ab", "211847_77e0", "213005_03cd")
)
MIB = 1024**2
NODES = {"green-mantis": ["camera_a", "notes"], "green-motor": ["eeg_4559"]}


@pytest.fixture
def terminal(lab: Lab, store_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal in a directory with `usb` and the profile `lab.yaml`, whose uplink no other test shares."""
    config = production_profile(lab, store_state, f"production-{lab.raw.name}", tmp_path, monkeypatch)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "state" / "dagster"))
    profile = yaml.safe_load(config.read_text()) | {
        "sources": [{"name": "usb", "path": str(lab.usb)}],
        "settings": {"bandwidth": "6MB/s", "recordings_at_once": 3, "upload_workers": 1},
    }
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(profile))
    data = DataInterface(config_path=tmp_path / "lab.yaml")
    data.init_catalog()
    programs = Path(sys.executable).parent
    terminal = Terminal(tmp_path, os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"})
    yield terminal
    terminal.close()


def write_drive(usb: Path) -> None:
    files = {"camera_a/seg_0000.mkv": b"a" * MIB, "notes/notes.txt": b"hello"}
    write_recording(usb, SMALL, files, participant="Aria Lin")
    write_recording(usb, HALF, {"camera_a/seg_0000.mkv": b"b" * MIB}, manifest={"nodes": NODES})
    large = {f"camera_a/seg_{number:04}.mkv": bytes([number]) * (8 * MIB) for number in range(3)}
    write_recording(usb, LARGE, large | {"mic/seg_0000.flac": b"c"}, manifest=False, age_s=90_000)
    write_recording(usb, BROKEN, {"mic/seg_0000.wav": b"d" * 100}, manifest={"recording_id": SMALL})
    write_recording(usb, COPIED, {"camera_a/seg_0000.mkv": b"e", "camera_a/seg_0001.mkv.part": b"e"})


def test_an_ingest_is_interrupted_and_gone_on_with(terminal: Terminal, lab: Lab):
    write_drive(lab.usb)
    raw = f"production-{lab.raw.name}"

    terminal.begin("ursa plan --config lab.yaml")
    plan = terminal.end()
    terminal.capture("1-plan")
    assert re.search(rf"{HALF}\s+A\s+1 of 2\s+1\s+1.0 MB\s+1.0 MB\s+ingest", plan)
    assert terminal.colour_of("refused  rec") == "red"

    terminal.begin("ursa ingest --config lab.yaml")
    terminal.wait("Type the name of the raw bucket")
    terminal.capture("2-question")
    terminal.type(raw)
    terminal.wait(lambda: bool(re.search(r"Ingest +[4-8]\d%.*\n2 of 3", terminal.text)))
    progress = terminal.capture("3-progress")
    assert re.search(r"2 of 3 recordings · .* of 27.3 MB · .*/s · \d+ s left", progress)
    assert re.search(rf"{LARGE} +\d+%  camera_a/seg_000", progress)
    terminal.press_ctrl_c()
    interrupted = terminal.end()
    terminal.capture("4-interrupted")
    assert "Interrupted. 2 registered, 1 not done. Run it again to go on" in interrupted
    assert "of 3 recordings" not in interrupted
    assert LARGE not in interrupted[interrupted.index("Ingested so far") :]
    terminal.type("echo exit code $?")
    terminal.wait("exit code 130")

    terminal.begin("ursa ingest --config lab.yaml")
    terminal.wait("Type the name of the raw bucket")
    terminal.type(raw)
    terminal.wait(lambda: "Ingest" in terminal.text and "registered (" in terminal.text)
    ended = terminal.end()
    terminal.capture("5-ended")
    sent = re.search(rf"{LARGE} +OK created +C\+A +4 +([\d.]+) MB +25.2 MB", ended)
    assert sent
    assert float(sent[1]) < 20

    terminal.begin("ursa status --config lab.yaml")
    status = terminal.end()
    terminal.capture("6-status")
    assert "registered 2" in status
    assert "partial 1" in status

    terminal.begin("ursa doctor --config lab.yaml")
    terminal.end()
    terminal.capture("7-doctor")
