"""The `ursa` command: each verb is one call of the Python interface. Exit codes are DESIGN section 9's.

0 all done, 1 some recordings failed, 2 usage, 3 refused or not authorised, 130 interrupted.
"""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from ursa_pipelines.cli.answers import answer_failure, forget_asked
from ursa_pipelines.cli.catalog import catalog_app
from ursa_pipelines.cli.decisions import app as decisions_app
from ursa_pipelines.cli.doctor import app as doctor_app
from ursa_pipelines.cli.durations import durations_app
from ursa_pipelines.cli.failures import failure_of, failure_of_exit
from ursa_pipelines.cli.in_bucket import app as in_bucket_app
from ursa_pipelines.cli.ingest import app as ingest_app
from ursa_pipelines.cli.metrics import app as metrics_app
from ursa_pipelines.cli.operations import app as operations_app
from ursa_pipelines.cli.options import EXIT_INTERRUPTED, AsJson, Config, Profile, open_data
from ursa_pipelines.cli.participants import participants_app
from ursa_pipelines.cli.partitions import partitions_app
from ursa_pipelines.cli.reading import app as reading_app
from ursa_pipelines.cli.release import release_app
from ursa_pipelines.cli.scrub import app as scrub_app
from ursa_pipelines.cli.status import app as status_app

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Recordings off a NAS or USB drive into object storage and a catalog.",
)
app.add_typer(ingest_app)
app.add_typer(in_bucket_app)
app.add_typer(catalog_app, name="catalog", rich_help_panel="Catalog")
app.add_typer(participants_app, name="participants", rich_help_panel="Catalog")
app.add_typer(durations_app, name="durations", rich_help_panel="Catalog")
app.add_typer(operations_app)
app.add_typer(doctor_app)
app.add_typer(decisions_app)
app.add_typer(release_app, name="release", rich_help_panel="Decide")
app.add_typer(partitions_app, name="partitions", rich_help_panel="Decide")
app.add_typer(reading_app)
app.add_typer(status_app)
app.add_typer(scrub_app)
app.add_typer(metrics_app)


def main() -> None:
    """The entry point: runs the command and turns errors into one clear message and an exit code."""
    from ursa_pipelines.errors import UrsaError

    # A service manager's stop is Ctrl-C's: what is stored stays, nothing is registered.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    forget_asked()
    try:
        app(prog_name="ursa")
    except SystemExit as end:
        if not end.code:
            raise
        failure = failure_of_exit(end)
        # Typer turns Ctrl-C into this exit code, without a word.
        if failure.exit_code == EXIT_INTERRUPTED:
            typer.secho(failure.message, err=True)
    except (UrsaError, OSError, KeyboardInterrupt) as error:
        failure = failure_of(error)
        typer.secho(failure.message, err=True, fg=typer.colors.RED)
    except Exception as error:
        answer_failure(failure_of(error))
        raise
    answer_failure(failure)
    sys.exit(failure.exit_code)


@app.callback()
def shared(
    context: typer.Context,
    log_json: Annotated[
        Path | None,
        typer.Option("--log-json", metavar="FILE", help="Append what is logged to FILE, a JSON object a line."),
    ] = None,
) -> None:
    """What every command takes, before its name."""
    if log_json is not None:
        from ursa_pipelines.logs import log_to

        context.call_on_close(log_to(log_json))


@app.command(rich_help_panel="Try it")
def demo() -> None:
    """Make demo recordings, ingest them through Dagster on the embedded object store, and show what happened."""
    from ursa_pipelines.cli.demo import run_demo

    run_demo()


@app.command(rich_help_panel="Try it")
def dev(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI on this machine.")] = 3000,
    profile: Profile = None,
) -> None:
    """Open the Dagster UI with everything loaded, on the embedded object store unless --profile names another."""
    from ursa_pipelines.cli.dev import run_dev

    sys.exit(run_dev(profile or "local", port))


@app.command(rich_help_panel="Look")
def report(
    out: Annotated[Path, typer.Option(help="The file to write; one that is there is replaced.")] = Path("report.html"),
    profile: Profile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page that tells what the catalog holds, and what needs attention. Changes nothing else."""
    from ursa_pipelines.cli.report import run_report

    run_report(open_data(profile, config), out, as_json=as_json)


@app.command(rich_help_panel="Ingest")
def bandwidth(
    timetable: Annotated[
        str | None, typer.Argument(help="Such as 5MB/s, off, or 'Mon-Fri 08:00-19:00 5MB/s, 25MB/s'.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Return to the profile's.")] = False,
    profile: Profile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show the upload cap, or set it for this host; uploads under way follow within two seconds."""
    from ursa_pipelines.cli.bandwidth import run_bandwidth

    run_bandwidth(open_data(profile, config), timetable, clear=clear, as_json=as_json)
