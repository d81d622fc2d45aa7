"""`ursa metrics` as a service runs it, as node_exporter's textfile collector reads it, and away from the network."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.test_commands import Command
from tests.lab import Lab

PROGRAM = [sys.executable, "-c", "from ursa_pipelines.cli.main import main; main()"]


@pytest.fixture
def ursa(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return Command(lab.config, capsys, monkeypatch)


def value(text: str, name: str, **labels: str) -> float:
    (found,) = (
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
    return found


def test_it_prints_the_text_once_or_puts_it_into_a_file(ursa: Command, tmp_path: Path):
    printed = ursa("metrics", "--once")
    assert ursa("metrics", "--out", tmp_path / "ursa.prom") == ""
    document = ursa.json("metrics")

    for text in (printed, (tmp_path / "ursa.prom").read_text()):
        assert value(text, "ursa_up", part="dagster", profile="lab") == 1
        assert value(text, "ursa_source_available", source="nas") == 1
    assert [one.name for one in tmp_path.glob("ursa.prom*")] == ["ursa.prom"]
    told = {"name": "ursa_up", "labels": {"part": "store", "profile": "lab"}, "value": 1.0}
    assert told in document["items"]


def test_a_host_without_the_instance_is_told_where_to_look(
    ursa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "elsewhere"))

    assert "Set DAGSTER_HOME as it is set for the daemon" in ursa("metrics", "--once", code=3)
    assert not (tmp_path / "elsewhere").exists()


def test_a_port_that_is_taken_is_told(ursa: Command):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        assert "choose another with --port" in ursa("metrics", "--port", str(other.getsockname()[1]), code=2)


def test_the_service_answers_on_loopback_alone_until_it_is_ended(ursa: Command, tmp_path: Path):
    out, log = tmp_path / "out", tmp_path / "log.jsonl"
    command = [*PROGRAM, "--log-json", str(log), "metrics", "--port", "0", "--config", str(ursa.config)]
    with out.open("w") as written:
        service = subprocess.Popen(command, stdout=written, stderr=written, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        url = _url(service, out)
        text = ""
        deadline = time.monotonic() + 60
        while "ursa_source_available" not in text or "ursa_recordings" not in text:
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
                text = answer.read().decode()
        assert value(text, "ursa_up", part="dagster") == 1
        listening = [one.laddr.ip for one in psutil.Process(service.pid).net_connections() if one.status == "LISTEN"]
        assert listening == ["127.0.0.1"]
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0, out.read_text()
    finally:
        service.kill()
        service.wait()


def _url(service: subprocess.Popen[bytes], out: Path) -> str:
    deadline = time.monotonic() + 60
    while "http://" not in out.read_text():
        assert service.poll() is None and time.monotonic() < deadline, out.read_text()
        time.sleep(0.05)
    return next(word for word in out.read_text().split() if word.startswith("http://127.0.0.1:"))
