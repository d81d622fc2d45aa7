"""`ursa dev` as an operator has it: daemon, webserver and sensors, a recording that arrives, and the end of it all."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from tests.recordings_on_disk import write_recording
from ursa_pipelines import DataInterface
from ursa_pipelines.embedded.store import open_store

REC = "rec_20260520_195628_b1dd"
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}
SECONDS = 120.0

_MATERIALIZATIONS = """query ($asset: AssetKeyInput!, $partitions: [String!]) {
  assetNodeOrError(assetKey: $asset) { __typename ... on AssetNode {
    assetMaterializations(partitions: $partitions) { runId partition } } } }"""
_LAUNCH = """mutation ($parameters: ExecutionParams!) {
  launchPipelineExecution(executionParams: $parameters) { __typename ... on LaunchRunSuccess { run { runId } } } }"""
_RUN = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
_SENSORS = "query ($repository: RepositorySelector!) { sensorsOrError(repositorySelector: $repository) { __typename } }"
_REPOSITORY = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "ursa_pipelines.orchestration.local",
}

T = TypeVar("T")


class Dev:
    """`ursa dev` in a process of its own, and its GraphQL door."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.log = directory / "dev.log"
        self.deadline = time.monotonic() + SECONDS
        self.seen: set[psutil.Process] = set()
        with self.log.open("wb") as log:
            self.process = psutil.Popen(
                [str(Path(sys.executable).with_name("ursa")), "dev", "--port", str(self.port)],
                cwd=directory,
                env={name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of an answer, None while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            body = json.dumps({"query": query, "variables": variables})
            connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
            answer = json.load(connection.getresponse())
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def wait(self, what: str, find: Callable[[], T | None]) -> T:
        """What `find` finds, as soon as it does."""
        while time.monotonic() < self.deadline and self.process.poll() is None:
            if found := find():
                return found
            time.sleep(0.2)
        raise AssertionError(f"{what} did not come about; the log ends with\n{self.log.read_text()[-3000:]}")

    def materialized_by(self) -> list[str]:
        """The ids of the runs that materialized the recording, newest first."""
        data = self.ask(_MATERIALIZATIONS, asset={"path": ["recording"]}, partitions=[REC])
        found = data["assetNodeOrError"].get("assetMaterializations", ()) if data else ()
        return [event["runId"] for event in found]

    def is_up(self) -> bool:
        data = self.ask(_SENSORS, repository=_REPOSITORY)
        return data is not None and data["sensorsOrError"]["__typename"] == "Sensors"

    def press_materialize(self) -> str:
        """What the UI's button sends for one partition; the run's id."""
        parameters = {
            "mode": "default",
            "runConfigData": "{}",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": REC}]},
            "selector": {**_REPOSITORY, "pipelineName": "__ASSET_JOB", "assetSelection": [{"path": ["recording"]}]},
        }
        launched = self.ask(_LAUNCH, parameters=parameters)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def has_come_to(self, run_id: str, *statuses: str) -> str | None:
        status = str(self.ask(_RUN, run=run_id)["runOrError"]["status"])
        return status if status in statuses else None

    def end_of(self, run_id: str) -> str:
        return self.wait("the run's end", lambda: self.has_come_to(run_id, "SUCCESS", "FAILURE", "CANCELED"))

    def descendants(self) -> list[psutil.Process]:
        found = self.process.children(recursive=True)
        self.seen.update(found)
        return found

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dev]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    dev = Dev(tmp_path)
    yield dev
    with contextlib.suppress(psutil.NoSuchProcess):
        dev.descendants()
    for process in (*dev.seen, dev.process):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    dev.process.wait(10)
    open_store(tmp_path / ".ursa").release()


def test_a_recording_that_arrives_is_ingested_and_the_end_leaves_nothing_behind(dev: Dev, tmp_path: Path):
    nas = tmp_path / ".ursa" / "nas"
    dev.wait("the directory for recordings", nas.is_dir)
    write_recording(tmp_path / "copied", REC, FILES, participant="Aria Lin").rename(nas / REC)

    (by_sensor,) = dev.wait("the materialization", dev.materialized_by)

    (row,) = DataInterface("local").list_recordings()
    assert row.rec_id == REC
    assert dev.end_of(by_sensor) == "SUCCESS"

    by_hand = dev.press_materialize()

    assert dev.end_of(by_hand) == "SUCCESS"
    assert dev.materialized_by() == [by_hand, by_sensor]
    assert DataInterface("local").list_recordings() == [row]

    with (nas / REC / "mic" / "seg_0001.wav").open("wb") as endless:
        endless.truncate(8 * 1024**3)
    under_way = dev.press_materialize()
    dev.wait("the run's start", lambda: dev.has_come_to(under_way, "STARTED"))
    started_by_it = dev.descendants()
    dev.process.send_signal(signal.SIGTERM)

    assert dev.process.wait(30) == 0
    _, left = psutil.wait_procs(started_by_it, timeout=1)
    assert left == []
    assert not dev.listens()
    assert DataInterface("local").list_recordings() == [row]
