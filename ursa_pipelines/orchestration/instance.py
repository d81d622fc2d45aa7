"""The Dagster instance that `ursa demo` and `ursa dev` share. Its limits are in dagster.yaml, beside this file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import dagster as dg

from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.orchestration.resources import require_profile


def dagster_home() -> Path:
    """DAGSTER_HOME if it is set, else `dagster` in the state directory, made with its settings on first use.

    Settings that an older version put there are replaced by this version's, unless somebody has changed them.
    """
    if given := os.environ.get("DAGSTER_HOME"):
        return Path(given)
    home = state_directory() / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    settings, stamp = home / "dagster.yaml", home / "ursa_settings"
    shipped = resources.files("ursa_pipelines.orchestration").joinpath("dagster.yaml").read_bytes()
    ours = _digest(shipped)
    put_there = stamp.read_text().strip() if stamp.exists() else None
    if not settings.exists() or (put_there != ours and _digest(settings.read_bytes()) == put_there):
        settings.write_bytes(shipped)
        stamp.write_text(f"{ours}\n")
    return home


@contextmanager
def open_instance(profile: str) -> Iterator[dg.DagsterInstance]:
    """The instance of `dagster_home()`, which serves this profile. Raises `ProfileInvalid` if it serves another."""
    with dg.DagsterInstance.from_config(str(dagster_home().absolute())) as instance:
        require_profile(instance, profile)
        yield instance


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
