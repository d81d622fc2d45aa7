"""A store that takes nothing but the keys of four roles, each with no more rights than its role, and an `op` for them.

The embedded store of the package has one key for all; here it is started with five: the roles' and one of the test's.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults.canaries import Canary
from ursa_pipelines.embedded import server
from ursa_pipelines.embedded.store import weed_program
from ursa_pipelines.objects.store import Bucket, Endpoint

HOOK = "op://Vault/Hook/url"
ROLES = ("assets_ro", "assets_rw", "raw_ro", "raw_rw")
_READS, _WRITES = ["Read", "List"], ["Read", "List", "Write", "Tagging"]
_OWN_KEYS = ("own-access-key-id", "own-secret-access-key")
_SECONDS = 60

# Tells what environment and command line it was given, and whose child it is, beside the value that it was asked for.
_OP = """#!/bin/sh
# Whatever this starts itself is not what is looked at.
unset OP_SERVICE_ACCOUNT_TOKEN
cat /proc/$$/environ > {told}/op-$$.environ
cat /proc/$$/cmdline /proc/$PPID/cmdline > {told}/op-$$.cmdline
case "$3" in
{values}
  {hook}) cat {directory}/webhook.txt ;;
  */broken/*) cat {directory}/op >&2; exit 1 ;;
  *) exit 1 ;;
esac
"""


@dataclass(frozen=True)
class GuardedStore:
    """Where it listens; `bucket` opens one with the test's own key."""

    url: str

    def bucket(self, name: str) -> Bucket:
        return Bucket(name, Endpoint(self.url, "auto", lambda: (*_OWN_KEYS, None)))


@contextlib.contextmanager
def guarded_store(directory: Path, keys: Mapping[str, tuple[Canary, Canary]]) -> Iterator[GuardedStore]:
    """Runs the store in a new directory; `keys` has the access key id and the secret of each role."""
    (directory / server.DATA).mkdir(parents=True)
    identities = [_identity(role, key.value, secret.value) for role, (key, secret) in keys.items()]
    identities.append(_identity("own", *_OWN_KEYS))
    before = Path.cwd()
    os.chdir(directory)
    try:
        server.write_private(server.IDENTITY_FILE, {"identities": identities})
        ports = server.free_ports(fresh=True)
        environment = server.environment()
    finally:
        os.chdir(before)
    with (directory / "log").open("wb") as log:
        weed = subprocess.Popen(
            server.command(directory, weed_program(), ports),
            cwd=directory,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + _SECONDS
        while not server.answers(ports["s3.port"]):
            assert weed.poll() is None, (directory / "log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield GuardedStore(f"http://{server.HOST}:{ports['s3.port']}")
    finally:
        weed.terminate()
        try:
            weed.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            weed.kill()
            weed.wait()
        for left_over in server.sockets(ports):
            left_over.unlink(missing_ok=True)


def write_op(directory: Path, values: Mapping[str, str], told: Path) -> None:
    """A stand-in `op` in `directory` that knows these references; what it was started with goes to `told`.

    It tells the webhook's URL from the file `webhook.txt` beside it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    cases = "\n".join(f"  {shlex.quote(one)}) printf %s {shlex.quote(value)} ;;" for one, value in values.items())
    program = directory / "op"
    program.write_text(
        _OP.format(told=shlex.quote(str(told)), values=cases, hook=HOOK, directory=shlex.quote(str(directory)))
    )
    program.chmod(0o700)


def _identity(name: str, key: str, secret: str) -> dict[str, object]:
    rights = ["Admin"] if name == "own" else _WRITES if name.endswith("rw") else _READS
    return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": rights}
