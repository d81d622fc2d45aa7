"""`ursa doctor`: what an ingest needs, checked one thing after another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import typer

from ursa_pipelines.errors import UrsaError
from ursa_pipelines.ingest.sources import Source, list_recordings
from ursa_pipelines.interface import DataInterface


def examine(data: DataInterface) -> bool:
    """Prints one line per check, and the remedy of each that fails; True if none did."""

    def write_access() -> str:
        data.enable_writes(roles=("assets_rw", "raw_rw"))
        return "the buckets are this profile's"

    checks: dict[str, Callable[[], str]] = {"catalog": lambda: data.catalog.prefix, "write access": write_access}
    checks |= {f"source {source.name}": partial(_count, source) for source in data.sources}
    sound = True
    for name, check in checks.items():
        try:
            typer.echo(f"ok    {name}: {check()}")
        except UrsaError as error:
            sound = False
            typer.secho(f"FAIL  {name}: {error}", fg=typer.colors.RED)
    return sound


def _count(source: Source) -> str:
    return f"{len(list_recordings(source))} recordings"
