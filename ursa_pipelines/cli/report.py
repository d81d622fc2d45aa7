"""`ursa report`: the state of everything on one page, for a browser, a mail or a printer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import typer

from ursa_pipelines.cli.answers import print_answer
from ursa_pipelines.errors import SourceUnavailable
from ursa_pipelines.ingest.sources import Source, list_recordings
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.maintenance.overview import take_overview
from ursa_pipelines.maintenance.plots import draw_plots
from ursa_pipelines.maintenance.report_page import Operations, Report, SourceState, render, write_page
from ursa_pipelines.objects.reading import unless_it_hangs
from ursa_pipelines.orchestration.backlog import age_in_hours
from ursa_pipelines.orchestration.report_data import instance_of, last_arrivals, read_operations

_SOURCE_SECONDS = 20.0


def run_report(data: DataInterface, out: Path, *, as_json: bool = False) -> Report:
    """Writes the page in place of what was there, and tells what is on it. Only reads otherwise.

    Raises `OSError`, and what reading raises.
    """
    with instance_of(data.profile) as (instance, why_not):
        report = make_report(data, instance, why_not)
    write_page(render(report), out)
    if as_json:
        page = {"path": out.absolute(), "bytes": out.stat().st_size, "recordings": report.overview.recordings}
        print_answer([{**page, "attention": report.attention, "no_operations": report.no_operations}])
    else:
        known = "; ".join(one for one in (report.attention, report.no_operations) if one)
        typer.echo(f"{out}: {report.overview.recordings:,} recordings; {known or 'nothing needs attention'}")
    return report


def make_report(data: DataInterface, instance: dg.DagsterInstance | None, why_not: str = "") -> Report:
    """What the page shows; without an instance, `why_not` says why there is none. Only reads."""
    catalog = data.catalog
    ages: list[float] | None = None
    operations: Operations | None = None
    arrivals: Mapping[str, datetime] = {}
    if instance is not None:
        operations, backlog = read_operations(instance, catalog)
        arrivals = last_arrivals(instance, [source.name for source in data.sources])
        ages = [age_in_hours(rec_id) for rec_id in backlog]
    overview = take_overview(catalog, backlog_hours=ages)
    return Report(
        profile=data.profile.name,
        family=data.profile.family,
        buckets={"raw": data.profile.buckets.raw, "assets": data.profile.buckets.assets},
        prefix=catalog.prefix,
        generated_at=datetime.now(UTC),
        overview=overview,
        plots=draw_plots(overview),
        sources=[_looked_at(source, arrivals.get(source.name)) for source in data.sources],
        operations=operations,
        no_operations=why_not,
    )


def _looked_at(source: Source, last_arrival: datetime | None) -> SourceState:
    place = str(source.root)
    try:
        there = unless_it_hangs("", place, _SOURCE_SECONDS, lambda gets_on: list_recordings(source, gets_on=gets_on))
    except SourceUnavailable as error:
        return SourceState(source.name, place, problem=str(error), last_arrival=last_arrival)
    return SourceState(source.name, place, recordings=len(there), last_arrival=last_arrival)
