"""A small lab for tests: a profile of its own on the embedded store, and the invariants that hold whatever happens."""

from __future__ import annotations

import json
import secrets
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from tests.faults.invariants import Evidence, require
from ursa_pipelines import DataInterface
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.objects.keys import BUCKET_IDENTITY, recording_prefix
from ursa_pipelines.objects.store import Bucket, Endpoint


@dataclass(frozen=True)
class Lab:
    """`data` may write; `raw` and `assets` are its buckets; `config` is the profile, for further interfaces."""

    config: Path
    data: DataInterface
    raw: Bucket
    assets: Bucket
    nas: Path
    usb: Path
    _opened: list[DataInterface] = field(default_factory=list)

    def close(self) -> None:
        """Lets go of all connections: a process of the tests has a thousand labs."""
        for one in (self.data, self.raw, self.assets, *self._opened):
            one.close()

    def interface(self, *, writes: bool = True) -> DataInterface:
        """A further interface to the same profile, as another process would open it."""
        data = DataInterface(config_path=self.config)
        if writes:
            data.enable_writes(roles=("assets_rw", "raw_rw"))
        self._opened.append(data)
        return data

    def objects(self, rec_id: str) -> dict[str, str]:
        """Path to ETag of everything stored of a recording."""
        prefix = recording_prefix(rec_id)
        return {info.key.removeprefix(prefix): info.etag for info in self.raw.list_objects(prefix)}

    def everything(self) -> dict[str, str]:
        """Key to ETag of every object of recordings, markers and catalog."""
        return {
            f"{bucket.name}/{info.key}": info.etag
            for bucket, prefixes in ((self.raw, ("recordings/", "manifests/")), (self.assets, ("ursa/",)))
            for prefix in prefixes
            for info in bucket.list_objects(prefix)
        }

    def check_invariants(self) -> None:
        """What must hold whenever nothing is half done; see `tests.faults.invariants`."""
        require(self, Evidence(at_rest=True))


@dataclass
class _BucketPairs:
    """Pairs of buckets that are made ahead: the first object of a bucket takes the store 0.2 s, in which it waits."""

    state: Path
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))
    ahead: deque[Future[dict[str, str]]] = field(default_factory=deque)
    taken: int = 0

    def take(self) -> dict[str, str]:
        # Who has needed but one may need no more; one test has up to five.
        self.taken += 1
        while len(self.ahead) <= min(self.taken, 5):
            self.ahead.append(self.pool.submit(self._make))
        return self.ahead.popleft().result()

    def _make(self) -> dict[str, str]:
        name = secrets.token_hex(6)
        buckets = {purpose: f"{purpose}-{name}" for purpose in ("raw", "assets")}
        store = open_store(self.state, tuple(buckets.values()))
        endpoint = Endpoint(store.endpoint, "auto", lambda: (store.access_key_id, store.secret_access_key, None))
        for purpose, name in buckets.items():
            bucket = Bucket(name, endpoint)
            bucket.create(BUCKET_IDENTITY, json.dumps({"family": "local", "purpose": purpose}).encode())
            bucket.close()
        return buckets


@cache
def _pairs(state: Path) -> _BucketPairs:
    return _BucketPairs(state)


def make_lab(state: Path, directory: Path) -> Lab:
    """A lab with buckets of its own in the store of `state`, its sources below `directory`."""
    buckets = _pairs(state).take()
    nas, usb = directory / "nas", directory / "usb"
    for source in (nas, usb):
        source.mkdir()
        (source / "README.txt").write_text("mounted\n")
    config = directory / "profile.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "name": "lab",
                "family": "local",
                "store": "embedded",
                "buckets": buckets,
                "sources": [{"name": "nas", "path": str(nas)}, {"name": "usb", "path": str(usb)}],
                "settings": {
                    "quiet_period": 5,
                    "reconstruct_after": 5,
                    "reconstruct_after_bucket": 0,
                    "media_probe": False,
                },
            }
        )
    )
    store = open_store(state, tuple(buckets.values()))
    endpoint = Endpoint(store.endpoint, "auto", lambda: (store.access_key_id, store.secret_access_key, None))
    data = DataInterface(config_path=config)
    data.enable_writes(roles=("assets_rw", "raw_rw"))
    assert data.catalog.prefix
    return Lab(config, data, Bucket(buckets["raw"], endpoint), Bucket(buckets["assets"], endpoint), nas, usb)
