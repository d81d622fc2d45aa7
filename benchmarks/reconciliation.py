"""How long the comparison of sources, bucket and catalog takes, and `ursa status`, and how much memory they need.

    python -m benchmarks.reconciliation 100000 --state /tmp/reconciliation

Everything is registered, stored, marked complete and on one source, as it is in a lab that has run for years. What is
made is kept in the state directory: a second run of the same size only measures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import yaml

from benchmarks.seeding import rec_id_of, seed, start_of
from ursa_pipelines import DataInterface
from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.objects.keys import marker_key, raw_key
from ursa_pipelines.objects.store import Bucket, Endpoint

T = TypeVar("T")

PUTS_AT_ONCE = 32
SEGMENT = b"x" * 64


@dataclass(frozen=True)
class Measured:
    """Seconds of one comparison, the peak resident memory of a process that does nothing else (MiB), and its counts."""

    recordings: int
    seconds: float
    peak_mib: float
    at_rest_mib: float
    problems: int


def prepare(state: Path, size: int) -> Path:
    """Makes the recordings, if they are not there yet, and returns the profile."""
    config, done = state / f"profile-{size}.yaml", state / f"seeded-{size}"
    source = state / f"nas-{size}"
    buckets = {"raw": f"raw-{size}", "assets": f"assets-{size}"}
    config.write_text(
        yaml.safe_dump(
            {
                "name": f"bench-{size}",
                "family": "local",
                "store": "embedded",
                "buckets": buckets,
                "sources": [{"name": "nas", "path": str(source.absolute())}],
            }
        )
    )
    if done.exists():
        return config
    store = open_store(state_directory(), tuple(buckets.values()))
    endpoint = Endpoint(store.endpoint, "auto", lambda: (store.access_key_id, store.secret_access_key, None))
    raw, assets = (Bucket(name, endpoint) for name in buckets.values())
    data = DataInterface(config_path=config)
    data.enable_writes(roles=("assets_rw", "raw_rw"))
    assert data.catalog.prefix
    rec_ids = [rec_id_of(number, start_of(size, number)) for number in range(size)]
    began = time.monotonic()
    for rec_id in rec_ids:
        directory = source / rec_id / "mic"
        directory.mkdir(parents=True)
        (directory / "seg_0000.wav").write_bytes(SEGMENT)
        (source / rec_id / "manifest.json").write_bytes(manifest_of(rec_id))
    print(f"{size:,} directories in {time.monotonic() - began:.0f} s", flush=True)

    def put(rec_id: str) -> None:
        raw.create(raw_key(rec_id, "manifest.json"), manifest_of(rec_id))
        raw.create(marker_key(rec_id), b"{}")

    began = time.monotonic()
    with ThreadPoolExecutor(PUTS_AT_ONCE) as pool:
        for count, _ in enumerate(pool.map(put, rec_ids), start=1):
            if count % 10_000 == 0:
                print(f"{2 * count:,} objects in {time.monotonic() - began:.0f} s", flush=True)
    seed(assets, size, range(0), lambda text: None)
    done.touch()
    return config


def manifest_of(rec_id: str) -> bytes:
    document = {
        "recording_id": rec_id,
        "files": [{"path": "mic/seg_0000.wav", "size_bytes": len(SEGMENT)}],
    }
    return json.dumps(document).encode()


def measure(config: Path) -> Measured:
    """One comparison of the profile, in this process."""
    from ursa_pipelines.maintenance.reconciliation import reconcile

    data = DataInterface(config_path=config)
    context, at_rest = data.reading_context, peak_mib()
    began, count, problems = time.monotonic(), 0, 0
    for standing in reconcile(context, data.sources):
        count += 1
        problems += bool(standing.problems)
    return Measured(count, round(time.monotonic() - began, 2), peak_mib(), at_rest, problems)


@dataclass(frozen=True)
class Answered:
    """Seconds of one `ursa status`, imports included, its peak resident memory (MiB), and the lines it printed."""

    arguments: str
    seconds: float
    peak_mib: float
    lines: int


def measure_status(config: Path, *arguments: str) -> Answered:
    """One `ursa status` of the profile, in this process."""
    began = time.monotonic()
    from ursa_pipelines.cli.main import main as ursa

    printed = Path("status.txt")
    sys.argv = ["ursa", "status", *arguments, "--config", str(config)]
    with printed.open("w") as out, redirect_stdout(out), suppress(SystemExit):
        ursa()
    seconds = round(time.monotonic() - began, 2)
    return Answered(" ".join(arguments), seconds, peak_mib(), len(printed.read_text().splitlines()))


def apart(call: Callable[..., T], *arguments: object) -> T:
    """The same in a process of its own, whose memory nothing else has used."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(call, *arguments).result()


def peak_mib() -> float:
    """Of this program alone: Linux keeps in ru_maxrss what the process had been before."""
    return round(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", type=int)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    state = asked.state.absolute()
    state.mkdir(parents=True, exist_ok=True)
    # The embedded store keeps its state below the working directory.
    os.chdir(state)
    config = prepare(state, asked.size)
    for _ in range(asked.runs):
        print(json.dumps(asdict(apart(measure, config))), flush=True)
    some, day = rec_id_of(asked.size // 2, start_of(asked.size, asked.size // 2)), start_of(asked.size, asked.size // 2)
    since, until = (f"{one:%Y-%m-%d}" for one in (day, day + timedelta(days=7)))
    for arguments in ((), ("--all", "--json"), (some,), ("--since", since, "--until", until)):
        print(json.dumps(asdict(apart(measure_status, config, *arguments))), flush=True)


if __name__ == "__main__":
    main()
