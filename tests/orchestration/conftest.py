"""Dagster instances of a test's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from tests.orchestration.dev import Dev
from ursa_pipelines.embedded.store import open_store


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def stored_instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk, as DAGSTER_HOME holds one."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dev]:
    """A running `ursa dev` whose working directory is `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    dev = Dev(tmp_path)
    yield dev
    with contextlib.suppress(psutil.NoSuchProcess):
        dev.descendants()
    for process in (*dev.seen, dev.process):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    dev.process.wait(10)
    open_store(tmp_path / ".ursa").release()
