"""What `ursa metrics` costs with so many recordings that Dagster's runs have registered, and 10 that wait.

    python -m benchmarks.metrics [1000 100000]

The first reading takes in every event there is; each after it what is new. A scrape shows what was read last.
"""

from __future__ import annotations

import argparse
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.orchestration.metrics import ledger
from ursa_pipelines.orchestration.metrics.exporter import Exporter
from ursa_pipelines.orchestration.metrics.readings import Readings
from ursa_pipelines.orchestration.partitions import PARTITIONS_PER_REQUEST, recordings
from ursa_pipelines.orchestration.telling import materialization

WAITING = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("known", nargs="*", type=int, default=[1_000, 100_000])
    print("| recordings | first reading of events, s | next | states | next | a scrape | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for known in parser.parse_args().known:
        with tempfile.TemporaryDirectory() as directory:
            told = measure(Path(directory), known)
        print(f"| {known:,} | {' | '.join(f'{one:.3g}' for one in told)} |", flush=True)


def measure(directory: Path, known: int) -> list[float]:
    """Seconds of CPU of each, and the process's peak of memory in MiB."""
    (directory / "nas").mkdir()
    (directory / "nas" / "README.txt").touch()
    config = directory / "profile.yaml"
    profile = {
        "name": "metrics",
        "family": "local",
        "store": "embedded",
        "buckets": {"raw": "raw-of-metrics", "assets": "assets-of-metrics"},
        "sources": [{"name": "nas", "path": str(directory / "nas")}],
    }
    config.write_text(yaml.safe_dump(profile))
    _seed(directory / "home", known)
    # As if they were older than that: only what is not is read again.
    ledger._LATE_SECONDS = 0.0
    with dg.DagsterInstance.from_config(str(directory / "home")) as instance:
        exporter = Exporter("metrics", Readings(instance, DataInterface(config_path=config)))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(exporter)
        exporter.store.refresh()
        parts = (exporter.dagster, exporter.dagster, exporter.recordings, exporter.recordings)
        seconds = [_seconds(part.refresh) for part in parts]
        assert all(part.is_up for part in (*parts, exporter.store))
        assert exporter.dagster.value is not None
        assert exporter.dagster.value.totals.uploaded_bytes == known * 1000
        seconds.append(_seconds(lambda: generate_latest(registry)))
    return [*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]


def _seconds(call: Callable[[], object]) -> float:
    """Of this process's time, whatever else the machine does."""
    began = time.process_time()
    call()
    return time.process_time() - began


def _rec_ids(count: int) -> list[str]:
    first = datetime(2020, 1, 1)
    return [f"rec_{first + timedelta(minutes=number):%Y%m%d_%H%M%S}_{number:06x}" for number in range(count)]


def _seed(home: Path, known: int) -> None:
    """Dagster takes 100 events a second, so one is written, and its rows copied."""
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    rec_ids = _rec_ids(known + WAITING)
    first = rec_ids[0]
    item = BatchItem(
        first,
        state="registered",
        path="A",
        files=31,
        bytes=1000,
        files_uploaded=31,
        bytes_uploaded=1000,
        seconds=1.0,
        outcome="created",
        recording_hash="0" * 64,
        verification="sha256",
        fingerprint="1" * 64,
        nodes=("green-mantis", "green-motor"),
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for start in range(0, len(rec_ids), PARTITIONS_PER_REQUEST):
            instance.add_dynamic_partitions(str(recordings.name), rec_ids[start : start + PARTITIONS_PER_REQUEST])
        instance.report_runless_asset_event(materialization(item, "raw-of-metrics"))
    for path in home.rglob("index.db"):
        database = sqlite3.connect(path)
        for table, number in (("event_logs", "id"), ("asset_event_tags", "event_id")):
            names = [name for _, name, *_ in database.execute(f"pragma table_info({table})")]
            rows = [dict(zip(names, row, strict=True)) for row in database.execute(f"select * from {table}")]
            database.execute(f"delete from {table}")
            if table == "asset_event_tags":
                names = [name for name in names if name != "id"]
            database.executemany(
                f"insert into {table} ({', '.join(names)}) values ({', '.join('?' * len(names))})",
                (
                    [position if name == number else _of(row[name], first, rec_id) for name in names]
                    for row in rows
                    for position, rec_id in enumerate(rec_ids[:known], start=1)
                ),
            )
        database.commit()
        database.close()


def _of(value: object, first: str, rec_id: str) -> object:
    return value.replace(first, rec_id) if isinstance(value, str) else value


if __name__ == "__main__":
    main()
