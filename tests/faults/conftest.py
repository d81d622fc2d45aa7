"""The lab's buckets through a proxy that can misbehave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.detour import Detour, make_detour
from tests.lab import Lab
from ursa_pipelines.embedded.store import open_store


@pytest.fixture
def detour(lab: Lab, store_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Detour]:
    """A way to the buckets of `lab` through a proxy, whose `fault` the test sets."""
    detour = make_detour(lab, open_store(store_state), tmp_path)
    monkeypatch.setenv("PATH", f"{detour.programs}{os.pathsep}{os.environ['PATH']}")
    yield detour
    detour.proxy.close()
