"""Dagster instances that know so many recordings, on SQLite and on PostgreSQL, for the scripts beside this one.

Dagster takes about 100 events a second. So one recording's events are written by Dagster, their rows are copied for the
others, and the last recording's are Dagster's again, so that what it keeps for the asset as a whole is its own.
PostgreSQL is started on a loopback address as `deploy/one_machine.py` starts it, with the settings of Debian's package.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as db
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, StepMaterializationData

from deploy.one_machine import Layout, free_port, program
from ursa_pipelines.ingest.batch import BatchItem
from ursa_pipelines.orchestration.partitions import (
    PARTITIONS_PER_REQUEST,
    RECORDING,
    arrival_asset,
    note_archived,
    recordings,
)
from ursa_pipelines.orchestration.telling import materialization

STORAGES = ("sqlite", "postgres")
RECORDINGS_PER_RUN = 100

_ROWS_AT_ONCE = 1_000


@contextmanager
def home_on(storage: str, directory: Path) -> Iterator[Path]:
    """A DAGSTER_HOME whose database is empty. A PostgreSQL runs as long as this is open, and leaves nothing behind."""
    home = directory / "home"
    home.mkdir(parents=True)
    settings = "telemetry: {enabled: false}\nnux: {enabled: false}\n"
    if storage == "sqlite":
        (home / "dagster.yaml").write_text(settings)
        yield home
        return
    settings += "storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}\n"
    (home / "dagster.yaml").write_text(settings)
    layout = Layout(directory / "postgres", 0)
    (layout.state / "logs").mkdir(parents=True)
    before = dict(os.environ)
    try:
        layout.start_postgres(program("initdb"), program("postgres"), free_port())
        os.environ.update({name: layout.environment[name] for name in ("PGPASSFILE", "DAGSTER_POSTGRES_URL")})
        yield home
    finally:
        layout.end()
        os.environ.clear()
        os.environ.update(before)
        remembered = layout.state / "secrets" / "postgres_at"
        if remembered.exists():
            shutil.rmtree(remembered.read_text(), ignore_errors=True)


def rec_ids(count: int) -> list[str]:
    """One a minute, from 2020 on."""
    first = datetime(2020, 1, 1)
    return [f"rec_{first + timedelta(minutes=number):%Y%m%d_%H%M%S}_{number:06x}" for number in range(count)]


def know(home: Path, fingerprints: Mapping[str, str], source: str, *, registered: bool = True) -> None:
    """Makes a new instance know these recordings, by id with the fingerprint of each: partitions and arrivals; and, if
    they are `registered`, runs of 100, which were planned and have registered them.
    """
    known = sorted(fingerprints)
    runs = [str(uuid.uuid4()) for _ in range(0, len(known), RECORDINGS_PER_RUN)]
    made = [
        _Made(rec_id, fingerprints[rec_id], runs[number // RECORDINGS_PER_RUN]) for number, rec_id in enumerate(known)
    ]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        add(instance, known)
        _tell(instance, made[0], source, registered)
        _copy(_database(home), made)
        _tell(instance, made[-1], source, registered)
        for number, run_id in enumerate(runs if registered else ()):
            some = known[number * RECORDINGS_PER_RUN :][:RECORDINGS_PER_RUN]
            instance.add_run(
                dg.DagsterRun(
                    "ingest",
                    run_id,
                    status=dg.DagsterRunStatus.SUCCESS,
                    asset_selection=frozenset({RECORDING}),
                    tags={
                        "dagster/asset_partition_range_start": some[0],
                        "dagster/asset_partition_range_end": some[-1],
                        "ursa/trigger": "arrival",
                    },
                )
            )


def add(instance: dg.DagsterInstance, new: Sequence[str]) -> None:
    """Adds partitions in slices."""
    for start in range(0, len(new), PARTITIONS_PER_REQUEST):
        instance.add_dynamic_partitions(str(recordings.name), new[start : start + PARTITIONS_PER_REQUEST])


def arrival(rec_id: str, fingerprint: str, source: str) -> dg.AssetMaterialization:
    """What a source's sensor reports."""
    tags = {"dagster/data_version": fingerprint}
    place = dg.MetadataValue.path(f"/mnt/{source}/{rec_id}")
    return dg.AssetMaterialization(arrival_asset(source), partition=rec_id, tags=tags, metadata={"directory": place})


@dataclass(frozen=True)
class _Made:
    """A recording, and the run that has it."""

    rec_id: str
    fingerprint: str
    run_id: str


def _tell(instance: dg.DagsterInstance, one: _Made, source: str, registered: bool) -> None:
    """What Dagster is told of a recording's life."""
    instance.report_runless_asset_event(arrival(one.rec_id, one.fingerprint, source))
    if not registered:
        return
    item = BatchItem(
        one.rec_id,
        state="registered",
        path="A",
        files=31,
        bytes=1000,
        files_uploaded=31,
        bytes_uploaded=1000,
        seconds=1.0,
        outcome="created",
        recording_hash="0" * 64,
        verification="sha256",
        fingerprint=one.fingerprint,
        nodes=("green-mantis", "green-motor"),
    )
    step = "recording.register"
    planned = AssetMaterializationPlannedData(RECORDING, partition=one.rec_id)
    instance.report_dagster_event(
        DagsterEvent.build_asset_materialization_planned_event("ingest", step, planned), one.run_id
    )
    registration = StepMaterializationData(materialization(item, "raw-of-benchmarks"))
    instance.report_dagster_event(
        DagsterEvent("ASSET_MATERIALIZATION", "ingest", step_key=step, event_specific_data=registration), one.run_id
    )


def archive(instance: dg.DagsterInstance, home: Path, old: Sequence[str], through_dagster: int) -> float:
    """Takes the oldest partitions off the instance, the first so many as `ursa partitions archive` does; the seconds
    of these. It takes Dagster a transaction for each, so that the others go at once.
    """
    name, some = str(recordings.name), old[:through_dagster]
    began = time.perf_counter()
    note_archived(instance, some)
    for rec_id in some:
        instance.delete_dynamic_partition(name, rec_id)
    seconds = time.perf_counter() - began
    note_archived(instance, old)
    engine = _database(home)
    with engine.begin() as connection:
        told = "delete from dynamic_partitions where partitions_def_name = :name and partition <= :last"
        connection.execute(db.text(told), {"name": name, "last": old[-1]})
    engine.dispose()
    return seconds


def _database(home: Path) -> db.Engine:
    """Where Dagster keeps the events of assets."""
    if url := os.environ.get("DAGSTER_POSTGRES_URL"):
        return db.create_engine(url)
    return db.create_engine(f"sqlite:///{next(home.rglob('index.db'))}")


def _copy(engine: db.Engine, made: Sequence[_Made]) -> None:
    """Copies the rows of the first one for all but it and the last."""
    first, others = made[0], made[1:-1]
    with engine.begin() as connection:
        tables = db.MetaData()
        tables.reflect(connection, only=["event_logs", "asset_event_tags"])
        events, tags = tables.tables["event_logs"], tables.tables["asset_event_tags"]
        rows = [dict(row) for row in connection.execute(db.select(events).order_by(events.c.id)).mappings()]
        some = [column for column in tags.columns if column.name != "id"]
        more = [dict(row) for row in connection.execute(db.select(*some)).mappings()]
        highest = max(row["id"] for row in rows)
        number = {row["id"]: place for place, row in enumerate(rows, start=1)}
        for start in range(0, len(others), _ROWS_AT_ONCE):
            new_rows, new_tags = [], []
            for position, other in enumerate(others[start : start + _ROWS_AT_ONCE], start=start):
                ids = {old: highest + position * len(rows) + place for old, place in number.items()}
                new_rows += [{**_of(row, first, other), "id": ids[row["id"]]} for row in rows]
                new_tags += [{**_of(row, first, other), "event_id": ids[row["event_id"]]} for row in more]
            connection.execute(events.insert(), new_rows)
            if new_tags:
                connection.execute(tags.insert(), new_tags)
        if engine.dialect.name == "postgresql":
            told = "select setval(pg_get_serial_sequence('event_logs', 'id'), (select max(id) from event_logs))"
            connection.execute(db.text(told))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # As autovacuum would have done by the time that so many had come in one by one.
        connection.execute(db.text("analyze"))
    engine.dispose()


def _of(row: Mapping[str, Any], first: _Made, other: _Made) -> dict[str, Any]:
    words = {first.rec_id: other.rec_id, first.fingerprint: other.fingerprint, first.run_id: other.run_id}
    told = dict(row)
    for name, value in row.items():
        if isinstance(value, str):
            for old, new in words.items():
                value = value.replace(old, new)
            told[name] = value
    return told
