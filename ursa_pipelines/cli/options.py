"""What the commands share: their options, the interface they work on, and the question before a write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ursa_pipelines.cli.answers import note_asked, note_profile
from ursa_pipelines.cli.failures import EXIT_FAILED as EXIT_FAILED
from ursa_pipelines.cli.failures import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from ursa_pipelines.cli.failures import EXIT_REFUSED as EXIT_REFUSED
from ursa_pipelines.cli.failures import EXIT_USAGE as EXIT_USAGE
from ursa_pipelines.cli.failures import NotConfirmed

if TYPE_CHECKING:
    from ursa_pipelines.ingest.context import IngestContext
    from ursa_pipelines.interface import DataInterface

Profile = Annotated[str | None, typer.Option("--profile", "-p", help="local, r2 or r2-test.")]
Config = Annotated[Path | None, typer.Option("--config", help="YAML of a profile, or of fields over --profile.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed when not on a terminal.")]
AsJson = Annotated[bool, typer.Option("--json", callback=note_asked, help="One JSON document, for machines.")]
Commit = Annotated[bool, typer.Option("--commit", help="Write what is shown; without it nothing is written.")]


def open_data(profile: str | None, config: Path | None) -> DataInterface:
    """The interface that `--profile` and `--config` name; without either, the local one."""
    from ursa_pipelines.interface import DataInterface

    data = DataInterface(profile if profile or config else "local", config_path=config)
    note_profile(data.profile.name)
    return data


def tell_of_version(data: DataInterface) -> None:
    """Says on stderr if a newer version made the catalog, or an older one, which is then read and not written.

    Raises `CatalogNotInitialized` if the pointer leads to none.
    """
    from ursa_pipelines.catalog.pointer import require_current_version
    from ursa_pipelines.errors import CatalogUpgradeNeeded, CatalogVersionUnknown

    try:
        require_current_version(data.catalog.assets, data.catalog.prefix)
    except CatalogUpgradeNeeded as error:
        # There the first write upgrades it.
        if data.profile.family != "local":
            typer.secho(f"{error} Until then it is only read.", err=True, fg=typer.colors.YELLOW)
    except CatalogVersionUnknown as error:
        typer.secho(f"{error} Until then it is only read.", err=True, fg=typer.colors.YELLOW)


def told_place(data: DataInterface) -> str:
    """Where a command writes, so that nobody takes the store of a laptop for production."""
    if data.profile.store == "embedded":
        return f"the store of this machine, {data.state}; production is --profile r2"
    return f"{data.profile.family}, bucket {data.profile.buckets.raw}"


def confirm(data: DataInterface, question: str, yes: bool, *, marks_buckets: bool = False) -> None:
    """Asks before a write; the raw bucket's name must be typed, whatever `--yes` says, against production, and where
    buckets are marked as a profile's: a profile that names the wrong one must not mark it.

    Raises `NotConfirmed`, and `BadParameter` where nobody can be asked.
    """
    on_terminal = sys.stdin.isatty()
    if data.profile.family == "production" or (marks_buckets and data.profile.family != "local"):
        if not on_terminal:
            raise NotConfirmed(
                "this needs a terminal, to type the bucket's name", remedy="Run it in one, without anything before it."
            )
        typed = typer.prompt(f"{question} Type the name of the raw bucket", err=True)
        if typed != data.profile.buckets.raw:
            raise NotConfirmed("that is not the raw bucket's name, so nothing was done")
    elif not yes:
        if not on_terminal:
            raise typer.BadParameter("say --yes when not on a terminal")
        if not typer.confirm(f"{question.removesuffix('?')} (profile {data.profile.name})?", err=True):
            raise NotConfirmed("it was not confirmed, so nothing was done")


def writing(data: DataInterface) -> IngestContext:
    """The rooms of a command that writes rows and no raw object."""
    data.enable_writes()
    return data.ingest_context(raw_role="raw_ro")
