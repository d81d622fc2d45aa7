"""The files of deploy/ are what the programs that read them take, and agree with one another."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ursa_pipelines.orchestration.sites import sites_of
from ursa_pipelines.profiles import load_profile

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))

_TEXT, _NUMBER, _FLAG, _ANY = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": "object"}


def _closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_IMAGE = _closed(("repository", "pullPolicy"), repository=_TEXT, tag={"type": ["string", "integer"]}, pullPolicy=_TEXT)
_CLASS = {**_closed(("module", "config"), module=_TEXT, config=_ANY)}
_CLASS["properties"]["class"] = _TEXT
_CLASS["required"].append("class")
_POD = {
    "image": _IMAGE,
    "envSecrets": {"type": "array", "items": _closed(("name",), name=_TEXT)},
    "volumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    "volumeMounts": {"type": "array", "items": {"type": "object", "required": ["name", "mountPath"]}},
}
_THREADS = _closed(useThreads=_FLAG, numWorkers=_NUMBER, numSubmitWorkers=_NUMBER)
_SERVER = _closed(("host", "port"), host=_TEXT, port=_NUMBER, name=_TEXT)
_DEPLOYMENT = _closed(("name", "image", "port"), name=_TEXT, port=_NUMBER, **_POD,
                      dagsterApiGrpcArgs={"type": "array", "items": _TEXT})  # fmt: skip
CHART = _closed(
    **{
        "telemetry": _closed(enabled=_FLAG),
        "rbacEnabled": _FLAG,
        "global": _closed(postgresqlSecretName=_TEXT, dagsterHome=_TEXT),
        "generatePostgresqlPasswordSecret": _FLAG,
        "generateCeleryConfigSecret": _FLAG,
        "postgresql": _closed(enabled=_FLAG, postgresqlHost=_TEXT, postgresqlUsername=_TEXT, postgresqlDatabase=_TEXT,
                              postgresqlScheme=_TEXT, postgresqlParams=_ANY),
        "rabbitmq": _closed(enabled=_FLAG),
        "redis": _closed(enabled=_FLAG),
        "dagsterWebserver": _closed(
            replicaCount=_NUMBER,
            service=_closed(port=_NUMBER),
            readinessProbe=_closed(httpGet=_closed(port=_NUMBER)),
            workspace=_closed(("enabled", "servers"), enabled=_FLAG, servers={"type": "array", "items": _SERVER}),
            **_POD,
        ),
        "dagsterDaemon": _closed(
            runCoordinator=_closed(
                ("enabled", "type", "config"),
                enabled=_FLAG,
                type={"const": "CustomRunCoordinator"},
                config=_closed(("customRunCoordinator",), customRunCoordinator=_CLASS),
            ),
            runMonitoring=_closed(enabled=_FLAG, startTimeoutSeconds=_NUMBER, cancelTimeoutSeconds=_NUMBER,
                                  maxResumeRunAttempts=_NUMBER, pollIntervalSeconds=_NUMBER,
                                  freeSlotsAfterRunEndSeconds=_NUMBER, maxRuntimeSeconds=_NUMBER),
            runRetries=_closed(enabled=_FLAG, maxRetries=_NUMBER, retryOnAssetOrOpFailure=_FLAG),
            sensors=_THREADS,
            schedules=_THREADS,
            backfills=_THREADS,
            **_POD,
        ),
        "runLauncher": _closed(
            ("type", "config"),
            type={"const": "CustomRunLauncher"},
            config=_closed(("customRunLauncher",), customRunLauncher=_CLASS),
        ),
        "dagster-user-deployments": _closed(
            ("enabled", "enableSubchart", "deployments"),
            enabled=_FLAG,
            enableSubchart=_FLAG,
            rbacEnabled=_FLAG,
            deployments={"type": "array", "items": _DEPLOYMENT},
        ),
        "additionalInstanceConfig": _ANY,
    }
)  # fmt: skip
"""The part of the schema of Dagster's chart that the values use; what it has beside these is not used here."""


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def test_the_values_are_those_that_dagsters_chart_knows() -> None:
    jsonschema.validate(read("kubernetes/values.yaml"), CHART)


def test_the_chart_is_given_the_settings_of_dagster_yaml() -> None:
    values, settings = read("kubernetes/values.yaml"), read("dagster.yaml")
    daemon = values["dagsterDaemon"]
    assert values["runLauncher"]["config"]["customRunLauncher"] == settings["run_launcher"]
    assert daemon["runCoordinator"]["config"]["customRunCoordinator"] == settings["run_coordinator"]
    assert values["telemetry"] == settings["telemetry"]
    for name in ("run_monitoring", "run_retries", "sensors", "schedules", "backfills"):
        assert daemon[in_camel_case(name)] == {in_camel_case(key): one for key, one in settings[name].items()}
    added = values["additionalInstanceConfig"]
    assert added == {name: settings[name] for name in ("concurrency", "nux", "retention")}
    assert settings.keys() == {
        *("telemetry", "storage", "run_coordinator", "run_launcher", *added),
        *("run_monitoring", "run_retries", "sensors", "schedules", "backfills"),
    }


def in_camel_case(name: str) -> str:
    return re.sub("_(.)", lambda found: found[1].upper(), name)


def test_the_profile_names_the_sites_that_the_workspace_and_the_workers_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = sites_of(load_profile("r2", DEPLOY / "profile.yaml"))
    assert [one["grpc_server"]["location_name"] for one in read("workspace.yaml")["load_from"]] == ["ursa", *sites]
    for name, first in (("code_location.py", "r2_sensor"), ("site_code_location.py", "lab1_nas_sensor")):
        here = tmp_path / name
        here.write_text((DEPLOY / name).read_text().replace("/etc/ursa/profile.yaml", str(DEPLOY / "profile.yaml")))
        defs = runpy.run_path(str(here))["defs"]
        assert first in {sensor.name for sensor in defs.sensors}


def test_the_coordinator_is_told_the_profile_that_the_code_location_serves() -> None:
    config = read("dagster.yaml")["run_coordinator"]["config"]
    assert (
        f'build_definitions("{config["profile"]}", Path("{config["config_path"]}"))'
        in (DEPLOY / "code_location.py").read_text()
    )
    assert sites_of(load_profile(config["profile"], DEPLOY / "profile.yaml")) == ["lab1", "lab2"]


def test_celery_takes_the_brokers_address_of_the_values() -> None:
    celery = pytest.importorskip("celery")
    (address,) = re.findall(r"DAGSTER_CELERY_BROKER: (\S+)", (DEPLOY / "kubernetes" / "values.yaml").read_text())
    address = address.replace("HOST", "127.0.0.1")
    assert celery.Celery(broker=address, backend=address).backend.as_uri().startswith("rediss://")


def test_no_secret_is_written_into_a_file() -> None:
    for path in (path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        for user, password in re.findall(r"://([^\s/@{}]*):([^\s/@{}]+)@", path.read_text()):
            assert password == "PASSWORD", f"{path}: {user}"
    settings = read("dagster.yaml")
    assert settings["storage"]["postgres"]["postgres_url"].keys() == {"env"}
    assert settings["run_launcher"]["config"]["broker"].keys() == {"env"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_listens_on_this_host_only_and_gets_its_secrets_from_systemd(unit: Path) -> None:
    text = unit.read_text()
    assert "LoadCredential=pgpass:" in text and "LoadCredential=broker:" in text
    assert "User=ursa" in text and "LimitCORE=0" in text and "ProtectSystem=strict" in text
    # Those that open the buckets, and no others.
    assert ("LoadCredential=op_token:" in text) == bool(re.search("grpc|orchestration.worker|ursa metrics", text))
    command = re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert command is not None
    hosts = re.findall(r"(?:--host|-h) (\S+)", command[1])
    assert hosts in ([], ["127.0.0.1"], ["${URSA_CODE_HOST}"])
    assert "URSA_CODE_HOST=127.0.0.1" in (DEPLOY / "systemd" / "environment").read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_takes_the_units() -> None:
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, UNITS)], capture_output=True, text=True, check=False
    ).stderr
    # The programs are installed on the hosts, not here.
    assert [line for line in told.splitlines() if "is not executable: No such file" not in line] == []


def test_the_brokers_address_and_the_token_come_from_systemds_credentials(tmp_path: Path) -> None:
    (tmp_path / "broker").write_text("redis://:secret@127.0.0.1:6379/0\n")
    environment = {"PATH": os.environ["PATH"], "CREDENTIALS_DIRECTORY": str(tmp_path)}
    script = str(DEPLOY / "systemd" / "with-broker")
    told = subprocess.run([script, "sh", "-c", "echo $DAGSTER_CELERY_BROKER"], env=environment, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert told.stdout == "redis://:secret@127.0.0.1:6379/0\n"
    (tmp_path / "broker").unlink()
    assert subprocess.run([script, "true"], env=environment, capture_output=True, check=False).returncode != 0
    (tmp_path / "op_token").write_text("token\n")
    stand_in = tmp_path / "op"
    stand_in.write_text('#!/bin/sh\necho "$OP_SERVICE_ACCOUNT_TOKEN" "$@"\n')
    stand_in.chmod(0o700)
    wrapper = tmp_path / "wrapper"
    wrapper.write_text((DEPLOY / "systemd" / "op").read_text().replace("/usr/bin/op", str(stand_in)))
    wrapper.chmod(0o700)
    told = subprocess.run([str(wrapper), "read", "x"], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == "token read x\n"


def test_a_worker_that_is_told_to_end_is_killed_before_it_is_taken_for_dead():
    """It answers nobody any more while its runs come to their end: they would be told as failed, and go on."""
    silent = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())["run_launcher"]["config"]["silent_seconds"]
    units = [path.read_text() for path in UNITS if path.name.startswith("ursa-worker")]
    pods = (DEPLOY / "kubernetes" / "workers.yaml").read_text()
    given = [int(one) for text in units for one in re.findall("^TimeoutStopSec=([0-9]+)$", text, re.MULTILINE)]
    given += [int(one) for one in re.findall("terminationGracePeriodSeconds: ([0-9]+)", pods)]
    assert len(given) == 4
    assert max(given) < silent
