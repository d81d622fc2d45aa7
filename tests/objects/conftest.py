"""A bucket of the run's object store, and one that is reached through a proxy that can misbehave."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.objects.desk import Desk
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.objects.store import Bucket, Endpoint


@pytest.fixture(scope="session")
def bucket(store_state: Path) -> Bucket:
    """One bucket for all tests of a worker process, since the first write to a new one is slow; see `rec_id`."""
    name = f"objects-{secrets.token_hex(6)}"
    store = open_store(store_state, (name,))
    return Bucket(name, Endpoint(store.endpoint, "auto", lambda: (store.access_key_id, store.secret_access_key, None)))


@pytest.fixture
def rec_id() -> str:
    """A recording of the test's own, so that its keys are nobody else's."""
    return f"rec_20260520_195628_{secrets.token_hex(6)}"


@pytest.fixture
def proxied(bucket: Bucket, store_state: Path, proxy: Proxy) -> Bucket:
    """`bucket` through the proxy."""
    store = open_store(store_state)
    return Bucket(
        bucket.name, Endpoint(proxy.url, "auto", lambda: (store.access_key_id, store.secret_access_key, None))
    )


@pytest.fixture
def desk(bucket: Bucket, rec_id: str, tmp_path: Path) -> Iterator[Desk]:
    """A recording of the test's own that is not written yet."""
    desk = Desk(bucket, rec_id, tmp_path)
    yield desk
    desk.close()
