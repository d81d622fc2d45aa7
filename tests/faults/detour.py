"""A second way to a lab's buckets, through a proxy that can misbehave, with credentials from a stand-in `op`."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.faults.proxy import Fault, Hold, Proxy
from tests.lab import Lab
from ursa_pipelines import DataInterface
from ursa_pipelines.embedded.store import EmbeddedStore

PART_SIZE = 5 * 1024**2
RESUME_ABOVE = 10 * 1024**2

_INGEST = """
import sys
from ursa_pipelines import DataInterface
data = DataInterface(config_path=sys.argv[1])
data.enable_writes(roles=("assets_rw", "raw_rw"))
for directory in sys.argv[2:]:
    data.ingest(source_dir=directory)
"""
_STAND_IN_OP = """#!/bin/sh
case "$3" in
  */access_key_id) printf %s '{access_key_id}' ;;
  */secret_access_key) printf %s '{secret_access_key}' ;;
  *) exit 1 ;;
esac
"""


@dataclass(frozen=True)
class Detour:
    """`config` is the lab's profile with the proxy as its endpoint; `programs` is where the stand-in `op` lies."""

    proxy: Proxy
    config: Path
    programs: Path
    _opened: list[DataInterface] = field(default_factory=list)

    def close(self) -> None:
        """Ends the proxy, and lets go of all connections of this process."""
        for one in self._opened:
            one.close()
        self.proxy.close()

    def interface(self) -> DataInterface:
        """An interface of this process that goes through the proxy; `op` must be found on PATH."""
        data = DataInterface(config_path=self.config)
        self._opened.append(data)
        data.enable_writes(roles=("assets_rw", "raw_rw"))
        return data

    def start_ingest(self, *directories: Path) -> subprocess.Popen[bytes]:
        """A process of its own that ingests the directories through the proxy."""
        environment = os.environ | {
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        command = [sys.executable, "-c", _INGEST, str(self.config), *map(str, directories)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def kill_ingest(self, directory: Path, hold: Hold) -> None:
        """Starts an ingest, kills it when it has come to what `hold` holds, and lifts the fault."""
        self.proxy.fault = hold
        process = self.start_ingest(directory)
        try:
            assert hold.reached.wait(60), process.communicate()[0].decode()
        finally:
            process.kill()
            process.communicate()
            hold.ended.set()
            self.proxy.wait_until_idle()
        self.proxy.fault = Fault()
        self.proxy.seen.clear()


def make_detour(lab: Lab, store: EmbeddedStore, directory: Path, tls: ssl.SSLContext | None = None) -> Detour:
    """Starts a proxy before the lab's store, reached by https with `tls`; the caller closes it."""
    proxy = Proxy(store.endpoint, tls)
    programs = directory / "programs"
    programs.mkdir()
    op = programs / "op"
    op.write_text(_STAND_IN_OP.format(access_key_id=store.access_key_id, secret_access_key=store.secret_access_key))
    op.chmod(0o700)
    profile = yaml.safe_load(lab.config.read_text())
    item = "op://Vault/Store"
    references = {"access_key_id": f"{item}/access_key_id", "secret_access_key": f"{item}/secret_access_key"}
    profile |= {
        "name": "detour",
        "store": "s3",
        "endpoint": proxy.url,
        "credentials": dict.fromkeys(("assets_ro", "assets_rw", "raw_ro", "raw_rw"), references),
    }
    profile["settings"] |= {"part_size": PART_SIZE, "resume_above": RESUME_ABOVE}
    config = directory / "detour.yaml"
    config.write_text(yaml.safe_dump(profile))
    return Detour(proxy, config, programs)
