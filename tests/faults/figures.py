"""Figures of the fault suites for docs/reliability.md: one JSON line each in the file `URSA_FAULT_FIGURES` names."""

from __future__ import annotations

import json
import os
from pathlib import Path


def record(name: str, **numbers: float | str) -> None:
    """Appends the figures of one suite under `name`; does nothing where no file was asked for."""
    if path := os.environ.get("URSA_FAULT_FIGURES"):
        line = json.dumps({"name": name, **numbers}, sort_keys=True) + "\n"
        # One write to a file opened for appending: several test processes may record at once.
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line)
