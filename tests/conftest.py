"""One embedded object store for the whole test run, shared by its processes; buckets of its own for each test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.detour import Detour, make_detour
from tests.faults.proxy import Proxy
from tests.lab import Lab, make_lab
from tests.webhook import Webhook
from ursa_pipelines.embedded.store import open_store


@pytest.fixture(scope="session", autouse=True)
def heeds_interrupts() -> None:
    """A shell lets what it runs in the background ignore Ctrl-C, and some tests interrupt themselves."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def store_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of the run's object store: the same for every worker process."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / ".ursa"


@pytest.fixture
def lab(store_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A profile with two empty buckets, an initialised catalog, and empty source directories `nas` and `usb`."""
    monkeypatch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
    lab = make_lab(store_state, tmp_path)
    yield lab
    lab.close()


@pytest.fixture
def proxy(store_state: Path) -> Iterator[Proxy]:
    """A proxy before the object store; the test sets its `fault` and reads what it has `seen`."""
    proxy = Proxy(open_store(store_state).endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def detour(lab: Lab, store_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Detour]:
    """A way to the buckets of `lab` through a proxy, whose `fault` the test sets."""
    detour = make_detour(lab, open_store(store_state), tmp_path)
    monkeypatch.setenv("PATH", f"{detour.programs}{os.pathsep}{os.environ['PATH']}")
    yield detour
    detour.proxy.close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A webhook on this machine."""
    webhook = Webhook()
    yield webhook
    webhook.close()
