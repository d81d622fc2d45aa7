"""`ursa bandwidth`: the upload cap of everything that runs on this host with this state directory."""

from __future__ import annotations

from datetime import datetime

import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.errors import UrsaError
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.profiles.timetable import Bandwidth, clear_override, set_override, told_rate


def run_bandwidth(data: DataInterface, timetable: str | None, *, clear: bool, as_json: bool = False) -> None:
    """Sets or clears the cap of this host if asked to, then prints which is in force and why."""
    if timetable is not None and clear:
        raise typer.BadParameter("give a timetable or --clear, not both")
    try:
        if timetable is not None:
            set_override(data.state, timetable)
        elif clear:
            clear_override(data.state)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except OSError as error:
        raise UrsaError(
            f"the cap cannot be changed: {error.strerror}",
            place=str(data.state),
            remedy="Check that it is a directory that you may write to.",
        ) from None
    bandwidth = Bandwidth(data.profile.settings.bandwidth, data.state)
    in_force = bandwidth.in_force()
    rate = in_force.rate_at(datetime.now())
    if as_json:
        cap = {"bytes_per_second": rate, "timetable": str(in_force), "is_of_this_host": bandwidth.override is not None}
        print_answer([{**cap, "of_profile": str(bandwidth.profile), "problem": bandwidth.problem}])
        return
    typer.echo(f"uploads may use {told_rate(rate)} now, by the timetable: {in_force}")
    if bandwidth.problem:
        typer.secho(f"what runs already keeps the cap it had: {bandwidth.problem}", fg=typer.colors.YELLOW)
    if bandwidth.override is None:
        typer.echo(f"it is that of the profile {data.profile.name}")
    else:
        typer.echo(
            f"it was set for this host, in {data.state}; `ursa bandwidth --clear` returns to that of the profile "
            f"{data.profile.name}: {bandwidth.profile}"
        )
