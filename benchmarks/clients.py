"""The clients that are compared, each as a process of its own, and what they upload."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
REC = "rec_20260520_195628_b1dd"

INGEST = """
import sys
from ursa_pipelines import DataInterface
data = DataInterface(config_path=sys.argv[1])
data.enable_writes(roles=("assets_rw", "raw_rw"))
result = data.ingest(source_dir=sys.argv[2])
assert result.outcome == sys.argv[3], result
print(result.bytes_uploaded)
"""
_SEND = """
import json, sys
from pathlib import Path
from ursa_pipelines.objects.keys import raw_key
from ursa_pipelines.objects.store import Bucket, Endpoint
from ursa_pipelines.objects.transfers import TransferLimits, Transfers
from ursa_pipelines.objects.upload import Outgoing, Uploader
from ursa_pipelines.recordings.inventory import take_inventory
endpoint = Endpoint(sys.argv[1], "auto", lambda: ("key", "secret", None))
inventory = take_inventory(Path(sys.argv[2]))
listed = json.loads((inventory.directory / "manifest.json").read_text())["files"]
digests = {file["path"]: file["sha256"] for file in listed}
transfers = Transfers(TransferLimits(resume_above=int(sys.argv[3])))
uploader = Uploader(Bucket("raw", endpoint), Bucket("assets", endpoint), inventory.rec_id, transfers)
outgoing = [
    Outgoing(inventory, file, raw_key(inventory.rec_id, path), digests[path]) for path, file in inventory.files.items()
]
uploader.send_all(outgoing, lambda one: uploader.send(one).info)
"""
_HASH = """
import sys
from pathlib import Path
from ursa_pipelines.objects.hashing import hash_files
from ursa_pipelines.recordings.inventory import take_inventory
inventory = take_inventory(Path(sys.argv[1]))
hash_files(inventory, inventory.files.values())
"""
_OBSTORE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import obstore
from obstore.store import S3Store
url, directory, key, secret, bucket = sys.argv[1:]
store = S3Store(bucket, endpoint=url, region="auto", access_key_id=key, secret_access_key=secret,
                virtual_hosted_style_request=False, unsigned_payload=True, client_options={"allow_http": True})
files = [file for file in Path(directory).rglob("*") if file.is_file()]
with ThreadPoolExecutor(8 if len(files) > 100 else 2) as pool:
    list(pool.map(lambda file: obstore.put(store, f"plain/{file.name}", file, chunk_size=16 * 1024**2), files))
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


@dataclass(frozen=True)
class Store:
    """Where the peers upload to."""

    endpoint: str
    access_key_id: str
    secret_access_key: str
    bucket: str


def make_recording(root: Path, case: Case) -> Path:
    """A recording of random bytes with a manifest that attests every file."""
    worker = root / REC / "camera_a"
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
    (root / REC / "manifest.json").write_text(json.dumps({"recording_id": REC, "files": entries}))
    return root / REC


def ingest(config: Path, directory: Path, outcome: str) -> Run:
    """A whole ingest: hash, send, prove, manifest, marker, rows."""
    return timed([sys.executable, "-c", INGEST, str(config), str(directory), outcome])


def send(endpoint: str, directory: Path, resume_above: int, certificate: Path | None = None) -> Run:
    """Our sending alone: every byte hashed and sent in one read. A store that has nothing is expected."""
    trusted = {"SSL_CERT_FILE": str(certificate), "AWS_CA_BUNDLE": str(certificate)} if certificate else {}
    return timed([sys.executable, "-c", _SEND, endpoint, str(directory), str(resume_above)], trusted)


def hash_only(directory: Path) -> Run:
    """What reading and hashing every byte costs, which nothing that attests content can undercut."""
    return timed([sys.executable, "-c", _HASH, str(directory)])


def plain_obstore(store: Store, directory: Path) -> Run:
    """What an upload without any hashing costs."""
    arguments = [store.endpoint, str(directory), store.access_key_id, store.secret_access_key, store.bucket]
    return timed([sys.executable, "-c", _OBSTORE, *arguments])


def rclone(store: Store, directory: Path, *options: str) -> Run:
    remote = (
        f":s3,provider=Other,env_auth=true,endpoint='{store.endpoint}',no_check_bucket=true:{store.bucket}/recordings"
    )
    command = [_program("rclone"), "copy", str(directory), remote, "--config", os.devnull, *options]
    return timed(command, _keys(store))


def s5cmd(store: Store, directory: Path, *options: str) -> Run:
    command = [_program("s5cmd"), "--endpoint-url", store.endpoint, *options, "cp"]
    command += [f"{directory}/", f"s3://{store.bucket}/recordings/"]
    return timed(command, {**_keys(store), "AWS_REGION": "us-east-1"})


def timed(command: list[str], environment: dict[str, str] | None = None) -> Run:
    """Runs a process to its end; exits if it fails."""
    began = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[0]} failed with exit code {process.returncode}")
    scale = 1024 if sys.platform == "linux" else MIB
    return Run(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)


def _keys(store: Store) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": store.access_key_id, "AWS_SECRET_ACCESS_KEY": store.secret_access_key}


def _program(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        sys.exit(f"{name} is not installed; run this with `uv run`")
    return found
