"""The lab's assets bucket through a proxy that can lose answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.lab import Lab
from ursa_pipelines.embedded.store import open_store
from ursa_pipelines.objects.store import Bucket, Endpoint


@pytest.fixture
def proxied_assets(lab: Lab, store_state: Path, proxy: Proxy) -> Bucket:
    """`lab.assets` through the proxy."""
    store = open_store(store_state)
    endpoint = Endpoint(proxy.url, "auto", lambda: (store.access_key_id, store.secret_access_key, None))
    return Bucket(lab.assets.name, endpoint)
