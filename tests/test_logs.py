"""Logs as JSON lines, in OpenTelemetry's names (logs.py)."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from tests.cli.test_commands import Command
from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.errors import SourceChanged, UrsaError
from ursa_pipelines.logs import JsonFormatter
from ursa_pipelines.orchestration.definitions import INGEST_JOB, build_definitions

GOOD, BAD = (f"rec_20260520_19562{digit}_b1dd" for digit in "12")
FILES = {"mic/seg_0000.wav": b"audio" * 10}
NAME = "Zzyxa Quuxbane"
LOGGER = logging.getLogger("ursa.register.orchestrator")


def formatted(level: int, message: str, *arguments: object, error: BaseException | None = None, **extra: Any) -> Any:
    given = (type(error), error, error.__traceback__) if error else None
    record = LOGGER.makeRecord(LOGGER.name, level, "file.py", 1, message, arguments, given, extra=extra)
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    return json.loads(line)


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception:  # noqa: BLE001 - whatever it is
        return sys.exc_info()[1]  # type: ignore[return-value]


def test_a_line_has_the_fields_of_the_data_model():
    line = formatted(logging.WARNING, "%s waits\nfor é", GOOD, recording=GOOD, bytes_uploaded=7, outcome="")

    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() is not None
    resource = line.pop("resource")
    assert resource["service.name"] == "ursa"
    assert resource.keys() == {"service.name", "service.version", "host.name", "process.pid"}
    assert line == {
        "severity_text": "WARN",
        "severity_number": 13,
        "body": f"{GOOD} waits\nfor é",
        "scope": "ursa.register.orchestrator",
        "attributes": {"ursa.recording": GOOD, "ursa.bytes": 7},
    }


@pytest.mark.parametrize(
    ("level", "text", "number"),
    [(5, "TRACE", 1), (10, "DEBUG", 5), (20, "INFO", 9), (25, "INFO", 9), (40, "ERROR", 17), (50, "FATAL", 21)],
)
def test_a_level_is_told_as_a_severity(level: int, text: str, number: int):
    line = formatted(level, "m")

    assert (line["severity_text"], line["severity_number"]) == (text, number)


def test_what_others_put_on_a_record_is_not_written_but_the_ids_of_a_trace_are():
    line = formatted(20, "m", path="/mnt/nas/Zzyxa", download=object(), otelTraceID="4bf9", otelSpanID="0")

    assert line["attributes"] == {}
    assert line["trace_id"] == "4bf9"
    assert "span_id" not in line


def test_an_exception_of_others_is_told_without_its_text():
    theirs = formatted(40, "unforeseen failure", error=raised(ValueError(NAME)), recording=BAD)
    ours: UrsaError = SourceChanged("it changed", recording=BAD)
    told = formatted(40, "failed", error=raised(ours))["attributes"]

    assert NAME not in json.dumps(theirs)
    assert theirs["attributes"]["error.type"] == theirs["attributes"]["exception.type"] == "ValueError"
    assert "in raised" in theirs["attributes"]["exception.stacktrace"]
    assert told["exception.message"] == str(ours)


def test_an_ingest_logs_what_it_came_to(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    ursa = Command(lab.config, capsys, monkeypatch)
    write_recording(lab.nas, GOOD, FILES, participant=NAME)
    write_recording(lab.nas, BAD, FILES, participant=NAME)
    (lab.nas / BAD / "mic/seg_0000.wav").write_bytes(b"noise" * 10)
    write_recording(lab.nas, BAD, {}, manifest=False)
    log = tmp_path / "log.jsonl"

    ursa("--log-json", log, "ingest", "--yes", lab.nas, code=1)
    ursa("ingest", "--yes", lab.nas, code=1)

    lines = {line["attributes"]["ursa.recording"]: line for line in map(json.loads, log.read_text().splitlines())}
    assert lines[GOOD]["attributes"] == {
        "ursa.recording": GOOD,
        "ursa.outcome": "created",
        "ursa.path": "A",
        "ursa.bytes": 50,
        "ursa.files.uploaded": 1,
        "ursa.files.skipped": 0,
    }
    assert lines[GOOD]["severity_text"] == "INFO"
    assert lines[BAD]["attributes"] == {"ursa.recording": BAD, "error.type": "ContentMismatch"}
    assert lines[BAD]["severity_text"] == "WARN"
    # It ended with its command.
    assert len(log.read_text().splitlines()) == 2
    assert NAME not in log.read_text()


def test_a_run_of_dagster_is_named_on_each_line(lab: Lab, tmp_path: Path):
    home, log = tmp_path / "home", tmp_path / "log.jsonl"
    home.mkdir()
    page = (Path(__file__).parents[1] / "docs" / "operating.md").read_text()
    (told,) = (block for block in page.split("```yml\n")[1:] if block.startswith("python_logs:"))
    settings = yaml.safe_load(told.partition("```")[0])
    handler = settings["python_logs"]["dagster_handler_config"]["handlers"]["json"]
    assert handler["filename"] == "/var/log/ursa/dagster.jsonl"
    handler["filename"] = str(log)
    (home / "dagster.yaml").write_text(yaml.safe_dump({"telemetry": {"enabled": False}, **settings}))
    write_recording(lab.nas, GOOD, FILES, participant=NAME)

    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("recordings", [GOOD])
        job = build_definitions(None, lab.config).resolve_job_def(INGEST_JOB)
        result = job.execute_in_process(instance=instance, tags={"dagster/partition": GOOD})

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (ended,) = (line for line in lines if line["attributes"].get("ursa.outcome"))
    assert ended["attributes"]["dagster.run_id"] == result.run_id
    assert ended["attributes"]["dagster.step_key"] == "recording.register"
    assert ended["attributes"]["ursa.bytes"] == 50
    assert ended["body"].startswith(f"{GOOD}: created by path A")
    assert NAME not in log.read_text()
