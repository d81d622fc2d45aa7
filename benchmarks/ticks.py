"""How long a tick of `nas_sensor` takes, with so many known recordings on the source and 10 new ones.

    uv run python benchmarks/ticks.py [1000 20000 100000]

At most 2 s with 100,000 known ones, and what is looked at grows with the new ones: besides them 200 known ones a tick,
in turn. The first tick of a process reads what the source has reported before; later ones know it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import yaml

from ursa_pipelines.orchestration.partitions import PARTITIONS_PER_REQUEST, arrival_asset, recordings
from ursa_pipelines.orchestration.resources import UrsaResource
from ursa_pipelines.orchestration.sensors import nas_sensor
from ursa_pipelines.profiles import load_profile
from ursa_pipelines.recordings.inventory import take_inventory

NEW = 10
TICKS = ("first of a process", "second", "third")

_VERSION = "VERSION"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("known", nargs="*", type=int, default=[1_000, 20_000, 100_000])
    print(f"| known | {' | '.join(f'{tick} tick, s' for tick in TICKS)} | cursor, bytes |")
    print("|---|---|---|---|---|")
    for known in parser.parse_args().known:
        with tempfile.TemporaryDirectory() as directory:
            seconds, cursor = measure(Path(directory), known)
        print(f"| {known:,} | {' | '.join(f'{one:.2f}' for one in seconds)} | {cursor} |", flush=True)


def measure(directory: Path, known: int) -> tuple[list[float], int]:
    """Seconds of each tick with 10 new recordings, and the bytes of the last one's cursor."""
    nas, home, config = directory / "nas", directory / "home", directory / "profile.yaml"
    buckets = {"raw": "raw-of-ticks", "assets": "assets-of-ticks"}
    sources = [{"name": "nas", "path": str(nas)}]
    profile = {"name": "ticks", "family": "local", "store": "embedded", "buckets": buckets, "sources": sources}
    config.write_text(yaml.safe_dump(profile))
    rec_ids = _rec_ids(known + NEW * len(TICKS))
    for rec_id in rec_ids[:known]:
        _write(nas / rec_id)
    _seed(home, {rec_id: take_inventory(nas / rec_id).fingerprint for rec_id in rec_ids[:known]})
    sensor, resources = nas_sensor("nas", load_profile(None, config)), {"ursa": UrsaResource(config_path=str(config))}
    seconds: list[float] = []
    cursor: str | None = None
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for position in range(len(TICKS)):
            new = rec_ids[known + NEW * position :][:NEW]
            for rec_id in new:
                _write(nas / rec_id)
            with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
                began = time.perf_counter()
                result = sensor(context)
                seconds.append(time.perf_counter() - began)
            assert isinstance(result, dg.SensorResult)
            assert {event.partition for event in result.asset_events} == set(new)
            cursor = result.cursor
            for event in result.asset_events:
                assert isinstance(event, dg.AssetMaterialization)
                instance.report_runless_asset_event(event)
            instance.add_dynamic_partitions(str(recordings.name), new)
    return seconds, len(cursor or "")


def _rec_ids(count: int) -> list[str]:
    first = datetime(2020, 1, 1)
    return [f"rec_{first + timedelta(minutes=number):%Y%m%d_%H%M%S}_{number:06x}" for number in range(count)]


def _write(directory: Path) -> None:
    (directory / "mic").mkdir(parents=True)
    (directory / "mic" / "seg_0000.wav").write_bytes(b"audio")
    file = {"path": "mic/seg_0000.wav", "size_bytes": 5, "sha256": hashlib.sha256(b"audio").hexdigest()}
    (directory / "manifest.json").write_text(json.dumps({"recording_id": directory.name, "files": [file]}))


def _seed(home: Path, fingerprints: dict[str, str]) -> None:
    """An instance that knows them all. Dagster takes 100 events a second, so one is written, and its row copied."""
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    rec_ids = sorted(fingerprints)
    first = rec_ids[0]
    event = dg.AssetMaterialization(arrival_asset("nas"), partition=first, tags={"dagster/data_version": _VERSION})
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for start in range(0, len(rec_ids), PARTITIONS_PER_REQUEST):
            instance.add_dynamic_partitions(str(recordings.name), rec_ids[start : start + PARTITIONS_PER_REQUEST])
        instance.report_runless_asset_event(event)
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
                    [
                        position if name == number else _of(row[name], first, rec_id, fingerprints[rec_id])
                        for name in names
                    ]
                    for row in rows
                    for position, rec_id in enumerate(rec_ids, start=1)
                ),
            )
        database.commit()
        database.close()


def _of(value: object, first: str, rec_id: str, fingerprint: str) -> object:
    return value.replace(first, rec_id).replace(_VERSION, fingerprint) if isinstance(value, str) else value


if __name__ == "__main__":
    main()
