"""How long a tick of `nas_sensor` takes, with so many known recordings on the source and 10 new ones.

    python -m benchmarks.ticks [1000 20000 100000] [--storage sqlite,postgres]

At most 2 s with 100,000 known ones, and what is looked at grows with the new ones: besides them 200 known ones a tick,
in turn. The first tick of a process reads what the source has reported before; later ones know it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from itertools import product
from pathlib import Path

import dagster as dg
import yaml

from benchmarks import instances
from benchmarks.instances import STORAGES, home_on
from ursa_pipelines.orchestration.partitions import recordings
from ursa_pipelines.orchestration.resources import UrsaResource
from ursa_pipelines.orchestration.sensors import nas_sensor
from ursa_pipelines.profiles import load_profile
from ursa_pipelines.recordings.inventory import take_inventory

NEW = 10
TICKS = ("first of a process", "second", "third")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("known", nargs="*", type=int, default=[1_000, 20_000, 100_000])
    parser.add_argument("--storage", default=",".join(STORAGES))
    asked = parser.parse_args()
    print(f"| storage | known | {' | '.join(f'{tick} tick, s' for tick in TICKS)} | cursor, bytes |")
    print("|---|---|---|---|---|---|")
    for storage, known in product(asked.storage.split(","), asked.known):
        with tempfile.TemporaryDirectory() as directory, home_on(storage, Path(directory)) as home:
            seconds, cursor = measure(Path(directory), home, known)
        print(f"| {storage} | {known:,} | {' | '.join(f'{one:.2f}' for one in seconds)} | {cursor} |", flush=True)


def measure(directory: Path, home: Path, known: int) -> tuple[list[float], int]:
    """Seconds of each tick with 10 new recordings, and the bytes of the last one's cursor."""
    nas, config = directory / "nas", directory / "profile.yaml"
    buckets = {"raw": "raw-of-ticks", "assets": "assets-of-ticks"}
    sources = [{"name": "nas", "path": str(nas)}]
    profile = {"name": "ticks", "family": "local", "store": "embedded", "buckets": buckets, "sources": sources}
    config.write_text(yaml.safe_dump(profile))
    rec_ids = instances.rec_ids(known + NEW * len(TICKS))
    for rec_id in rec_ids[:known]:
        _write(nas / rec_id)
    fingerprints = {rec_id: take_inventory(nas / rec_id).fingerprint for rec_id in rec_ids[:known]}
    instances.know(home, fingerprints, "nas", registered=False)
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


def _write(directory: Path) -> None:
    (directory / "mic").mkdir(parents=True)
    (directory / "mic" / "seg_0000.wav").write_bytes(b"audio")
    file = {"path": "mic/seg_0000.wav", "size_bytes": 5, "sha256": hashlib.sha256(b"audio").hexdigest()}
    (directory / "manifest.json").write_text(json.dumps({"recording_id": directory.name, "files": [file]}))


if __name__ == "__main__":
    main()
