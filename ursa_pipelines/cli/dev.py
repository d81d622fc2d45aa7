"""`ursa dev`: the Dagster UI and daemon with this project loaded, and the object store that they need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer

from ursa_pipelines.embedded.sources import ensure_local_sources
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.orchestration.instance import dagster_home


def run_dev(profile: str, port: int) -> int:
    """Runs until it is interrupted; the exit code of `dagster dev`."""
    data = DataInterface(profile)
    if data.profile.family == "local":
        ensure_local_sources(data.sources)
        prefix = data.catalog.prefix
        typer.echo(f"Embedded object store is up, catalog at {prefix}. Put recordings into:")
        for source in data.sources:
            typer.echo(f"  {source.root}")
    typer.echo(f"Dagster UI: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    module = f"ursa_pipelines.orchestration.{profile.replace('-', '_')}"
    program = Path(sys.executable).with_name("dagster")
    command = [str(program), "dev", "-m", module, "-h", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "DAGSTER_HOME": str(dagster_home().absolute())}
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return process.wait()
