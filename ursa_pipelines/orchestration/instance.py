"""The Dagster instance that `ursa demo` and `ursa dev` share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import dagster as dg

from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.orchestration.resources import require_profile


def dagster_home() -> Path:
    """DAGSTER_HOME if it is set, else `dagster` in the state directory, made with its settings on first use."""
    if given := os.environ.get("DAGSTER_HOME"):
        return Path(given)
    home = state_directory() / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        shipped = resources.files("ursa_pipelines.orchestration").joinpath("dagster.yaml")
        settings.write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    return home


@contextmanager
def open_instance(profile: str) -> Iterator[dg.DagsterInstance]:
    """The instance of `dagster_home()`, which serves this profile. Raises `ProfileInvalid` if it serves another."""
    with dg.DagsterInstance.from_config(str(dagster_home().absolute())) as instance:
        require_profile(instance, profile)
        yield instance
