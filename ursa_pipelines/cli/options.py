"""What the commands share: their options, the interface they work on, and the question before a write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ursa_pipelines.cli.answers import note_asked, note_profile

if TYPE_CHECKING:
    from ursa_pipelines.ingest.context import IngestContext
    from ursa_pipelines.interface import DataInterface

EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 3, 130

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


def confirm(data: DataInterface, question: str, yes: bool, *, marks_buckets: bool = False) -> None:
    """Asks before a write; the raw bucket's name must be typed, whatever `--yes` says, against production, and where
    buckets are marked as a profile's: a profile that names the wrong one must not mark it.
    """
    on_terminal = sys.stdin.isatty()
    if data.profile.family == "production" or (marks_buckets and data.profile.family != "local"):
        if not on_terminal:
            typer.secho("This needs a terminal, to type the bucket's name.", err=True)
            raise typer.Exit(EXIT_REFUSED)
        typed = typer.prompt(f"{question} Type the name of the raw bucket", err=True)
        if typed != data.profile.buckets.raw:
            raise typer.Exit(EXIT_REFUSED)
    elif not yes:
        if not on_terminal:
            raise typer.BadParameter("say --yes when not on a terminal")
        if not typer.confirm(question, err=True):
            raise typer.Exit(EXIT_REFUSED)


def writing(data: DataInterface) -> IngestContext:
    """The rooms of a command that writes rows and no raw object."""
    data.enable_writes()
    return data.ingest_context(raw_role="raw_ro")
