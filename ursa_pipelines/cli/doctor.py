"""`ursa doctor`: what an ingest needs, checked one thing after another."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import typer

from ursa_pipelines.errors import UrsaError
from ursa_pipelines.ingest.sources import Source, list_recordings
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.objects.unfinished import UnfinishedUpload


def examine(data: DataInterface) -> bool:
    """Prints one line per check, and the remedy of each that fails; True if none did."""

    def write_access() -> str:
        data.enable_writes(roles=("assets_rw", "raw_rw"))
        return "the buckets are this profile's"

    checks: dict[str, Callable[[], str]] = {
        "catalog": lambda: data.catalog.prefix,
        "write access": write_access,
        "unfinished uploads": lambda: told_uploads(data.unfinished_uploads()),
    }
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


def told_uploads(uploads: list[UnfinishedUpload]) -> str:
    """One line on how many there are, how much is stored of them, and since when nothing came."""
    idle = [one.idle_since for one in uploads if one.idle_since]
    if not idle:
        return "none"
    stored = sum(one.stored_bytes for one in uploads)
    return (
        f"{len(idle)} with {stored / 1e6:,.1f} MB stored, the longest idle since {min(idle):%Y-%m-%d %H:%M %Z}; "
        "the next ingest of their recordings goes on with them"
    )


def clean_uploads(data: DataInterface, idle: timedelta) -> None:
    """Ends the uploads that were idle for so long and prints each."""
    ended = data.clean_uploads(idle)
    for one in ended:
        typer.echo(f"ended {one.record.key}, begun on {one.record.host}, {one.stored_bytes / 1e6:,.1f} MB stored")
    typer.echo(f"{len(ended)} unfinished uploads ended")
