"""The whole production layout on this machine, as its users start it: two sites, a worker that is killed, one result.

    URSA_PRODUCTION=1 uv run --extra production pytest tests/deploy/test_production.py

needs Debian's packages postgresql and redis-server, and takes a minute or two.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import urllib3

from tests.recordings_on_disk import write_recording
from tests.snapshot import snapshot
from ursa_pipelines import DataInterface
from ursa_pipelines.embedded.store import open_store

SECONDS = 300.0
SCRIPT = Path(__file__).parents[2] / "deploy" / "one_machine.py"
AT_LAB1 = [f"rec_20260520_1956{second}_a1a1" for second in ("01", "02", "03")]
AT_LAB2 = [f"rec_20260520_1957{second}_b2b2" for second in ("01", "02", "03")]
LARGE = AT_LAB1[0]

_RUNS = """query { runsOrError { ... on Runs { results { runId status parentRunId tags { key value } } } } }"""
_EVENTS = """query ($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events {
  __typename ... on MessageEvent { message } } } } }"""
_MADE = """query ($asset: AssetKeyInput!, $partitions: [String!]) { assetNodeOrError(assetKey: $asset) {
  ... on AssetNode { assetMaterializations(partitions: $partitions) { runId partition } } } }"""

T = TypeVar("T")


def _missing() -> str:
    if os.environ.get("URSA_PRODUCTION") != "1":
        return "it takes a minute or two: set URSA_PRODUCTION=1"
    if not shutil.which("redis-server"):
        return "redis-server is not installed"
    if not shutil.which("initdb") and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return "postgresql is not installed"
    modules = [name for name in ("dagster_postgres", "dagster_celery", "redis") if not importlib.util.find_spec(name)]
    return f"the extra `production` is not installed: {', '.join(modules)}" if modules else ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing())


class Production:
    """The layout in processes of its own, and its GraphQL door."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.log = state.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), "--state", str(state), "--port", "0"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def wait(self, what: str, look: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + SECONDS
        while True:
            found = look()
            if found:
                return found
            assert self.process.poll() is None, f"it ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"{what} did not come:\n{self.log.read_text()}\n{self.runs()}"
            time.sleep(0.5)

    @property
    def told(self) -> dict[str, Any]:
        path = self.state / "processes.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def ask(self, query: str, **variables: Any) -> Any:
        url = f"http://127.0.0.1:{self.told['port']}/graphql"
        answer = urllib3.request("POST", url, json={"query": query, "variables": variables}, timeout=60)
        return answer.json()["data"]

    def runs(self) -> list[dict[str, Any]]:
        """Newest first; tags as a dictionary."""
        found = self.ask(_RUNS)["runsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def run_of(self, rec_id: str, *statuses: str) -> dict[str, Any] | None:
        """The newest run of a recording, if it has one of these statuses."""
        for run in self.runs():
            tags = run["tags"]
            if rec_id in {tags.get("dagster/partition"), tags.get("dagster/asset_partition_range_start")}:
                return run if run["status"] in statuses else None
        return None

    def messages(self, run_id: str) -> str:
        events = self.ask(_EVENTS, run=run_id)["logsForRun"]["events"]
        return "\n".join(event.get("message") or "" for event in events)

    def materializations(self, rec_ids: list[str]) -> list[tuple[str, str]]:
        """Recording and run of each."""
        made = self.ask(_MADE, asset={"path": ["recording"]}, partitions=rec_ids)
        return [(one["partition"], one["runId"]) for one in made["assetNodeOrError"]["assetMaterializations"]]

    def end(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(90)
            for process in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.kill()
        at = self.state / "secrets" / "postgres_at"
        if at.exists():
            shutil.rmtree(at.read_text(), ignore_errors=True)


@pytest.fixture
def production(tmp_path: Path) -> Iterator[Production]:
    production = Production(tmp_path / "production")
    yield production
    production.end()


def test_a_worker_that_is_killed_costs_nothing_and_no_site_reads_what_another_has(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = production.state
    production.wait("the UI", lambda: "Dagster UI" in production.log.read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(state / "dagster"))
    data = DataInterface(config_path=state / "profile.yaml")
    nas = {site: state / "hosts" / site / "nas" for site in ("lab1", "lab2")}
    # The large one takes half a minute at this rate, and is nowhere near its end when its worker is killed.
    data.set_bandwidth("400KB/s")
    for site, rec_ids in (("lab1", AT_LAB1), ("lab2", AT_LAB2)):
        for rec_id in rec_ids:
            size = 12_000_000 if rec_id == LARGE else 20_000
            content = rec_id.encode() * (size // len(rec_id))
            write_recording(nas[site], rec_id, {"camera_a/seg_0000.mp4": content, "mic/seg_0.wav": rec_id.encode()})
    before = {site: snapshot(directory) for site, directory in nas.items()}

    run = production.wait("a run of the large one", lambda: production.run_of(LARGE, "STARTED"))
    production.wait("its upload", lambda: 'step "recording.upload"' in production.messages(run["runId"]))
    group = production.told["groups"]["worker-lab1"]
    os.killpg(group, signal.SIGKILL)

    production.wait("the end of the run", lambda: production.run_of(LARGE, "FAILURE") or _retried(production, run))
    data.set_bandwidth("off")
    production.wait(
        "all recordings", lambda: {key for key, _ in production.materializations(AT_LAB1 + AT_LAB2)} >= _all() or None
    )
    production.wait("the retry", lambda: production.run_of(LARGE, "SUCCESS"))

    told = production.messages(run["runId"])
    assert "Detected run worker status" in told and "Retrying the run" in told
    runs = {one["runId"]: one for one in production.runs()}
    retry = production.run_of(LARGE, "SUCCESS")
    assert retry and retry["parentRunId"] == run["runId"]
    # Each was registered exactly once, by a run in the queue of its own site.
    made = production.materializations(AT_LAB1 + AT_LAB2)
    assert Counter(key for key, _ in made) == Counter(_all())
    for key, run_id in made:
        site = "lab1" if key in AT_LAB1 else "lab2"
        assert runs[run_id]["tags"]["dagster-celery/queue"] == site
    # A worker has the sources of its own host only; what it took from the other queue it would have failed.
    for site in nas:
        worker = (state / "logs" / f"worker-{site}.log").read_text()
        tasks = {one["tags"]["dagster-celery/task_id"] for one in runs.values() if one["tags"].get("ursa/site") == site}
        others = {one["tags"]["dagster-celery/task_id"] for one in runs.values()} - tasks
        assert any(f"[{task}] received" in worker for task in tasks)
        assert not any(f"[{task}] received" in worker for task in others)
    assert {site: snapshot(directory) for site, directory in nas.items()} == before
    rows = data.list_recordings()
    assert Counter(row.rec_id for row in rows) == Counter(_all())
    for rec_id in _all():
        assert not data.verify(rec_id, deep=True).problems
    data.close()
    _no_secret_is_told(state)
    open_store(state / ".ursa").release()


def _all() -> set[str]:
    return {*AT_LAB1, *AT_LAB2}


def _retried(production: Production, run: dict[str, Any]) -> bool:
    return any(one["parentRunId"] == run["runId"] for one in production.runs())


def _no_secret_is_told(state: Path) -> None:
    words = [(state / "secrets" / name).read_text() for name in ("postgres_password", "redis_password")]
    for log in (state / "logs").iterdir():
        assert not any(word in log.read_text(errors="replace") for word in words), log
    for path in (state / "dagster").rglob("*"):
        assert not path.is_file() or not any(word.encode() in path.read_bytes() for word in words), path
