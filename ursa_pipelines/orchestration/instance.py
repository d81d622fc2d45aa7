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
from ursa_pipelines.errors import ProfileInvalid
from ursa_pipelines.orchestration.resources import compare_profile_of_home
from ursa_pipelines.profiles import Profile

_NO_HOME = "Make the directory that DAGSTER_HOME names, or unset it to have one made here."


def dagster_home() -> Path:
    """DAGSTER_HOME if it is set, else `dagster` in the state directory, made with its settings on first use.

    Settings that an older version put there are replaced by this version's, unless somebody has changed them. Raises
    `ProfileInvalid` if DAGSTER_HOME names no directory.
    """
    if given := os.environ.get("DAGSTER_HOME"):
        if not Path(given).is_dir():
            raise ProfileInvalid("there is no such directory", place=given, remedy=_NO_HOME)
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
def open_instance(profile: Profile | str) -> Iterator[dg.DagsterInstance]:
    """The instance of `dagster_home()`. Raises `ProfileInvalid` if it serves another profile.

    Whoever writes there makes it the profile's own with `require_profile`.
    """
    home = dagster_home().absolute()
    compare_profile_of_home(home, profile)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
