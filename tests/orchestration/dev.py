"""`ursa dev` in a process of its own, and its GraphQL door."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

REC = "rec_20260520_195628_b1dd"
SECONDS = 300.0

_MATERIALIZATIONS = """query ($asset: AssetKeyInput!, $partitions: [String!]) {
  assetNodeOrError(assetKey: $asset) { __typename ... on AssetNode {
    assetMaterializations(partitions: $partitions) { runId partition
      metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"""
_RUNS = "query { runsOrError { ... on Runs { results { runId } } } }"
_LAUNCH = """mutation ($parameters: ExecutionParams!) {
  launchPipelineExecution(executionParams: $parameters) { __typename ... on LaunchRunSuccess { run { runId } } } }"""
_RUN = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
_TERMINATE = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"
_SENSORS = "query ($repository: RepositorySelector!) { sensorsOrError(repositorySelector: $repository) { __typename } }"
_SENSOR = """query ($sensor: SensorSelector!) {
  sensorOrError(sensorSelector: $sensor) { ... on Sensor { sensorState { id status } } } }"""
_START_SENSOR = "mutation ($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) { __typename } }"
_STOP_SENSOR = "mutation ($id: String!) { stopSensor(id: $id) { __typename } }"
_ADD_PARTITION = """mutation ($key: String!, $repository: RepositorySelector!) { addDynamicPartition(
  partitionsDefName: "recordings", partitionKey: $key, repositorySelector: $repository) { __typename } }"""
_BACKFILL = """mutation ($backfill: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $backfill) {
  __typename ... on LaunchBackfillSuccess { backfillId } } }"""
_BACKFILL_STATUS = """query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"""
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
        self.renew_deadline()
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

    def renew_deadline(self) -> None:
        """What is waited for from now on has all the time there is."""
        self.deadline = time.monotonic() + SECONDS

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of an answer, None while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
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

    def wait(self, what: str, find: Callable[[], T | None], *, seconds: float | None = None) -> T:
        """What `find` finds, as soon as it does; within `seconds` from now, or within those that the test has."""
        deadline = self.deadline if seconds is None else time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := find():
                return found
            time.sleep(0.2)
        raise AssertionError(f"{what} did not come about; the log ends with\n{self.log.read_text()[-3000:]}")

    def materialized_by(self, rec_id: str = REC) -> list[str]:
        """The ids of the runs that materialized the recording, newest first."""
        return [event["runId"] for event in self._materializations(rec_id)]

    def metadata_of(self, run_id: str, rec_id: str = REC) -> dict[str, int]:
        """The numbers that a run told of the recording."""
        (event,) = [event for event in self._materializations(rec_id) if event["runId"] == run_id]
        return {entry["label"]: entry["intValue"] for entry in event["metadataEntries"] if "intValue" in entry}

    def runs(self) -> list[str]:
        """The ids of all runs, newest first."""
        data = self.ask(_RUNS)
        return [run["runId"] for run in data["runsOrError"]["results"]] if data else []

    def _materializations(self, rec_id: str) -> list[dict[str, Any]]:
        data = self.ask(_MATERIALIZATIONS, asset={"path": ["recording"]}, partitions=[rec_id])
        return data["assetNodeOrError"].get("assetMaterializations", []) if data else []

    def is_up(self) -> bool:
        data = self.ask(_SENSORS, repository=_REPOSITORY)
        return data is not None and data["sensorsOrError"]["__typename"] == "Sensors"

    def press_materialize(self, rec_id: str = REC) -> str:
        """What the UI's button sends for one partition; the run's id."""
        parameters = {
            "mode": "default",
            "runConfigData": "{}",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": rec_id}]},
            "selector": {**_REPOSITORY, "pipelineName": "__ASSET_JOB", "assetSelection": [{"path": ["recording"]}]},
        }
        launched = self.ask(_LAUNCH, parameters=parameters)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def press_backfill(self, rec_ids: Sequence[str]) -> str:
        """What the UI's button sends for a selection of partitions; the backfill's id."""
        asked = {"assetSelection": [{"path": ["recording"]}], "partitionNames": list(rec_ids)}
        launched = self.ask(_BACKFILL, backfill=asked)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def has_ended(self, backfill_id: str) -> str | None:
        """The status of a backfill that has ended."""
        status = str(self.ask(_BACKFILL_STATUS, id=backfill_id)["partitionBackfillOrError"]["status"])
        return status if status.startswith(("COMPLETED", "FAILED", "CANCELED")) else None

    def press_job(self, name: str) -> str:
        """What the UI sends to launch a job of no partition, as a schedule does; the run's id."""
        parameters = {"mode": "default", "runConfigData": "{}", "selector": {**_REPOSITORY, "pipelineName": name}}
        launched = self.ask(_LAUNCH, parameters=parameters)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def press_add_partition(self, rec_id: str) -> None:
        added = self.ask(_ADD_PARTITION, key=rec_id, repository=_REPOSITORY)["addDynamicPartition"]
        assert added["__typename"] == "AddDynamicPartitionSuccess", added

    def switch(self, sensor: str, *, on: bool) -> None:
        """What the UI's switch of a sensor sends."""
        selector = {**_REPOSITORY, "sensorName": sensor}
        if on:
            switched = self.ask(_START_SENSOR, sensor=selector)["startSensor"]["__typename"]
        else:
            state = self.ask(_SENSOR, sensor=selector)["sensorOrError"]["sensorState"]
            switched = self.ask(_STOP_SENSOR, id=state["id"])["stopSensor"]["__typename"]
        assert switched in {"Sensor", "StopSensorMutationResult"}, switched

    def has_come_to(self, run_id: str, *statuses: str) -> str | None:
        status = str(self.ask(_RUN, run=run_id)["runOrError"]["status"])
        return status if status in statuses else None

    def press_terminate(self, run_id: str) -> None:
        """What the UI's button sends to cancel a run."""
        assert self.ask(_TERMINATE, run=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"

    def end_of(self, run_id: str) -> str:
        return self.wait("the run's end", lambda: self.has_come_to(run_id, "SUCCESS", "FAILURE", "CANCELED"))

    def end(self) -> None:
        """Kills it and all that it started, whatever state it is in."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.descendants()
        for process in (*self.seen, self.process):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(60)

    def descendants(self) -> list[psutil.Process]:
        found = self.process.children(recursive=True)
        self.seen.update(found)
        return found

    def listening_on(self) -> set[str]:
        """The addresses that it and what it has started listen on."""
        found = set()
        for process in (self.process, *self.descendants()):
            with contextlib.suppress(psutil.NoSuchProcess):
                listening = [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
                found |= {one.laddr.ip for one in listening}
        return found

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
