"""One embedded object store for each process of the test run; buckets of its own for each test."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from tests.faults.detour import Detour, make_detour
from tests.faults.proxy import Proxy
from tests.lab import Lab, make_lab
from tests.webhook import Webhook
from ursa_pipelines.embedded.store import open_store

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
LONGEST = (
    "ui/test_operator.py",
    "orchestration/test_backfills_daemon.py",
    "orchestration/test_daemon.py",
    "faults/test_wire_matrix.py",
    "faults/test_kill_matrix.py",
    "catalog/chaos/test_random_operations.py",
    "objects/test_store.py",
    "faults/test_mutants.py",
    "faults/test_canaries.py",
    "faults/test_many_ingesters.py",
    "terminal/test_operator.py",
    "cli/test_demo.py",
    "docs/test_docs.py",
    "orchestration/test_overnight.py",
)
"""Modules with a test of more than ten seconds, which must not be what a run ends with."""


def pytest_configure() -> None:
    """What makes a process that runs thousands of tests quick and small.

    Clients know a single authority. Each would load all of the system's, which took a third of the tests' CPU time,
    though they reach the store by http; a test that needs an authority names its own. Buffers go back to the system
    when they are freed: by default the C library keeps more and more of them, for each of its threads. The tree of
    the command is made once.
    """
    here = Path(__file__).parent
    os.environ |= {"SSL_CERT_FILE": str(here / "authority.pem"), "SSL_CERT_DIR": str(here / "authorities")}
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 1024**2)
    typer.main.get_command = functools.cache(typer.main.get_command)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """One more than there are processors: for a fifth of their time tests wait, for Dagster's daemon most of all."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else (os.cpu_count() or 1) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deals the longest tests out to the workers, of which each begins with its own.

    A worker is given as many tests as any other, in the order in which they are here; who is done takes from others.
    """
    here, workers = Path(__file__).parent, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    places = {here / name: place for place, name in enumerate(LONGEST)}
    rest = [item for item in items if item.path not in places]
    long = sorted((item for item in items if item.path in places), key=lambda item: places[item.path])
    dealt: list[pytest.Item] = []
    for worker in range(workers):
        mine = [item for item in long if places[item.path] % workers == worker]
        share = max(0, (len(items) - len(dealt)) // (workers - worker) - len(mine))
        dealt += mine + rest[:share]
        del rest[:share]
    items[:] = dealt + rest


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def heeds_interrupts() -> None:
    """A shell lets what it runs in the background ignore Ctrl-C, and some tests interrupt themselves."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def store_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of this process's object store."""
    return tmp_path_factory.getbasetemp() / ".ursa"


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
    detour.close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A webhook on this machine."""
    webhook = Webhook()
    yield webhook
    webhook.close()
