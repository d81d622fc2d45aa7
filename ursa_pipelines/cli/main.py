"""The `ursa` command: each verb is one call of the Python interface. Exit codes are DESIGN section 9's.

0 all done, 1 some recordings failed, 2 usage, 3 refused or not authorised, 130 interrupted.
"""

import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ursa_pipelines.cli.catalog import catalog_app
from ursa_pipelines.cli.decisions import app as decisions_app
from ursa_pipelines.cli.durations import durations_app
from ursa_pipelines.cli.operations import app as operations_app
from ursa_pipelines.cli.options import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    AsJson,
    Config,
    Profile,
    Yes,
    confirm,
    open_data,
)
from ursa_pipelines.cli.participants import participants_app

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Recordings off a NAS or USB drive into object storage and a catalog.",
)
app.add_typer(catalog_app, name="catalog")
app.add_typer(participants_app, name="participants")
app.add_typer(durations_app, name="durations")
app.add_typer(operations_app)
app.add_typer(decisions_app)

Directories = Annotated[list[Path], typer.Argument(help="Recording directories rec_<YYYYMMDD>_<HHMMSS>_<hex>/.")]
RecIds = Annotated[list[str], typer.Argument(help="Recordings by id.")]


def main() -> None:
    """The entry point: runs the command and turns errors into one clear message and an exit code."""
    from ursa_pipelines.errors import UrsaError

    # A service manager's stop is Ctrl-C's: what is stored stays, nothing is registered.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except UrsaError as error:
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        sys.exit(EXIT_REFUSED)
    except OSError as error:
        # A disk that is full, a pipe nobody reads, a path that cannot be.
        typer.secho(f"{error.filename or 'output'}: {error.strerror or type(error).__name__}", err=True)
        sys.exit(EXIT_FAILED)
    except SystemExit as end:
        # Typer turns Ctrl-C into this exit code, without a word.
        if end.code == EXIT_INTERRUPTED:
            typer.secho("Interrupted. Run it again to go on; what is stored is not sent again.", err=True)
        raise


@app.command()
def demo() -> None:
    """Make demo recordings, ingest them through Dagster on the embedded object store, and show what happened."""
    from ursa_pipelines.cli.demo import run_demo

    run_demo()


@app.command()
def dev(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI on this machine.")] = 3000,
    profile: Profile = None,
) -> None:
    """Open the Dagster UI with everything loaded, on the embedded object store unless --profile names another."""
    from ursa_pipelines.cli.dev import run_dev

    sys.exit(run_dev(profile or "local", port))


@app.command()
def plan(directories: Directories, profile: Profile = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show what `ursa ingest` would do. Reads no segment and writes nothing."""
    from ursa_pipelines.cli.tables import show_plans

    show_plans(open_data(profile, config), directories, as_json=as_json)


@app.command()
def ingest(
    directories: Directories,
    profile: Profile = None,
    config: Config = None,
    overwrite: Annotated[bool, typer.Option(help="Replace catalog rows that differ; never raw objects.")] = False,
    allow_partial: Annotated[bool, typer.Option(help="Ingest what is there although files are missing.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Upload recording directories and register them; reconstructs a missing manifest."""
    from ursa_pipelines.cli.tables import show_items, show_plans

    data = open_data(profile, config)
    if not as_json:
        show_plans(data, directories)
    confirm(data, f"Ingest {len(directories)} directories into {data.profile.buckets.raw}?", yes)
    data.enable_writes(roles=("assets_rw", "raw_rw"))
    items = data.ingest_many(directories, overwrite=overwrite, allow_partial=allow_partial)
    show_items(items, as_json=as_json)
    if any(item.status != "OK" for item in items):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def register(
    rec_id: Annotated[str, typer.Argument(help="A recording whose bytes are in the bucket.")],
    profile: Profile = None,
    config: Config = None,
    participant: Annotated[str | None, typer.Option(help="Display name; else participant.txt counts.")] = None,
    yes: Yes = False,
) -> None:
    """Write the rows of a recording whose bytes are already in the bucket (Path B)."""
    data = open_data(profile, config)
    confirm(data, f"Register {rec_id} in {data.profile.buckets.assets}?", yes)
    data.enable_writes()
    result = data.ingest_from_r2(rec_id, participant=participant)
    typer.echo(f"{rec_id}: {result.outcome}, {result.files_skipped} files, verified by {result.verification}")


@app.command()
def reconstruct(rec_ids: RecIds, profile: Profile = None, config: Config = None, yes: Yes = False) -> None:
    """Make manifest.json for recordings whose bytes are in the bucket without one (Path C). Needs `register` after."""
    data = open_data(profile, config)
    confirm(data, f"Write manifests of {len(rec_ids)} recordings into {data.profile.buckets.raw}?", yes)
    data.enable_writes(roles=("assets_rw", "raw_rw"))

    def tell(rec_id: str) -> bool:
        made = data.reconstruct_manifest(rec_id)
        typer.echo(f"{rec_id}: {f'manifest of {len(made.files)} files written' if made else 'has a manifest already'}")
        return True

    _each(rec_ids, tell)


@app.command()
def verify(
    rec_ids: RecIds,
    profile: Profile = None,
    config: Config = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash every byte, and note it in the row.")] = False,
    no_record: Annotated[bool, typer.Option("--no-record", help="Only look; note nothing.")] = False,
    yes: Yes = False,
) -> None:
    """Compare rows, manifests and objects of recordings. Only reads, unless --deep proves more than the row says."""
    data = open_data(profile, config)
    if deep and not no_record:
        confirm(data, f"Note in {data.profile.buckets.assets} which of {len(rec_ids)} recordings are proved?", yes)
        data.enable_writes()

    def tell(rec_id: str) -> bool:
        found = data.verify(rec_id, deep=deep)
        fine = f"ok, {found.files} files by {found.level}{', noted in the row' if found.recorded else ''}"
        typer.echo(f"{rec_id}: {'; '.join(found.problems) or fine}")
        return found.ok

    _each(rec_ids, tell)


@app.command()
def query(
    profile: Profile = None,
    config: Config = None,
    participant: Annotated[list[str] | None, typer.Option(help="Name or id; may be given several times.")] = None,
    modality: Annotated[list[str] | None, typer.Option(help="Family such as eeg; may be given several times.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the recordings in the catalog."""
    from ursa_pipelines.cli.tables import show_results

    found = open_data(profile, config).query(participants=participant or None, modalities=modality or None)
    show_results(found, as_json=as_json)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="The file to write; one that is there is replaced.")] = Path("report.html"),
    profile: Profile = None,
    config: Config = None,
) -> None:
    """Write one HTML page that tells what the catalog holds, and what needs attention. Changes nothing else."""
    from ursa_pipelines.cli.report import run_report

    told = run_report(open_data(profile, config), out)
    known = "; ".join(one for one in (told.attention, told.no_operations) if one)
    typer.echo(f"{out}: {told.overview.recordings:,} recordings; {known or 'nothing needs attention'}")


@app.command()
def bandwidth(
    timetable: Annotated[
        str | None, typer.Argument(help="Such as 5MB/s, off, or 'Mon-Fri 08:00-19:00 5MB/s, 25MB/s'.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Return to the profile's.")] = False,
    profile: Profile = None,
    config: Config = None,
) -> None:
    """Show the upload cap, or set it for this host; uploads under way follow within two seconds."""
    from ursa_pipelines.cli.bandwidth import run_bandwidth

    run_bandwidth(open_data(profile, config), timetable, clear=clear)


@app.command()
def doctor(
    profile: Profile = None,
    config: Config = None,
    clean: Annotated[
        bool, typer.Option("--clean-uploads", help="End unfinished uploads of ours that were idle for --idle-hours.")
    ] = False,
    idle_hours: Annotated[float, typer.Option(min=0, help="How long nothing must have been sent.")] = 24,
    release: Annotated[
        str | None, typer.Option("--release-claim", help="Give a REC_ID free that was claimed and never registered.")
    ] = None,
    race: Annotated[
        bool, typer.Option("--race-writes", help="Let 64 writers create one object at once: exactly one must win.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Check credentials, buckets, catalog pointer, sources and unfinished uploads; each failure has its remedy."""
    from ursa_pipelines.cli.doctor import clean_uploads, examine, race_writes

    data = open_data(profile, config)
    if clean:
        question = f"End uploads into {data.profile.buckets.raw} that were idle for {idle_hours:g} h?"
        confirm(data, question, yes)
        data.enable_writes(roles=("assets_rw", "raw_rw"))
        clean_uploads(data, timedelta(hours=idle_hours))
    if race:
        confirm(data, f"Write a probe into {data.profile.buckets.assets}?", yes)
        race_writes(data)
    if release:
        confirm(data, f"Release the claim of {release} in {data.profile.buckets.assets}?", yes)
        data.enable_writes()
        typer.echo(f"{release} is free again; it was claimed for {data.release_claim(release)}")
    if not examine(data):
        raise typer.Exit(EXIT_FAILED)


def _each(rec_ids: list[str], tell: "Callable[[str], bool]") -> None:
    """Calls `tell` for every recording, whatever becomes of the others; exit code 1 if one of them failed."""
    from ursa_pipelines.errors import CatalogRowNotFound, RecordingRefused, Retryable

    failed = False
    for rec_id in rec_ids:
        try:
            failed = not tell(rec_id) or failed
        except (CatalogRowNotFound, RecordingRefused, Retryable) as error:
            failed = True
            typer.secho(str(error), err=True, fg=typer.colors.RED)
    if failed:
        raise typer.Exit(EXIT_FAILED)
