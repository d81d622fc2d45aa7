"""Where the local profile keeps what belongs to one working directory: the object store, the Dagster instance."""

from __future__ import annotations

import os
from pathlib import Path

_NAME = ".ursa"


def state_directory() -> Path:
    """The absolute path of the state directory; nothing is created.

    `.ursa` in the working directory. Where DAGSTER_HOME is set, all processes of that Dagster instance must agree
    whatever their working directory is, so then it is the `.ursa` that holds DAGSTER_HOME, or the one beside it.
    """
    dagster_home = os.environ.get("DAGSTER_HOME", "")
    if not dagster_home:
        return Path.cwd() / _NAME
    beside = Path(dagster_home).expanduser().absolute().parent
    return beside if beside.name == _NAME else beside / _NAME
