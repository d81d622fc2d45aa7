"""`ursa dev`: the Dagster UI and daemon with this project loaded, and the object store that they need."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from ursa_pipelines.embedded.sources import ensure_local_sources
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.orchestration.instance import dagster_home
from ursa_pipelines.orchestration.resources import require_profile_of_home

_END_SECONDS = 30.0
_POLL_SECONDS = 0.1


def run_dev(profile: str, port: int) -> int:
    """Runs until it is interrupted or terminated, then ends all that it started; the exit code of `dagster dev`."""
    _require_free(port)
    data = DataInterface(profile)
    home = dagster_home().absolute()
    require_profile_of_home(home, data.profile)
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
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    return _run_until_told_to_end(command, environment)


def _require_free(port: int) -> None:
    # Dagster's webserver would not end on it, and the sensors would run beside whatever answers there.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise typer.BadParameter(
                f"port {port} cannot be used ({error.strerror}); choose another with --port"
            ) from None


def _run_until_told_to_end(command: Sequence[str], environment: Mapping[str, str]) -> int:
    # However this process is told to end, it is as if Ctrl-C were pressed; also where a shell made it ignore that.
    endings = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # Under nohup it is ignored, and stays so.
        endings.append(signal.SIGHUP)
    for ending in endings:
        signal.signal(ending, signal.default_int_handler)
    # A group of its own, since Dagster alone would leave runs behind that are under way, and their code server.
    process = subprocess.Popen(command, env=environment, process_group=0)
    try:
        return process.wait()
    except KeyboardInterrupt:
        _signal_group(process.pid, signal.SIGINT)
        code = process.wait()
        deadline = time.monotonic() + _END_SECONDS
        while _signal_group(process.pid, 0) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return code
    finally:
        _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: int) -> bool:
    """Sends the signal to every process of the group; False if there is none left."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
