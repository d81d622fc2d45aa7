"""`ursa doctor`: what an ingest needs, checked one thing after another."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import typer

from ursa_pipelines.cli.options import writing
from ursa_pipelines.errors import CatalogError, ObjectExists, UrsaError
from ursa_pipelines.ingest.sources import Source, list_recordings
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.objects.unfinished import UnfinishedUpload
from ursa_pipelines.profiles import CredentialSource, Profile

_RACERS = 64


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
    checks["notices"] = partial(_told_webhook, data.profile)
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


def _told_webhook(profile: Profile) -> str:
    return "a webhook is configured" if CredentialSource(profile).webhook() else "no webhook is configured"


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


def race_writes(data: DataInterface) -> None:
    """Lets 64 writers create one object at once and removes it; raises `CatalogError` unless exactly one has won.

    The catalog stands on this (DESIGN section 6), and not every store that takes `If-None-Match` keeps its word.
    """
    assets = writing(data).catalog.assets
    key = f"ursa/doctor/tail/{secrets.token_hex(8)}"

    def create(number: int) -> bool:
        try:
            assets.create(key, str(number).encode())
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(_RACERS) as pool:
        winners = sum(pool.map(create, range(_RACERS)))
    assets.remove(key)
    if winners != 1:
        raise CatalogError(
            f"of {_RACERS} writers that created one object at once, {winners} were told that they had",
            place=f"{assets.name}/{key}",
            remedy="Try once more; if it is so again, this store must not hold a catalog.",
        )
    typer.echo(f"ok    conditional writes: one of {_RACERS} won")


def clean_uploads(data: DataInterface, idle: timedelta) -> None:
    """Ends the uploads that were idle for so long and prints each."""
    ended = data.clean_uploads(idle)
    for one in ended:
        typer.echo(f"ended {one.record.key}, begun on {one.record.host}, {one.stored_bytes / 1e6:,.1f} MB stored")
    typer.echo(f"{len(ended)} unfinished uploads ended")
