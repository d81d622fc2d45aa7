"""`ursa metrics`: what a Prometheus is told, on a port of this machine or as text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.cli.options import AsJson, Config, Profile, open_data

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from ursa_pipelines.orchestration.metrics.exporter import Exporter

app = typer.Typer(help="Attached to `ursa`.")

_ONCE_SECONDS = 300.0


@app.command(rich_help_panel="Look")
def metrics(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on which a Prometheus scrapes it.")] = 9464,
    listen: Annotated[
        str, typer.Option(help="Address to listen on; another than the default is open to the network.")
    ] = "127.0.0.1",
    once: Annotated[bool, typer.Option("--once", help="Print the metrics once, as text, and end.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The same into a file, replaced as a whole: for node_exporter.")
    ] = None,
    site: Annotated[str, typer.Option(help="On a host of this site: tell only whether its sources are mounted.")] = "",
    profile: Profile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Tell a Prometheus how the pipeline is doing, beside the Dagster daemon until it is ended. Changes nothing."""
    from prometheus_client import CollectorRegistry, generate_latest, write_to_textfile

    from ursa_pipelines.errors import ProfileInvalid
    from ursa_pipelines.orchestration.metrics.exporter import PARTS, Exporter
    from ursa_pipelines.orchestration.metrics.readings import Readings
    from ursa_pipelines.orchestration.report_data import instance_of
    from ursa_pipelines.orchestration.sites import require_site

    data = open_data(profile, config)
    with instance_of(data.profile) as (instance, why_not):
        if instance is None:
            remedy = "Set DAGSTER_HOME as it is set for the daemon of this profile."
            raise ProfileInvalid(why_not.rstrip("."), remedy=remedy)
        if site:
            require_site(data.profile, site)
        names = ("sources",) if site else PARTS
        exporter = Exporter(data.profile.name, Readings(instance, data, site=site), names)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(exporter)
        if not (once or out or as_json):
            _serve(exporter, registry, listen, port)
            return
        exporter.read_once(_ONCE_SECONDS)
        if out is not None:
            write_to_textfile(str(out), registry)
        if as_json:
            print_answer(_samples(exporter))
        elif out is None:
            typer.echo(generate_latest(registry).decode(), nl=False)


def _serve(exporter: Exporter, registry: Any, listen: str, port: int) -> None:
    server = _listening(registry, listen, port)
    exporter.start()
    typer.echo(f"Metrics: http://{listen}:{server.server_port}/metrics  (Ctrl-C ends it)")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        # A service that is stopped has not failed.
        exporter.stop()
        server.shutdown()


def _listening(registry: Any, listen: str, port: int) -> WSGIServer:
    from prometheus_client import start_http_server

    try:
        server, _ = start_http_server(port, listen, registry)
    except OSError as error:
        raise typer.BadParameter(
            f"{listen}, port {port} cannot be used ({error.strerror}); choose another with --port or --listen"
        ) from None
    return server


def _samples(exporter: Exporter) -> Iterator[dict[str, Any]]:
    for metric in exporter.collect():
        for sample in metric.samples:
            yield {"name": sample.name, "labels": dict(sample.labels), "value": sample.value}
