"""Objects as others write them: rigs through boto3, `aws s3 cp`, rclone, s5cmd; and as we do."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ursa_pipelines.embedded.store import EmbeddedStore
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.upload import Outgoing, Uploader
from ursa_pipelines.recordings.inventory import take_inventory

MIB = 1024 * 1024
SMALL, LARGE, EVEN = 70_000, 11 * MIB + 1, 10 * MIB
"""In bytes. The large one takes two parts of 8 MiB, and three of 5 MiB; the even one two full parts of 5 MiB."""


@dataclass(frozen=True)
class Target:
    """Where an object goes. `bucket` and `store` are the same bucket, for us and for others."""

    bucket: Bucket
    store: EmbeddedStore
    key: str


@dataclass(frozen=True)
class Peer:
    """A way of writing a file of `size` bytes, and what can prove the object that comes of it.

    `by` is `head` (the store's or the writer's SHA-256), `local` (the local file as well) or `bytes` (nothing else).
    """

    name: str
    size: int
    by: Literal["head", "local", "bytes"]
    write: Callable[[Target, Path], None]


def boto3_client(store: EmbeddedStore, *, checksums: bool = True) -> Any:
    """boto3 as it comes, which adds CRC32s; without `checksums` as a rig's older one, which adds none."""
    return _client(store.endpoint, store.access_key_id, store.secret_access_key, checksums)


@cache
def _client(endpoint: str, access_key: str, secret_key: str, checksums: bool) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            request_checksum_calculation="when_supported" if checksums else "when_required",
            s3={"addressing_style": "path"},
        ),
    )


def put(*, checksums: bool, states_sha256: bool = False, **arguments: Any) -> Callable[[Target, Path], None]:
    def write(target: Target, file: Path) -> None:
        body = bytearray(file.read_bytes())
        metadata = {"sha256": hashlib.sha256(body).hexdigest()} if states_sha256 else {}
        boto3_client(target.store, checksums=checksums).put_object(
            Bucket=target.bucket.name, Key=target.key, Body=body, Metadata=metadata, **arguments
        )

    return write


def aws_cp(
    *, checksums: bool, part_size: int = 8 * MIB, states_sha256: bool = False, **extra: Any
) -> Callable[[Target, Path], None]:
    """What `aws s3 cp` does: parts of 8 MiB from 8 MiB on."""

    def write(target: Target, file: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        metadata = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if states_sha256 else {}
        boto3_client(target.store, checksums=checksums).upload_file(
            str(file),
            target.bucket.name,
            target.key,
            ExtraArgs={"Metadata": metadata, **extra},
            Config=TransferConfig(multipart_chunksize=part_size),
        )

    return write


def _rclone(*flags: str) -> Callable[[Target, Path], None]:
    def write(target: Target, file: Path) -> None:
        remote = f":s3,provider=Other,env_auth=true,no_check_bucket=true,endpoint='{target.store.endpoint}':"
        _run(target.store, "rclone", "copyto", str(file), f"{remote}{target.bucket.name}/{target.key}", *flags)

    return write


def _s5cmd(*flags: str) -> Callable[[Target, Path], None]:
    def write(target: Target, file: Path) -> None:
        url = f"s3://{target.bucket.name}/{target.key}"
        _run(target.store, "s5cmd", "--endpoint-url", target.store.endpoint, "cp", *flags, str(file), url)

    return write


def _run(store: EmbeddedStore, program: str, *arguments: str) -> None:
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    assert found, f"{program} is not installed; it is among the development dependencies"
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": store.access_key_id,
        "AWS_SECRET_ACCESS_KEY": store.secret_access_key,
        "AWS_REGION": "us-east-1",
        "RCLONE_CONFIG": os.devnull,
    }
    subprocess.run([found, *arguments], env=environment, check=True, capture_output=True)


def _ours(target: Target, file: Path) -> None:
    inventory = take_inventory(file.parent.parent)
    source = inventory.files[f"{file.parent.name}/{file.name}"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    uploader = Uploader(target.bucket, target.bucket, inventory.rec_id)
    uploader.send_all([Outgoing(inventory, source, target.key, digest)], lambda one: uploader.send(one).info)


PEERS = (
    Peer("boto3 put", SMALL, "local", put(checksums=False)),
    Peer("boto3 put, CRC32", SMALL, "local", put(checksums=True)),
    Peer("boto3 put, SHA-256", SMALL, "head", put(checksums=True, ChecksumAlgorithm="SHA256")),
    Peer("boto3 put, metadata", SMALL, "head", put(checksums=False, states_sha256=True)),
    Peer("aws cp", LARGE, "local", aws_cp(checksums=False)),
    Peer("aws cp, CRC32 of parts", LARGE, "local", aws_cp(checksums=True)),
    Peer("aws cp, SHA-256 of parts", LARGE, "local", aws_cp(checksums=True, ChecksumAlgorithm="SHA256")),
    Peer("aws cp, CRC64NVME", LARGE, "local", aws_cp(checksums=True, ChecksumAlgorithm="CRC64NVME")),
    Peer("aws cp, metadata", LARGE, "head", aws_cp(checksums=False, states_sha256=True)),
    Peer("boto3, unusual parts", LARGE, "bytes", aws_cp(checksums=False, part_size=9 * MIB)),
    Peer(
        "boto3, unusual parts, CRC64NVME",
        LARGE,
        "local",
        aws_cp(checksums=True, part_size=9 * MIB, ChecksumAlgorithm="CRC64NVME"),
    ),
    Peer("boto3, full parts", EVEN, "local", aws_cp(checksums=False, part_size=5 * MIB)),
    Peer("rclone", SMALL, "local", _rclone()),
    Peer("rclone, parts", LARGE, "local", _rclone("--s3-upload-cutoff=5M", "--s3-chunk-size=5M")),
    Peer("s5cmd", SMALL, "local", _s5cmd()),
    Peer("s5cmd, parts of 5 MiB", LARGE, "local", _s5cmd("--part-size=5")),
    Peer("s5cmd, parts of 50 MiB", LARGE, "local", _s5cmd("--part-size=50")),
    Peer("ours", SMALL, "head", _ours),
    Peer("ours, parts", LARGE, "head", _ours),
)
