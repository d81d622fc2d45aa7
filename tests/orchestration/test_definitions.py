"""A code location is loaded often and by everybody: it must need nothing and give nothing away."""

from __future__ import annotations

import importlib
import socket
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap

from ursa_pipelines.orchestration.definitions import INGEST_JOB, build_definitions

PROFILES = {"local": "local", "r2": "r2", "r2-test": "r2_test"}
STEPS = {"discover", "hash", "reconstruct_manifest", "upload", "register", "report"}


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine where a connection or `op` leaves a trace, and whose environment holds values worth hiding."""

    def refuse(*_: object) -> None:
        raise AssertionError("loading the definitions opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    programs = tmp_path / "programs"
    programs.mkdir()
    op = programs / "op"
    op.write_text(f"#!/bin/sh\necho asked > {tmp_path}/op_was_asked\n")
    op.chmod(0o700)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "sentinel-home" / ".ursa" / "dagster"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "OP_SERVICE_ACCOUNT_TOKEN", "HOME", "USER"):
        monkeypatch.setenv(name, f"sentinel-{name.casefold()}")
    return tmp_path


@pytest.mark.parametrize("profile", PROFILES)
def test_definitions_load_without_store_network_or_secrets(profile: str, bare_machine: Path):
    definitions = build_definitions(profile)

    dg.Definitions.validate_loadable(definitions)

    assert {entry.name for entry in bare_machine.iterdir()} == {"programs"}


@pytest.mark.parametrize("profile", PROFILES)
def test_fault_73_what_the_user_interface_is_served_holds_no_value_of_the_environment(profile: str, bare_machine: Path):
    served = dg.serialize_value(RepositorySnap.from_def(build_definitions(profile).get_repository_def()))

    assert "ingest_automation" in served
    assert profile in served
    assert "sentinel" not in served
    assert "op://" not in served
    assert str(bare_machine) not in served


@pytest.mark.parametrize(("profile", "module"), PROFILES.items())
def test_each_profile_has_a_module_with_one_definitions(profile: str, module: str):
    loaded = importlib.import_module(f"ursa_pipelines.orchestration.{module}")

    found = [value for value in vars(loaded).values() if isinstance(value, dg.Definitions)]

    assert len(found) == 1
    assert found[0].resources is not None
    assert found[0].resources["ursa"].profile == profile


def test_a_recording_is_made_by_the_steps_of_the_runbook():
    graph = build_definitions("local").resolve_assets_def("recording").node_def

    assert isinstance(graph, dg.GraphDefinition)
    assert {node.name for node in graph.nodes} >= STEPS


def test_sensors_run_by_themselves_on_this_machine_only():
    running = {
        profile: {
            sensor.name
            for sensor in build_definitions(profile).get_repository_def().sensor_defs
            if sensor.default_status == dg.DefaultSensorStatus.RUNNING
        }
        for profile in PROFILES
    }

    assert running == {
        "local": {"nas_sensor", "usb_sensor", "r2_sensor", "ingest_automation"},
        "r2": set(),
        "r2-test": set(),
    }


def test_the_job_takes_recordings_by_id():
    job = build_definitions("local").resolve_job_def(INGEST_JOB)

    assert isinstance(job.partitions_def, dg.DynamicPartitionsDefinition)
    assert job.partitions_def.name == "recordings"
