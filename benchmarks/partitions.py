"""What grows in Dagster with the number of recordings: ticks, pages of the UI, launches of backfills, reading events.

    python -m benchmarks.partitions [1000 20000 100000] [--storage sqlite,postgres] [--archive]

An instance that knows so many recordings, each arrived and registered in runs of 100 (`instances.py`). The pages are
the queries that the UI's own pages send, answered by a `dagster-webserver` on a loopback address; `ursa` is run as a
process. Nothing has bytes: bucket and catalog are empty, so that what is measured is Dagster. With `--archive` nine
tenths are archived, and all is measured once more. `ticks.py` has the sensor of a source.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import dagster as dg
import urllib3
import yaml

from benchmarks.instances import STORAGES, add, archive, arrival, home_on, know, rec_ids
from deploy.one_machine import answers, free_port
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.orchestration import cases
from ursa_pipelines.orchestration.definitions import build_definitions
from ursa_pipelines.orchestration.partitions import RECORDING, add_partitions, partitions_in_order, recordings

NEW = 10
MANY = 10_000
ARCHIVED_THROUGH_DAGSTER = 500
_TIMES = 3
_ANOTHER = "rec_20380101_000000_00"
_START_SECONDS = 300.0

_NODE = "query ($asset: AssetKeyInput!) { assetNodeOrError(assetKey: $asset) { ... on AssetNode { id %s } } }"
BADGE, TAB = "badge of the asset (partitionStats)", "the asset's Partitions tab (PartitionHealthQuery)"
GROW = {BADGE, TAB}
PAGES = {
    BADGE: _NODE % "partitionStats { numMaterialized numMaterializing numPartitions numFailed }",
    TAB: _NODE
    % """partitionKeysByDimension { name type partitionKeys }
    assetPartitionStatuses { ... on DefaultPartitionStatuses {
      materializedPartitions materializingPartitions failedPartitions } }""",
    "100 newest keys (partitionKeyConnection)": _NODE
    % "partitionKeyConnection(limit: 100, ascending: false) { results }",
    "one partition (its newest registration)": """query ($asset: AssetKeyInput!, $partitions: [String!]!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode { id
    latestMaterializationByPartition(partitions: $partitions) { runId timestamp } } } }""",
    "page of 30 runs": """query { runsFeedOrError(limit: 30, view: ROOTS) { ... on RunsFeedConnection {
  cursor hasMore results { id runStatus creationTime tags { key value } } } } }""",
}
"""What is shown, and the query of it, as the UI of dagster 1.13 sends it, without what costs nothing."""


def main() -> None:
    # What was started is ended, however this is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("known", nargs="*", type=int, default=[1_000, 20_000, 100_000])
    parser.add_argument("--storage", default=",".join(STORAGES))
    parser.add_argument("--archive", action="store_true", help="archive nine tenths, and measure once more")
    parser.add_argument("--without-ursa", action="store_true", help="leave out the command, which starts a store")
    asked = parser.parse_args()
    print("| storage | recordings | what | s | load of the machine |\n|---|---|---|---|---|")
    for storage, known in product(asked.storage.split(","), asked.known):
        with tempfile.TemporaryDirectory() as directory, home_on(storage, Path(directory)) as home:
            for name, seconds in measure(Path(directory), home, known, asked):
                print(f"| {storage} | {known:,} | {name} | {seconds:.3f} | {os.getloadavg()[0]:.1f} |", flush=True)


def measure(directory: Path, home: Path, known: int, asked: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """What was measured, and the seconds of it."""
    config, ids = _profile(directory), rec_ids(known + 2 * NEW)
    began = time.perf_counter()
    know(home, {rec_id: f"{number:064x}" for number, rec_id in enumerate(ids[:known])}, "nas")
    yield "(making the instance)", time.perf_counter() - began
    with dg.DagsterInstance.from_config(str(home)) as instance, _webserver(directory, home, config) as url:
        yield from _all(instance, url, config, ids[:known], ids[known : known + NEW])
        if not asked.without_ursa:
            yield from _commands(directory, home, config, url, ids[:known])
        if asked.archive:
            old = ids[: known * 9 // 10]
            for backfill in instance.get_backfills():
                _ask(url, _CANCEL, {"backfill": backfill.backfill_id})
            told = f"(ursa partitions archive, of each {ARCHIVED_THROUGH_DAGSTER:,} partitions)"
            yield told, archive(instance, home, old, ARCHIVED_THROUGH_DAGSTER)
            for name, seconds in _all(instance, url, config, ids[len(old) : known], ids[known + NEW :]):
                yield f"nine tenths archived: {name}", seconds


def _all(
    instance: dg.DagsterInstance, url: str, config: Path, ids: list[str], new: list[str]
) -> Iterator[tuple[str, float]]:
    variables = {"asset": {"path": ["recording"]}, "partitions": [ids[0]]}
    yield from _automation(instance, config, new)
    for name, query in PAGES.items():
        given = {key: value for key, value in variables.items() if f"${key}" in query}
        ask = partial(_ask, url, query, given)
        ask()
        yield name, _best(ask)
        if name in GROW:
            instance.add_dynamic_partitions("recordings", [_ANOTHER])
            yield f"{name}, a partition was added", _seconds(ask)
            instance.delete_dynamic_partition("recordings", _ANOTHER)
    keys = partitions_in_order(instance)
    yield "all keys (get_dynamic_partitions)", _best(lambda: partitions_in_order(instance))
    yield "one key (has_dynamic_partition)", _best(lambda: instance.has_dynamic_partition("recordings", ids[0]))

    def colours() -> None:
        instance.get_status_by_partition(RECORDING, keys, recordings)

    yield "colours, nothing new (get_status_by_partition)", _best(colours)
    instance.add_dynamic_partitions("recordings", [_ANOTHER])
    yield "colours, a partition was added", _seconds(colours)
    instance.delete_dynamic_partition("recordings", _ANOTHER)
    yield "add 10 partitions", _seconds(lambda: add_partitions(instance, [f"{one}f" for one in new]))
    for one in new:
        instance.delete_dynamic_partition("recordings", f"{one}f")
    yield "the night's events (Events.read)", _seconds(lambda: cases.Events.read(instance, time.time()))


def _automation(instance: dg.DagsterInstance, config: Path, new: list[str]) -> Iterator[tuple[str, float]]:
    """Ticks of `ingest_automation` as the daemon evaluates them, in this process."""
    repository = build_definitions(None, config).get_repository_def()
    sensor = dg.AutomationConditionSensorDefinition("evaluated", target=["recording"], use_user_code_server=True)
    cursors: list[str | None] = [None]

    def tick() -> None:
        with dg.build_sensor_context(instance, cursor=cursors[-1], repository_def=repository) as context:
            told = sensor.evaluate_tick(context)
        cursors.append(told.cursor)
        asked.append(len(told.run_requests or ()))

    asked: list[int] = []
    yield "automation, first tick of an instance", _seconds(tick)
    yield "automation, nothing new", _best(tick)
    for rec_id in new:
        instance.report_runless_asset_event(arrival(rec_id, "0" * 64, "nas"))
    add(instance, new)
    yield f"automation, {NEW} arrived", _seconds(tick)
    assert asked[-1] == 1 and asked[-2] == 0, asked
    yield "(bytes of its cursor, MB)", len(cursors[-1] or "") / 1e6


def _commands(directory: Path, home: Path, config: Path, url: str, ids: list[str]) -> Iterator[tuple[str, float]]:
    """`ursa` as a process, its start and all."""

    def ursa(*arguments: str, codes: tuple[int, ...] = (0,)) -> Callable[[], None]:
        program = str(Path(sys.executable).with_name("ursa"))
        command = [program, *arguments, "--config", str(config)] if Path(program).exists() else []
        command = command or [sys.executable, "-m", "ursa_pipelines.cli.main", *arguments, "--config", str(config)]

        def run() -> None:
            with (directory / "ursa.log").open("wb") as log:
                done = subprocess.run(
                    command,
                    check=False,
                    cwd=directory,
                    env={**os.environ, "DAGSTER_HOME": str(home)},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            if done.returncode not in codes:
                raise SystemExit((directory / "ursa.log").read_text()[-2000:])

        return run

    try:
        ursa("catalog", "init", "--yes", codes=(0, 1, 3))()
        yield "ursa status REC_ID", _seconds(ursa("status", ids[0], codes=(0, 1)))
        yield "ursa status", _seconds(ursa("status", codes=(0, 1)))
        launch = ("backfill", "--no-wait", "--yes", "--url", url)
        yield "ursa backfill --no-wait of 10", _seconds(ursa(*launch, *ids[:10]))
        many = ids[:MANY]
        yield f"ursa backfill --no-wait of {len(many):,}", _seconds(ursa(*launch, *many))
    finally:
        before = Path.cwd()
        os.chdir(directory)
        open_store(directory / ".ursa").release()
        os.chdir(before)


_CANCEL = "mutation ($backfill: String!) { cancelPartitionBackfill(backfillId: $backfill) { __typename } }"


@contextmanager
def _webserver(directory: Path, home: Path, config: Path) -> Iterator[str]:
    """A webserver with the code location of the profile; its URL."""
    served, port = directory / "served.py", free_port()
    served.write_text(
        "from pathlib import Path\n"
        "from ursa_pipelines.orchestration.definitions import build_definitions\n"
        f"defs = build_definitions(None, Path({str(config)!r}))\n"
    )
    command = [str(Path(sys.executable).with_name("dagster-webserver")), "-f", str(served), "-p", str(port)]
    with (directory / "webserver.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1"],
            cwd=directory,
            env={**os.environ, "DAGSTER_HOME": str(home)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((directory / "webserver.log").read_text()[-3000:])
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _ask(url: str, query: str, variables: Mapping[str, Any]) -> Any:
    answer = urllib3.request("POST", f"{url}/graphql", json={"query": query, "variables": variables}, timeout=300)
    document = json.loads(answer.data)
    assert not document.get("errors"), document["errors"]
    (found,) = document["data"].values()
    # Of an error there is the name of its type, or nothing.
    assert found, query
    return found


def _profile(directory: Path) -> Path:
    config, nas = directory / "profile.yaml", directory / "nas"
    nas.mkdir()
    (nas / "README.txt").touch()
    profile = {
        "name": "partitions",
        "family": "local",
        "store": "embedded",
        "buckets": {"raw": "raw-of-partitions", "assets": "assets-of-partitions"},
        "sources": [{"name": "nas", "path": str(nas)}],
    }
    config.write_text(yaml.safe_dump(profile))
    return config


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _best(call: Callable[[], object]) -> float:
    return min(_seconds(call) for _ in range(_TIMES))


if __name__ == "__main__":
    main()
