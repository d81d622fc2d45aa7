"""What the embedded object store's server is started with: access keys, loopback ports, command line, environment.

Runs inside the keeper, so it needs the standard library only. All paths given as strings are relative to the
store directory, which is the keeper's working directory.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import NamedTuple

DATA = "data"
SERVER_FILE = "server.json"
PORTS_FILE = "ports.json"
IDENTITY_FILE = "s3.json"
HOST = "127.0.0.1"

_PORT_FLAGS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "admin.port",
)
# The server's own maintenance worker looks for the admin service at this distance, whatever the flag says.
_ADMIN_GRPC_FLAG, _ADMIN_GRPC_DISTANCE = "admin.port.grpc", 10_000
# Both ranges end below the ports that Linux and macOS hand out to outgoing connections.
_PORT_RANGE = range(10_000, 32_768 - _ADMIN_GRPC_DISTANCE)
_CHOICES = 100


class Access(NamedTuple):
    """How the running server is reached; holds the secret, never logged."""

    port: int
    access_key_id: str
    secret_access_key: str


NOWHERE = Access(0, "", "")


def access_keys() -> tuple[str, str]:
    """The access key id and secret of this store, made on its first start and kept in `s3.json` for the server."""
    match read_json(IDENTITY_FILE):
        case {"identities": [{"credentials": [{"accessKey": str(access_key), "secretKey": str(secret_key)}]}]} if (
            access_key and secret_key
        ):
            pass
        case _:
            access_key, secret_key = f"ursa{os.urandom(8).hex()}", os.urandom(20).hex()
    identity = {
        "name": "ursa",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    write_private(IDENTITY_FILE, {"identities": [identity]})
    return access_key, secret_key


def free_ports(*, fresh: bool) -> dict[str, int]:
    """The ports of the last start if all are free and `fresh` is not asked for, else new ones; remembers them."""
    ports = None if fresh else remembered_ports()
    if ports is None or not all(_is_free(port) for port in ports.values()):
        ports = _chosen_ports()
        write_private(PORTS_FILE, ports)
    return ports


def remembered_ports() -> dict[str, int] | None:
    """The ports of the last start by flag, or None where the file is missing or damaged."""
    ports = read_json(PORTS_FILE)
    if not isinstance(ports, dict) or set(ports) != {*_PORT_FLAGS, _ADMIN_GRPC_FLAG}:
        return None
    numbers = list(ports.values())
    if not all(type(port) is int and 1024 <= port <= 65_535 for port in numbers) or len(set(numbers)) < len(numbers):
        return None
    return ports


def command(directory: Path, weed: str, ports: dict[str, int]) -> list[str]:
    """The server's command line: S3 on the loopback address, and nothing else that acts without a key."""
    return [
        weed,
        "-logtostderr=true",
        "mini",
        data_flag(directory),
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        *(f"-{flag}={port}" for flag, port in ports.items()),
        f"-s3.config={directory / IDENTITY_FILE}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        # A resumed master leads too late for the first report of the volumes: for 5 s no object could be read.
        "-master.resumeState=false",
        # The master's and the filer's pages let every local process, and every web page, delete without a key.
        "-disableHttp=true",
        "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
        # By default it is free space divided by 1 GiB, which on a full disk is less than one volume a bucket.
        "-volume.max=10000",
        "-volume.preStopSeconds=0",
    ]


def data_flag(directory: Path) -> str:
    """The argument by which a process is known to be the server of this store directory."""
    return f"-dir={directory / DATA}"


def environment() -> dict[str, str]:
    """The whole environment of the server; nothing of the user's is handed on.

    AWS_* would add another identity, and ~/.seaweedfs other settings. The volume service takes and gives bytes
    only to whoever signs with these keys, which nobody but the server itself ever sees.
    """
    signing = ("JWT_SIGNING_KEY", "JWT_SIGNING_READ_KEY", "JWT_FILER_SIGNING_KEY", "JWT_FILER_SIGNING_READ_KEY")
    return {"HOME": str(Path.cwd()), **{f"WEED_{name}": os.urandom(32).hex() for name in signing}}


def sockets(ports: dict[str, int]) -> list[Path]:
    """The Unix sockets that the server opens beside its ports and does not always remove."""
    named = ((flag.split(".")[0] + ("-grpc" if flag.endswith("grpc") else ""), port) for flag, port in ports.items())
    return [Path(f"/tmp/seaweedfs-{name}-{port}.sock") for name, port in named]  # noqa: S108


def answers(port: int) -> bool:
    """Whether an object store says on this loopback port that it is healthy."""
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return connection.recv(64).split()[1:2] == [b"200"]
    except OSError:
        return False


def publish(access: Access) -> None:
    """Tells other processes, by `server.json`, where the server is and how it is opened."""
    write_private(SERVER_FILE, access._asdict())


def published(directory: Path) -> Access | None:
    """What `server.json` of this store directory says, or None where there is none that is legible."""
    match read_json(directory / SERVER_FILE):
        case {"port": int(port), "access_key_id": str(access_key), "secret_access_key": str(secret_key)} if (
            0 < port < 65_536
        ):
            return Access(port, access_key, secret_key)
    return None


def write_private(path: str, content: object) -> None:
    """Replaces a file by this JSON document in one step, readable for its owner only."""
    fresh = Path(f"{path}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
    fresh.replace(path)


def read_json(path: str | Path) -> object:
    """The JSON document in a file, or None if there is none that can be read."""
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _chosen_ports() -> dict[str, int]:
    # Whole blocks, so that two stores that start at the same moment hardly ever choose overlapping ports.
    blocks = _PORT_RANGE[: -len(_PORT_FLAGS) : len(_PORT_FLAGS)]
    for _ in range(_CHOICES):
        first = blocks[int.from_bytes(os.urandom(4), "big") % len(blocks)]
        ports = {flag: first + place for place, flag in enumerate(_PORT_FLAGS)}
        ports[_ADMIN_GRPC_FLAG] = ports["admin.port"] + _ADMIN_GRPC_DISTANCE
        if all(_is_free(port) for port in ports.values()):
            return ports
    raise SystemExit("there are no free loopback ports")


def _is_free(port: int) -> bool:
    # The server wants the port on every address before it binds it on the loopback address only.
    for host in (HOST, "0.0.0.0"):  # noqa: S104
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True
