"""What the Dagster instance knows, for the page of `ursa report`. Only reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.embedded.state import state_directory
from ursa_pipelines.errors import ProfileInvalid
from ursa_pipelines.maintenance.overview import told_bytes
from ursa_pipelines.maintenance.report_page import Cause, Cell, Concern, Operations, Reconciled, RunLine
from ursa_pipelines.orchestration.backlog import find_backlog
from ursa_pipelines.orchestration.instance import open_instance
from ursa_pipelines.orchestration.outlook import UNTOLD
from ursa_pipelines.orchestration.partitions import RECORDING, arrival_asset, recordings
from ursa_pipelines.orchestration.reconciliation import RECONCILIATION
from ursa_pipelines.orchestration.states import History, Mark, read_histories
from ursa_pipelines.profiles import Profile

STATES = ("registered", "running", "waiting", "failed", "quarantined", "waived")
_SHOWN = 50
_ROWS_SHOWN = 200
_RUNS_SHOWN = 20
_NOT_YET = "It arrived, and no run has registered it yet."


@contextmanager
def instance_of(profile: Profile) -> Iterator[tuple[dg.DagsterInstance | None, str]]:
    """The profile's Dagster instance, or None and why there is none. An instance is never made by this."""
    home = Path(os.environ.get("DAGSTER_HOME") or state_directory() / "dagster")
    if not (home / "dagster.yaml").is_file():
        yield None, f"There is no Dagster instance here ({home}), so automatic retries and quarantines are not known."
        return
    with ExitStack() as stack:
        instance, why_not = None, ""
        try:
            instance = stack.enter_context(open_instance(profile))
        except ProfileInvalid as error:
            why_not = str(error)
        yield instance, why_not


def read_operations(instance: dg.DagsterInstance, catalog: Catalog) -> tuple[Operations, list[str]]:
    """What became of recordings, the last runs and the newest reconciliation; and the rec_ids of the backlog.

    Reads every event of `recording`, about 10,000 a second.
    """
    histories = read_histories(instance)
    backlog = find_backlog(instance, catalog)
    known = sorted({*histories, *backlog, *instance.get_dynamic_partitions(str(recordings.name))})
    colours = instance.get_status_by_partition(RECORDING, known, recordings) or {}
    by_state: dict[str, list[History]] = {state: [] for state in STATES}
    for rec_id in known:
        history = histories.get(rec_id) or History(rec_id)
        state = state_of(history, colours.get(rec_id), is_in_backlog=rec_id in backlog)
        by_state[state].append(history)
    return (
        Operations(
            counts={state: len(found) for state, found in by_state.items()},
            causes=tuple(_causes(by_state["failed"])),
            quarantined=_concerns(by_state["quarantined"]),
            waiting=_concerns(by_state["waiting"]),
            waived=_concerns(by_state["waived"]),
            runs=tuple(_runs(instance)),
            reconciled=_reconciled(instance),
        ),
        list(backlog),
    )


def last_arrivals(instance: dg.DagsterInstance, sources: Iterable[str]) -> dict[str, datetime]:
    """When a recording last arrived on each of these sources, of those on which one did."""
    events = {name: instance.get_latest_materialization_event(arrival_asset(name)) for name in sources}
    return {name: _moment(event.timestamp) for name, event in events.items() if event is not None}


def state_of(history: History, colour: dg.AssetPartitionStatus | None, *, is_in_backlog: bool) -> str:
    """The one of `STATES` in which a recording is by Dagster's events and the colour of its partition."""
    if colour == dg.AssetPartitionStatus.IN_PROGRESS:
        return "running"
    if history.waived is not None:
        return "waived"
    if history.last is not None and history.last.kind in {"quarantined", "failed", "waiting"}:
        return history.last.kind
    if history.last is None and colour == dg.AssetPartitionStatus.FAILED:
        return "failed"
    return "waiting" if is_in_backlog else "registered"


def _causes(failed: Iterable[History]) -> Iterator[Cause]:
    groups: dict[tuple[str, bool], list[History]] = {}
    for history in failed:
        last = history.last or Mark(history.rec_id, "failed", error_type="No reason told", retryable=True)
        groups.setdefault((last.error_type or "Other", last.retryable), []).append(history)
    for (error, retryable), found in sorted(groups.items(), key=lambda one: (-len(one[1]), one[0])):
        yield Cause(error, retryable, _concerns(found, UNTOLD), max(len(found) - _SHOWN, 0))


def _concerns(histories: Iterable[History], unmarked: str = _NOT_YET) -> tuple[Concern, ...]:
    """The newest of them, as many as are shown; `unmarked` is the reason of those without one."""
    told = []
    for history in histories:
        mark = history.waived or history.last
        told.append(
            Concern(
                history.rec_id,
                reason=(mark.reason if mark else "") or unmarked,
                by=mark.by if mark else "",
                attempts=history.attempts,
                at=_moment(mark.at) if mark and mark.at else None,
            )
        )
    return tuple(sorted(told, key=lambda one: (one.at or datetime.min.replace(tzinfo=UTC), one.rec_id))[::-1][:_SHOWN])


def _runs(instance: dg.DagsterInstance) -> Iterator[RunLine]:
    for record in instance.get_run_records(limit=_RUNS_SHOWN):
        run, began, ended = record.dagster_run, record.start_time, record.end_time
        yield RunLine(
            run.run_id[:8],
            "assets" if run.job_name.startswith("__") else run.job_name,
            run.status.value.lower(),
            _worked_on(run),
            _moment(began) if began else record.create_timestamp.astimezone(UTC),
            ended - began if began and ended else None,
        )


def _worked_on(run: dg.DagsterRun) -> str:
    if one := run.tags.get("dagster/partition"):
        return one
    first, last = (run.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
    if first and last:
        return first if first == last else f"{first} to {last}"
    return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))


def _reconciled(instance: dg.DagsterInstance) -> Reconciled | None:
    """The newest reconciliation: every number and text of its metadata, and its table (see its module)."""
    event = instance.get_latest_materialization_event(RECONCILIATION)
    materialization = event.asset_materialization if event else None
    if event is None or materialization is None:
        return None
    counts: dict[str, Cell] = {}
    columns: tuple[str, ...] = ()
    rows: list[tuple[Cell, ...]] = []
    for label, value in materialization.metadata.items():
        told = label.replace("_", " ")
        if isinstance(value, dg.TableMetadataValue):
            columns = tuple(column.name for column in value.schema.columns)
            rows = [tuple(_cell(record.data.get(name)) for name in columns) for record in value.records]
        elif isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue):
            counts[told] = told_bytes(value.value or 0) if label.endswith("bytes") else _cell(value.value)
        elif isinstance(value, dg.TextMetadataValue):
            counts[told] = value.text or ""
        elif isinstance(value, dg.JsonMetadataValue) and value.value:
            counts[told] = _listed(value.value)
    return Reconciled(
        _moment(event.timestamp), counts, columns, tuple(rows[:_ROWS_SHOWN]), max(len(rows) - _ROWS_SHOWN, 0)
    )


def _listed(document: object) -> str:
    if isinstance(document, Mapping):
        return ", ".join(f"{name}: {value}" for name, value in document.items())
    return str(document)


def _cell(value: object) -> Cell:
    return value if isinstance(value, str | int | float) or value is None else str(value)


def _moment(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)
