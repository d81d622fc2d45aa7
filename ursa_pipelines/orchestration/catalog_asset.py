"""The asset `catalog`: the tables brought up to date, with figures, plots and checks (DESIGN section 8).

Unpartitioned, downstream of all partitions of `recording`; the schedules run it, not arrivals, since the tail in the
bucket tells what waits. An hour in which nothing came adds no event, until the last one is half a day old: each carries
the plots, and the event log shall not grow by them.
"""

import base64
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.errors import Retryable, UrsaError
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.objects.keys import uri
from ursa_pipelines.orchestration.backlog import age_in_hours, find_backlog
from ursa_pipelines.orchestration.partitions import RECORDING
from ursa_pipelines.orchestration.resources import UrsaResource, require_profile
from ursa_pipelines.profiles import Profile

CATALOG = dg.AssetKey("catalog")
CATALOG_JOB = "fold"
MARKS_ALLOWED = 1_000

_WARN_AFTER, _FAIL_AFTER = timedelta(hours=26), timedelta(hours=36)
_SAID_AGAIN_AFTER = timedelta(hours=12)
_HOURLY, _WEEKLY = "7 * * * *", "37 3 * * 0"
_HASHES_SHOWN = 20


class CatalogConfig(dg.Config):
    """What a run does besides bringing the tables up to date."""

    compact: bool = Field(
        default=False, description="Join the tables' small files, and remove those out of use for 7 days."
    )
    only_if_changed: bool = Field(
        default=False, description="Add no event if nothing was folded and the last one is younger than 12 hours."
    )


@dg.asset(
    key=CATALOG,
    deps=[RECORDING],
    group_name="operations",
    kinds={"deltalake"},
    pool="fold",
    output_required=False,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=_FAIL_AFTER, warn_window=_WARN_AFTER),
    description="The catalog's tables, which other engines read. A run folds into them what was registered since, and "
    "shows what the catalog holds: open `plots` in the metadata of the newest event.",
)
def catalog(
    context: dg.AssetExecutionContext, config: CatalogConfig, ursa: UrsaResource
) -> Iterator[dg.MaterializeResult]:
    data = ursa.data(run_id=context.run.run_id)
    require_profile(context.instance, data.profile)
    try:
        data.enable_writes()
        folded = data.fold()
        done: dict[str, Any] = {
            "folded": folded.entries,
            "marks_left": folded.marks_left,
            "fold_seconds": round(folded.seconds, 2),
        }
        if folded.gave_up:
            done["note"] = "Somebody else changed the tables meanwhile; the next fold takes what is left."
        if config.compact:
            done |= _compact(data)
        if config.only_if_changed and not (folded.entries or config.compact) and _was_told_lately(context.instance):
            context.log.info("Nothing has come since the last fold.")
            return
        metadata = _figures(data, context.instance) | done
    except UrsaError as error:
        raise dg.Failure(description=str(error), allow_retries=isinstance(error, Retryable)) from error
    yield dg.MaterializeResult(metadata=metadata)


@dg.asset_check(
    asset=CATALOG,
    description=f"At most {MARKS_ALLOWED:,} recordings wait for the fold. More make every read of the catalog slower.",
)
def tail_is_short(context: dg.AssetCheckExecutionContext, ursa: UrsaResource) -> dg.AssetCheckResult:
    from ursa_pipelines.catalog.tables.fold import tail_length

    found = _opened(context, ursa)
    waiting = tail_length(found.assets, found.prefix)
    passed = waiting <= MARKS_ALLOWED
    return dg.AssetCheckResult(
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=None
        if passed
        else f"{waiting:,} recordings wait after the fold. Run it again; if that does not "
        "help, see whether `ursa catalog fold` says that it gave up, and what else writes the tables.",
        metadata={"waiting": waiting},
    )


@dg.asset_check(
    asset=CATALOG, description="The tables hold the entries as they are; looked at in a sample of 200 or more."
)
def tables_agree(context: dg.AssetCheckExecutionContext, ursa: UrsaResource) -> dg.AssetCheckResult:
    from ursa_pipelines.maintenance.agreement import compare_sample

    sampled = compare_sample(_opened(context, ursa))
    shown = ", ".join(sampled.differing[:_HASHES_SHOWN])
    return dg.AssetCheckResult(
        passed=not sampled.differing,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{len(sampled.differing):,} of {sampled.looked_at:,} recordings are not in the tables as their "
        f"entries say, such as {shown}. `ursa catalog fold --check` mends that."
        if sampled.differing
        else None,
        metadata={"looked_at": sampled.looked_at, "differing": len(sampled.differing)},
    )


def catalog_schedules(profile: Profile) -> list[dg.ScheduleDefinition]:
    """A fold every hour, and compaction every week; on from the start on `local`, elsewhere once turned on."""
    is_local = profile.family == "local"
    status = dg.DefaultScheduleStatus.RUNNING if is_local else dg.DefaultScheduleStatus.STOPPED
    return [
        dg.ScheduleDefinition(
            name="catalog_hourly",
            job_name=CATALOG_JOB,
            cron_schedule=_HOURLY,
            default_status=status,
            run_config=_configured(only_if_changed=True),
            description="Folds what was registered into the catalog's tables.",
        ),
        dg.ScheduleDefinition(
            name="catalog_weekly",
            job_name=CATALOG_JOB,
            cron_schedule=_WEEKLY,
            default_status=status,
            run_config=_configured(compact=True),
            description="Joins the tables' small files, and removes those that no version has needed for 7 days.",
        ),
    ]


def _configured(**values: bool) -> dict[str, Any]:
    return {"ops": {CATALOG.to_python_identifier(): {"config": values}}}


def _compact(data: DataInterface) -> dict[str, Any]:
    from ursa_pipelines.catalog.tables.upkeep import compact

    catalog = data.ingest_context(raw_role="raw_ro").catalog
    done = compact(catalog.assets, catalog.prefix, by=data.writer.by, dry_run=False)
    return {
        "files": sum(one.files_after for one in done),
        "files_before": sum(one.files_before for one in done),
        "files_removed": sum(one.files_vacuumed for one in done),
        "table_bytes": sum(one.bytes for one in done),
        "compaction": ", ".join(f"{one.table}: gave up" for one in done if one.gave_up) or "done",
    }


def _was_told_lately(instance: dg.DagsterInstance) -> bool:
    last = instance.get_latest_materialization_event(CATALOG)
    return last is not None and time.time() - last.timestamp < _SAID_AGAIN_AFTER.total_seconds()


def _figures(data: DataInterface, instance: dg.DagsterInstance) -> dict[str, Any]:
    # Both need a second to import, and a code location is loaded often.
    from ursa_pipelines.catalog.tables.schemas import SCHEMAS, TABLES
    from ursa_pipelines.maintenance.overview import take_overview
    from ursa_pipelines.maintenance.plots import draw_plots

    ages = [age_in_hours(rec_id) for rec_id in find_backlog(instance, data.catalog)]
    overview = take_overview(data.catalog, backlog_hours=ages)
    counts = {table: data.catalog.count(table) for table in TABLES}
    columns = [dg.TableColumn(column.name, str(column.type)) for column in SCHEMAS["recordings"]]
    figures: dict[str, Any] = {
        "plots": _shown(draw_plots(overview)),
        "dagster/row_count": counts["recordings"],
        "dagster/uri": uri(data.profile.buckets.assets, f"{data.catalog.prefix}/tables/recordings"),
        "dagster/column_schema": dg.TableSchema(columns=columns),
        **{f"rows_{table}": count for table, count in counts.items()},
        "bytes": overview.bytes,
        "segments": overview.segments,
        "partial": overview.partial,
        "backlog": len(ages),
    }
    if overview.newest_registration:
        figures["newest_registration"] = dg.MetadataValue.timestamp(overview.newest_registration)
    return figures


def _shown(plots: Mapping[str, bytes]) -> dg.MarkdownMetadataValue:
    """All plots in one value: the user interface opens each value by a click of its own."""
    return dg.MetadataValue.md(
        "\n\n".join(
            f"**{title}**\n\n![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"
            for title, png in plots.items()
        )
    )


def _opened(context: dg.AssetCheckExecutionContext, ursa: UrsaResource) -> Catalog:
    return ursa.data(run_id=context.run.run_id).catalog
